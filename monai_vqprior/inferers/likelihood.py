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
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from monai.utils import ensure_tuple_rep
from monai.utils.ordering import Ordering

from monai_vqprior.errors import InputError

__all__ = ["code_log_likelihood", "code_map", "reading_order"]


def code_log_likelihood(logits: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """
    Natural logarithm of the probability of each code, by log-softmax in float64: finite for any finite logits.

    Args:
        logits: (B, K, *grid), any floating type.
        codes: (B, *grid), integers in 0..K-1.

    Returns:
        (B, *grid) float64, in nats, at most 0.
    """
    # Grid by grid, so that no more than one of them is held in float64 with all its logits.
    pairs = zip(logits, codes[:, None].long(), strict=True)  # (K, *grid), (1, *grid)
    grids = [F.log_softmax(grid, 0, dtype=torch.float64).gather(0, code) for grid, code in pairs]
    return torch.cat(grids) if grids else codes.double()


def reading_order(ordering: Ordering | Sequence[int], spatial_size: Sequence[int]) -> torch.Tensor:
    """
    The positions of a grid in the order in which they are read.

    Args:
        ordering: MONAI's ``Ordering``, or the axes of the grid to flip before it is read row by row: ``()`` for none,
            ``(1,)`` for right to left, ``(0, 1)`` for two-dimensional grids from the last code to the first.
        spatial_size: size of the grid.

    Returns:
        (number of positions,) int64, first the position, in raster order, of the code that is read first, and so on.

    Raises:
        InputError: when the ordering does not fit the grid.

    Example:
        >>> reading_order((1,), (2, 3))
        tensor([2, 1, 0, 5, 4, 3])
    """
    length = math.prod(spatial_size)
    if isinstance(ordering, Ordering):
        order = torch.from_numpy(np.array(ordering.get_sequence_ordering(), dtype=np.int64))
        if len(order) != length:
            raise InputError(f"the ordering is one of {len(order)} positions, the grid is {tuple(spatial_size)}.")
        return order
    axes = tuple(ordering)
    if len(set(axes)) < len(axes) or not all(axis in range(len(spatial_size)) for axis in axes):
        raise InputError(f"an ordering flips distinct axes in 0..{len(spatial_size) - 1}, got {axes}.")
    return torch.arange(length).view(*spatial_size).flip(axes).flatten()


def code_map(values: torch.Tensor, stride: int | Sequence[int]) -> torch.Tensor:
    """
    Show a value of each code at image size: on each of the pixels that the code stands for.

    The value is that of the code, in nats or bits a code, so that the mean of the map is the mean over the codes.
    Divided by the number of pixels a code, the product of the strides, it is in nats or bits a pixel, and the map then
    sums to what the codes sum to.

    Args:
        values: (B, *grid), such as :meth:`VQPriorInferer.log_likelihood` or :meth:`VQPriorInferer.bits` returns.
        stride: pixels that a code stands for along each axis, ``AutoencoderVQ.stride``.

    Returns:
        (B, 1, *grid * stride).

    Example:
        >>> code_map(torch.tensor([[[1.0, 2.0]]]), 2)
        tensor([[[[1., 1., 2., 2.],
                  [1., 1., 2., 2.]]]])
    """
    for axis, repeats in enumerate(ensure_tuple_rep(stride, values.dim() - 1), start=1):
        values = values.repeat_interleave(repeats, axis)
    return values[:, None]
