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
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt

from monai_vqprior.data import SliceDataset
from monai_vqprior.data.masked_slices import touched_blocks
from monai_vqprior.errors import counted
from monai_vqprior.files import tell, write_png
from monai_vqprior.handlers import contact_sheet, to_pixels
from monai_vqprior.inferers import VQPriorInferer, encode_grids, num_draws
from monai_vqprior.report.drawn import DrawnFiles, decode_tile, draw_tiles, settings_of
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
    codes, kept = _given_codes(autoencoder, dataset, masks, next(prior.parameters()).device)
    names = [item["name"] for item in dataset.data]
    files = _CompletionFiles(Path(output_dir), "completion", (".png",), names=names, per_slice=num_completions)
    settings = {
        "num_completions": num_completions,
        "seam": seam,
        "inputs": _fingerprint(dataset, masks),
        **settings_of(inferer, autoencoder, prior, seed, conditions),
    }

    def draw(indices: Sequence[int], report: Callable[[], object]) -> Iterator[tuple[list[int], torch.Tensor]]:
        rows = [index // num_completions for index in indices]
        tiles = inferer.sample_tiles(
            prior,
            [files.sample_of(index) for index in indices],
            seed,
            conditioning=Conditioning(**conditions, given=codes[rows], mask=kept[rows]),
            on_position=report,
        )
        return ((places, decode_tile(autoencoder, grids, inferer.tile_size)) for places, grids in tiles)

    def write(index: int, image: torch.Tensor) -> None:
        row = index // num_completions
        drawn = image.float().clamp(0, 1).cpu()
        completed = complete_pixels(BytesToUnit()(dataset.images[row]), masks[row], drawn, seam)
        write_png(files.path(index), to_pixels(completed))

    def finish() -> None:
        if "given" not in getattr(prior, "context_names", ()):
            tell(
                "this prior was trained without given_context, so holes were filled from what is above them and to "
                "their left alone; `vqprior train --stage prior --given_context true` trains one that sees all sides"
            )
        sheet = _write_sheet(files, dataset, masks)
        drawn = f"{counted(num_completions, 'completion')} of {counted(len(dataset), 'slice')}"
        tell(f"{drawn} written to {files.folder}, see {sheet}")

    length = num_draws(prior, prior.spatial_size)
    draw_tiles(files, settings, inferer.tile_size, length, draw, write, finish, overwrite, resume)


@dataclass(frozen=True)
class _CompletionFiles(DrawnFiles):
    """
    Where completions go, ``completions/NAME_00.png`` and so on; they are numbered slice by slice.

    Args:
        names: names of the slices.
        per_slice: completions of each.
    """

    names: Sequence[str] = ()
    per_slice: int = 1

    def path(self, index: int, suffix: str | None = None) -> Path:
        """The file of a completion."""
        row, number = divmod(index, self.per_slice)
        return self.folder / f"{self.names[row]}_{number:02d}{suffix or self.suffixes[0]}"

    def total(self, settings: Mapping[str, Any]) -> int:
        """Completions of all slices."""
        return len(self.names) * self.per_slice

    def present(self) -> list[Path]:
        """All completions in the folder, of whatever slices."""
        return list(self.folder.rglob(f"*{self.suffixes[0]}"))

    def sample_of(self, index: int) -> int:
        """The number of the sample that a completion is, by the name of its slice and its number there."""
        row, number = divmod(index, self.per_slice)
        digest = hashlib.sha256(self.names[row].encode("utf-8", "surrogateescape")).hexdigest()
        return int(digest[:10], 16) * _MOST + number


def _given_codes(
    autoencoder: Any, dataset: SliceDataset, masks: torch.Tensor, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes (N, *grid) of slices, and which of them are given: those of blocks without a pixel of the hole."""
    hidden = copy(dataset)
    hidden.images = torch.stack([fill_from_nearest(*pair) for pair in zip(dataset.images, masks, strict=True)])
    # One at a time: how a batch is rounded depends on its size, and a slice must not depend on the others.
    codes = encode_grids(autoencoder, hidden, device, batch_size=1, progress=False).long()
    stride = [side // length for side, length in zip(masks.shape[2:], codes.shape[1:], strict=True)]
    return codes, ~touched_blocks(masks[:, 0], stride)


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


def _fingerprint(dataset: SliceDataset, masks: torch.Tensor) -> str:
    """16 hexadecimal digits that identify names, slices and masks."""
    digest = hashlib.sha256()
    for item, image, mask in zip(dataset.data, dataset.images, masks, strict=True):
        digest.update(item["name"].encode("utf-8", "surrogateescape") + b"\0")
        digest.update(image.numpy().tobytes() + mask.numpy().tobytes())
    return digest.hexdigest()[:16]


def _write_sheet(files: _CompletionFiles, dataset: SliceDataset, masks: torch.Tensor) -> Path:
    """Show what is given, the masks and the first completions, read from their files, and return the path."""
    rows = []
    columns = range(min(files.per_slice, _MOST_COLUMNS))
    for row in range(min(len(dataset), _MOST_ROWS)):
        mask = masks[row, 0].numpy()
        shown = np.where(mask, _hatching(*mask.shape), dataset.images[row, 0].numpy())
        completed = [LoadSlice()(files.path(row * files.per_slice + number))[0].numpy() for number in columns]
        rows.append([shown, mask.astype(np.uint8) * 255, *completed])
    captions = ["given", "mask", *(f"completion {number}" for number in columns)]
    return write_png(files.sheet, contact_sheet(rows, [captions]))


def _hatching(height: int, width: int) -> np.ndarray:
    """Stripes that no tissue has, (H, W) uint8."""
    down, right = np.indices((height, width))
    return np.where((down + right) % 8 < 4, 64, 160).astype(np.uint8)
