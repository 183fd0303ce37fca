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

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from monai.transforms import Compose, LoadImage
from PIL import Image

from monai_vqprior.errors import InputError
from monai_vqprior.transforms import LoadSlice, LoadSliced

RNG = np.random.default_rng(0)
BYTES = RNG.integers(0, 256, (9, 7), dtype=np.uint8)
WORDS = RNG.integers(0, 65536, (9, 7), dtype=np.uint16)
COLORS = RNG.integers(0, 256, (9, 7, 3), dtype=np.uint8)
SMOOTH = np.rint(127 + 100 * np.outer(np.sin(np.arange(32) / 6), np.cos(np.arange(24) / 5))).astype(np.uint8)


def save(path: Path, image: np.ndarray | Image.Image) -> Path:
    """Write a file with another library than the one under test where there is one: tifffile for TIFF."""
    if path.suffix == ".tif":
        tifffile.imwrite(path, image)
    else:
        (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path)
    return path


def luminance(colors: np.ndarray) -> np.ndarray:
    """ITU-R 601, (..., 3) -> (...)."""
    return colors.astype(np.float64) @ [0.299, 0.587, 0.114]


def check(path: Path, expected: np.ndarray, tolerance: float = 0, max_value: float | None = None) -> None:
    image = LoadSlice(max_value)(path)
    assert isinstance(image, torch.Tensor)
    assert image.dtype == torch.uint8
    assert image.shape == (1, *expected.shape)
    assert np.abs(image[0].numpy() - expected.astype(np.float64)).max() <= tolerance


class TestLoadSlice:
    @pytest.mark.parametrize("suffix", [".png", ".tif", ".PNG", ".tiff"])
    def test_8_bit_grey_is_read_as_it_is(self, tmp_path: Path, suffix: str) -> None:
        path = save(tmp_path / f"a{suffix}", BYTES)
        check(path, BYTES)
        assert torch.equal(LoadSlice()(str(path)), LoadSlice()(path))

    def test_agrees_with_monai_but_for_the_transpose(self, tmp_path: Path) -> None:
        path = save(tmp_path / "a.png", BYTES)
        reading = LoadImage(image_only=True, reader="PILReader")(path)
        np.testing.assert_array_equal(LoadSlice()(path)[0], np.asarray(reading).T)

    def test_rows_run_from_top_to_bottom(self, tmp_path: Path) -> None:
        image = np.zeros((5, 3), np.uint8)
        image[0], image[4, 2] = 255, 90  # the top row, and the bottom right corner
        loaded = LoadSlice()(save(tmp_path / "a.png", image))
        assert loaded.tolist() == [[[255] * 3, [0] * 3, [0] * 3, [0] * 3, [0, 0, 90]]]

    @pytest.mark.parametrize("suffix", [".png", ".tif"])
    def test_color_becomes_luminance(self, tmp_path: Path, suffix: str) -> None:
        check(save(tmp_path / f"a{suffix}", COLORS), luminance(COLORS), tolerance=1)

    def test_gray_in_color_stays_what_it_is(self, tmp_path: Path) -> None:
        check(save(tmp_path / "a.png", np.stack([BYTES] * 3, axis=-1)), BYTES)

    def test_palette(self, tmp_path: Path) -> None:
        palette = RNG.integers(0, 256, (256, 3), dtype=np.uint8)
        image = Image.fromarray(BYTES)
        image.putpalette(palette.tobytes())
        assert image.mode == "P"
        check(save(tmp_path / "a.png", image), luminance(palette[BYTES]), tolerance=1)

    def test_one_bit(self, tmp_path: Path) -> None:
        check(save(tmp_path / "a.png", BYTES > 99), np.where(BYTES > 99, 255, 0))

    def test_jpeg(self, tmp_path: Path) -> None:
        path = tmp_path / "a.jpg"
        Image.fromarray(SMOOTH).save(path, quality=95)
        check(path, SMOOTH, tolerance=4)

    @pytest.mark.parametrize("suffix", [".png", ".tif"])
    def test_16_bits_are_scaled_to_8(self, tmp_path: Path, suffix: str) -> None:
        check(save(tmp_path / f"a{suffix}", WORDS), (WORDS.astype(int) + 128) // 257)  # 65535 / 255 = 257

    def test_16_bits_in_either_byte_order(self, tmp_path: Path) -> None:
        tifffile.imwrite(tmp_path / "a.tif", WORDS, byteorder=">")
        check(tmp_path / "a.tif", (WORDS.astype(int) + 128) // 257)

    @pytest.mark.parametrize("suffix", [".png", ".tif"])
    @pytest.mark.parametrize("max_value", [4095, 1000.5, 65535])
    def test_the_value_that_becomes_white(self, tmp_path: Path, max_value: float, suffix: str) -> None:
        words = (WORDS / 65535 * max_value).astype(np.uint16)
        check(save(tmp_path / f"a{suffix}", words), words / max_value * 255, tolerance=0.5, max_value=max_value)
        if max_value < 65535:
            words[2, 3] = max_value + 1
            with pytest.raises(InputError, match=rf"a\{suffix} holds values up to {words.max()}, more .* --max_value"):
                LoadSlice(max_value)(save(tmp_path / f"a{suffix}", words))

    def test_max_value_does_not_touch_8_bits(self, tmp_path: Path) -> None:
        check(save(tmp_path / "a.png", BYTES), BYTES, max_value=100)

    @pytest.mark.parametrize(("max_value", "largest"), [(None, 1.0), (80.0, 80.0)])
    def test_floating_point(self, tmp_path: Path, max_value: float | None, largest: float) -> None:
        image = RNG.uniform(0, largest, (9, 7)).astype(np.float32)
        image[0, 0] = np.nextafter(np.float32(largest), np.float32(np.inf))  # rounded
        check(save(tmp_path / "a.tif", image), image / largest * 255, tolerance=0.5 + 1e-4, max_value=max_value)
        image[0, 0] = 1.01 * largest
        with pytest.raises(InputError, match=r"a\.tif holds values up to .*, more than the .* --max_value"):
            LoadSlice(max_value)(save(tmp_path / "a.tif", image))

    @pytest.mark.parametrize("dtype", [np.int32, np.uint32, np.int16])
    def test_other_integers(self, tmp_path: Path, dtype: type) -> None:
        image = (WORDS // 2).astype(dtype)
        check(save(tmp_path / "a.tif", image), image / 65535 * 255, tolerance=0.5)

    def test_integers_of_all_32_bits(self, tmp_path: Path) -> None:
        image = np.linspace(0, 2**32 - 1, 63).reshape(9, 7).astype(np.uint32)
        check(save(tmp_path / "a.tif", image), image / (2**32 - 1) * 255, tolerance=0.5, max_value=2**32 - 1)

    @pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.float32])
    def test_refuses_negative_values(self, tmp_path: Path, dtype: type) -> None:
        image = np.zeros((9, 7), dtype)
        image[3, 4] = -3
        with pytest.raises(InputError, match=r"a\.tif holds negative values, down to -3: shift or clip them"):
            LoadSlice()(save(tmp_path / "a.tif", image))

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_refuses_nan_and_infinity(self, tmp_path: Path, value: float) -> None:
        image = np.zeros((4, 4), np.float32)
        image[1, 2] = value
        with pytest.raises(InputError, match=r"a\.tif holds NaN or infinity: replace it, or .* --skip_bad"):
            LoadSlice()(save(tmp_path / "a.tif", image))

    @pytest.mark.parametrize("max_value", [0, -1, float("nan")])
    def test_refuses_a_max_value_that_is_not_positive(self, max_value: float) -> None:
        with pytest.raises(ValueError, match=f"max_value must be positive, got {max_value}"):
            LoadSlice(max_value)


class TestBadFiles:
    # Of a truncated TIFF Pillow first warns, without its name, and then raises.
    @pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning", "ignore:Truncated File Read:UserWarning")
    @pytest.mark.parametrize("keep", [0.0, 0.03, 0.1, 0.5, 0.9])
    @pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "words.png", "words.tif"])
    def test_truncated(self, tmp_path: Path, name: str, keep: float) -> None:
        path = save(tmp_path / name, SMOOTH.astype(np.uint16) * 257 if name.startswith("words") else SMOOTH)
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * keep)])
        with pytest.raises(
            InputError, match=rf"{name} cannot be read as an image \(.*\): replace it, or .* --skip_bad"
        ):
            LoadSlice()(path)

    @pytest.mark.parametrize("content", [b"", b"not an image\n" * 50, b"version https://git-lfs.github.com/spec/v1\n"])
    def test_what_is_no_image(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "text.png").write_bytes(content)
        with pytest.raises(InputError, match=r"text\.png cannot be read as an image") as raised:
            LoadSlice()(tmp_path / "text.png")
        assert "\n" not in str(raised.value)

    def test_a_broken_header(self, tmp_path: Path) -> None:
        def chunk(kind: bytes, data: bytes) -> bytes:
            return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

        (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", bytes(8)) + chunk(b"IEND", b""))
        with pytest.raises(InputError, match=r"a\.png cannot be read as an image"):
            LoadSlice()(tmp_path / "a.png")

    def test_more_pixels_than_anyone_means(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = save(tmp_path / "a.png", BYTES)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
        with pytest.raises(InputError, match=r"a\.png cannot be read as an image"):
            LoadSlice()(path)

    def test_missing_file_and_folder(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"absent\.png does not exist"):
            LoadSlice()(tmp_path / "absent.png")
        (tmp_path / "folder.png").mkdir()
        with pytest.raises(InputError, match=r"folder\.png cannot be read as an image"):
            LoadSlice()(tmp_path / "folder.png")


class TestLoadSliced:
    def test_replaces_paths_by_images(self, tmp_path: Path) -> None:
        items = {"image": save(tmp_path / "a.png", BYTES), "words": save(tmp_path / "b.png", WORDS), "subject": "x"}
        loaded = Compose([LoadSliced(["image", "words"], max_value=65535)])(items)
        np.testing.assert_array_equal(loaded["image"][0], BYTES)
        np.testing.assert_array_equal(loaded["words"][0], (WORDS.astype(int) + 128) // 257)
        assert loaded["subject"] == "x"
        assert items["image"] == tmp_path / "a.png"  # the caller's dictionary is as it was

    def test_missing_keys(self) -> None:
        with pytest.raises(KeyError, match="image"):
            LoadSliced("image")({"subject": "x"})
        assert LoadSliced("image", allow_missing_keys=True)({"subject": "x"}) == {"subject": "x"}
