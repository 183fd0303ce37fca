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
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from monai_vqprior.data import Conditions, ConditionTable, SliceFolder, load_volume, prepare_volumes, volume_slices
from monai_vqprior.prepare_arguments import Cutting, read_cutting

#: arguments that suit volumes of 16 x 20 x 12 mm, which lie in one place already.
SMALL = {"num_slices": 4, "size": 20, "space": "scanner", "progress": False}


def files_below(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rows_of(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "subjects.csv").open(newline="") as file:
        return {row["case"]: row for row in csv.DictReader(file)}


class TestPrepareVolumes:
    def test_writes_the_slices_of_each_volume(self, bids: Path, tmp_path: Path) -> None:
        summary = prepare_volumes(bids, tmp_path / "out", **SMALL)
        rows = rows_of(tmp_path / "out")
        assert list(rows) == ["001", "002", "003", "004", "005", "006", "007"]
        for case, row in rows.items():
            expected = volume_slices(load_volume(bids / row["file"]), num_slices=4, size=20)
            for index in range(4):
                name = f"keras_png_slices_{row['split']}/case_{case}_slice_{index}.nii.png"
                with Image.open(tmp_path / "out" / name) as picture:
                    assert picture.mode == "L"
                    np.testing.assert_allclose(np.asarray(picture).astype(int), expected[index], atol=1)
        assert len(files_below(tmp_path / "out")) == 7 * 4 + 7 + 4  # slices, placements, tables, arguments
        assert sum(summary.slices.values()) == 28
        assert sum(summary.volumes.values()) == 7
        assert sum(summary.subjects.values()) == 6
        assert all(summary.slices.values())

    def test_sessions_of_a_subject_stay_together(self, bids: Path, tmp_path: Path) -> None:
        for seed in range(5):
            out = tmp_path / f"out{seed}"
            prepare_volumes(bids, out, seed=seed, **SMALL)
            rows = [row for row in rows_of(out).values() if row["subject"] == "sub-10"]
            assert [row["session"] for row in rows] == ["sub-10_ses-01", "sub-10_ses-02"]
            assert len({row["split"] for row in rows}) == 1

    def test_seed_and_fractions_decide_on_the_split(self, bids: Path, tmp_path: Path) -> None:
        for name, seed in (("a", 1), ("b", 1), ("c", 2)):
            prepare_volumes(bids, tmp_path / name, seed=seed, **SMALL)
        assert files_below(tmp_path / "a") == files_below(tmp_path / "b")
        assert files_below(tmp_path / "a").keys() != files_below(tmp_path / "c").keys()
        summary = prepare_volumes(bids, tmp_path / "d", fractions={"train": 0.5, "test": 0.5}, **SMALL)
        assert summary.subjects == {"train": 3, "validate": 0, "test": 3}
        assert not (tmp_path / "d" / "keras_png_slices_validate").exists()

    def test_oasis_with_its_table(self, disc: Path, tmp_path: Path) -> None:
        summary = prepare_volumes(disc, tmp_path / "out", subjects_csv=disc / "oasis_cross-sectional.csv", **SMALL)
        rows = rows_of(tmp_path / "out")
        # The rescan of subject 61 is numbered behind the largest subject.
        assert [row["session"][5:] for row in rows.values()] == [
            "0001_MR1", "0002_MR1", "0003_MR1", "0061_MR1", "0061_MR2", "0308_MR1"
        ]  # fmt: skip
        assert list(rows) == ["001", "002", "003", "061", "309", "308"]
        assert rows["061"]["split"] == rows["309"]["split"]
        joined = {case: (row["age"], row["sex"], row["cdr"], row["dementia"]) for case, row in rows.items()}
        assert joined == {
            "001": ("74", "F", "0", "Non_Demented"),
            "002": ("55", "F", "", ""),
            "003": ("73", "F", "0.5", "Very_Mild_Demented"),
            "061": ("20", "F", "", ""),
            "309": ("20", "F", "", ""),
            "308": ("78", "M", "2", "Moderate_Demented"),
        }
        assert list(rows["001"]) == ["case", "subject", "session", "split", "file", "age", "sex", "cdr", "dementia"]
        assert rows["308"]["file"].startswith("disc6/OAS1_0308_MR1/PROCESSED/MPRAGE/T88_111/OAS1_0308_MR1_mpr")
        assert summary.missing_from_table == 0
        assert "row" not in str(summary)
        conditions = ConditionTable(SliceFolder(tmp_path / "out"))
        assert conditions.names == ["slice", "age", "sex", "cdr", "dementia", "position"]
        items = conditions.join(conditions.slices.datalist("all"), Conditions([{"name": "age", "mean": 0, "std": 1}]))
        assert {item["subject"]: item["age"] for item in items} == {
            f"case_{c}": int(row["age"]) for c, row in rows.items()
        }

    @pytest.mark.parametrize(
        ("cdr", "dementia"), [("1", "Mild_Demented"), ("1.0", "Mild_Demented"), ("3", ""), ("N/A", ""), ("nan", "")]
    )
    def test_dementia_from_cdr(self, bids: Path, tmp_path: Path, cdr: str, dementia: str) -> None:
        (tmp_path / "t.csv").write_text(f"ID,M/F,Age,CDR\nsub-01,M,80,{cdr}\n")
        prepare_volumes(bids, tmp_path / "out", subjects_csv=tmp_path / "t.csv", **SMALL)
        assert rows_of(tmp_path / "out")["001"]["dementia"] == dementia

    def test_sessions_that_the_table_lacks(self, bids: Path, tmp_path: Path) -> None:
        table = "participant_id\tage\tsplit\tsite\nsub-01\t30\tx\tA\nsub-10\t40\tx\tB\nsub-99\t50\tx\tC\n"
        (tmp_path / "participants.tsv").write_text(table)
        summary = prepare_volumes(bids, tmp_path / "out", subjects_csv=tmp_path / "participants.tsv", **SMALL)
        rows = rows_of(tmp_path / "out")
        assert list(rows["001"]) == ["case", "subject", "session", "split", "file", "age", "site"]
        assert [(row["age"], row["site"]) for row in rows.values()] == [
            ("30", "A"),
            *[("", "")] * 4,
            *[("40", "B")] * 2,
        ]
        assert {row["split"] for row in rows.values()} == {"train", "validate", "test"}
        assert summary.missing_from_table == 4
        assert "4 volumes without a row in the subject table" in str(summary)

    def test_joins_the_row_of_the_session_before_that_of_the_subject(self, bids: Path, tmp_path: Path) -> None:
        (tmp_path / "t.csv").write_text("subject,age\nsub-10,40\nsub-10_ses-02,41\n")
        prepare_volumes(bids, tmp_path / "out", subjects_csv=tmp_path / "t.csv", **SMALL)
        assert [row["age"] for row in rows_of(tmp_path / "out").values()][-2:] == ["40", "41"]

    def test_a_table_without_rows(self, bids: Path, tmp_path: Path) -> None:
        (tmp_path / "t.csv").write_text("subject,age\n")
        summary = prepare_volumes(bids, tmp_path / "out", subjects_csv=tmp_path / "t.csv", **SMALL)
        assert summary.missing_from_table == 7

    def test_progress_bar(self, bids: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        prepare_volumes(bids, tmp_path / "quiet", **SMALL)
        assert capsys.readouterr().err == ""
        prepare_volumes(bids, tmp_path / "loud", **{**SMALL, "progress": True})
        assert "7/7" in capsys.readouterr().err


def test_slices_of_before_the_scaling_could_be_chosen(tmp_path: Path) -> None:
    cutting = Cutting(num_slices=5)
    content = {name: value for name, value in cutting.cutting.items() if name != "scaling"}
    (tmp_path / "prepare.json").write_text(json.dumps(content))
    before = read_cutting(tmp_path / "prepare.json")
    assert before is not None
    assert (before.num_slices, before.scaling) == (5, "percentiles")
