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

from pathlib import Path

import pytest

from monai_vqprior.data import read_subject_table
from monai_vqprior.errors import InputError


class TestReadSubjectTable:
    def test_oasis_table(self, disc: Path) -> None:
        table = read_subject_table(disc / "oasis_cross-sectional.csv")
        assert len(table) == 6
        assert table["OAS1_0003_MR1"]["CDR"] == "0.5"
        assert table["OAS1_0061_MR1"]["SES"] == ""
        header = (disc / "oasis_cross-sectional.csv").read_text().splitlines()[0]
        assert list(table["OAS1_0001_MR1"]) == header.split(",")

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("participants.tsv", "participant_id\tage\nsub-01\t30\nsub-02\tn/a\n"),
            ("t.csv", '\ufeffsubject, age\r\nsub-01,"30"\r\n,\r\n\r\nsub-02,n/a\r\n'),
        ],
    )
    def test_other_tables(self, tmp_path: Path, name: str, text: str) -> None:
        (tmp_path / name).write_text(text, encoding="utf-8")
        table = read_subject_table(tmp_path / name)
        assert {subject: row["age"] for subject, row in table.items()} == {"sub-01": "30", "sub-02": "n/a"}

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"name,age\na,1\n", r"t\.csv has no column of ids .* its columns: name, age"),
            (b"", r"t\.csv has no column of ids"),
            (b"ID,age\na,1\nb,2\na,3\n", r"t\.csv, line 4: a is there a second time"),
            (b"ID,age\n,1\n", r"t\.csv, line 2: the column ID is empty"),
            (b"ID,age\na,1,2\n", r"t\.csv, line 2: more cells than the 2 columns"),
            (b"PK\x03\x04\xff\xfe", r"t\.csv cannot be read as a table"),
        ],
    )
    def test_refuses_other_files(self, tmp_path: Path, content: bytes, message: str) -> None:
        (tmp_path / "t.csv").write_bytes(content)
        with pytest.raises(InputError, match=message):
            read_subject_table(tmp_path / "t.csv")

    def test_refuses_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"absent\.csv cannot be read"):
            read_subject_table(tmp_path / "absent.csv")
