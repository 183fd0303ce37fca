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

import re
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from warm_python import run_python

from monai_vqprior.cli import main
from monai_vqprior.data import write_phantom
from monai_vqprior.errors import InputError
from monai_vqprior.transforms import LoadSlice

pytestmark = pytest.mark.integration

# Small files that would take a machine's memory.

# Reads a file, whose code is then in memory, and others, and prints for each of these how many MB were taken at most
# so far, and what was said.
MEASURE = """
import resource, sys, warnings
from monai_vqprior.errors import InputError
from monai_vqprior.transforms import LoadSlice
warnings.simplefilter("error")
LoadSlice()(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[2:]:
    try:
        LoadSlice()(path)
        said = "read"
    except InputError as error:
        said = str(error)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024, said)
"""


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    path: Path,
    width: int,
    height: int,
    depth: int = 8,
    color: int = 0,
    more: Iterable[bytes] = (),
    rows: int | None = None,
) -> Path:
    """A black picture, compressed as far as that goes, or the first rows of one, and more chunks before its pixels."""
    rows = height if rows is None else rows
    samples = {0: 1, 2: 3, 6: 4}[color]
    row = bytes(1 + -(-width * depth * samples // 8))
    compressor = zlib.compressobj(9)
    data = b"".join([compressor.compress(row * 100) for _ in range(rows // 100)])
    data += compressor.compress(row * (rows % 100)) + compressor.flush()
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    parts = [chunk(b"IHDR", header), *more, chunk(b"IDAT", data), chunk(b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return path


def with_text(path: Path, kind: bytes) -> Path:
    """A small picture that says a hundred megabytes in each of two texts."""
    packed = zlib.compress(bytes(10**8), 9)
    text = {b"zTXt": b"a\0\0" + packed, b"iTXt": b"a\0\1\0\0\0" + packed, b"iCCP": b"a\0\0" + packed}[kind]
    return png(path, 16, 16, more=[chunk(kind, text)] * 2)


def test_no_file_takes_much_more_than_its_pixels(tmp_path: Path) -> None:
    """In one process, which begins slowly: what takes little comes first, since only the most so far is known."""
    large = png(tmp_path / "large.png", 13000, 13000, depth=16, rows=1000)  # whole it would have 0.3 MB
    refusal = "has 13000 x 13000 pixels by its header, more than the 67108864 that are read"
    # Pillow keeps colors in 4 bytes. What comes of the pixels takes one byte more, and a band of them a little.
    side, extra = 4096, 30
    pixels = side * side / 2**20
    texts = [with_text(tmp_path / f"{kind.decode()}.png", kind) for kind in (b"zTXt", b"iTXt", b"iCCP")]
    expected = [(large, refusal, extra), *((path, "read|cannot be read as an image", extra) for path in texts)]
    for depth, color, decoded in ((8, 0, 1), (16, 0, 2), (8, 2, 4)):
        path = png(tmp_path / f"{depth}-{color}.png", side, side, depth, color)
        expected.append((path, "read", pixels * (decoded + 1) + extra))
    small = png(tmp_path / "small.png", 16, 16, depth=16)
    run = run_python(["-c", MEASURE, small, *(path for path, *_ in expected)])
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    for (path, message, most), line in zip(expected, lines, strict=True):
        taken, said = line.split(" ", 1)
        assert re.search(message, said), said
        assert int(taken) < most, f"{path.name}: {taken} MB"


@pytest.mark.parametrize(("width", "height"), [(2**14, 2**13), (2**20, 65), (20000, 20000), (2**31 - 1, 2**31 - 1)])
def test_no_header_is_believed(tmp_path: Path, width: int, height: int) -> None:
    """Of some Pillow warns, of others it raises; here one line comes of all of them."""
    path = tmp_path / "a.png"
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    with pytest.raises(InputError, match=r"a\.png .* pixels") as error:
        LoadSlice()(path)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("suffix", [".tif", ".jpg"])
def test_nor_in_other_formats(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    Image.new("1" if suffix == ".tif" else "L", (8200, 8200)).save(path)
    with pytest.raises(InputError, match="has 8200 x 8200 pixels by its header"):
        LoadSlice()(path)


def test_bands_are_put_together_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    for number, image in enumerate(
        (rng.integers(0, 65536, (23, 7), np.uint16), rng.integers(0, 256, (23, 7, 3), np.uint8))
    ):
        path = tmp_path / f"{number}.png"
        Image.fromarray(image).save(path)
        whole = LoadSlice()(path)
        for size in (1, 14, 50, 160):
            monkeypatch.setattr("monai_vqprior.transforms.pictures._PIXELS_AT_ONCE", size)
            assert np.array_equal(LoadSlice()(path), whole)
        monkeypatch.undo()


def test_skip_bad_counts_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_phantom(tmp_path / "data", 4, num_slices=2, size=32, progress=False)
    bad = png(next((data / "keras_png_slices_train").iterdir()), 8200, 8200)
    words = ["neighbors", "--dataset_dir", str(data), "--output_dir", str(tmp_path / "out"), "--device", "cpu"]
    (tmp_path / "out" / "samples").mkdir(parents=True)
    Image.new("L", (32, 32), 9).save(tmp_path / "out" / "samples" / "sample_00000.png")
    assert main(words) == 2
    assert f"{bad} has 8200 x 8200 pixels" in capsys.readouterr().err
    assert main([*words, "--skip_bad"]) == 0
