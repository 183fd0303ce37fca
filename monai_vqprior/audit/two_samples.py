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

import numpy as np
import torch
from scipy import special, stats

__all__ = [
    "Overlap",
    "area_under_curve",
    "classifier_auc",
    "frechet_distance",
    "kernel_discrepancy",
    "ks_distance",
    "overlap",
    "true_positive_rate",
]

# The widest kernel, of the median distance between real features, and how many there are, each half as wide as the
# one before: 4, 2, 1, 0.5, 0.25.
_WIDEST_KERNEL = 4.0
_NUM_KERNELS = 5
_FOLDS = 5
_RIDGE = 1.0
_NEWTON_STEPS = 20


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


def ks_distance(values: np.ndarray, others: np.ndarray) -> float:
    """Kolmogorov-Smirnov distance of two sets of numbers, the largest difference of their distributions, in 0..1."""
    return float(stats.ks_2samp(values, others, method="asymp").statistic)


def area_under_curve(lower: np.ndarray, higher: np.ndarray) -> float:
    """
    Area under the ROC curve: the probability that a draw of ``higher`` is above a draw of ``lower``, ties by half.

    0.5 when the two cannot be told apart. :func:`monai.metrics.compute_roc_auc` has the same value in a loop in Python.
    """
    ranks = stats.rankdata(np.concatenate([lower, higher]))
    count = len(higher)
    return float((ranks[len(lower) :].sum() - count * (count + 1) / 2) / (count * len(lower)))


def true_positive_rate(lower: np.ndarray, higher: np.ndarray, false_positives: float = 0.01) -> float:
    """
    Share of ``lower`` below a threshold that at most a share ``false_positives`` of ``higher`` is below.

    An average over all thresholds, such as the area under the curve, says little of an attacker who wants to be right:
    Carlini et al., "Membership Inference Attacks From First Principles" (2022), https://arxiv.org/abs/2112.03570.

    Args:
        lower: (N,), what is to be found by its low values.
        higher: (M,), what is not. With fewer than 1 / ``false_positives`` of them none may be below the threshold.
        false_positives: in 0..1.

    Returns:
        about ``false_positives`` when the two cannot be told apart.
    """
    most = int(false_positives * len(higher) + 1e-9)  # 0.01 * 700 may be just below 7
    return float((lower < np.partition(higher, most)[most]).mean())


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
    if min(len(generated), len(real)) < 2:
        raise ValueError(f"overlap needs at least two points in each set, got {len(generated)} and {len(real)}.")
    between = _distances(generated, real)  # (N, M)
    among_real = _distances(real, real)
    same = np.eye(len(real), dtype=bool)
    if subjects is not None:
        numbers = np.unique(np.asarray(subjects), return_inverse=True)[1]
        same = numbers[:, None] == numbers[None]
        if same.all():
            raise ValueError("overlap needs real points of at least two subjects.")
    k = min(neighbors, int((~same).sum(1).min()))
    real_radius = _kth_smallest(np.where(same, np.inf, among_real), k)
    among_generated = _distances(generated, generated)
    np.fill_diagonal(among_generated, np.inf)
    generated_radius = _kth_smallest(among_generated, min(neighbors, len(generated) - 1))
    inside = between <= real_radius[None]
    return Overlap(
        density=float(inside.sum(1).mean() / k),
        coverage=float(inside.any(0).mean()),
        precision=float(inside.any(1).mean()),
        recall=float((between <= generated_radius[:, None]).any(0).mean()),
    )


def _distances(features: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Euclidean distances (N, M) of features (N, D) and (M, D), by a matrix product."""
    return torch.cdist(torch.as_tensor(features), torch.as_tensor(others)).numpy()


def _kth_smallest(distances: np.ndarray, k: int) -> np.ndarray:
    """The k-th smallest value of each row, (N,)."""
    return np.partition(distances, k - 1, axis=1)[:, k - 1]


def frechet_distance(features: np.ndarray, others: np.ndarray) -> float:
    """
    Fréchet distance of the normal distributions with the moments of two sets of features, as in Heusel et al., "GANs
    Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium" (2017),
    https://arxiv.org/abs/1706.08500.

    :class:`monai.metrics.FIDMetric` has the same value. It calls ``scipy.linalg.sqrtm`` with an argument that SciPy
    1.18 has no more, and takes the root of a matrix that need not be symmetric.

    Args:
        features: (N, D).
        others: (M, D).

    Returns:
        the squared distance of the means, and of the covariances the trace of S + T - 2 (S T)^(1/2).
    """
    mean = features.mean(0) - others.mean(0)
    first, second = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (features, others))
    values, vectors = np.linalg.eigh(first)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    # S^(1/2) T S^(1/2) is symmetric and has the eigenvalues of S T.
    cross = np.sqrt(np.linalg.eigvalsh(root @ second @ root).clip(0)).sum()
    return float(mean @ mean + np.trace(first) + np.trace(second) - 2 * cross)


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
    among = _distances(others, others) ** 2
    median = np.sqrt(np.median(among[~np.eye(len(others), dtype=bool)]))
    widest = _WIDEST_KERNEL * median

    def mean_off_diagonal(kernel: np.ndarray) -> float:
        return float((kernel.sum() - np.trace(kernel)) / (len(kernel) * (len(kernel) - 1)))

    first = _kernel(_distances(features, features) ** 2, widest)
    cross = _kernel(_distances(features, others) ** 2, widest)
    return mean_off_diagonal(first) + mean_off_diagonal(_kernel(among, widest)) - 2 * float(cross.mean())


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


def classifier_auc(
    generated: np.ndarray, real: np.ndarray, subjects: Sequence[Hashable] | None = None, seed: int = 0
) -> float:
    """
    Area under the curve of a classifier that tells generated features from real ones: the two-sample test of Lopez-Paz
    and Oquab, "Revisiting Classifier Two-Sample Tests" (2017), https://arxiv.org/abs/1610.06545.

    The classifier is a logistic regression on the standardized features and their squares, so that it sees differences
    of means and of variances. It is fitted on four fifths of the subjects and applied to the fifth.

    Args:
        generated: features (N, D), each of its own subject.
        real: features (M, D).
        subjects: subject of each real row; None where each is of its own.
        seed: deals subjects to folds.

    Returns:
        0.5 when the two cannot be told apart, 1 when they always can.
    """
    rows = np.concatenate([generated, real])
    labels = np.repeat([1.0, 0.0], [len(generated), len(real)])
    folds = np.concatenate([_folds(range(len(generated)), seed), _folds(subjects or range(len(real)), seed + 1)])
    scores = np.empty(len(rows))
    for fold in range(_FOLDS):
        held = folds == fold
        if held.any() and len(set(labels[~held])) == 2:
            scores[held] = _logistic_scores(rows[~held], labels[~held], rows[held])
        else:
            scores[held] = 0.0
    return area_under_curve(scores[labels == 0], scores[labels == 1])


def _folds(subjects: Sequence[Hashable], seed: int) -> np.ndarray:
    """The fold of each row, all rows of a subject in one."""
    names, numbers = np.unique(np.asarray(subjects), return_inverse=True)
    return (np.random.default_rng(seed).permutation(len(names)) % _FOLDS)[numbers]


def _logistic_scores(rows: np.ndarray, labels: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Scores of other rows by a ridge-penalized logistic regression, fitted by Newton's method."""
    center, scale = rows.mean(0), rows.std(0)
    scale[scale == 0] = 1

    def design(x: np.ndarray) -> np.ndarray:
        z = ((x - center) / scale).clip(-5, 5)
        return np.concatenate([np.ones((len(z), 1)), z, z**2 - 1], axis=1)

    x = design(rows)
    penalty = np.full(x.shape[1], _RIDGE)
    penalty[0] = 1e-6  # the constant
    weights = np.zeros(x.shape[1])
    for _ in range(_NEWTON_STEPS):
        p = special.expit(x @ weights)
        gradient = x.T @ (p - labels) + penalty * weights
        curvature = (x * (p * (1 - p))[:, None]).T @ x + np.diag(penalty)
        step = np.linalg.solve(curvature, gradient)
        weights -= step
        if np.abs(step).max() < 1e-3:  # the next step would be its square
            break
    return design(others) @ weights
