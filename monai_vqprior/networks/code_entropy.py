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

import torch

__all__ = ["lack_of_entropy"]

# Vectors that the entropy is estimated on: enough for a gradient, and few enough to cost little.
_MOST_VECTORS = 1024
# Keeps units and shares of no size from being divided by and from having a logarithm that is not finite.
_TINY = 1e-12


def lack_of_entropy(
    vectors: torch.Tensor, codes: torch.Tensor, squared_distances: torch.Tensor, weights: torch.Tensor | None
) -> torch.Tensor:
    """
    How far the codes are from being used alike: ln K minus the entropy of the mean soft assignment, after Jansen et
    al., "Coincidence, categorization, and consolidation: learning to recognize sounds with minimal supervision" (2019),
    https://arxiv.org/abs/1911.05894.

    A vector is assigned softly by its squared distances to the codes, in units of the mean squared distance to the
    nearest. Of many vectors a random 1024 count.

    Args:
        vectors: (N, D), float32; the gradient reaches them alone, and is not differentiable again.
        codes: (K, D), float32.
        squared_distances: of each vector to its nearest code, (N,).
        weights: (N,), how much each vector counts; None for all alike.

    Returns:
        a scalar in 0..ln K, in nats.
    """
    if weights is None:
        weights = torch.ones_like(squared_distances)
    if len(vectors) > _MOST_VECTORS:
        chosen = torch.randperm(len(vectors), device=vectors.device)[:_MOST_VECTORS]
        vectors = vectors.index_select(0, chosen)
        weights, squared_distances = weights[chosen], squared_distances[chosen]
    unit = squared_distances.mean().clamp_min(_TINY)
    with torch.no_grad():
        scaled = codes * (2 / unit)  # (K, D)
        # The squared length of a vector is the same for all codes, and the softmax does not see it.
        assignments = torch.addmm(-codes.square().sum(1) / unit, vectors, scaled.t()).softmax(1)  # (N, K)
        shares = weights / weights.sum().clamp_min(1.0)  # (N,)
        usage = shares @ assignments  # (K,)
        logs = usage.clamp_min(_TINY).log()[:, None]  # (K, 1)
        # The gradient of a vector is the covariance of codes and logs under its assignment. One narrow matrix product
        # gives it in less time than a backward pass through the softmax.
        means = assignments @ torch.cat([logs * scaled, scaled, logs], 1)  # (N, 2 D + 1)
        of_both, of_codes, of_logs = means.tensor_split([codes.shape[1], 2 * codes.shape[1]], 1)
        gradient = shares[:, None] * (of_both - of_logs * of_codes)  # (N, D)
        loss = math.log(len(codes)) + usage @ logs[:, 0]
    return loss + ((vectors - vectors.detach()) * gradient).sum()  # adds 0, and the gradient
