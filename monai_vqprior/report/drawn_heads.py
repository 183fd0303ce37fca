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
from PIL import Image

from monai_vqprior.data import Conditions
from monai_vqprior.data.condition_table import POSITION
from monai_vqprior.errors import InputError, counted
from monai_vqprior.files import tell, write_png
from monai_vqprior.handlers import contact_sheet
from monai_vqprior.inferers import VQPriorInferer, num_draws
from monai_vqprior.report.drawn import DrawnFiles, decode_tile, draw_missing, draw_tiles, settings_of
from monai_vqprior.report.nifti import write_nifti
from monai_vqprior.sampling import Conditioning
from monai_vqprior.sampling.conditioning import Rows, condition_rows
from monai_vqprior.volumes import Volume, read_volume
from monai_vqprior.volumes.geometry import block_of, pictures_of

__all__ = ["slice_conditions", "write_volumes"]

# Heads on the sheet at most.
_MOST_PICTURES = 10


@torch.no_grad()
def write_volumes(
    output_dir: str | os.PathLike[str],
    autoencoder: Any,
    prior: Any,
    inferer: VQPriorInferer,
    conditions: Conditions,
    num_volumes: int = 4,
    num_slices: int | None = None,
    head_slices: int = 32,
    head_axis: int = 2,
    head_affine: Sequence[Sequence[float]] | None = None,
    seed: int = 0,
    labels: Rows | None = None,
    values: Rows | None = None,
    overwrite: bool = False,
    resume: bool = False,
    draw_conditions: bool = False,
) -> None:
    """
    Draw whole heads slice by slice, and write each as NIfTI of ``float32`` in 0..1, and the first 10 on a sheet.

    Each slice is drawn given the one below it and its place in the head, and decoded on its own. Volumes are drawn and
    written tile by tile (``draw_tiles``), and do not depend on the number of processes.

    Args:
        output_dir: ``volumes.png``, the folder ``volumes``, ``volumes.json`` with the settings of the run, and where
            conditions of whole heads are known ``volume_conditions.csv`` with those of each volume go here.
        autoencoder: decodes the code grids, with the interface of MONAI's VQVAE.
        prior: see :meth:`monai_vqprior.inferers.VQPriorInferer.sample_stacks`.
        inferer: how to draw.
        conditions: those of the prior, ``slice`` among them.
        num_volumes: how many heads, numbers 0 to ``num_volumes`` - 1.
        num_slices: slices of a head, those in the middle; None for all.
        head_slices: slices of a head of the training.
        head_axis: the axis that they are cut along; 0 sagittal, 1 coronal, 2 axial.
        head_affine: (4, 4), voxel indices of such a head to mm; None for voxels of 1 mm.
        seed: seed of the run; volume i depends on (seed, i) and its conditions alone.
        labels: class labels of whole heads, a row for all or one for each.
        values: continuous values of whole heads, likewise; that of ``slice`` is each slice's own.
        overwrite: whether to remove the volumes of an earlier run.
        resume: whether to continue an earlier run, if there is one; it may have more volumes than before.
        draw_conditions: whether conditions of whole heads that nobody asked for are drawn, once for each head
            (:meth:`monai_vqprior.data.Conditions.draw`), where there is not a row for each.

    Raises:
        InputError: when a number or a condition does not fit, there is an earlier run that is neither resumed nor
            replaced, or the run to resume was drawn with other settings.
    """
    number = head_slices if num_slices is None else num_slices
    if num_volumes < 1 or not 1 <= number <= head_slices:
        raise InputError(
            f"num_volumes must be at least 1 and num_slices in 1..{head_slices}, the slices of a head of the training, "
            f"got {num_volumes} and {number}."
        )
    first = (head_slices - number) // 2
    affine = np.eye(4) if head_affine is None else np.array(head_affine, np.float64)
    affine[:3, 3] += first * affine[:3, head_axis]
    asked = condition_rows(labels, values, num_volumes, needed=False)
    drawn: list[str] = []
    if draw_conditions:
        asked, drawn = draw_missing(conditions, asked, num_volumes, seed, leave=[POSITION])
    places = [(first + i) / (head_slices - 1) if head_slices > 1 else 0.5 for i in range(number)]
    slices = slice_conditions(conditions, asked, places)
    settings = {
        "num_volumes": num_volumes,
        "num_slices": number,
        "head_slices": head_slices,
        "head_axis": head_axis,
        "affine": affine.tolist(),
        **settings_of(inferer, autoencoder, prior, seed, asked, drawn),
    }
    files = DrawnFiles(Path(output_dir), "volume", (".nii.gz",), ("volume_conditions.csv",))
    autoencoder.eval()

    def draw(indices: Sequence[int], report: Callable[[], object]) -> Iterator[tuple[list[int], np.ndarray]]:
        wanted = list(indices)
        parts = [{name: rows[wanted] if len(rows) > 1 else rows for name, rows in part.items()} for part in slices]
        for rows, grids in inferer.sample_stacks(prior, wanted, [Conditioning(**part) for part in parts], seed, report):
            images = [decode_tile(autoencoder, part, inferer.tile_size)[:, 0] for part in grids.unbind(1)]
            yield rows, torch.stack(images, 1).clamp(0, 1).float().cpu().numpy()  # (rows, slices, H, W)

    def write(index: int, head: np.ndarray) -> None:
        write_nifti(files.path(index), Volume(block_of(head, head_axis), affine))

    def finish() -> None:
        files.write_table(conditions, asked, num_volumes)
        heads = [read_volume(files.path(index)) for index in range(min(num_volumes, _MOST_PICTURES))]
        sheet = write_png(files.sheet, contact_sheet([_cuts(head) for head in heads]))
        drawn = f"{counted(num_volumes, 'volume')} of {counted(number, 'slice')}"
        tell(f"{drawn} written to {files.folder}, cuts of the first on {sheet}")

    draws = number * num_draws(prior, prior.spatial_size)
    draw_tiles(files, settings, inferer.tile_size, draws, draw, write, finish, overwrite, resume)


def slice_conditions(
    conditions: Conditions, asked: dict[str, torch.Tensor], places: Sequence[float]
) -> list[dict[str, torch.Tensor]]:
    """
    What is asked of each slice of heads.

    Args:
        conditions: those of the prior.
        asked: rows of ``labels`` and ``values`` for whole heads, those that there are.
        places: of each slice in its head, 0 for the lowest and 1 for the highest.

    Returns:
        for each slice the rows of ``labels``, where there are some, and ``values``.

    Raises:
        InputError: when the prior does not know the place of a slice, or is asked for one.
    """
    if POSITION not in conditions.value_names:
        raise InputError(f"this prior does not know the condition {POSITION}: train one with --neighbor_context true.")
    column = conditions.value_names.index(POSITION)
    rows = asked.get("values", torch.full((1, conditions.num_values), torch.nan))
    if not rows[:, column].isnan().all():
        raise InputError(f"the condition {POSITION} is each slice's own in a volume: leave it out.")
    of_slices = []
    for place in places:
        values = rows.clone()
        values[:, column] = conditions.encode({POSITION: str(place)})[POSITION]
        of_slices.append({**asked, "values": values})
    return of_slices


def _cuts(head: Volume) -> list[np.ndarray]:
    """The axial, coronal and sagittal cut through the middle of a head, each in a square of one size, true to scale."""
    sizes = head.voxel_sizes
    side = max(round(length * size / sizes.min()) for length, size in zip(head.data.shape, sizes, strict=True))
    return [_cut(head, axis, side) for axis in (2, 1, 0)]


def _cut(head: Volume, axis: int, side: int) -> np.ndarray:
    """The cut through the middle along an axis, (side, side) uint8, rows from top to bottom."""
    picture = pictures_of(head.data, axis)[head.data.shape[axis] // 2]
    grey = Image.fromarray(np.rint(picture.clip(0, 1) * 255).astype(np.uint8))
    right, up = (other for other in range(3) if other != axis)
    lengths = [round(head.data.shape[i] * head.voxel_sizes[i] / head.voxel_sizes.min()) for i in (right, up)]
    square = Image.new("L", (side, side))
    shown = grey.resize((lengths[0], lengths[1]), Image.Resampling.BILINEAR)
    square.paste(shown, ((side - lengths[0]) // 2, (side - lengths[1]) // 2))
    return np.asarray(square)
