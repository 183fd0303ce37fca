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

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

__all__ = ["Overlap", "RealFeatures", "kernel_discrepancy", "overlap"]

# The widest kernel, of the median distance between real features, and how many there are, each half as wide as the
# one before: 4, 2, 1, 0.5, 0.25.
_WIDEST_KERNEL = 4.0
_NUM_KERNELS = 5


@dataclass(frozen=True)
class Overlap:
    """
    How two sets of features overlap, by balls about their points that reach to a neighbor.

    Attributes:
        density: real balls that a generated point lies in, of those expected; about 1 for equal distributions.
        coverage: share of real balls that hold a generated point.
        precision: share of generated points that lie in a real ball.
        recall: share of real points that lie in a generated ball.
    """

    density: float
    coverage: float
    precision: float
    recall: float


@dataclass(frozen=True)
class RealFeatures:
    """
    Features of real slices that sets of generated ones are compared with, one after the other: what the comparisons
    have in common is computed once.

    Attributes:
        features: (M, D).
        subjects: subject of each real point; None where each is of its own.
        neighbors: see :func:`overlap`.
    """

    features: np.ndarray
    subjects: Sequence[Hashable] | None = None
    neighbors: int = 5

    def compare(self, generated: np.ndarray) -> tuple[Overlap, float]:
        """
        What :func:`overlap` and :func:`kernel_discrepancy` say of generated features.

        Args:
            generated: (N, D).

        Raises:
            ValueError: as :func:`overlap`.
        """
        between, among = self._distances_of(generated)
        return self._overlap(between, among), self._discrepancy(between, among)

    def overlap(self, generated: np.ndarray) -> Overlap:
        """What :func:`overlap` says of generated features (N, D)."""
        return self._overlap(*self._distances_of(generated))

    def discrepancy(self, generated: np.ndarray) -> float:
        """What :func:`kernel_discrepancy` says of generated features (N, D)."""
        return self._discrepancy(*self._distances_of(generated))

    def _distances_of(self, generated: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Distances of generated points to the real ones, (N, M), and to one another, (N, N)."""
        return _distances(generated, self.features), _distances(generated, generated)

    @cached_property
    def _among(self) -> np.ndarray:
        """Distances (M, M) of the real points."""
        return _distances(self.features, self.features)

    @cached_property
    def _balls(self) -> tuple[np.ndarray, int]:
        """The radius of the ball about each real point, (M,), and which neighbor it reaches to."""
        same = np.eye(len(self.features), dtype=bool)
        if self.subjects is not None:
            numbers = np.unique(np.asarray(self.subjects), return_inverse=True)[1]
            same = numbers[:, None] == numbers[None]
            if same.all():
                raise ValueError("overlap needs real points of at least two subjects.")
        k = min(self.neighbors, int((~same).sum(1).min()))
        return _kth_smallest(np.where(same, np.inf, self._among), k), k

    @cached_property
    def _kernel(self) -> tuple[float, float]:
        """The width of the widest kernel, and the mean of the kernel over pairs of real points."""
        squares = self._among**2
        widest = _WIDEST_KERNEL * float(np.sqrt(np.median(squares[~np.eye(len(squares), dtype=bool)])))
        return widest, _mean_off_diagonal(_kernel(squares, widest))

    def _overlap(self, between: np.ndarray, among: np.ndarray) -> Overlap:
        if min(between.shape) < 2:
            raise ValueError("overlap needs at least two points in each set, got {} and {}.".format(*between.shape))
        radius, k = self._balls
        others = np.where(np.eye(len(among), dtype=bool), np.inf, among)
        generated_radius = _kth_smallest(others, min(self.neighbors, len(others) - 1))
        inside = between <= radius
        return Overlap(
            density=float(inside.sum(1).mean() / k),
            coverage=float(inside.any(0).mean()),
            precision=float(inside.any(1).mean()),
            recall=float((between <= generated_radius[:, None]).any(0).mean()),
        )

    def _discrepancy(self, between: np.ndarray, among: np.ndarray) -> float:
        widest, real = self._kernel
        cross = float(_kernel(between**2, widest).mean())
        return _mean_off_diagonal(_kernel(among**2, widest)) + real - 2 * cross


def overlap(
    generated: np.ndarray, real: np.ndarray, subjects: Sequence[Hashable] | None = None, neighbors: int = 5
) -> Overlap:
    """
    Density and coverage (Naeem et al., "Reliable Fidelity and Diversity Metrics for Generative Models", 2020,
    https://arxiv.org/abs/2002.09797), precision and recall (Kynkäänniemi et al., "Improved Precision and Recall Metric
    for Assessing Generative Models", 2019, https://arxiv.org/abs/1904.06991).

    The ball about a real point reaches to its k-th nearest real point of another subject: the slices beside it in its
    own head would make balls so small that no slice of another head lies in one.

    Args:
        generated: features (N, D).
        real: features (M, D).
        subjects: subject of each real point; None where each is of its own.
        neighbors: k; fewer where there are not so many points.

    Returns:
        the four figures.

    Raises:
        ValueError: when a set has fewer than two points, or the real points are of one subject.
    """
    return RealFeatures(real, subjects, neighbors).overlap(generated)


def kernel_discrepancy(features: np.ndarray, others: np.ndarray) -> float:
    """
    Maximum mean discrepancy, squared and unbiased, with a mixture of Gaussian kernels: Gretton et al., "A Kernel
    Two-Sample Test" (2012), Lemma 6. :class:`monai.metrics.MMDMetric` has a linear kernel, which sees the mean alone,
    and takes sets of one size.

    Args:
        features: (N, D).
        others: (M, D), the real ones, whose median distance sets the widths of the kernels.

    Returns:
        about 0 for equal distributions, and below 0 by chance.
    """
    return RealFeatures(others).discrepancy(features)


def _distances(features: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Euclidean distances (N, M) of features (N, D) and (M, D), by a matrix product."""
    return torch.cdist(torch.as_tensor(features), torch.as_tensor(others)).numpy()


def _kth_smallest(distances: np.ndarray, k: int) -> np.ndarray:
    """The k-th smallest value of each row, (N,)."""
    return np.partition(distances, k - 1, axis=1)[:, k - 1]


def _mean_off_diagonal(kernel: np.ndarray) -> float:
    """Mean of a kernel (N, N) over pairs of two points."""
    return float((kernel.sum() - np.trace(kernel)) / (len(kernel) * (len(kernel) - 1)))


def _kernel(squares: np.ndarray, widest: float) -> np.ndarray:
    """Mean of Gaussian kernels of squared distances."""
    if widest == 0:  # where all features are equal, so are all kernels
        return np.ones_like(squares)
    kernel = np.exp(-squares / (2 * widest**2))
    total = kernel.copy()
    for _ in range(_NUM_KERNELS - 1):
        kernel = np.square(np.square(kernel))  # of half the width: a product costs less than an exponential
        total += kernel
    return total / _NUM_KERNELS
