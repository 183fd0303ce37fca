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
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from monai_vqprior.data import Conditions
from monai_vqprior.errors import InputError, counted
from monai_vqprior.files import tell, write_png
from monai_vqprior.handlers import contact_sheet, to_pixels
from monai_vqprior.inferers import VQPriorInferer, num_draws
from monai_vqprior.report.drawn import DrawnFiles, decode_tile, draw_missing, draw_tiles, settings_of
from monai_vqprior.report.nifti import write_nifti
from monai_vqprior.sampling import Conditioning
from monai_vqprior.sampling.conditioning import Rows, condition_rows
from monai_vqprior.transforms import LoadSlice
from monai_vqprior.volumes.geometry import Volume, block_of

__all__ = ["load_sample", "write_samples"]

# What other commands write about the samples.
_RESULTS = tuple(f"{name}.{suffix}" for name in ("neighbors", "audit") for suffix in ("png", "json"))
_TABLE = "sample_conditions.csv"
# Samples on the contact sheet at most, and in one of its rows.
_MOST_PICTURES = 100
_COLUMNS = 10


@torch.no_grad()
def write_samples(
    output_dir: str | os.PathLike[str],
    autoencoder: Any,
    prior: Any,
    inferer: VQPriorInferer,
    num_samples: int = 10,
    seed: int = 0,
    labels: Rows | None = None,
    values: Rows | None = None,
    nifti: bool = False,
    overwrite: bool = False,
    resume: bool = False,
    conditions: Conditions | None = None,
    draw_conditions: bool = False,
) -> None:
    """
    Draw samples from the prior, decode them, and write each as a slice and all (at most 100) on a contact sheet.

    Samples are drawn and written tile by tile (``draw_tiles``), and do not depend on
    the number of processes.

    Args:
        output_dir: ``samples.png``, the folder ``samples``, and ``samples.json`` with the settings of the run go here;
            with ``conditions`` also ``sample_conditions.csv``, which has the conditions of each sample.
        autoencoder: decodes the code grids, with the interface of MONAI's VQVAE.
        prior: see :meth:`monai_vqprior.inferers.VQPriorInferer.sample`.
        inferer: how to draw.
        num_samples: how many samples, numbers 0 to ``num_samples`` - 1.
        seed: seed of the run; sample i depends on (seed, i) and its conditions alone.
        labels: class labels to condition on, a row for all samples or one for each.
        values: continuous values to condition on, likewise.
        nifti: whether to write each sample as NIfTI too.
        overwrite: whether to remove the samples of an earlier run.
        resume: whether to continue an earlier run, if there is one; it may have more samples than before.
        conditions: those of the prior.
        draw_conditions: whether those that nobody asked for are drawn (:meth:`monai_vqprior.data.Conditions.draw`),
            where there is not a row for each sample.

    Raises:
        InputError: when ``num_samples`` is not positive, the conditions do not fit, there is an earlier run that is
            neither resumed nor replaced, or the run to resume was drawn with other settings.
    """
    if num_samples < 1:
        raise InputError(f"num_samples must be at least 1, got {num_samples}.")
    # Guidance stresses what was asked: what is drawn besides is no reason for it.
    told = condition_rows(labels, values, num_samples, needed=inferer.guidance_scale != 1)
    drawn: list[str] = []
    if conditions is not None and draw_conditions:
        told, drawn = draw_missing(conditions, told, num_samples, seed)
    settings = {"num_samples": num_samples, **settings_of(inferer, autoencoder, prior, seed, told, drawn)}
    # Results about the samples are removed with them.
    suffixes = (".png", ".nii.gz") if nifti else (".png",)
    files = DrawnFiles(Path(output_dir), "sample", suffixes, (*_RESULTS, _TABLE))
    autoencoder.eval()

    def draw(indices: Sequence[int], report: Callable[[], object]) -> Iterator[tuple[list[int], torch.Tensor]]:
        asked = {name: part[list(indices)] if len(part) > 1 else part for name, part in told.items()}
        tiles = inferer.sample_tiles(prior, indices, seed, conditioning=Conditioning(**asked), on_position=report)
        return ((rows, decode_tile(autoencoder, grids, inferer.tile_size)) for rows, grids in tiles)

    def finish() -> None:
        if conditions is not None:
            files.write_table(conditions, told, num_samples)
        sheet = _write_sheet(files, min(num_samples, _MOST_PICTURES))
        tell(f"{counted(num_samples, 'sample')} written to {files.folder}, the first of them on {sheet}")

    draw_tiles(
        files,
        settings,
        inferer.tile_size,
        num_draws(prior, prior.spatial_size),
        draw,
        lambda index, image: _write(files, index, image, nifti),
        finish,
        overwrite,
        resume,
    )


def _write(files: DrawnFiles, index: int, image: torch.Tensor, nifti: bool) -> None:
    """Write an image (1, H, W) as PNG, and if wanted as NIfTI: a volume (W, H, 1) that viewers show as the PNG."""
    write_png(files.path(index, ".png"), to_pixels(image))
    if nifti:
        voxels = block_of(image.clamp(0, 1).float().cpu().numpy(), axis=2)
        write_nifti(files.path(index, ".nii.gz"), Volume(voxels, np.eye(4)))


def load_sample(path: str | os.PathLike[str]) -> torch.Tensor:
    """
    Read a sample that was written.

    Returns:
        (1, H, W) uint8.

    Raises:
        InputError: when it cannot be read, with the command that draws it again.
    """
    try:
        return LoadSlice()(Path(path))
    except InputError as error:
        raise InputError(
            f"{path} cannot be read as an image: remove it, and draw it again by `vqprior sample --resume`."
        ) from error


def _write_sheet(files: DrawnFiles, number: int) -> Path:
    """Show the first samples, read from their files, on one picture, and return its path."""
    paths = [files.path(index) for index in range(number)]
    pictures = [load_sample(path)[0].numpy() for path in paths]
    for file, picture in zip(paths, pictures, strict=True):
        if picture.shape != pictures[-1].shape:
            raise InputError(
                f"{file} has the size {picture.shape}, not {pictures[-1].shape}: remove it, and draw it again by "
                "`vqprior sample --resume`."
            )
    rows = [pictures[i : i + _COLUMNS] for i in range(0, number, _COLUMNS)]
    return write_png(files.sheet, contact_sheet(rows))
