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

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from monai_vqprior.errors import InputError
from monai_vqprior.files import (
    atomic_path,
    check_extent,
    check_writable,
    open_picture,
    read_json,
    write_png,
    write_text,
)


def names_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.fixture
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


class TestAtomicPath:
    @pytest.mark.parametrize("name", ["a.png", "volume.nii.gz", "plain", "case_1_slice_0.nii.png"])
    def test_the_file_appears_when_it_is_finished(self, tmp_path: Path, name: str) -> None:
        target = tmp_path / "new" / "folder" / name
        with atomic_path(target) as temporary:
            assert temporary.parent == target.parent
            # torch.save takes no name that is nothing but a suffix.
            assert temporary.suffixes[-2:] == (target.suffixes[-2:] or [".file"])
            temporary.write_text("content")
            assert not target.exists()
        assert target.read_text() == "content"
        assert names_in(target.parent) == [name]

    def test_a_reader_sees_the_old_content_until_the_end(self, tmp_path: Path) -> None:
        target = tmp_path / "a.txt"
        target.write_text("old")
        with atomic_path(target) as temporary:
            temporary.write_text("new")
            assert target.read_text() == "old"
        assert target.read_text() == "new"

    @pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
    @pytest.mark.parametrize("before", [None, "old"])
    def test_an_error_leaves_everything_as_it_was(
        self, tmp_path: Path, before: str | None, error: BaseException
    ) -> None:
        target = tmp_path / "a.txt"
        if before is not None:
            target.write_text(before)

        def interrupted() -> None:
            with atomic_path(target) as temporary:
                temporary.write_text("half")
                raise error

        with pytest.raises(type(error)):
            interrupted()
        assert names_in(tmp_path) == ([] if before is None else ["a.txt"])
        assert before is None or target.read_text() == before

    def test_a_name_that_is_taken_by_a_folder_leaves_nothing_behind(self, tmp_path: Path) -> None:
        (tmp_path / "taken" / "inner").mkdir(parents=True)
        with pytest.raises(OSError, match="taken"), atomic_path(tmp_path / "taken") as temporary:
            temporary.write_text("content")
        assert names_in(tmp_path) == ["taken", "taken/inner"]

    @pytest.mark.skipif(os.name != "posix", reason="permissions are those of POSIX")
    @pytest.mark.parametrize("umask", [0o022, 0o077, 0o002], indirect=True)
    def test_permissions_are_those_of_any_new_file(self, tmp_path: Path, umask: int) -> None:
        (tmp_path / "usual").touch()
        with atomic_path(tmp_path / "atomic") as temporary:
            temporary.write_text("content")
        usual, atomic = (stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("usual", "atomic"))
        assert atomic == usual == 0o666 & ~umask
        assert os.umask(umask) == umask  # the umask of the process is what it was


class TestWritePng:
    @pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3)])
    def test_the_file_holds_the_pixels(self, tmp_path: Path, shape: tuple[int, ...]) -> None:
        image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        path = write_png(tmp_path / "new" / "a.png", image[:, ::-1])
        assert path == tmp_path / "new" / "a.png"
        assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
        with Image.open(path) as written:
            assert written.mode == ("L" if len(shape) == 2 else "RGB")
            np.testing.assert_array_equal(np.asarray(written), image[:, ::-1])

    def test_is_png_whatever_the_name_says(self, tmp_path: Path) -> None:
        path = write_png(tmp_path / "a.jpg", np.zeros((2, 2), np.uint8))
        assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")

    @pytest.mark.parametrize("dtype", [bool, np.float32, np.uint16, np.int8])
    def test_refuses_other_types(self, tmp_path: Path, dtype: type) -> None:
        with pytest.raises(TypeError, match=f"takes 8-bit images, got {np.dtype(dtype)}"):
            write_png(tmp_path / "new" / "a.png", np.zeros((2, 2), dtype))
        assert names_in(tmp_path) == []

    def test_a_shape_that_is_no_image_leaves_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(TypeError):
            write_png(tmp_path / "a.png", np.zeros((2, 2, 7), np.uint8))
        assert names_in(tmp_path) == []


def test_write_text_is_utf_8(tmp_path: Path) -> None:
    path = write_text(str(tmp_path / "a.csv"), "größe,脳\n")
    assert path == tmp_path / "a.csv"
    assert path.read_bytes() == "größe,脳\n".encode()


class TestReadJson:
    @pytest.mark.parametrize(
        "content", [{}, {"a": [1, -2.5, True, None, "ä", {"b": []}]}, {"n": 2**63 - 1}, {"x": 1e-320}]
    )
    def test_reads_objects(self, tmp_path: Path, content: dict[str, object]) -> None:
        (tmp_path / "a.json").write_text(json.dumps(content), encoding="utf-8")
        assert read_json(tmp_path / "a.json") == content

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            (b"", "Expecting value"),
            (b"\xff{}", "utf-8"),
            (b"\xef\xbb\xbf{}", "BOM"),
            (b"[]", "a list, not an object"),
            (b'{"a": 1, "a": 1}', "a key is there twice"),
            (b'{"b": [{"a": 1, "a": 2}]}', "a key is there twice"),
            (b'{"a": NaN}', "the number NaN is not finite"),
            (b'{"a": [-Infinity]}', "the number -Infinity is not finite"),
            (b'{"a": 1e999}', "the number 1e999 is not finite"),
            (b'{"a": ' + b"1" * 21 + b"}", "a number of 21 digits"),
            (b'{"a": ' + b"[" * 16 + b"]" * 16 + b"}", "more than 16 levels"),
            (b'{"a": ' + b"[" * 10**6 + b"}", "bytes, more than 1000"),
            (b'{"a":' * 190, "Expecting value"),
            (b'{"a": "\\udc00"}', "surrogates"),
            (b'{"\\udc00": 1}', "surrogates"),
        ],
    )
    def test_refuses_the_rest_in_one_line(self, tmp_path: Path, text: bytes, reason: str) -> None:
        (tmp_path / "a.json").write_bytes(text)
        with pytest.raises(InputError, match=rf"a\.json cannot be read \(.*{reason}.*\): do that\.$") as error:
            read_json(tmp_path / "a.json", "do that", most_bytes=1000)
        assert "\n" not in str(error.value)

    def test_depth_that_no_parser_likes(self, tmp_path: Path) -> None:
        (tmp_path / "a.json").write_bytes(b'{"a": ' + b"[" * 10**5 + b"]" * 10**5 + b"}")
        with pytest.raises(InputError, match=r"a\.json cannot be read"):
            read_json(tmp_path / "a.json")

    def test_missing_file_and_folder(self, tmp_path: Path) -> None:
        for path in (tmp_path, tmp_path / "absent.json"):
            with pytest.raises(InputError, match=f"{path.name} cannot be read"):
                read_json(path)


class TestCheckExtent:
    @pytest.mark.parametrize("shape", [(8192, 8192), (2**26, 1), (0, 10**9), (512, 512, 1024), (640, 640, 640, 1)])
    def test_what_is_read(self, shape: tuple[int, ...]) -> None:
        check_extent("a.png", shape)

    @pytest.mark.parametrize(
        ("shape", "message"),
        [
            ((8192, 8193), "has 8192 x 8193 pixels by its header, more than the 67108864"),
            (
                np.array([32767] * 3, np.int16),
                "has 32767 x 32767 x 32767 voxels by its header, more than the 268435456",
            ),
        ],
    )
    def test_what_is_not(self, shape: tuple[int, ...], message: str) -> None:
        with pytest.raises(
            InputError, match=rf"folder/a\.png {message} that are read: make it smaller, or .* --skip_bad"
        ):
            check_extent("folder/a.png", shape)


def test_a_picture_in_a_format_that_runs_other_programs_is_none(tmp_path: Path) -> None:
    """Pillow hands Encapsulated PostScript to Ghostscript, whatever the name of the file."""
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with Image.open(tmp_path / "a.png") as image:
        assert image.format == "EPS"
    with pytest.raises(OSError, match="cannot identify"), open_picture(tmp_path / "a.png"):
        pass


class TestCheckWritable:
    @pytest.mark.parametrize("folder", [".", "new", "new/deeper", "ü"])
    def test_leaves_nothing_behind(self, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        check_writable(folder)
        check_writable(tmp_path / folder)
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("folder", "reason"),
        [
            ("file", "is a file"),
            ("file/below", "Not a directory"),
            ("link/below", "No such file or directory"),
            ("a" * 300, "File name too long"),
            ("new/" + "a" * 300, "File name too long"),
            ("a\0b", "null"),
            ("/dev/full", "is a file"),
            ("/proc/nothing", "/proc/nothing cannot be written to"),
        ],
    )
    def test_refuses_what_cannot_be_written(self, folder: str, reason: str, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("mine")
        (tmp_path / "link").symlink_to(tmp_path / "nothing")
        with pytest.raises(InputError, match=reason):
            check_writable(tmp_path / folder, "slices")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link"]

    def test_refuses_a_full_disk(self, tmp_path: Path) -> None:
        """A limit on the size of files does to a process what a full disk does."""
        program = (
            "import resource, sys; from monai_vqprior.files import check_writable; "
            "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)); check_writable(sys.argv[1])"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=False
        )
        assert f"InputError: {tmp_path} cannot be written to (File too large)" in done.stderr
        assert not list(tmp_path.iterdir())


def test_an_error_in_writing_names_the_file_that_was_meant(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    for filename in (None, ".partial-x.png"):
        with pytest.raises(OSError, match="full") as raised, atomic_path(path):
            raise OSError(28, "disk full", filename)
        assert raised.value.filename == str(path)
    with pytest.raises(OSError, match="full") as raised, atomic_path(path):
        raise OSError(28, "disk full", "another.png")
    assert raised.value.filename == "another.png"
