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

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from monai_vqprior.data.layout import (
    SPLITS,
    natural_key,
    slice_name,
    split_folder,
    split_subjects,
)
from monai_vqprior.errors import InputError

properties = settings(derandomize=True, deadline=None, max_examples=100)

names = st.text("abAB019_-. ²٣", min_size=1, max_size=6)
subject_lists = st.lists(names, min_size=1, max_size=40)
# Shares in tenths of their sum, of which some are 0; None is the default of 0.8, 0.1 and 0.1.
shares = st.none() | st.tuples(*[st.integers(0, 10)] * 3).filter(any).map(
    lambda parts: {split: part / sum(parts) for split, part in zip(SPLITS, parts, strict=True)}
)


def wanted_splits(fractions: dict[str, float] | None) -> set[str]:
    return set(SPLITS) if fractions is None else {split for split, share in fractions.items() if share > 0}


@pytest.mark.parametrize("split", SPLITS)
def test_split_folder(split: str) -> None:
    assert split_folder("oasis", split) == Path("oasis") / f"keras_png_slices_{split}"


def test_split_folder_refuses_another_split() -> None:
    with pytest.raises(InputError, match="split must be one of train, validate, test, got 'val'"):
        split_folder("oasis", "val")


def test_a_slice_has_the_name_that_oasis_has() -> None:
    assert slice_name("441", 0) == "case_441_slice_0.nii.png"


class TestNaturalKey:
    @pytest.mark.parametrize(
        "ordered",
        [
            ["case_2_slice_9.png", "case_2_slice_10.png", "case_11_slice_1.png"],
            ["9", "10", "a", "a9b2", "a9b10", "a10b1", "b"],
            ["a", "a1", "ab"],
            ["Brain1", "brain2", "Brain3"],
        ],
    )
    def test_numbers_count_as_numbers(self, ordered: list[str]) -> None:
        for shuffled in itertools.islice(itertools.permutations(ordered), 30):
            assert sorted(shuffled, key=natural_key) == ordered

    @properties
    @given(numbers=st.lists(st.integers(0, 10**9), min_size=2, max_size=10))
    def test_agrees_with_the_order_of_numbers(self, numbers: list[int]) -> None:
        assert sorted([f"a{n}.png" for n in numbers], key=natural_key) == [f"a{n}.png" for n in sorted(numbers)]

    @properties
    @given(first=names, second=names)
    def test_different_names_are_never_equal(self, first: str, second: str) -> None:
        assert (natural_key(first) == natural_key(second)) == (first == second)
        assert (natural_key(first) < natural_key(second)) != (natural_key(first) >= natural_key(second))

    @pytest.mark.parametrize(("first", "second"), [("a1", "a01"), ("a1", "A1"), ("²", "2"), ("٣", "3")])
    def test_names_that_look_alike_have_an_order(self, first: str, second: str) -> None:
        assert sorted([first, second], key=natural_key) == sorted([second, first], key=natural_key)


class TestSplitSubjects:
    @properties
    @given(subjects=subject_lists, fractions=shares, seed=st.integers(0, 2**32))
    def test_each_subject_is_in_one_wanted_split(
        self, subjects: list[str], fractions: dict[str, float] | None, seed: int
    ) -> None:
        wanted = wanted_splits(fractions)
        assume(len(set(subjects)) >= len(wanted))
        dealt = split_subjects(subjects, fractions, seed)
        assert tuple(dealt) == SPLITS
        assert sorted(itertools.chain(*dealt.values())) == sorted(set(subjects))  # disjoint and complete
        assert {split for split in SPLITS if dealt[split]} == wanted
        for members in dealt.values():
            assert members == sorted(members, key=natural_key)

    @properties
    @given(subjects=subject_lists, seed=st.integers(0, 100), data=st.data())
    def test_order_and_duplicates_do_not_matter(self, subjects: list[str], seed: int, data: st.DataObject) -> None:
        assume(len(set(subjects)) >= 3)
        shuffled = data.draw(st.permutations(subjects + subjects[: len(subjects) // 2]))
        assert split_subjects(shuffled, seed=seed) == split_subjects(subjects, seed=seed)

    @properties
    @given(count=st.integers(3, 500), fractions=shares)
    def test_shares_are_met_to_within_one_subject(self, count: int, fractions: dict[str, float] | None) -> None:
        targets = {s: count * f for s, f in (fractions or {"train": 0.8, "validate": 0.1, "test": 0.1}).items()}
        assume(all(target >= 1 for target in targets.values() if target > 0))
        dealt = split_subjects([str(i) for i in range(count)], fractions)
        for split, target in targets.items():
            assert abs(len(dealt[split]) - target) < 1 + 1e-9

    @pytest.mark.parametrize(
        ("count", "fractions", "sizes"),
        [
            (3, None, (1, 1, 1)),
            (4, None, (2, 1, 1)),
            (10, None, (8, 1, 1)),
            (11, None, (9, 1, 1)),
            (180, None, (144, 18, 18)),
            (5, {"train": 0.5, "test": 0.5}, (3, 0, 2)),
            (7, {"test": 1.0}, (0, 0, 7)),
            (1, {"validate": 1.0}, (0, 1, 0)),
            (10, {"train": 0.7, "validate": 0.3, "test": 0.0}, (7, 3, 0)),
            (3, {"train": 0.98, "validate": 0.01, "test": 0.01}, (1, 1, 1)),
        ],
    )
    def test_sizes_worked_out_by_hand(
        self, count: int, fractions: dict[str, float] | None, sizes: tuple[int, int, int]
    ) -> None:
        dealt = split_subjects([f"case_{i}" for i in range(count)], fractions)
        assert tuple(len(dealt[split]) for split in SPLITS) == sizes

    def test_seeds_deal_differently_and_fairly(self) -> None:
        subjects = [f"case_{i}" for i in range(10)]
        chosen = [split_subjects(subjects, seed=seed)["test"][0] for seed in range(500)]
        counts = np.array([chosen.count(subject) for subject in subjects])
        # 500 draws of one in ten: 50 each, with a standard deviation of 6.7.
        assert counts.min() > 50 - 5 * 6.7
        assert counts.max() < 50 + 5 * 6.7

    @pytest.mark.parametrize(
        "fractions",
        [
            {"train": 0.8, "validate": 0.1},
            {"train": 0.8, "validate": 0.1, "test": 0.2},
            {"train": 0.5, "val": 0.5},
            {"train": 1.5, "validate": -0.5},
            {},
        ],
    )
    def test_refuses_fractions_that_make_no_sense(self, fractions: dict[str, float]) -> None:
        with pytest.raises(InputError, match=r"fractions must name train, validate, test and sum to 1, got \{"):
            split_subjects(["a", "b", "c"], fractions)

    @pytest.mark.parametrize("subjects", [[], ["a"], ["a", "b"], ["a", "b", "b", "a"]])
    def test_refuses_too_few_subjects(self, subjects: list[str]) -> None:
        message = f"{len(set(subjects))} subjects? cannot fill the splits train, validate, test"
        with pytest.raises(InputError, match=message):
            split_subjects(subjects)
