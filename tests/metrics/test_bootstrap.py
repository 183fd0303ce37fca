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

from monai_vqprior.metrics import Interval, bootstrap_interval, subject_rows


def mean(values: np.ndarray) -> float:
    return float(values.mean())


def test_rows_of_subjects_in_their_order() -> None:
    assert [rows.tolist() for rows in subject_rows(["b", "a", "b", "c"])] == [[0, 2], [1], [3]]


def test_each_value_of_its_own_subject_is_scipys_bootstrap() -> None:
    values = np.random.default_rng(0).normal(3, 2, 80)
    theirs = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=4000).confidence_interval
    ours = bootstrap_interval(mean, (values, None), rounds=4000)
    assert ours.value == values.mean()
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.05)


def test_slices_of_one_subject_are_drawn_together() -> None:
    """Equal slices of a subject tell nothing new: the interval is that of the subjects."""
    subjects = np.random.default_rng(1).normal(0, 1, 20)
    slices, names = np.repeat(subjects, 32), np.repeat(np.arange(20), 32)
    by_subject = bootstrap_interval(mean, (slices, list(names)))
    assert by_subject.high - by_subject.low == pytest.approx(2 * 1.96 * subjects.std() / 20**0.5, rel=0.15)
    by_slice = bootstrap_interval(mean, (slices, None))
    assert by_slice.high - by_slice.low < 0.3 * (by_subject.high - by_subject.low)


def test_two_groups_are_drawn_independently() -> None:
    first, second = np.arange(50.0), np.arange(50.0)
    found = bootstrap_interval(lambda a, b: mean(a) - mean(b), (first, None), (second, None))
    assert found.value == 0
    assert found.high - found.low == pytest.approx(2 * 1.96 * first.std() * (2 / 50) ** 0.5, rel=0.15)


def test_the_same_seed_gives_the_same_interval() -> None:
    values = (np.arange(9.0), None)
    assert bootstrap_interval(mean, values, rounds=50) == bootstrap_interval(mean, values, rounds=50)
    assert bootstrap_interval(mean, values, rounds=50) != bootstrap_interval(mean, values, rounds=50, seed=1)
    assert Interval(1.0, 0.5, 2.0).as_dict() == {"value": 1.0, "low": 0.5, "high": 2.0}


def test_nothing_to_draw_from() -> None:
    with pytest.raises(ValueError, match="at least one value"):
        bootstrap_interval(mean, (np.array([]), None))
