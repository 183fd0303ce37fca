# Copyright (c) monai_vqprior contributors
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from tqdm import tqdm

from monai_vqprior.errors import InputError
from monai_vqprior.files import atomic_path, write_png
from monai_vqprior.handlers import contact_sheet, to_pixels
from monai_vqprior.inferers import VQPriorInferer

__all__ = ["write_samples"]

# Samples on the contact sheet at most, and in one of its rows.
_MOST_PICTURES = 100
_COLUMNS = 10


def _write_nifti(path: Path, image: torch.Tensor) -> None:
    """Image (1, H, W) in 0..1 as a NIfTI volume (W, H, 1) float32 that viewers show as the PNG: row 0 is at the top."""
    voxels = image[0].float().cpu().numpy()[::-1].T[..., None]
    with atomic_path(path) as temporary:
        nib.save(nib.Nifti1Image(np.ascontiguousarray(voxels), np.eye(4)), temporary)


@torch.no_grad()
def write_samples(
    output_dir: str | os.PathLike[str],
    autoencoder: Any,
    prior: Any,
    inferer: VQPriorInferer,
    num_samples: int = 10,
    seed: int = 0,
    labels: Sequence[int] | None = None,
    values: Sequence[float] | None = None,
    nifti: bool = False,
    overwrite: bool = False,
) -> None:
    """
    Draw samples from the prior, decode them, and write each as a slice and all (at most 100) on a contact sheet.

    Args:
        output_dir: ``samples.png`` and the folder ``samples`` go here; earlier ones are removed if ``overwrite``.
        autoencoder: decodes the code grids, with the interface of MONAI's VQVAE.
        prior: see :meth:`monai_vqprior.inferers.VQPriorInferer.sample`.
        inferer: how to draw.
        num_samples: how many samples, numbers 0 to ``num_samples`` - 1.
        seed: seed of the run; sample i depends on (seed, i) alone.
        labels: class labels to condition on.
        values: continuous values to condition on.
        nifti: whether to write each sample as NIfTI too.
        overwrite: whether to remove the samples of an earlier run.

    Raises:
        ValueError: when ``num_samples`` is not positive.
    """
    if num_samples < 1:
        raise InputError(f"num_samples must be at least 1, got {num_samples}.")
    folder = Path(output_dir) / "samples"
    if overwrite and folder.exists():
        shutil.rmtree(folder)
    autoencoder.eval()
    pictures: list[np.ndarray] = []
    tiles = range(0, num_samples, inferer.tile_size)
    positions = len(tiles) * int(np.prod(prior.spatial_size))
    with tqdm(total=positions, desc="sampling", unit=" codes", leave=False) as bar:
        for first in tiles:
            # Tiles are drawn whole, and decoded whole too: then no sample depends on how many there are.
            indices = range(first, first + inferer.tile_size)
            grids = inferer.sample(prior, indices, seed, labels, values, on_position=lambda: bar.update())
            images = autoencoder.decode_samples(grids)
            for index, image in zip(indices[: num_samples - first], images, strict=False):
                pixels = to_pixels(image)
                write_png(folder / f"sample_{index:05d}.png", pixels)
                if nifti:
                    _write_nifti(folder / f"sample_{index:05d}.nii.gz", image.clamp(0, 1))
                if len(pictures) < _MOST_PICTURES:
                    pictures.append(pixels)
    rows = [pictures[i : i + _COLUMNS] for i in range(0, len(pictures), _COLUMNS)]
    write_png(Path(output_dir) / "samples.png", contact_sheet(rows))
    print(f"{num_samples} samples written to {folder}, the first of them on {Path(output_dir) / 'samples.png'}")
