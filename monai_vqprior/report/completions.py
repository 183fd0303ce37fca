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

import hashlib
import os
from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from tqdm import tqdm

from monai_vqprior.data import SliceDataset
from monai_vqprior.data.masked_slices import touched_blocks
from monai_vqprior.files import tell, write_png
from monai_vqprior.handlers import contact_sheet, to_pixels
from monai_vqprior.inferers import VQPriorInferer, encode_grids, num_draws
from monai_vqprior.report.drawn_files import DrawnFiles, decode_tile, drawing_settings
from monai_vqprior.runs import joined_processes
from monai_vqprior.sampling import Conditioning
from monai_vqprior.sampling.conditioning import Rows, condition_rows
from monai_vqprior.transforms import BytesToUnit, LoadSlice, fill_from_nearest

__all__ = ["complete_pixels", "seam_weights", "write_completions"]

# Completions of an image at most; a power of 2, so that the tiles of two images are apart.
_MOST = 2**14
# Images on the sheet at most, and completions of each.
_MOST_ROWS, _MOST_COLUMNS = 20, 8


@torch.no_grad()
def write_completions(
    output_dir: str | os.PathLike[str],
    autoencoder: Any,
    prior: Any,
    inferer: VQPriorInferer,
    dataset: SliceDataset,
    masks: torch.Tensor,
    num_completions: int = 4,
    seed: int = 0,
    seam: float = 0,
    labels: Rows | None = None,
    values: Rows | None = None,
    overwrite: bool = False,
    resume: bool = False,
) -> None:
    """
    Fill the holes of slices in several ways, and write each as a picture and the first of them on a sheet.

    What lies in the hole is hidden before a slice is encoded. The codes of which no pixel is in the mask are given, the
    others are drawn from the prior and decoded. What is given of a slice stays as it is, pixel by pixel. A prior with
    the context ``given`` sees what is given on all sides of a hole, any other one what comes before in raster order.

    Completion j of a slice depends on (seed, name of the slice, j), its conditions, the slice and its mask alone.
    Completions are drawn tile by tile, and each process started by ``torchrun`` takes every n-th slice.

    Args:
        output_dir: the folder ``completions``, ``completions.png``, and ``completions.json`` with the settings of the
            run go here.
        autoencoder: encodes and decodes, with the interface of MONAI's VQVAE.
        prior: see :meth:`monai_vqprior.inferers.VQPriorInferer.sample`.
        inferer: how to draw.
        dataset: the slices, of which each has a ``name``.
        masks: (N, 1, H, W) bool, True where a slice is to be filled, such as
            :func:`monai_vqprior.data.load_masks` reads them.
        num_completions: completions of each slice.
        seed: seed of the run.
        seam: width in pixels of a seam around a hole in which what is given passes into its reconstruction; 0 to keep
            all that is given.
        labels: class labels to condition on, a row for all completions.
        values: continuous values to condition on, likewise.
        overwrite: whether to remove the completions of an earlier run.
        resume: whether to continue an earlier run, if there is one; it may have more completions than before.

    Raises:
        InputError: when the conditions do not fit, or there is an earlier run that is neither resumed nor replaced, or
            was drawn with other settings or of other slices.
    """
    conditions = condition_rows(labels, values, 1, needed=inferer.guidance_scale != 1)
    autoencoder.eval()
    device = next(prior.parameters()).device
    hidden = copy(dataset)
    hidden.images = torch.stack([fill_from_nearest(*pair) for pair in zip(dataset.images, masks, strict=True)])
    # One at a time: how a batch is rounded depends on its size, and a slice must not depend on the others.
    codes = encode_grids(autoencoder, hidden, device, batch_size=1, progress=False).long()
    stride = [side // length for side, length in zip(masks.shape[2:], codes.shape[1:], strict=True)]
    kept = ~touched_blocks(masks[:, 0], stride)  # (N, *grid)
    files = DrawnFiles(output_dir, "completions", "num_completions")
    settings = {
        "num_completions": num_completions,
        "seed": seed,
        "seam": seam,
        "inputs": _fingerprint(dataset, masks),
        **drawing_settings(inferer, conditions, autoencoder, prior),
    }
    with joined_processes() as processes:
        processes.first(lambda: files.claim(settings, overwrite, resume))
        if processes.rank == 0 and "given" not in getattr(prior, "context_names", ()):
            tell(
                "this prior was trained without given_context: a hole is drawn from what is above it and to its left "
                "alone; `vqprior train --stage prior --given_context true` trains one that sees all sides"
            )
        mine = range(processes.rank, len(dataset), processes.size)
        pairs = [(row, j) for row in mine for j in range(num_completions)]
        todo = [(row, j) for row, j in pairs if not files.path(f"{_name(dataset, row)}_{j:02d}.png").is_file()]
        slices = [row for row, _ in todo]
        with tqdm(
            desc="completing",
            unit=" codes",
            total=_num_tiles(todo, inferer.tile_size) * num_draws(prior, prior.spatial_size),
            leave=False,
            disable=processes.rank > 0,
        ) as bar:
            for drawn, grids in inferer.sample_tiles(
                prior,
                [_index(_name(dataset, row), j) for row, j in todo],
                seed,
                conditioning=Conditioning(**conditions, given=codes[slices], mask=kept[slices]),
                on_position=lambda: bar.update(),
            ):
                images = decode_tile(autoencoder, grids, inferer.tile_size).float().clamp(0, 1).cpu()
                for number, image in zip(drawn, images, strict=True):
                    row, j = todo[number]
                    completed = complete_pixels(_image(dataset, row), masks[row], image, seam)
                    write_png(files.path(f"{_name(dataset, row)}_{j:02d}.png"), to_pixels(completed))
        processes.wait()
        if processes.rank == 0:
            sheet = _write_sheet(files, dataset, masks, num_completions)
            tell(f"{num_completions} completions of {len(dataset)} slices written to {files.folder}, see {sheet}")


def complete_pixels(image: torch.Tensor, mask: torch.Tensor, drawn: torch.Tensor, seam: float = 0) -> torch.Tensor:
    """
    Fill a hole of an image with another image.

    Args:
        image: what is given, (1, H, W); of any value in the hole.
        mask: bool, True in the hole, (1, H, W).
        drawn: what fills it, (1, H, W).
        seam: see :func:`seam_weights`.

    Returns:
        (1, H, W).
    """
    return torch.lerp(image, drawn, seam_weights(mask, seam).to(image))


def seam_weights(mask: torch.Tensor, seam: float = 0) -> torch.Tensor:
    """
    How much of what fills a hole is shown at each pixel: 1 in the hole, and less the farther away from it.

    Args:
        mask: bool, True in the hole, (1, H, W).
        seam: width in pixels of the linear ramp around the hole; 0 for none, so that nothing given changes.

    Returns:
        (1, H, W) float32 in 0..1.
    """
    if seam == 0:
        return mask.float()
    distance = torch.from_numpy(distance_transform_edt(~mask[0].numpy()))[None]
    return (1 - distance / (seam + 1)).clamp_min(0).float()


def _name(dataset: SliceDataset, row: int) -> str:
    return dataset.data[row]["name"]


def _image(dataset: SliceDataset, row: int) -> torch.Tensor:
    """A slice, (1, H, W) in 0..1."""
    return BytesToUnit()(dataset.images[row])


def _index(name: str, number: int) -> int:
    """The number of the sample that a completion is: all of a slice have numbers in a row, which depend on its name."""
    return int(hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:10], 16) * _MOST + number


def _num_tiles(todo: Sequence[tuple[int, int]], tile_size: int) -> int:
    """How many tiles completions lie in, where no tile has two slices."""
    return len({(row, j // tile_size) for row, j in todo})


def _fingerprint(dataset: SliceDataset, masks: torch.Tensor) -> str:
    """16 hexadecimal digits that identify names, slices and masks."""
    digest = hashlib.sha256()
    for item, image, mask in zip(dataset.data, dataset.images, masks, strict=True):
        digest.update(item["name"].encode("utf-8", "surrogateescape") + b"\0")
        digest.update(image.numpy().tobytes() + mask.numpy().tobytes())
    return digest.hexdigest()[:16]


def _write_sheet(files: DrawnFiles, dataset: SliceDataset, masks: torch.Tensor, number: int) -> Path:
    """Show what is given, the masks and the first completions, read from their files, and return the path."""
    rows = []
    columns = range(min(number, _MOST_COLUMNS))
    for row in range(min(len(dataset), _MOST_ROWS)):
        mask = masks[row, 0].numpy()
        shown = np.where(mask, _hatching(*mask.shape), dataset.images[row, 0].numpy())
        completed = [LoadSlice()(files.path(f"{_name(dataset, row)}_{j:02d}.png"))[0].numpy() for j in columns]
        rows.append([shown, mask.astype(np.uint8) * 255, *completed])
    captions = ["given", "mask", *(f"completion {j}" for j in columns)]
    return write_png(files.sheet, contact_sheet(rows, [captions]))


def _hatching(height: int, width: int) -> np.ndarray:
    """Stripes that no tissue has, (H, W) uint8."""
    down, right = np.indices((height, width))
    return np.where((down + right) % 8 < 4, 64, 160).astype(np.uint8)
