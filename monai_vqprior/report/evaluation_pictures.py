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

import csv
import io
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from monai_vqprior.data import SliceDataset
from monai_vqprior.files import tell, write_png, write_text
from monai_vqprior.handlers import comparison, contact_sheet
from monai_vqprior.inferers import reconstruct_images
from monai_vqprior.metrics import count_codes
from monai_vqprior.transforms import BytesToUnit

__all__ = ["evaluation_files", "mean_patches", "ranked_slices", "write_evaluation_pictures"]

# Training slices that patches are averaged over, and slices that are averaged at a time.
_MOST_SLICES = 640
_BATCH = 16
_MOST_CODES = 1024  # on the sheet of the codes
_PICTURES = 2  # of the best, of the middle and of the worst slices
_SKETCHES = 6


def evaluation_files(path: str | os.PathLike[str]) -> dict[str, str]:
    """
    The files that :func:`write_evaluation_pictures` writes beside ``metrics.json``, with its name in theirs.

    Args:
        path: ``metrics.json``.

    Returns:
        the absolute paths, under ``slices``, ``codes``, ``counts``, ``bits`` and ``sketches``.
    """
    base = Path(path).absolute()
    names = {"slices": "slices.png", "codes": "codes.png", "counts": "codes.csv"}
    names |= {"bits": "bits.csv", "sketches": "sketches.png"}
    return {what: str(base.with_name(f"{base.stem}_{name}")) for what, name in names.items()}


def write_evaluation_pictures(
    path: str | os.PathLike[str],
    dataset: SliceDataset,
    train: SliceDataset,
    grids: torch.Tensor,
    train_grids: torch.Tensor,
    num_embeddings: int,
    details: Mapping[str, torch.Tensor],
    autoencoder: Any,
    prior: Any = None,
    bits: torch.Tensor | None = None,
    device: str | torch.device = "cpu",
) -> list[Path]:
    """
    Write what a page shows of an evaluation: the best and the worst slices, the codes, and where the bits are.

    Args:
        path: ``metrics.json``; the files go beside it (:func:`evaluation_files`). One that does not apply is removed.
        dataset: the evaluated slices.
        train: the training slices.
        grids: code grids (N, *grid) of the evaluated slices.
        train_grids: code grids (M, *grid) of the training slices.
        num_embeddings: number of codes, K.
        details: the value of each slice, (N,) or (N, 1), by the name of the metric; ``ssim`` is needed.
        autoencoder: reconstructs slices.
        prior: the prior; sketches are shown where it has a ``sketch``.
        bits: the mean bits of each code of the grid, (*grid); None without a prior.
        device: where the autoencoder and the prior are.

    Returns:
        the files that were written.
    """
    files = {what: Path(name) for what, name in evaluation_files(path).items()}
    rows = np.sort(np.random.default_rng(0).permutation(len(train))[:_MOST_SLICES])
    images, codes = train.images[rows], train_grids[rows]
    written = [_write_ranked(files["slices"], dataset, details, autoencoder, device)]
    written += _write_codes(files["codes"], files["counts"], images, codes, (train_grids, grids), num_embeddings)
    if bits is None:
        files["bits"].unlink(missing_ok=True)
    else:
        lines = (",".join(f"{value:.4f}" for value in row) for row in bits.tolist())
        written.append(write_text(files["bits"], "\n".join(lines) + "\n"))
    sketch = getattr(prior, "sketch", None)
    if sketch is None:
        files["sketches"].unlink(missing_ok=True)
    else:
        written.append(_write_sketches(files["sketches"], dataset, grids, images, codes, sketch, device))
    tell(f"  pictures of the evaluation written to {', '.join(map(str, written))}")
    return written


def ranked_slices(details: Mapping[str, torch.Tensor], number: int = _PICTURES) -> dict[str, list[tuple[int, float]]]:
    """
    The slices that are reconstructed best, worst, and in between.

    Args:
        details: the value of each slice by the name of the metric. The rank is by ``ssim_brain``, of slices that have
            one; by ``ssim`` where none has.
        number: how many of each, at most a third of the slices.

    Returns:
        row and value of the ``best``, ``median`` and ``worst`` slices.
    """
    ranked: list[tuple[int, float]] = []
    for name in ("ssim_brain", "ssim"):
        values = torch.as_tensor(details[name]).double().flatten().tolist() if name in details else []
        ranked = ranked or sorted(
            ((row, x) for row, x in enumerate(values) if math.isfinite(x)), key=lambda pair: pair[1]
        )
    number = max(1, min(number, len(ranked) // 3))
    middle = (len(ranked) - number) // 2
    return {
        "best": ranked[::-1][:number],
        "median": ranked[middle : middle + number],
        "worst": ranked[:number],
    }


def mean_patches(
    images: torch.Tensor, grids: torch.Tensor, num_codes: int, margin: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    What codes stand for: the mean of the pixels at the places where a code is.

    Args:
        images: (N, 1, H, W) uint8.
        grids: (N, h, w), integers in 0..K-1; a code stands for ceil(H / h) by ceil(W / w) pixels.
        num_codes: number of codes, K.
        margin: pixels around these that are shown, too.

    Returns:
        the patches (K, height, width) uint8, 0 for a code that is nowhere; and how often each code occurs, (K,) int64.
    """
    stride = [-(-size // number) for size, number in zip(images.shape[2:], grids.shape[1:], strict=True)]
    sides = [side + 2 * margin for side in stride]
    pad = [number * side - size for size, number, side in zip(images.shape[2:], grids.shape[1:], stride, strict=True)]
    sums = torch.zeros(num_codes, sides[0] * sides[1])
    for pictures, codes in zip(images.split(_BATCH), grids.split(_BATCH), strict=True):
        padded = F.pad(pictures.float(), (margin, margin + pad[1], margin, margin + pad[0]))
        pixels = F.unfold(padded, (sides[0], sides[1]), stride=(stride[0], stride[1]))  # (B, height * width, h * w)
        sums.index_add_(0, codes.flatten().long(), pixels.transpose(1, 2).flatten(0, 1))
    counts = count_codes(grids, num_codes)
    means = (sums / counts.clamp_min(1)[:, None]).round().to(torch.uint8)
    return means.view(num_codes, *sides), counts


def _write_ranked(
    path: Path,
    dataset: SliceDataset,
    details: Mapping[str, torch.Tensor],
    autoencoder: Any,
    device: str | torch.device,
) -> Path:
    """The sheet of the best, median and worst slices, a row each."""
    unit = BytesToUnit()
    pictures, captions = [], []
    for word, ranked in ranked_slices(details).items():
        images = dataset.images[[row for row, _ in ranked]]
        copies = reconstruct_images(autoencoder, images, device, progress=False)
        columns = [comparison(unit(image), unit(copy))[1] for image, copy in zip(images, copies, strict=True)]
        pictures.append([picture for column in columns for picture in column])
        captions.append([text for _, value in ranked for text in (f"{word} {value:.3f}", "", "")])
    return write_png(path, contact_sheet(pictures, captions))


def _write_codes(
    picture: Path,
    table: Path,
    images: torch.Tensor,
    codes: torch.Tensor,
    grids: Sequence[torch.Tensor],
    num_embeddings: int,
) -> list[Path]:
    """The patches of the codes, the most frequent ones first, and how often each occurs in both splits."""
    height = -(-images.shape[2] // codes.shape[1])
    patches, counts = mean_patches(images, codes, num_embeddings, margin=height)
    order = counts.argsort(descending=True, stable=True)[: min(_MOST_CODES, int((counts > 0).sum()))]
    columns = math.ceil(math.sqrt(2 * len(order)))
    shown = [patches[code].numpy() for code in order.tolist()]
    sheet = contact_sheet([shown[start : start + columns] for start in range(0, len(shown), columns)])
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["code", "train", "evaluated"])
    numbers = (count_codes(part, num_embeddings).tolist() for part in grids)
    writer.writerows(zip(range(num_embeddings), *numbers, strict=True))
    return [write_png(picture, sheet), write_text(table, text.getvalue())]


def _write_sketches(
    path: Path,
    dataset: SliceDataset,
    grids: torch.Tensor,
    images: torch.Tensor,
    codes: torch.Tensor,
    sketch: Any,
    device: str | torch.device,
) -> Path:
    """Slices above their sketches, each code of which is shown by the mean of what it stands for in training slices."""

    def sketched(parts: torch.Tensor) -> torch.Tensor:
        return torch.cat([sketch(part.to(device)).cpu() for part in parts.split(_BATCH)])

    chosen = np.unique(np.linspace(0, len(dataset) - 1, _SKETCHES + 2)[1:-1].round().astype(int))
    with torch.no_grad():
        patches, _ = mean_patches(images, sketched(codes), sketch.num_sketch_codes)
        drawn = patches[sketched(grids[chosen])]  # (n, h, w, height, width)
    height, width = dataset.spatial_size
    mosaics = drawn.permute(0, 1, 3, 2, 4).flatten(3).flatten(1, 2)[:, :height, :width]
    return write_png(path, contact_sheet([[*dataset.images[chosen][:, 0].numpy()], [*mosaics.numpy()]]))
