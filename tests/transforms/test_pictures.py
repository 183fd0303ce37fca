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
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from monai_vqprior.errors import InputError
from monai_vqprior.transforms import LoadSlice

# What a viewer shows, worked out by hand, for files that are easily read as something else.

RNG = np.random.default_rng(0)
BYTES = RNG.integers(0, 256, (9, 7), dtype=np.uint8)
COLORS = RNG.integers(0, 256, (9, 7, 3), dtype=np.uint8)
ALPHA = RNG.integers(0, 256, (9, 7), dtype=np.uint8)
ALPHA[0], ALPHA[1] = 0, 255
SMOOTH = np.add.outer(np.arange(24) * 3, np.arange(40) * 2).astype(np.uint8)
LUMINANCE = np.array([0.299, 0.587, 0.114])  # ITU-R 601

#: How pixels that are stored so are turned, by the values of the orientation tag in the standard.
TURNS = {
    1: lambda x: x,
    2: np.fliplr,
    3: lambda x: np.rot90(x, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda x: np.rot90(x, -1),
    7: lambda x: np.rot90(x, 2).T,
    8: np.rot90,
}


def read(path: Path, max_value: float | None = None) -> np.ndarray:
    return LoadSlice(max_value)(path)[0].numpy().astype(np.float64)


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as error:
        LoadSlice()(path)
    said = str(error.value)
    assert said.startswith(f"{path} ")
    assert "\n" not in said
    assert "--skip_bad" in said
    return said


def tiff(path: Path, pixels: np.ndarray, bits: int, photometric: int, more: tuple[tuple[int, int], ...] = ()) -> Path:
    """An uncompressed little-endian TIFF by hand: no library writes grey scales in which 0 is white at all depths."""
    data = pixels.tobytes()
    tags = [(256, pixels.shape[1]), (257, pixels.shape[0]), (258, bits), (259, 1), (262, photometric), (273, 8)]
    tags = sorted([*tags, (277, 1), (278, pixels.shape[0]), (279, len(data)), *more])
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    start = b"II*\0" + struct.pack("<I", 8 + len(data))
    path.write_bytes(start + data + struct.pack("<H", len(tags)) + entries + bytes(4))
    return path


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "words.png", "words.tif"])
def test_orientation(tmp_path: Path, name: str, orientation: int) -> None:
    path = tmp_path / name
    image = Image.fromarray(SMOOTH.astype(np.uint16) * 257 if name.startswith("words") else SMOOTH)
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(path, exif=exif)
    shown = TURNS[orientation](SMOOTH)
    assert read(path).shape == shown.shape
    assert np.abs(read(path) - shown).max() <= (4 if name.endswith("jpg") else 0)


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_zero_is_white(tmp_path: Path, dtype: type, compression: str | None) -> None:
    largest = 1.0 if dtype is np.float32 else float(np.iinfo(dtype).max)
    stored = (RNG.random((9, 7)) * largest).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="miniswhite", compression=compression)
    expected = (1 - stored.astype(np.float64) / largest) * 255
    assert np.abs(read(tmp_path / "a.tif") - expected).max() <= 0.5 + 1e-4


def test_zero_is_white_of_12_bits_in_16(tmp_path: Path) -> None:
    stored = RNG.integers(0, 4096, (9, 7)).astype("<u2")
    path = tiff(tmp_path / "a.tif", stored, 16, photometric=0)
    assert np.abs(read(path, 4095) - (1 - stored / 4095) * 255).max() <= 0.5


def test_one_bit_of_which_zero_is_white(tmp_path: Path) -> None:
    black = RNG.random((8, 16)) > 0.5
    path = tiff(tmp_path / "a.tif", np.packbits(black, axis=1), 1, photometric=0, more=())
    raw = bytearray(path.read_bytes())
    place = raw.index(struct.pack("<HHII", 256, 4, 1, 2))  # the width is that of the bytes so far
    raw[place : place + 12] = struct.pack("<HHII", 256, 4, 1, 16)
    path.write_bytes(raw)
    assert np.array_equal(read(path), np.where(black, 0, 255))


@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "f2", "f4", "f8"])
def test_any_tiff_is_read_right_or_refused(
    tmp_path: Path, dtype: str, compression: str | None, photometric: str
) -> None:
    largest = {"1": 255, "2": 65535, "4": 65535}.get(dtype[1], 1) if dtype[0] != "f" else 1
    pixels = (RNG.random((9, 7)) * min(largest, 100)).astype(dtype)
    shown = pixels.astype(np.float64) / largest * 255
    known = 0
    for order in "<>":
        path = tmp_path / f"{ord(order)}.tif"
        tifffile.imwrite(path, pixels, photometric=photometric, compression=compression, byteorder=order)
        try:
            image = read(path)
        except InputError:
            refusal(path)
            continue
        known += 1
        assert np.abs(image - (shown if photometric == "minisblack" else 255 - shown)).max() <= 0.5 + 1e-4
    assert known >= (dtype in ("u1", "u2", "f4"))


@pytest.mark.parametrize("grey", [True, False])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_what_is_transparent_lies_on_black(tmp_path: Path, suffix: str, grey: bool) -> None:
    colors = BYTES if grey else COLORS
    Image.fromarray(np.dstack([colors, ALPHA])).save(tmp_path / f"a{suffix}")
    levels = BYTES if grey else COLORS @ LUMINANCE
    assert np.abs(read(tmp_path / f"a{suffix}") - levels * (ALPHA / 255)).max() <= 1.5
    assert np.array_equal(read(tmp_path / f"a{suffix}")[0], np.zeros(7))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_value_that_is_transparent_is_black(tmp_path: Path, dtype: type) -> None:
    scale = 1 if dtype is np.uint8 else 257
    pixels = BYTES.astype(dtype) * scale
    pixels[2, 3] = pixels[4, 1] = 200 * scale
    Image.fromarray(pixels).save(tmp_path / "a.png", transparency=200 * scale)
    assert np.array_equal(read(tmp_path / "a.png"), np.where(pixels == 200 * scale, 0, pixels // scale))


@pytest.mark.parametrize("entries", [b"\0", bytes(range(256))], ids=["one color", "all colors"])
def test_palette_with_transparency(tmp_path: Path, entries: bytes) -> None:
    palette = RNG.integers(0, 256, (256, 3), dtype=np.uint8)
    image = Image.fromarray(BYTES)
    image.putpalette(palette.tobytes())
    image.save(tmp_path / "a.png", transparency=entries)
    opacity = np.full(256, 255.0)
    opacity[: len(entries)] = list(entries)
    shown = (palette @ LUMINANCE * opacity / 255)[BYTES]
    assert np.abs(read(tmp_path / "a.png") - shown).max() <= 1.5


def test_palette_of_a_tiff(tmp_path: Path) -> None:
    palette = RNG.integers(0, 256, (3, 256), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", BYTES, photometric="palette", colormap=palette * 257)
    assert np.abs(read(tmp_path / "a.tif") - (palette.T @ LUMINANCE)[BYTES]).max() <= 1
    tifffile.imwrite(tmp_path / "b.tif", BYTES, photometric="palette", colormap=palette)
    assert "has a palette of 8 bits where TIFF has 16" in refusal(tmp_path / "b.tif")


def test_cmyk(tmp_path: Path) -> None:
    """Adobe's JPEG files hold it inverted, and say that they are Adobe's."""
    grey = Image.fromarray(SMOOTH)
    path = tmp_path / "a.jpg"
    Image.merge("CMYK", [Image.new("L", grey.size)] * 3 + [Image.fromarray(255 - SMOOTH)]).save(path, quality=95)
    assert np.abs(read(path) - SMOOTH).max() <= 4
    raw = path.read_bytes()
    start = raw.index(b"\xff\xee")
    path.write_bytes(raw[:start] + raw[start + 2 + struct.unpack(">H", raw[start + 2 : start + 4])[0] :])
    assert "CMYK colors and does not tell whether they are inverted" in refusal(path)


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_16_bits_in_color_are_refused(tmp_path: Path, channels: int) -> None:
    """Pillow keeps the upper half of each, which of 12-bit values is next to nothing."""
    header = struct.pack(">IIBBBBB", 7, 9, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + RNG.bytes(7 * 2 * channels) for _ in range(9))
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    chunks = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    ]
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    assert "16 bits a channel" in refusal(tmp_path / "a.png")
    if channels == 3:
        tifffile.imwrite(tmp_path / "a.tif", COLORS.astype(np.uint16) * 257, photometric="rgb")
        assert "16 bits a channel in color" in refusal(tmp_path / "a.tif")


def test_every_changed_bit_of_a_png_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(BYTES).save(path, compress_level=0)  # so that all bits of the pixels can be changed
    whole = path.read_bytes()
    for place in range(8, len(whole) - 12):  # all but the last chunk, which holds nothing
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        assert re.search("cannot be read as an image|by its header", refusal(path)), place
