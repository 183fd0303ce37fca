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

import math
from collections.abc import Callable, Iterator

import torch

__all__ = ["nearest_distances", "nearest_images"]


def nearest_images(
    images: torch.Tensor,
    references: torch.Tensor | None = None,
    values_at_once: int = 1 << 22,
    device: str | torch.device | None = None,
    on_pairs: Callable[[int], None] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    The nearest reference of each image, by the root-mean-square difference of their intensities.

    All pairs are compared, chunk by chunk, as matrix products in float64. On 8-bit images that arithmetic is exact; on
    floating-point ones two references may change places whose squared distances differ by a rounding error. Either way
    the distance to the reference that was found is computed anew, from the differences.

    Args:
        images: (N, C, *spatial), uint8 or finite floating point.
        references: (M, C, *spatial), uint8 where the images are and floating point where they are; None compares each
            image with all others but itself.
        values_at_once: pixels of a chunk of images, and of one of references; the default are 32 MB each.
        device: where to compute; that of the images by default. Chunks are moved there one by one.
        on_pairs: called with a number of pairs after these have been compared, N * M in all.

    Returns:
        the index of the nearest reference, (N,) int64, the first of those that are equally near; and its distance, (N,)
        float64, in units of the intensity, where an 8-bit image counts as 0..1. Both are on the device of the images.

    Raises:
        ValueError: when there is nothing to compare, or shapes or types do not fit.

    Example:
        >>> index, distance = nearest_images(torch.tensor([[[0.4, 0.6]]]), torch.tensor([[[0.0, 0.0]], [[0.5, 0.5]]]))
        >>> index.item(), round(distance.item(), 6)
        (1, 0.1)
    """
    others = images if references is None else references
    _check(images, others, least=2 if references is None else 1)
    device = images.device if device is None else torch.device(device)
    rows = max(1, values_at_once // math.prod(images.shape[1:]))
    indices, distances = [], []
    for start in range(0, len(images), rows):
        x = _vectors(images[start : start + rows], device)  # (n, D)
        best = torch.full((len(x),), math.inf, dtype=torch.float64, device=device)
        index = torch.zeros(len(x), dtype=torch.int64, device=device)
        for first, squares in _squares(x, others, rows, device, start if references is None else None, on_pairs):
            least, place = squares.min(1)
            nearer = least < best
            best = torch.where(nearer, least, best)
            index = torch.where(nearer, first + place, index)
        found = _vectors(others[index.to(others.device)], device)
        indices.append(index)
        distances.append((x - found).square().mean(1).sqrt())
    scale = 255 if images.dtype == torch.uint8 else 1
    return torch.cat(indices).to(images.device), torch.cat(distances).to(images.device) / scale


def nearest_distances(
    images: torch.Tensor,
    references: torch.Tensor,
    number: int,
    values_at_once: int = 1 << 22,
    device: str | torch.device | None = None,
    on_pairs: Callable[[int], None] | None = None,
) -> torch.Tensor:
    """
    The distances of each image to its nearest references, as :func:`nearest_images` measures them.

    Args:
        images: (N, C, *spatial), uint8 or finite floating point.
        references: (M, C, *spatial), likewise.
        number: how many of the nearest references; all where there are fewer.
        values_at_once: see :func:`nearest_images`.
        device: likewise.
        on_pairs: likewise.

    Returns:
        (N, number) float64, the nearest first, on the device of the images.

    Raises:
        ValueError: when there is nothing to compare, or shapes or types do not fit.
    """
    _check(images, references, least=1)
    device = images.device if device is None else torch.device(device)
    rows = max(1, values_at_once // math.prod(images.shape[1:]))
    number = min(number, len(references))
    found = []
    for part in images.split(rows):
        x = _vectors(part, device)
        best = torch.empty(len(x), 0, dtype=torch.float64, device=device)
        for _, squares in _squares(x, references, rows, device, None, on_pairs):
            together = torch.cat([best, squares], 1)
            best = together.topk(min(number, together.shape[1]), largest=False).values
        squares = (best + x.square().sum(1, keepdim=True)).clamp(min=0)  # (n, number)
        found.append((squares / x.shape[1]).sqrt())
    scale = 255 if images.dtype == torch.uint8 else 1
    return torch.cat(found).to(images.device) / scale


def _squares(
    x: torch.Tensor,
    others: torch.Tensor,
    rows: int,
    device: torch.device,
    own_start: int | None,
    on_pairs: Callable[[int], None] | None,
) -> Iterator[tuple[int, torch.Tensor]]:
    """
    Squared distances of vectors (n, D) to chunks of images, less the squared norms of the vectors.

    Yields the row that a chunk starts at, and (n, m); infinity for an image and itself where ``x`` are the ``others``
    from ``own_start`` on.
    """
    for first in range(0, len(others), rows):
        y = _vectors(others[first : first + rows], device)  # (m, D)
        # |x - y|^2 = |x|^2 + (|y|^2 - 2 x.y): the term in brackets is one product, |x|^2 moves no minimum.
        squares = torch.addmm(y.square().sum(1), x, y.t(), alpha=-2)  # (n, m)
        if own_start == first:
            squares.fill_diagonal_(math.inf)
        if on_pairs is not None:
            on_pairs(squares.numel())
        yield first, squares


def _vectors(images: torch.Tensor, device: torch.device) -> torch.Tensor:
    """(N, C, *spatial) -> (N, D) float64, on a device."""
    return images.to(device).flatten(1).double()


def _check(images: torch.Tensor, others: torch.Tensor, least: int) -> None:
    """Refuse images that cannot be compared with these others."""
    if len(images) < 1 or len(others) < least:
        raise ValueError(f"there must be an image and another to compare it with, got {len(images)} and {len(others)}.")
    if images.shape[1:] != others.shape[1:] or math.prod(images.shape[1:]) == 0:
        shapes = f"{tuple(images.shape[1:])} and {tuple(others.shape[1:])}"
        raise ValueError(f"images and references must have one shape, with pixels in it, got {shapes}.")
    floating = images.is_floating_point() and others.is_floating_point()
    if not floating and not images.dtype == others.dtype == torch.uint8:
        raise ValueError(
            f"images and references must both be uint8 or both floating point, got {images.dtype} and {others.dtype}."
        )
