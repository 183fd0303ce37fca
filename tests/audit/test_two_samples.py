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

import inspect

import numpy as np
import pytest
import torch
from monai.metrics import FIDMetric, compute_roc_auc
from scipy import linalg, stats
from scipy.spatial.distance import cdist

from monai_vqprior.audit import (
    RealFeatures,
    area_under_curve,
    classifier_auc,
    frechet_distance,
    kernel_discrepancy,
    ks_distance,
    overlap,
    true_positive_rate,
)

RNG = np.random.default_rng(0)
REAL = RNG.normal(0, 1, (60, 3))
CLOSE = RNG.normal(0, 1, (50, 3))
FAR = RNG.normal(4, 1, (50, 3))
NARROW = RNG.normal(0, 0.2, (50, 3))


@pytest.fixture
def rng() -> np.random.Generator:
    """Its own in each test: no test depends on those before."""
    return np.random.default_rng(0)


def test_area_under_curve_is_monais(rng: np.random.Generator) -> None:
    lower, higher = rng.integers(0, 6, 30).astype(float), rng.integers(2, 9, 20).astype(float)
    scores = torch.as_tensor(np.concatenate([lower, higher]))
    labels = torch.as_tensor(np.repeat([0, 1], [30, 20]))
    assert area_under_curve(lower, higher) == pytest.approx(compute_roc_auc(scores, labels))
    assert area_under_curve(np.zeros(3), np.zeros(4)) == 0.5


@pytest.mark.parametrize("number", [40, 100, 250, 700])
def test_true_positive_rate_is_scikit_learns(number: int) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(number)
    lower, higher = rng.normal(0, 1, 300).round(2), rng.normal(1.5, 1, number).round(2)  # some are equal
    labels, scores = np.repeat([1, 0], [300, number]), -np.concatenate([lower, higher])
    false, true, _ = metrics.roc_curve(labels, scores, drop_intermediate=False)
    assert true_positive_rate(lower, higher) == pytest.approx(true[false <= 0.01].max())


def test_ks_distance_by_hand(rng: np.random.Generator) -> None:
    first, second = rng.normal(0, 1, 40), rng.normal(1, 1, 30)
    steps = np.concatenate([first, second])
    gap = max(abs((first <= x).mean() - (second <= x).mean()) for x in steps)
    assert ks_distance(first, second) == pytest.approx(gap)


def test_overlap_by_hand() -> None:
    """The definitions of the papers, point by point."""
    k, generated = 5, CLOSE
    real_radius = np.sort(cdist(REAL, REAL), 1)[:, k]  # the first is the point itself
    generated_radius = np.sort(cdist(generated, generated), 1)[:, k]
    distances = cdist(generated, REAL)
    density = sum((distances[j] <= real_radius).sum() for j in range(50)) / (k * 50)
    coverage = np.mean([(distances[:, i] <= real_radius[i]).any() for i in range(60)])
    precision = np.mean([(distances[j] <= real_radius).any() for j in range(50)])
    recall = np.mean([(distances[:, i] <= generated_radius).any() for i in range(60)])
    found = overlap(generated, REAL, neighbors=k)
    assert (found.density, found.coverage) == pytest.approx((density, coverage))
    assert (found.precision, found.recall) == pytest.approx((precision, recall))


def test_overlap_of_known_cases() -> None:
    far, narrow, same = (overlap(x, REAL) for x in (FAR, NARROW, REAL))
    assert max(far.density, far.coverage) < 0.1
    assert narrow.precision == 1  # faithful, and not diverse
    assert narrow.recall < 0.2
    assert same.coverage == same.precision == same.recall == 1


def test_comparisons_share_what_they_have_in_common() -> None:
    """Each result is that of a comparison on its own, whatever was compared before."""
    subjects = list(np.arange(60) // 3)
    shared = RealFeatures(REAL, subjects)
    for generated in (CLOSE, FAR, NARROW[:7]):
        assert shared.compare(generated) == (overlap(generated, REAL, subjects), kernel_discrepancy(generated, REAL))


def test_balls_reach_to_other_subjects(rng: np.random.Generator) -> None:
    """Slices beside one another in a head are no measure of how near another head may come."""
    heads = np.repeat(rng.normal(0, 1, (20, 2)), 8, axis=0) + rng.normal(0, 1e-3, (160, 2))
    subjects = list(np.repeat(np.arange(20), 8))
    others = rng.normal(0, 1, (40, 2))
    assert overlap(others, heads).precision < 0.1
    distances, number = cdist(heads, heads), np.array(subjects)
    radius = [np.sort(distances[i, number != number[i]])[4] for i in range(160)]
    by_hand = np.mean([(cdist(other[None], heads)[0] <= radius).any() for other in others])
    assert overlap(others, heads, subjects).precision == pytest.approx(by_hand)
    assert by_hand > 0.4
    with pytest.raises(ValueError, match="two subjects"):
        overlap(others, heads, ["one"] * 160)


def test_frechet_distance_by_a_square_root_of_matrices(rng: np.random.Generator) -> None:
    first, second = CLOSE @ rng.normal(0, 1, (3, 3)), REAL + 1
    a, b = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    mean = first.mean(0) - second.mean(0)
    expected = mean @ mean + np.trace(a + b - 2 * linalg.sqrtm(a @ b).real)
    assert frechet_distance(first, second) == pytest.approx(expected)
    assert frechet_distance(REAL, REAL) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(REAL, REAL + np.array([1, 2, 0])) == pytest.approx(5)


@pytest.mark.skipif("disp" not in inspect.signature(linalg.sqrtm).parameters, reason="MONAI's FIDMetric needs it")
@pytest.mark.filterwarnings("ignore:The `disp` argument is deprecated")
def test_frechet_distance_is_monais() -> None:
    expected = FIDMetric()(torch.as_tensor(CLOSE), torch.as_tensor(REAL + 1))
    assert frechet_distance(CLOSE, REAL + 1) == pytest.approx(float(expected))


def test_kernel_discrepancy_by_hand() -> None:
    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return float(np.mean([np.exp(-((x - y) ** 2).sum() / (2 * width**2)) for width in widths]))

    real, generated = REAL[:8], CLOSE[:6]
    median = np.median([np.linalg.norm(real[i] - real[j]) for i in range(8) for j in range(8) if i != j])
    widths = [factor * median for factor in (0.25, 0.5, 1, 2, 4)]
    ours = np.mean([kernel(generated[i], generated[j]) for i in range(6) for j in range(6) if i != j])
    theirs = np.mean([kernel(real[i], real[j]) for i in range(8) for j in range(8) if i != j])
    between = np.mean([kernel(x, y) for x in generated for y in real])
    assert kernel_discrepancy(generated, real) == pytest.approx(ours + theirs - 2 * between, abs=1e-6)


def test_kernel_discrepancy_sees_more_than_the_mean() -> None:
    centered = NARROW - NARROW.mean(0) + REAL.mean(0)
    assert kernel_discrepancy(centered, REAL) > 0.1
    assert abs(kernel_discrepancy(CLOSE, REAL)) < 0.02


def test_classifier_of_known_cases(rng: np.random.Generator) -> None:
    assert classifier_auc(FAR, REAL) > 0.95
    assert classifier_auc(NARROW, REAL) > 0.9  # the squares see the variance
    assert abs(classifier_auc(rng.normal(0, 1, (300, 3)), rng.normal(0, 1, (300, 3))) - 0.5) < 0.08


def test_classifier_is_scikit_learns() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    from monai_vqprior.audit.two_samples import _logistic_scores

    rows, labels = np.concatenate([CLOSE, REAL + 1]), np.repeat([1.0, 0.0], [50, 60])
    z = (rows - rows.mean(0)) / rows.std(0)
    x = np.concatenate([z, z**2 - 1], 1)
    theirs = linear_model.LogisticRegression(C=1.0, tol=1e-8, max_iter=1000).fit(x, labels).decision_function(x)
    assert np.abs(z).max() < 5
    np.testing.assert_allclose(_logistic_scores(rows, labels, rows), theirs, atol=1e-3)


def test_a_classifier_cannot_learn_subjects_by_heart(rng: np.random.Generator) -> None:
    """Heads of one distribution, many slices each: with the slices of a head in two folds they would be told apart."""
    heads = np.repeat(rng.normal(0, 1, (12, 8)), 30, axis=0) + rng.normal(0, 0.01, (360, 8))
    subjects = list(np.repeat(np.arange(12), 30))
    others = rng.normal(0, 1, (360, 8))
    assert classifier_auc(others, heads, subjects) < classifier_auc(others, heads) - 0.1


def test_rank_test_agrees_with_scipy(rng: np.random.Generator) -> None:
    lower, higher = rng.normal(0, 1, 25), rng.normal(0.5, 1, 35)
    expected = stats.mannwhitneyu(higher, lower).statistic / (25 * 35)
    assert area_under_curve(lower, higher) == pytest.approx(expected)
