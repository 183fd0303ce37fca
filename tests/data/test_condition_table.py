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

import csv
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monai_vqprior.data import Conditions, ConditionTable, SliceFolder
from monai_vqprior.data.layout import SPLITS
from monai_vqprior.data.tables import read_table
from monai_vqprior.errors import InputError

# Six subjects of three slices. 003 has no row, 002 an empty cell; Severe occurs in the test split alone.
CASES = {"train": ["001", "002", "003", "004"], "validate": ["005"], "test": ["006"]}
SUBJECTS = """case,split,dementia,age
001,train,Mild,60
002,train,,80
004,train,None,70
005,validate,Mild,40
006,test,Severe,1000
"""
SLICES = """case,index,contrast,age
001,0,0.25,61
001,2,,
006,1,0.75,
"""


def cohort(folder: Path, subjects: str | None = SUBJECTS, slices: str | None = SLICES) -> ConditionTable:
    """A data set on disk; names alone matter, so the slices are empty files."""
    for split, cases in CASES.items():
        place = folder / f"keras_png_slices_{split}"
        place.mkdir(parents=True)
        for case in cases:
            for index in range(3):
                (place / f"case_{case}_slice_{index}.nii.png").touch()
    for name, text in (("subjects.csv", subjects), ("slices.csv", slices)):
        if text is not None:
            (folder / name).write_text(text, encoding="utf-8")
    return ConditionTable(SliceFolder(folder))


def column(table: ConditionTable, conditions: Conditions, split: str, name: str) -> list[float]:
    return [item[name] for item in table.join(table.slices.datalist(split), conditions)]


class TestNames:
    def test_columns_that_say_what_a_slice_shows(self, tmp_path: Path) -> None:
        assert cohort(tmp_path).names == ["slice", "dementia", "age", "contrast"]

    def test_identities_are_no_conditions(self, tmp_path: Path) -> None:
        header = "case,subject,session,split,file,index,image,path,codes,slice,sex"
        assert cohort(tmp_path, header + "\n", None).names == ["slice", "sex"]

    def test_without_tables(self, tmp_path: Path) -> None:
        table = cohort(tmp_path, None, None)
        assert table.names == ["slice"]
        with pytest.raises(InputError, match=r"there is no condition 'age': .* have none, and slice is always there"):
            table.fit(["age"])

    def test_an_unknown_name(self, tmp_path: Path) -> None:
        with pytest.raises(
            InputError, match=r"'agee': did you mean age\? .* have dementia, age, contrast, and slice is"
        ):
            cohort(tmp_path).fit(["agee"])


class TestFit:
    def test_kinds_and_the_training_split_alone(self, tmp_path: Path) -> None:
        conditions = cohort(tmp_path).fit(["dementia", "age", "slice"])
        # Of the ages in the training split, 60 is 61 on one slice; 40 and 1000 are of other splits.
        ages = [61, 60, 60, 80, 80, 80, 70, 70, 70]
        labels, age, position = conditions.settings
        assert labels == {"name": "dementia", "classes": ["Mild", "None"]}
        assert age["name"] == "age"
        np.testing.assert_allclose([age["mean"], age["std"]], [np.mean(ages), np.std(ages)], rtol=1e-5)
        positions = [0, 0.5, 1] * 4
        np.testing.assert_allclose([position["mean"], position["std"]], [0.5, np.std(positions)], rtol=1e-5)

    @pytest.mark.parametrize(
        "names", ["[dementia,slice]", "dementia, slice", ["dementia", "slice"], "(dementia,slice)"]
    )
    def test_names_as_text_or_list(self, tmp_path: Path, names: str | list[str]) -> None:
        assert cohort(tmp_path).fit(names).names == ["dementia", "slice"]

    @pytest.mark.parametrize("names", ["[]", "", []])
    def test_no_conditions_read_no_table(self, tmp_path: Path, names: str | list[str]) -> None:
        table = cohort(tmp_path, "no,such\ntable\n", '"')
        conditions = table.fit(names)
        items = table.slices.datalist("train")
        assert conditions.settings == []
        assert table.join(items, conditions) == items

    def test_conditions_that_are_needed_besides(self, tmp_path: Path) -> None:
        table = cohort(tmp_path)
        assert table.fit("age", ["slice"]).names == ["age", "slice"]
        assert table.fit(["slice", "age"], ["slice"]).names == ["slice", "age"]
        fitted = table.fit([], ["slice"])
        assert table.fit(fitted.settings, ["slice"]).settings == fitted.settings

    def test_what_is_known_already_is_left_as_it_is(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        known: list[dict[str, Any]] = [
            {"name": "age", "classes": ["60", "80"]},
            {"name": "height", "mean": 170.0, "std": 10.0},
        ]
        table = cohort(tmp_path)
        with caplog.at_level(logging.WARNING):
            conditions = table.fit([*known, "slice"])
        assert conditions.settings[:2] == known
        assert caplog.messages == [f"{tmp_path} does not tell height: it is missing"]
        assert column(table, conditions, "train", "age") == [-1, 0, 0, 1, 1, 1, -1, -1, -1, -1, -1, -1]
        assert np.isnan(column(table, conditions, "train", "height")).all()

    def test_missing_for_all_slices_of_training(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="'age' is missing for all 12 slices of the training split"):
            cohort(tmp_path, "case,age\n005,40\n006,50\n", None).fit(["age"])


class TestJoin:
    def test_labels(self, tmp_path: Path) -> None:
        table = cohort(tmp_path)
        conditions = table.fit(["dementia"])
        assert column(table, conditions, "train", "dementia") == [0, 0, 0, -1, -1, -1, -1, -1, -1, 1, 1, 1]
        assert column(table, conditions, "validate", "dementia") == [0, 0, 0]
        assert column(table, conditions, "test", "dementia") == [-1, -1, -1]  # unseen in training

    def test_values_of_slices_go_before_those_of_subjects(self, tmp_path: Path) -> None:
        table = cohort(tmp_path)
        conditions = table.fit(["age", "contrast"])
        scale = conditions.settings[0]
        ages = np.array([61, 60, 60, 80, 80, 80, np.nan, np.nan, np.nan, 70, 70, 70])
        expected = (ages - scale["mean"]) / scale["std"]
        np.testing.assert_allclose(column(table, conditions, "train", "age"), expected)
        np.testing.assert_allclose(
            column(table, conditions, "test", "age"), [(1000 - scale["mean"]) / scale["std"]] * 3
        )
        assert np.isfinite(column(table, conditions, "test", "contrast")).tolist() == [False, True, False]

    def test_items_keep_what_they_have(self, tmp_path: Path) -> None:
        table = cohort(tmp_path)
        items = table.slices.datalist("all")
        joined = table.join(items, table.fit("dementia"))
        assert [{key: value for key, value in item.items() if key != "dementia"} for item in joined] == items
        assert all("dementia" not in item for item in items)

    def test_some_of_the_slices_keep_their_place(self, tmp_path: Path) -> None:
        """A slice that was left out does not move the others."""
        table = cohort(tmp_path)
        conditions = Conditions([{"name": "slice", "mean": 0, "std": 1}])
        items = table.slices.datalist("train")[1:2]
        assert [item["slice"] for item in table.join(items, conditions)] == [0.5]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["case_1_slice_0.png", "case_1_slice_1.png", "case_1_slice_4.png"], [0, 0.25, 1]),
        (["case_1_slice_60.png", "case_1_slice_70.png", "case_1_slice_100.png"], [0, 0.25, 1]),
        (["case_1_slice_7.png"], [0.5]),
        (["sub-01_a.png", "sub-01_b.png", "sub-01_c.png"], [0, 0.5, 1]),
        (["p/001.png", "p/002.png", "q/001.png", "q/002.png"], [0, 1, 0, 1]),
    ],
)
def test_position_in_the_subject(tmp_path: Path, names: list[str], expected: list[float]) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    table = ConditionTable(SliceFolder(tmp_path, fractions={"train": 1.0}))
    conditions = Conditions([{"name": "slice", "mean": 0, "std": 1}])
    assert column(table, conditions, "train", "slice") == expected


@pytest.mark.parametrize(
    ("header", "ids"),
    [
        ("case", ["1", "2"]),
        ("case", ["case_001", "case_2"]),
        ("participant_id", ["001", "0002"]),
        ("subject", ["001", "002"]),
        ("split,ID", ["train,001", "test,002"]),
        ("subject,case", ["OAS1_0002,001", "OAS1_0001,002"]),  # as prepare writes it: case counts
    ],
)
def test_ids_of_subjects(tmp_path: Path, header: str, ids: list[str]) -> None:
    rows = "".join(f"{name},{grade}\n" for name, grade in zip(ids, "AB", strict=True))
    table = cohort(tmp_path, f"{header},grade\n{rows}", None)
    conditions = table.fit(["grade"])
    assert column(table, conditions, "train", "grade") == [0] * 3 + [1] * 3 + [-1] * 6


def test_subjects_of_other_names(tmp_path: Path) -> None:
    for name in ("sub-01_1.png", "sub-01_2.png", "sub-02_1.png"):
        (tmp_path / name).touch()
    (tmp_path / "subjects.csv").write_text("participant_id\tgroup\nsub-02\tcontrol\nsub-01\tpatient\n")
    table = ConditionTable(SliceFolder(tmp_path, fractions={"train": 1.0}))
    assert column(table, table.fit("group"), "train", "group") == [1, 1, 0]


@pytest.mark.parametrize(
    ("subjects", "slices", "message"),
    [
        ("name,age\n1,2\n", None, r"subjects.csv has no column of ids \(case, ID, participant_id, subject\)"),
        ("case,age\n1,2\n001,3\n", None, "subjects.csv, line 3: 001 is there a second time"),
        ("case,age\n,2\n", None, "subjects.csv, line 2: the column case is empty"),
        ("case,age\n1,2,3\n", None, "subjects.csv, line 2: more cells than the 2 columns"),
        (None, "case,age\n1,2\n", "slices.csv, line 2: the column index must be a whole number, got ''"),
        (
            None,
            "case,index,age\n1,first,2\n",
            "slices.csv, line 2: the column index must be a whole number, got 'first'",
        ),
        (None, "case,index,age\n1,0,2\n1,00,3\n", "slices.csv, line 3: 1 is there a second time"),
    ],
)
def test_damaged_tables(tmp_path: Path, subjects: str | None, slices: str | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        cohort(tmp_path, subjects, slices).fit(["age"])


def test_describe_counts_classes_and_what_is_missing(tmp_path: Path) -> None:
    table = cohort(tmp_path)
    conditions = Conditions([{"name": "dementia", "classes": ["Mild", "None"]}, {"name": "age", "mean": 7, "std": 2}])
    assert table.describe(conditions) == (
        "dementia (Mild 3, None 3; missing 6), age (mean 7, standard deviation 2; missing 3)"
    )


def test_phantom(phantom: Path) -> None:
    """Both tables of the cohort say the same, and the position is the attribute of the slices."""
    table = ConditionTable(SliceFolder(phantom))
    assert table.names == ["slice", "ventricle_size"]
    conditions = Conditions([{"name": "slice", "mean": 0, "std": 1}, {"name": "ventricle_size", "mean": 0, "std": 1}])
    with (phantom / "slices.csv").open(newline="") as file:
        rows = {(f"case_{row['case']}", int(row["index"])): row for row in csv.DictReader(file)}
    items = [item for split in SPLITS for item in table.join(table.slices.datalist(split), conditions)]
    assert len(items) == len(rows) == 32
    for item in items:
        row = rows[item["subject"], item["index"]]
        assert item["slice"] == pytest.approx(float(row["slice"]), abs=1e-6)
        assert item["ventricle_size"] == float(row["ventricle_size"])


def test_oasis(oasis: Path) -> None:
    table = ConditionTable(SliceFolder(oasis))
    conditions = table.fit("[dementia,slice]")
    dementia, position = conditions.settings
    assert dementia["classes"] == ["Mild_Demented", "Non_Demented", "Very_Mild_Demented"]
    np.testing.assert_allclose([position["mean"], position["std"]], [0.5, np.std(np.arange(32) / 31)], rtol=1e-5)
    lines = (oasis / "subjects.csv").read_text().splitlines()[1:]
    told = {f"case_{case}": name for case, _, name in (line.split(",") for line in lines)}
    classes = dict(enumerate(dementia["classes"])) | {-1: "Moderate_Demented"}  # of two subjects of the test split
    for item in table.join(table.slices.datalist("all"), conditions):
        assert classes[item["dementia"]] == told[item["subject"]]


@pytest.mark.parametrize("text", ["case,x\n1," + "a" * 200_000 + "\n", "case," + "a" * 200_000])
def test_cells_that_no_reader_takes(tmp_path: Path, text: str) -> None:
    """Of more than 131072 characters."""
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(InputError, match=r"a\.csv cannot be read as a table .*field larger than field limit"):
        read_table(tmp_path / "a.csv", ["case"])
