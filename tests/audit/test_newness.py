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
import pytest
from scipy import stats

from monai_vqprior.audit import (
    THRESHOLDS,
    copy_threshold,
    judge_newness,
    local_ratios,
    membership,
    percentiles,
    recognized,
    recognized_by_chance,
    share_below,
    share_interval,
    subject_means,
)
from monai_vqprior.metrics import Interval


@pytest.fixture
def rng() -> np.random.Generator:
    """Its own in each test: no test depends on those before."""
    return np.random.default_rng(0)


def test_percentiles_by_hand() -> None:
    assert percentiles(np.array([0.0, 2.0, 2.5, 9.0]), np.array([4.0, 1.0, 2.0, 3.0])).tolist() == [0, 0.5, 0.5, 1]


def test_equal_distributions_have_the_quantile_itself() -> None:
    unseen, samples = np.random.default_rng(1).normal(10, 1, (2, 2000))
    for quantile in (0.01, 0.05):
        found = share_below(samples, unseen, [row // 40 for row in range(2000)], quantile)
        assert found.low < quantile < found.high
        assert found.value == pytest.approx(quantile, abs=0.01)
    nearer = share_below(samples - 2, unseen, [row // 40 for row in range(2000)], 0.01)
    assert nearer.low > 0.25


def test_local_ratio_tells_a_copy_from_a_smooth_image() -> None:
    copy, smooth, exact = [0.1, 1.0, 1.0], [0.5, 0.5, 0.5], [0.0, 0.0, 0.0]
    assert local_ratios(np.array([copy, smooth, exact])).tolist() == pytest.approx([0.1 / 0.7, 1, 1])


def test_threshold_between_copies_and_unseen_slices(rng: np.random.Generator) -> None:
    copies, unseen = rng.uniform(0.1, 0.2, 500), rng.uniform(0.8, 1.2, 500)
    found = copy_threshold(copies, unseen)
    assert found.distance == pytest.approx((np.quantile(copies, 0.99) * np.quantile(unseen, 0.01)) ** 0.5)
    assert (found.found, found.false_alarms) == (1, 0)
    exact = copy_threshold(np.zeros(9), unseen)
    assert 0 < exact.distance < 0.2
    assert exact.found == 1


def test_threshold_where_copies_are_no_nearer(rng: np.random.Generator) -> None:
    """A tokenizer that changes slices more than subjects differ: copies are not found, and it is said."""
    found = copy_threshold(rng.uniform(0.9, 1.3, 500), rng.uniform(0.8, 1.2, 500))
    assert found.found == found.false_alarms == 0
    verdict = judge_newness({}, found.found)
    assert verdict.word == "look"
    assert "only 0.000 are found to be copies" in verdict.reasons[0]
    assert judge_newness({}, 0.9).word == "pass"


def test_membership_of_known_cases(rng: np.random.Generator) -> None:
    subjects = list(np.repeat(np.arange(20), 10))
    level = np.repeat(rng.normal(0, 0.1, 20), 10)
    unseen = 3.3 + level + rng.normal(0, 0.1, 200)
    same = membership(3.3 + level + rng.normal(0, 0.1, 200), subjects, unseen, subjects)
    assert same.low < 0.5 < same.high
    known = membership(unseen - 1, subjects, unseen, subjects)
    assert known.low > 0.99
    expected = stats.mannwhitneyu(unseen, unseen - 0.1).statistic / 200**2
    assert membership(unseen - 0.1, subjects, unseen, subjects).value == pytest.approx(expected)


def test_recognized_slices_of_known_cases() -> None:
    subjects = list(np.repeat(np.arange(40), 20))
    rng = np.random.default_rng(3)
    unseen, train = rng.normal(0, 1, (2, 800))
    same = recognized(train, subjects, unseen, subjects)
    assert same.low <= 0.01 <= same.high < 0.05
    nearer = recognized(train - 2, subjects, unseen, subjects)
    expected = stats.norm.cdf(2 + stats.norm.ppf(0.01))  # of two normal distributions two standard deviations apart
    assert nearer.low < expected < nearer.high
    assert nearer.value == pytest.approx(expected, abs=0.08)
    assert recognized(train - 10, subjects, unseen, subjects) == Interval(1, 1, 1)


def test_what_is_recognized_by_chance() -> None:
    rng = np.random.default_rng(4)
    subjects = list(np.repeat(np.arange(20), 20))
    found = recognized_by_chance(rng.normal(0, 1, 400), subjects)
    assert found is not None
    assert 0 <= found.low <= 0.01 <= found.high < 0.06
    # Where slices of one subject are alike, a subject is recognized by chance, or none is.
    alike = recognized_by_chance(np.repeat(rng.normal(0, 1, 20), 20), subjects)
    assert alike is not None
    assert alike.high >= 0.1
    assert recognized_by_chance(rng.normal(0, 1, 9), ["one"] * 9) is None


def test_means_of_subjects_by_hand() -> None:
    assert subject_means(np.array([1.0, 5.0, 3.0, 7.0]), ["b", "a", "b", "a"]).tolist() == [2, 6]


def test_interval_of_a_share_is_exact() -> None:
    """Of no copies among n, the upper end solves (1 - p)^n = 2.5 %."""
    found = share_interval(0, 256)
    assert (found.value, found.low) == (0, 0)
    assert (1 - found.high) ** 256 == pytest.approx(0.025)


@pytest.mark.parametrize("name", THRESHOLDS)
def test_verdicts(name: str) -> None:
    look, fail = THRESHOLDS[name]
    sound: dict[str, Interval | None] = {other: Interval(0.0, 0.0, 1.0) for other in THRESHOLDS}
    assert judge_newness(sound).word == "pass"
    assert judge_newness(sound).reasons == []
    for low, word in ((look, "pass"), (look + 1e-6, "look"), (fail, "look"), (fail + 1e-6, "fail")):
        verdict = judge_newness({**sound, name: Interval(1.0, low, 1.0)})
        assert verdict.word == word
        assert len(verdict.reasons) == (word != "pass")
        assert all(reason.startswith(f"{word}: ") for reason in verdict.reasons)
    assert judge_newness({**sound, "recognized": None}).word == "pass"


def test_the_worst_measure_decides() -> None:
    one = {"copies": Interval(1.0, 1.0, 1.0), "local_ratio_below_1_percent": Interval(0.05, 0.03, 0.1)}
    verdict = judge_newness({**one, "recognized": Interval(0.3, 0.2, 0.4)})
    assert verdict.word == "fail"
    assert [reason.split(":")[0] for reason in verdict.reasons] == ["fail", "look"]


def test_few_samples_do_not_pass() -> None:
    """Fewer than are needed to say that at most a tenth of all samples are copies, by the exact binomial interval."""
    for number in (1, 10, 35, 36, 256):
        most = 1 - 0.025 ** (1 / number)  # no copy among as many samples is 2.5 % likely where so many are copies
        verdict = judge_newness({"copies": Interval(0.0, 0.0, most)}, samples=number)
        assert verdict.word == ("look" if most > 0.1 else "pass")
        assert len(verdict.reasons) == (most > 0.1)
        assert not verdict.reasons or f"up to {most:.3f} of all may be copies" in verdict.reasons[0]
    assert judge_newness({"copies": Interval(1.0, 0.9, 1.0)}, samples=10).word == "fail"
