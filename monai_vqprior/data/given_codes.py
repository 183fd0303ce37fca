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

from collections.abc import Sequence

import torch

from monai_vqprior.errors import InputError

__all__ = ["MISSING", "GivenCodes", "random_holes"]

#: stands for a code that is not known.
MISSING = -1

# A hole covers at most this share of a grid.
_LARGEST = 0.95
# Shares of scattered codes that are missing. Most have given neighbors, and many are targets.
_SCATTERED = (0.2, 0.8)


class GivenCodes:
    """
    The part of a grid that a training shows to a prior: all codes but those of a hole, or none at all.

    A prior that is trained so completes grids from what is given on all sides of a hole. Holes are regions
    (:func:`random_holes`), or scattered codes, each of which is missing or given by chance, as in Chang et al.,
    "MaskGIT" (2022), https://arxiv.org/abs/2202.04200. In a region few codes have given ones beside them; among
    scattered codes nearly all have, and so a training learns what given codes say. Grids of which nothing is given keep
    it a prior of whole grids.

    Args:
        dropout: probability that nothing of a grid is given, in [0, 1].
        scattered: probability that what is missing of another grid is scattered, in [0, 1].

    Raises:
        ValueError: when a probability is out of its range.

    Example:
        >>> given = GivenCodes(dropout=0)(torch.randint(16, (8, 8)))
        >>> given.shape, int(given.min())
        (torch.Size([8, 8]), -1)
    """

    def __init__(self, dropout: float = 0.3, scattered: float = 0.5) -> None:
        for name, probability in (("dropout", dropout), ("scattered", scattered)):
            if not 0 <= probability <= 1:
                raise InputError(f"{name} must be at least 0 and at most 1, got {probability}.")
        self.dropout = dropout
        self.scattered = scattered

    def __call__(
        self, grid: torch.Tensor, generator: torch.Generator | None = None, views: torch.Tensor | None = None
    ) -> torch.Tensor:
        """
        Draw what is given of a grid.

        Args:
            grid: codes, (*grid).
            generator: makes the random numbers; None for those of PyTorch.
            views: codes (V, *grid) of the slice with a region hidden, :data:`MISSING` there, as
                :func:`monai_vqprior.inferers.encode_given` makes them: one of them is drawn where a region is missing.
                None to leave a region out of the grid itself.

        Returns:
            (*grid), the codes that are given, and :data:`MISSING` for the others.
        """
        dropped, scattered = (
            torch.rand(2, generator=generator) < torch.tensor([self.dropout, self.scattered])
        ).tolist()
        if dropped:
            return torch.full_like(grid, MISSING)
        if views is not None and not scattered:
            return views[int(torch.randint(len(views), (), generator=generator))].to(grid)
        size = tuple(grid.shape)
        hole = _scattered(size, generator) if scattered else random_holes(1, size, generator)[0]
        return grid.masked_fill(hole.to(grid.device), MISSING)


def _scattered(size: tuple[int, ...], generator: torch.Generator | None) -> torch.Tensor:
    """Codes that are missing independently of one another, a random share of a grid, (*size) bool."""
    low, high = _SCATTERED
    share = low + (high - low) * torch.rand((), generator=generator)
    return torch.rand(size, generator=generator) < share


def random_holes(number: int, size: Sequence[int], generator: torch.Generator | None = None) -> torch.Tensor:
    """
    Draw regions of grids, from single codes to most of a grid.

    A region is where a random field is largest: a smoothed noise, whose regions are blobs, or scattered codes where it
    is rough; the distance from a point, whose regions are rectangles; or a slope, whose regions are halves, along an
    axis or oblique. It is the region or all around it that is missing.

    Args:
        number: number of grids, N.
        size: size of a grid, in two or three dimensions.
        generator: makes the random numbers; None for those of PyTorch.

    Returns:
        (N, *size) bool, True in the hole; at least one code of each grid is in its hole, and one is not.
    """
    size = tuple(size)
    fields = torch.stack([kind(number, size, generator) for kind in (_noise, _distance, _slope)])  # (3, N, *size)
    kinds = torch.randint(len(fields), (number,), generator=generator)
    field = fields[kinds, torch.arange(number)].flatten(1)  # (N, codes)
    around = torch.rand(number, 1, generator=generator) < 0.5
    order = torch.where(around, -field, field).argsort(dim=1, descending=True, stable=True)
    # Sides of holes are evenly distributed, so that small holes are as frequent as large ones.
    shares = torch.rand(number, 1, generator=generator) ** len(size) * _LARGEST
    codes = field.shape[1]
    counts = (shares * codes).round().clamp(1, max(1, codes - 1))
    holes = torch.zeros(number, codes, dtype=torch.bool)
    return holes.scatter(1, order, torch.arange(codes) < counts).view(number, *size)


def _noise(number: int, size: tuple[int, ...], generator: torch.Generator | None) -> torch.Tensor:
    """White noise whose amplitudes fall with a random power of the frequency, 0 to 3, (N, *size)."""
    axes = tuple(range(1, len(size) + 1))
    spectrum = torch.fft.fftn(torch.randn(number, *size, generator=generator), dim=axes)
    squares = torch.zeros(size)
    for axis, length in enumerate(size):
        squares = squares + torch.fft.fftfreq(length).square().view(_along(axis, len(size)))
    frequency = squares.sqrt().clamp_min(1 / max(size))
    powers = 3 * torch.rand(number, *[1] * len(size), generator=generator)
    return torch.fft.ifftn(spectrum * frequency**-powers, dim=axes).real


def _distance(number: int, size: tuple[int, ...], generator: torch.Generator | None) -> torch.Tensor:
    """How near the codes are to a random point, along the axis on which they are farthest, (N, *size)."""
    center = torch.rand(number, len(size), generator=generator)
    # Sides are in a ratio of at most e to 1/e.
    scale = (torch.rand(number, len(size), generator=generator) - 0.5).exp()
    farthest = torch.zeros(number, *size)
    for axis, length in enumerate(size):
        offset = (_places(length) - center[:, axis, None]).abs() * scale[:, axis, None]
        farthest = torch.maximum(farthest, offset.view(number, *_along(axis, len(size))))
    return -farthest


def _slope(number: int, size: tuple[int, ...], generator: torch.Generator | None) -> torch.Tensor:
    """A linear function of the place, along one axis or any direction, (N, *size)."""
    direction = torch.randn(number, len(size), generator=generator)
    steepest = direction.abs() == direction.abs().amax(1, keepdim=True)
    along_axis = torch.rand(number, 1, generator=generator) < 0.5
    direction = torch.where(along_axis & ~steepest, 0.0, direction)
    height = torch.zeros(number, *size)
    for axis, length in enumerate(size):
        height = height + (direction[:, axis, None] * _places(length)).view(number, *_along(axis, len(size)))
    return height


def _places(length: int) -> torch.Tensor:
    """Centers of the codes along an axis of length 1."""
    return (torch.arange(length) + 0.5) / length


def _along(axis: int, dims: int) -> list[int]:
    """The shape of numbers along one axis of a grid."""
    return [-1 if other == axis else 1 for other in range(dims)]
