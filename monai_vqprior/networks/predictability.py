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

from itertools import product

import torch
import torch.nn.functional as F

__all__ = ["unpredicted_share"]

# Added to the squares of the neighbors, as a share of their mean: neighbors are nearly alike, and a batch may have few.
_RIDGE = 1e-3

# Keeps what is 0 where all is background from being divided by.
_TINY = 1e-12


def unpredicted_share(encodings: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """
    Share of the variance of (quantized) encodings that no linear prediction from their neighbors explains.

    The neighbors are the ones before in raster order, which a prior reads: in two dimensions to the left and the
    three above. The prediction is the best one for this very batch, by least squares with a little damping, so nothing
    is learned or kept, and the scale of the encodings does not matter. The gradient reaches the encodings and their
    neighbors; it does not pass the coefficients, at whose optimum it would be zero.

    Args:
        encodings: (B, D, *grid), any floating type; beyond the grid they count as 0.
        weights: (B, *grid), not negative: how much the prediction of each encoding counts.

    Returns:
        the share, a scalar in float32; near 0 where neighbors predict everything, near 1 where they predict nothing.
    """
    dims = encodings.dim() - 2
    with torch.autocast(encodings.device.type, enabled=False):
        encodings = encodings.float()
        grid = encodings.shape[2:]
        padded = F.pad(encodings, (1, 1) * dims)
        everything = (slice(None), slice(None))
        windows = [
            tuple(slice(at, at + side) for at, side in zip(offset, grid, strict=True))
            for offset in list(product(range(3), repeat=dims))[: 3**dims // 2]
        ]
        neighbors = torch.cat([padded[everything + window] for window in windows], 1)
        w = weights.reshape(-1, 1).float()  # (N, 1)
        targets, known = (x.movedim(1, -1).flatten(0, -2) for x in (encodings, neighbors))  # (N, D), (N, D * neighbors)
        total = w.sum().clamp_min(_TINY)
        targets, known = (x - (w * x).sum(0) / total for x in (targets, known))
        with torch.no_grad():
            weighted = (w * known).t()  # (P, N)
            moments = weighted @ known
            ridge = (_RIDGE * moments.diagonal().mean()).clamp_min(_TINY)
            moments.diagonal().add_(ridge)
            # Without a check, which would wait for the device; damped moments can be solved.
            coefficients, _ = torch.linalg.solve_ex(moments, weighted @ targets)
        unexplained = (w * (targets - known @ coefficients).square()).sum()
        variance = (w * targets.square()).sum()
        return (unexplained + _TINY) / (variance + _TINY)
