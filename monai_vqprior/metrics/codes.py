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
from monai.metrics.metric import CumulativeIterationMetric

from monai_vqprior.losses import code_bits
from monai_vqprior.metrics.reduction import reduce_or_nan

__all__ = [
    "BitsPerCodeMetric",
    "bits_at_positions",
    "count_codes",
    "histogram_bits",
    "perplexity",
    "position_histogram_bits",
    "position_histogram_bits_of",
    "position_log_probabilities",
]


def count_codes(codes: torch.Tensor, num_embeddings: int) -> torch.Tensor:
    """How often each code occurs, (K,) int64, in code grids of any shape."""
    return torch.bincount(codes.flatten().long(), minlength=num_embeddings)


def perplexity(counts: torch.Tensor) -> float:
    """
    Effective number of codes, the exponential of the entropy of their frequencies: K when all are used alike.

    Args:
        counts: (K,), how often each code occurs.

    Returns:
        a number in 1..K.

    Raises:
        ValueError: when nothing was counted.
    """
    total = counts.sum()
    if total == 0:
        raise ValueError("perplexity needs at least one code, got none.")
    frequencies = counts.double() / total
    return float(torch.exp(torch.special.entr(frequencies).sum()))


def histogram_bits(train: torch.Tensor, test: torch.Tensor, num_embeddings: int) -> float:
    """
    Bits a code that the histogram of all training codes needs for the test codes: a prior without positions.

    Args:
        train: training grids (N, *grid).
        test: test grids (M, *grid).
        num_embeddings: number of codes, K.

    Returns:
        mean of -log2 p(code) over the test codes, with one pseudo-count a code.
    """
    counts = count_codes(train, num_embeddings).double() + 1
    bits = -torch.log2(counts / counts.sum())
    return float(bits[test.flatten().long()].mean())


def position_log_probabilities(train: torch.Tensor, num_embeddings: int, pseudo_count: float = 64.0) -> torch.Tensor:
    """
    Histogram of the training codes at each grid position, smoothed.

    Args:
        train: training grids (N, *grid).
        num_embeddings: number of codes, K.
        pseudo_count: how many codes drawn from the histogram over all positions are added at each position.

    Returns:
        natural logarithms of p(code | position), (K, *grid) float64, all finite.
    """
    codes = train.flatten(1).long()  # (N, P)
    overall = count_codes(codes, num_embeddings).double() + 1
    overall /= overall.sum()
    counts = torch.zeros(num_embeddings, codes.shape[1], dtype=torch.float64, device=train.device)
    counts.scatter_add_(0, codes, torch.ones_like(codes, dtype=torch.float64))
    probabilities = (counts + pseudo_count * overall[:, None]) / (len(codes) + pseudo_count)
    return probabilities.log().view(num_embeddings, *train.shape[1:])


def position_histogram_bits(
    train: torch.Tensor, test: torch.Tensor, num_embeddings: int, pseudo_count: float = 64.0
) -> float:
    """
    Bits a code that the histogram of the training codes at each grid position needs for the test codes.

    On aligned brains this is a strong baseline: a prior that beats it has learned more than positions.

    Args:
        train: training grids (N, *grid).
        test: test grids (M, *grid).
        num_embeddings: number of codes, K.
        pseudo_count: as in :func:`position_log_probabilities`.

    Returns:
        mean of -log2 p(code | position) over the test codes.
    """
    return float(position_histogram_bits_of(train, test, num_embeddings, pseudo_count).mean())


def position_histogram_bits_of(
    train: torch.Tensor, test: torch.Tensor, num_embeddings: int, pseudo_count: float = 64.0
) -> torch.Tensor:
    """The bits a code of :func:`position_histogram_bits` of each test grid, (M,) float64."""
    return bits_at_positions(position_log_probabilities(train, num_embeddings, pseudo_count), test)


def bits_at_positions(log_probabilities: torch.Tensor, grids: torch.Tensor) -> torch.Tensor:
    """
    Bits a code of grids under a histogram of each position.

    Args:
        log_probabilities: natural logarithms of p(code | position), (K, *grid).
        grids: code grids (N, *grid).

    Returns:
        (N,), of the type of the logarithms.
    """
    return -log_probabilities.flatten(1).gather(0, grids.flatten(1).long()).mean(1) / math.log(2)


class BitsPerCodeMetric(CumulativeIterationMetric):
    """Bits a code of a prior, averaged over code grids; a MONAI metric, summed over all processes."""

    def _compute_tensor(self, y_pred: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:  # type: ignore[override]
        """Mean bits a code of each grid, (B, 1), of logits (B, K, *grid) and codes (B, *grid)."""
        if y is None:
            raise ValueError("BitsPerCodeMetric needs the codes beside the logits.")
        return code_bits(y_pred, y).flatten(1).mean(1, keepdim=True)

    def aggregate(self) -> torch.Tensor:
        """Mean over all grids, a scalar."""
        data = self.get_buffer()
        if not isinstance(data, torch.Tensor):
            raise ValueError("BitsPerCodeMetric has seen no batch.")
        return reduce_or_nan(data, "mean")[0]
