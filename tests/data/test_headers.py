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

import gzip
import re
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_vqprior.data import prepare_volumes
from monai_vqprior.data.volumes import load_volume
from monai_vqprior.errors import InputError
from monai_vqprior.volumes import read_volume

# Volumes whose headers claim what is not so.

VOXELS = np.random.default_rng(0).integers(1, 100, (6, 5, 4)).astype(np.int16)
KINDS: dict[str, tuple[type, str]] = {
    "NIfTI-1": (nibabel.Nifti1Image, ".nii"),
    "NIfTI-1 compressed": (nibabel.Nifti1Image, ".nii.gz"),
    "NIfTI-2": (nibabel.Nifti2Image, ".nii"),
    "NIfTI-1 pair": (nibabel.Nifti1Pair, ".img"),
    "Analyze": (nibabel.AnalyzeImage, ".img"),
}
pytestmark = pytest.mark.filterwarnings("ignore:Extension size is not a multiple:UserWarning")


def write(folder: Path, kind: str, change: Callable[[bytearray], None] = lambda raw: None) -> Path:
    """A volume whose header, the bytes before the voxels, was changed."""
    image, suffix = KINDS[kind]
    path = folder / f"sub-01{suffix}"
    # Analyze has no orientation: an affine of ones would be one that it cannot keep.
    nibabel.save(image(VOXELS, None if kind == "Analyze" else np.eye(4)), path)
    header = path.with_suffix(".hdr") if suffix == ".img" else path
    raw = bytearray(gzip.decompress(header.read_bytes()) if suffix.endswith("gz") else header.read_bytes())
    change(raw)
    header.write_bytes(gzip.compress(bytes(raw), mtime=0) if suffix.endswith("gz") else bytes(raw))
    return path


def dims(*sizes: int) -> Callable[[bytearray], None]:
    """Writes the number of axes, and the voxels along each, into a NIfTI-1 or Analyze header."""

    def change(raw: bytearray) -> None:
        struct.pack_into(f"<{1 + len(sizes)}h", raw, 40, len(sizes), *sizes)

    return change


def refused(path: Path) -> tuple[str, float]:
    """What is said of a volume that is refused, and how many MB of memory were taken at most until then."""
    tracemalloc.start()
    try:
        with pytest.raises(InputError) as error:
            load_volume(path)
        return str(error.value), tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "NIfTI-2"])
@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (
            (32767, 32767, 32767),
            "has 32767 x 32767 x 32767 voxels by its header, more than the 268435456 that are read",
        ),
        ((600, 600, 800), "has 600 x 600 x 800 voxels by its header"),
        ((6, 5, 4, 32767, 32767), "has 6 x 5 x 4 x 32767 x 32767 voxels by its header"),
        ((600, 600, 700), "cannot be read as a volume, it may be truncated: its header claims 504000000 bytes"),
        ((-6, 5, 4), "cannot be read as a volume|is not a 3-D volume"),
        ((0, 5, 4), "cannot be read as a volume|is not a 3-D volume"),
        ((6, 5), "is not a 3-D volume|cannot be read as a volume"),
        ((6, 5, 2, 2), r"holds 2 volumes \(shape \(6, 5, 2, 2\)\)"),
    ],
)
def test_shapes(tmp_path: Path, kind: str, sizes: tuple[int, ...], message: str) -> None:
    path = write(tmp_path, kind, dims(*sizes))
    said, taken = refused(path)
    assert re.search(message, said)
    assert said.startswith(f"{path} ")
    assert len(said.splitlines()) == 1
    assert taken < 10


@pytest.mark.parametrize("kind", KINDS)
def test_a_volume_of_ones_more_axes_is_one(tmp_path: Path, kind: str) -> None:
    change = dims(6, 5, 4, 1, 1) if kind != "NIfTI-2" else lambda raw: None
    np.testing.assert_array_equal(np.sort(load_volume(write(tmp_path, kind, change)), None), np.sort(VOXELS, None))


@pytest.mark.parametrize("size", [-16, 0, 7, 2**31 - 1])
def test_extensions_are_not_read_to_the_end_of_what_a_small_file_holds(tmp_path: Path, size: int) -> None:
    """A hundred megabytes of zeros, in a tenth of one."""
    path = tmp_path / "a.nii.gz"
    image = nibabel.Nifti1Image(VOXELS, np.eye(4)).to_bytes()
    start = bytearray(image[:352])
    struct.pack_into("<f", start, 108, 400)
    start[348] = 1
    with gzip.open(path, "wb", compresslevel=9) as file:
        file.write(bytes(start) + struct.pack("<ii", size, 4) + bytes(40) + image[352:])
        for _ in range(100):
            file.write(bytes(2**20))
    said, taken = refused(path)
    assert said.startswith(f"{path} cannot be read as a volume")
    assert taken < 10


@pytest.mark.parametrize("offset", [1e9, 3e38, -1e9, float("nan"), float("inf")])
@pytest.mark.parametrize("kind", ["NIfTI-1", "NIfTI-1 compressed"])
def test_voxels_that_begin_nowhere(tmp_path: Path, kind: str, offset: float) -> None:
    path = write(tmp_path, kind, lambda raw: struct.pack_into("<f", raw, 108, offset))
    with pytest.raises(InputError, match=r"sub-01\.nii.* (claims that its voxels begin at byte|cannot be read as)"):
        load_volume(path)


def test_a_matrix_that_is_none(tmp_path: Path) -> None:
    path = write(tmp_path, "Analyze")
    path.with_suffix(".mat").write_bytes(bytes(2**17))
    with pytest.raises(InputError, match=r"sub-01\.mat has more than the 65536 bytes of a matrix: remove it"):
        load_volume(path)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(
    kind=st.sampled_from(sorted(KINDS)),
    changes=st.lists(st.tuples(st.integers(0, 559), st.sampled_from([0, 1, 127, 128, 255])), min_size=1, max_size=3),
)
def test_any_header_is_read_or_refused_in_a_line(
    kind: str, changes: list[tuple[int, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    def change(raw: bytearray) -> None:
        for place, byte in changes:
            raw[place % min(560, len(raw))] = byte

    message = ""
    try:
        load_volume(write(tmp_path_factory.getbasetemp(), kind, change))
    except InputError as error:
        message = str(error)
    assert "\n" not in message


def test_skip_bad_counts_it(tmp_path: Path) -> None:
    volumes = tmp_path / "volumes"
    volumes.mkdir()
    for subject in range(3):
        voxels = np.random.default_rng(subject).integers(1, 100, (20, 20, 20)).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), volumes / f"sub-{subject + 2:02d}.nii")
    write(volumes, "NIfTI-1", dims(32767, 32767, 32767))
    with pytest.raises(InputError, match=r"sub-01\.nii has 32767 x 32767 x 32767 voxels"):
        prepare_volumes(volumes, tmp_path / "out", num_slices=2, size=16, space="scanner")
    summary = prepare_volumes(volumes, tmp_path / "out2", num_slices=2, size=16, space="scanner", skip_bad=True)
    assert "1 volume left out:\n" in str(summary)
    assert "sub-01.nii has 32767" in str(summary)


@pytest.mark.parametrize(("unit", "length"), [("meter", 0.001), ("micron", 1000.0), ("unknown", 1.0)])
def test_lengths_are_millimeters_whatever_the_unit_of_the_header(tmp_path: Path, unit: str, length: float) -> None:
    affine = np.diag([2.0, 3.0, -2.5, 1.0])
    affine[:3, 3] = 7, -5, 11
    image = nibabel.Nifti1Image(VOXELS, np.diag([length, length, length, 1.0]) @ affine)
    image.header.set_xyzt_units(unit)
    nibabel.save(image, tmp_path / "a.nii")
    np.testing.assert_allclose(read_volume(tmp_path / "a.nii").affine, affine, rtol=1e-6)


@pytest.mark.parametrize(("unit", "told"), [("micron", "0.006 x 0.005 x 0.004 mm"), ("meter", "6000 x 5000 x 4000 mm")])
def test_no_head_is_so_small_or_so_large(tmp_path: Path, unit: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monai_vqprior.volumes.headers._MOST_SIDE", 5999.0)
    image = nibabel.Nifti1Image(VOXELS, np.eye(4))
    image.header.set_xyzt_units(unit)
    nibabel.save(image, tmp_path / "a.nii")
    with pytest.raises(InputError, match=rf"a\.nii is {told} large by its header, in which lengths are in {unit}s"):
        read_volume(tmp_path / "a.nii")
