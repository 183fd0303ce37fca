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

import numpy as np
import pytest
import tifffile
from PIL import Image

from monai_vqprior.errors import InputError
from monai_vqprior.transforms import find_max_value


def slices(folder: Path, *tops: float, dtype: type = np.uint16) -> list[Path]:
    """A slice with each of these largest values."""
    paths = []
    for number, top in enumerate(tops):
        paths.append(folder / f"{number}.tif")
        tifffile.imwrite(paths[-1], np.linspace(0, top, 63).reshape(9, 7).astype(dtype))
    return paths


@pytest.mark.parametrize(
    ("top", "white"),
    [(200, 255), (256, 1023), (1000, 1023), (1024, 4095), (4080, 4095), (4095, 4095), (4096, 16383), (40000, 65535)],
)
@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_bits_in_use(tmp_path: Path, top: int, white: int, dtype: type) -> None:
    found, reason = find_max_value(slices(tmp_path, 3, top, 100, dtype=dtype))
    assert found == white
    assert reason == f"3 of 3 slices have more than 8 bits, and their largest value is {top} ({tmp_path / '1.tif'})"


def test_a_large_slice_is_looked_at_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monai_vqprior.transforms.pictures._PIXELS_AT_ONCE", 14)
    image = np.zeros((9, 7), np.uint16)
    image[4, 3] = 4000
    tifffile.imwrite(tmp_path / "a.tif", image)
    assert find_max_value([tmp_path / "a.tif"])[0] == 4095


def test_eight_bits(tmp_path: Path) -> None:
    Image.new("L", (7, 9), 200).save(tmp_path / "a.png")
    Image.new("RGB", (7, 9), "white").save(tmp_path / "b.png")
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    assert find_max_value(paths) == (255, "")
    found, reason = find_max_value([*paths, *slices(tmp_path, 4000)])
    assert found == 4095
    assert reason.startswith("1 of 3 slices have more than 8 bits")


@pytest.mark.parametrize("top", [0.3, 1.0])
def test_floating_point_of_0_to_1(tmp_path: Path, top: float) -> None:
    assert find_max_value(slices(tmp_path, top, dtype=np.float32))[0] == 1


def test_what_does_not_tell(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"1\.tif holds floating-point values up to 300, more than 1: .* --max_value"):
        find_max_value(slices(tmp_path, 0.5, 300, dtype=np.float32))
    with pytest.raises(InputError, match=r"1\.tif holds values up to 70000, more than 16 bits: .* --max_value"):
        find_max_value(slices(tmp_path, 5, 70000, dtype=np.int32))
    floats = slices(tmp_path, 0.5, dtype=np.float32)
    Image.fromarray(np.full((9, 7), 500, np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"a\.png and .*0\.tif are of integers and of floating point"):
        find_max_value([*floats, tmp_path / "a.png"])


def test_files_that_cannot_be_read_are_left_to_the_reader(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    negative = tmp_path / "b.tif"
    tifffile.imwrite(negative, np.full((9, 7), -5, np.int16))
    assert find_max_value([tmp_path / "a.png", negative, *slices(tmp_path, 4000)])[0] == 4095
