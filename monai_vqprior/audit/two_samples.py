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

import numpy as np
from scipy import special, stats

__all__ = [
    "area_under_curve",
    "classifier_auc",
    "frechet_distance",
    "ks_distance",
    "true_positive_rate",
]

_FOLDS = 5
_RIDGE = 1.0
_NEWTON_STEPS = 20


def ks_distance(values: np.ndarray, others: np.ndarray) -> float:
    """Kolmogorov-Smirnov distance of two sets of numbers, the largest difference of their distributions, in 0..1."""
    steps = np.concatenate([values, others])
    # As scipy.stats.ks_2samp, in a tenth of the time: that has a p-value, too.
    shares = (np.searchsorted(np.sort(part), steps, side="right") / len(part) for part in (values, others))
    return float(np.abs(np.subtract(*shares)).max())


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
        spread = x * np.sqrt(p * (1 - p))[:, None]  # a product with its own transpose takes half of the time
        step = np.linalg.solve(spread.T @ spread + np.diag(penalty), gradient)
        weights -= step
        if np.abs(step).max() < 1e-3:  # the next step would be its square
            break
    return design(others) @ weights
