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

from monai_vqprior.audit.two_samples import area_under_curve, true_positive_rate
from monai_vqprior.metrics import Interval, bootstrap_interval, subject_rows

__all__ = [
    "CopyThreshold",
    "copy_threshold",
    "local_ratios",
    "membership",
    "percentiles",
    "recognized",
    "recognized_by_chance",
    "share_below",
    "subject_means",
]

_ROUNDS = 500


@dataclass(frozen=True)
class CopyThreshold:
    """
    The distance below which a sample is a copy, and what it is worth.

    Attributes:
        distance: the threshold.
        found: share of known copies below it.
        false_alarms: share of slices of unseen subjects below it.
    """

    distance: float
    found: float
    false_alarms: float


def percentiles(values: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """
    Where values lie among those of a reference: the share of the reference that is at most as large, (N,) in 0..1.

    Args:
        values: (N,).
        reference: (M,).
    """
    return np.searchsorted(np.sort(reference), values, side="right") / len(reference)


def share_below(
    values: np.ndarray, reference: np.ndarray, subjects: Sequence[Hashable], quantile: float, seed: int = 0
) -> Interval:
    """
    Share of values below a quantile of a reference. Equal distributions have the quantile itself.

    Args:
        values: (N,), of samples.
        reference: (M,), of real slices.
        subjects: the subject of each real slice.
        quantile: in 0..1.
        seed: seed of the bootstrap, which draws samples, and subjects for the quantile.
    """
    return bootstrap_interval(
        lambda ours, theirs: float((ours < np.quantile(theirs, quantile)).mean()),
        (values, None), (reference, subjects), seed=seed,
    )  # fmt: skip


def local_ratios(distances: np.ndarray) -> np.ndarray:
    """
    The distance to the nearest training slice, of the mean distance to the nearest ones: Carlini et al., "Extracting
    Training Data from Diffusion Models" (2023), https://arxiv.org/abs/2301.13188, section 4.2.

    A smooth image is near to all slices, and has a ratio near 1. A copy is near to one slice and its neighbors.

    Args:
        distances: (N, k), to the nearest slices, the nearest first.

    Returns:
        (N,) in 0..1, 0 for an exact copy; 1 where all distances are 0.
    """
    mean = distances.mean(1)
    return np.divide(distances[:, 0], mean, out=np.ones(len(mean)), where=mean > 0)


def copy_threshold(copies: np.ndarray, unseen: np.ndarray) -> CopyThreshold:
    """
    The distance half way, by ratio, between known copies and slices of unseen subjects.

    Args:
        copies: (N,), distances of known copies, such as reconstructions of training slices, to what they are copies of.
        unseen: (M,), distances of slices of unseen subjects to their nearest training slices.

    Returns:
        the geometric mean of the 99 % quantile of the copies and the 1 % quantile of the unseen slices; where these are
        in the other order, half of the 1 % quantile of the unseen slices, below which few copies lie.
    """
    far, near = float(np.quantile(copies, 0.99)), float(np.quantile(unseen, 0.01))
    # Distances in float32 are never exactly 0.
    distance = float(np.sqrt(max(far, near / 100) * near)) if far < near else near / 2
    return CopyThreshold(distance, float((copies < distance).mean()), float((unseen < distance).mean()))


def membership(
    train: np.ndarray, train_subjects: Sequence[Hashable], unseen: np.ndarray, unseen_subjects: Sequence[Hashable]
) -> Interval:
    """
    Can it be told from its likelihood whether a slice was trained on? The area under the curve of bits per code.

    Yeom et al., "Privacy Risk in Machine Learning: Analyzing the Connection to Overfitting" (2018),
    https://arxiv.org/abs/1709.01604: an attacker takes a slice for a training slice when its loss is low.

    Args:
        train: (N,), bits per code of training slices.
        train_subjects: their subjects.
        unseen: (M,), bits per code of slices of unseen subjects.
        unseen_subjects: their subjects.

    Returns:
        probability that a training slice has fewer bits than an unseen slice, 0.5 when it cannot be told, with an
        interval by subject.
    """
    return bootstrap_interval(area_under_curve, (train, train_subjects), (unseen, unseen_subjects), rounds=_ROUNDS)


def recognized(
    train: np.ndarray, train_subjects: Sequence[Hashable], unseen: np.ndarray, unseen_subjects: Sequence[Hashable]
) -> Interval:
    """
    Share of training slices that are recognized by their bits per code, where 1 % of unseen slices are taken for some.

    Args:
        train: (N,), bits per code of training slices.
        train_subjects: their subjects.
        unseen: (M,), bits per code of slices of unseen subjects.
        unseen_subjects: their subjects.

    Returns:
        the true-positive rate at 1 % false positives, with an interval by subject; 0.01 when it cannot be told.
    """
    return bootstrap_interval(true_positive_rate, (train, train_subjects), (unseen, unseen_subjects), rounds=_ROUNDS)


def recognized_by_chance(
    unseen: np.ndarray, subjects: Sequence[Hashable], num_draws: int = 39, seed: int = 0
) -> Interval | None:
    """
    What :func:`recognized` is where nothing can be recognized: half of the unseen subjects against the other half.

    Slices of one subject resemble one another in their bits. So the figure is not 0.01 in a draw of few subjects.

    Args:
        unseen: (M,), bits per code of slices of unseen subjects.
        subjects: their subjects.
        num_draws: how often subjects are dealt. The smallest and the largest of 39 are the ends of a 95 % range.
        seed: deals the subjects.

    Returns:
        median, smallest and largest of the draws; None where all slices are of one subject.
    """
    rows, rng = subject_rows(subjects), np.random.default_rng(seed)
    if len(rows) < 2:
        return None
    drawn = []
    for _ in range(num_draws):
        order = rng.permutation(len(rows))
        halves = (np.concatenate([rows[i] for i in part]) for part in np.array_split(order, 2))
        drawn.append(true_positive_rate(*(unseen[half] for half in halves)))
    return Interval(float(np.median(drawn)), min(drawn), max(drawn))


def subject_means(values: np.ndarray, subjects: Sequence[Hashable]) -> np.ndarray:
    """
    Mean of the slices of each subject, what is known of a person of whom there are several slices.

    Args:
        values: (N,).
        subjects: the subject of each of them.

    Returns:
        (subjects,), in the order in which they first occur.
    """
    return np.array([values[rows].mean() for rows in subject_rows(subjects)])
