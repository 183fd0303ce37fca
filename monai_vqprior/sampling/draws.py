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

import numpy as np
import torch
import torch.nn.functional as F

__all__ = ["draw_codes", "guide", "keep_top_k", "keep_top_p", "sample_uniforms"]


def sample_uniforms(seed: int, index: int, length: int, part: int = 0) -> np.ndarray:
    """
    The random numbers that sample ``index`` is made from: they depend on ``(seed, index, part)`` alone.

    Args:
        seed: seed of the run, not negative.
        index: number of the sample, not negative.
        length: how many numbers, one for each code of the grid.
        part: number of the part of a sample that is drawn in parts, such as of a slice of a head.

    Returns:
        (length,) float64 in [0, 1).
    """
    entropy = [seed, index, part] if part else [seed, index]
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(entropy))).random(length)


def guide(logits: torch.Tensor, scale: float) -> torch.Tensor:
    """
    Classifier-free guidance: go ``scale`` times the way from what a network says without the condition to what it says
    with it. Ho and Salimans, "Classifier-Free Diffusion Guidance" (2022), https://arxiv.org/abs/2207.12598, whose
    weight w is ``scale`` - 1.

    Args:
        logits: (2B, K), finite; the first half with the condition, the second without.
        scale: 0 for the network without the condition, 1 for the network with it, more to follow the condition more
            closely.

    Returns:
        (B, K) float64.
    """
    with_condition, without = logits.double().chunk(2)
    return without + scale * (with_condition - without)


def keep_top_k(logits: torch.Tensor, k: int) -> torch.Tensor:
    """Logits (B, K) with all but the ``k`` largest of each row at -inf; no more are left where some are equal."""
    if k >= logits.shape[1]:
        return logits
    kept = logits.topk(k, dim=1)
    return torch.full_like(logits, -torch.inf).scatter_(1, kept.indices, kept.values)


def keep_top_p(probabilities: torch.Tensor, p: float) -> torch.Tensor:
    """
    Keep the nucleus of each distribution: the fewest codes, most probable first, whose probability reaches ``p``.
    Holtzman et al., "The Curious Case of Neural Text Degeneration" (2020), https://arxiv.org/abs/1904.09751.

    Args:
        probabilities: (B, K), each row summing to 1.
        p: in (0, 1]; the most probable code is always kept. Of equally probable codes the first are kept.

    Returns:
        (B, K) with 0 for the codes that are left out; the others as they were, not scaled to sum to 1.
    """
    ordered, order = probabilities.sort(dim=1, descending=True, stable=True)
    # Probability of all codes that come before each one in this order.
    before = F.pad(ordered.cumsum(1, dtype=torch.float64)[:, :-1], (1, 0))
    return probabilities.scatter(1, order, ordered.masked_fill(before >= p, 0))


def draw_codes(probabilities: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """
    Draw a code from each row by inverting its cumulative distribution.

    Args:
        probabilities: (B, K), not negative, not all 0; need not sum to 1.
        uniforms: (B,) float64 in [0, 1).

    Returns:
        (B,) int64; never a code of probability 0.
    """
    cumulative = probabilities.cumsum(1, dtype=torch.float64)
    # Scaled by the last entry, a draw stays below it, however the sum was rounded: the product of a float64 and one
    # below 1 is rounded to less than the former.
    targets = uniforms.unsqueeze(1) * cumulative.narrow(1, -1, 1)
    return torch.searchsorted(cumulative, targets, right=True).squeeze(1)
