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

"""Random choices among the vectors of a batch: where a codebook starts, and where its unused codes move to."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from monai_vqprior.networks.nearest_code import nearest_code

__all__ = ["NO_DISTANCE", "draw_spread_vectors", "draw_vectors", "squared_distances"]

#: added to squared distances, so that vectors that all equal their codes can be drawn.
NO_DISTANCE = 1e-12

# Spread vectors are drawn in this many rounds.
_ROUNDS = 8


def squared_distances(vectors: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Squared Euclidean distance of each vector to its code, (N, D) and (N, D) -> (N,)."""
    # Fewer passes over the memory, forward and backward, than a difference that is multiplied by itself.
    return F.mse_loss(vectors, codes, reduction="none").sum(1)


def draw_vectors(vectors: torch.Tensor, weights: torch.Tensor, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Draw vectors with replacement and in proportion to their weights. Waits for no device.

    Args:
        vectors: (N, D), finite.
        weights: (N,), not negative.
        number: how many to draw.

    Returns:
        the vectors drawn, (number, D), and whether there was any to draw from, a bool scalar: without, the vectors
        drawn mean nothing.
    """
    if len(vectors) == 0:
        return vectors.new_zeros(number, vectors.shape[1]), torch.tensor(False, device=vectors.device)
    cumulative = weights.double().cumsum(0)
    targets = torch.rand(number, dtype=torch.float64, device=vectors.device) * cumulative[-1]
    drawn = torch.searchsorted(cumulative, targets, right=True).clamp_max(len(vectors) - 1)
    return vectors[drawn], cumulative[-1] > 0


def draw_spread_vectors(vectors: torch.Tensor, weights: torch.Tensor, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Draw vectors far from one another: each round in proportion to the squared distances to those of the rounds before,
    as in Bahmani et al., "Scalable k-means++" (2012), https://arxiv.org/abs/1203.6402.

    Args:
        vectors: (N, D), finite, N at least 1.
        weights: (N,), not negative; they multiply the squared distances.
        number: how many to draw.

    Returns:
        as :func:`draw_vectors`.
    """
    drawn, any_drawn = draw_vectors(vectors, weights, 1)
    for finished in range(1, _ROUNDS + 1):
        missing = number * finished // _ROUNDS - len(drawn)
        if missing > 0:  # with few vectors to draw, some rounds draw none
            distances = squared_distances(vectors, F.embedding(nearest_code(vectors, drawn), drawn))
            drawn = torch.cat([drawn, draw_vectors(vectors, weights * (distances + NO_DISTANCE), missing)[0]])
    return drawn, any_drawn
