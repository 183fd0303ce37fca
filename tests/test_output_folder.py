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

from monai_vqprior.errors import InputError
from monai_vqprior.outputs import OutputFolder


def files_below(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


class TestOutputFolder:
    @pytest.mark.parametrize("content", ["absent", "empty folder", "folder", "file"])
    @pytest.mark.parametrize("overwrite", [True, False])
    def test_refuses_what_holds_something(self, tmp_path: Path, content: str, overwrite: bool) -> None:
        path = tmp_path / "result"
        if "folder" in content:
            path.mkdir()
        if content == "folder":
            (path / "a.png").write_text("mine")
        if content == "file":
            path.write_text("mine")
        result = {"folders" if "folder" in content else "files": ["result"]}
        before = files_below(tmp_path)
        if content in ("absent", "empty folder") or overwrite:
            OutputFolder(tmp_path, overwrite).check(**result)
        else:
            with pytest.raises(
                InputError, match="result exists: pass --overwrite to replace it, or another --output_dir"
            ):
                OutputFolder(str(tmp_path), overwrite).check(**result)
        assert files_below(tmp_path) == before


@pytest.mark.parametrize(("folder", "is_folder"), [(True, False), (False, True)])
def test_an_output_folder_refuses_a_folder_where_a_file_goes(folder: bool, is_folder: bool, tmp_path: Path) -> None:
    output, kinds = OutputFolder(tmp_path, overwrite=True), {True: "folders", False: "files"}
    path = tmp_path / "result"
    if is_folder:
        path.mkdir()
    else:
        path.write_text("mine")
    output.check(**{kinds[not folder]: ["result"]})
    with pytest.raises(InputError, match="result must be a"):
        output.check(**{kinds[folder]: ["result"]})


class TestClaim:
    @pytest.mark.parametrize("overwrite", [False, True])
    @pytest.mark.parametrize("made", [False, True])
    def test_a_new_or_empty_folder_is_claimed(self, tmp_path: Path, made: bool, overwrite: bool) -> None:
        folder = tmp_path / "a" / "b"
        if made:
            folder.mkdir(parents=True)
        assert OutputFolder(str(folder), overwrite).claim() == folder
        assert folder.is_dir()

    @pytest.mark.parametrize("name", ["notes.txt", ".hidden", "folder/notes.txt"])
    def test_a_folder_that_holds_something_is_refused_or_kept(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
        with pytest.raises(InputError, match=r"is not empty: name another folder for the slices, or pass --overwrite"):
            OutputFolder(tmp_path).claim("slices")
        assert OutputFolder(tmp_path, overwrite=True).claim() == tmp_path
        assert (tmp_path / name).read_text() == "mine"

    @pytest.mark.parametrize("overwrite", [False, True])
    def test_a_file_is_refused(self, tmp_path: Path, overwrite: bool) -> None:
        (tmp_path / "file").write_text("mine")
        with pytest.raises(InputError, match="file is a file: name a folder for the slices"):
            OutputFolder(tmp_path / "file", overwrite).claim("slices")
        with pytest.raises(InputError, match=r"below cannot be written to \(.*\): name another folder for the slices"):
            OutputFolder(tmp_path / "file" / "below", overwrite).claim("slices")
        assert (tmp_path / "file").read_text() == "mine"
