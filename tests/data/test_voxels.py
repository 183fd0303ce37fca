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
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

from monai_vqprior.data.volumes import load_volume, volume_slices
from monai_vqprior.errors import InputError
from monai_vqprior.volumes import read_volume

# What a voxel means: where it lies, how large it is, and which value is background.

SPACINGS = [(1, 1, 3), (2, 1, 1), (1, 0.5, 2)]


def places(spacing: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """
    Voxels of a box of 60 mm: how far from the middle they are, where 1 is the surface of an ellipsoid of 18, 24 and 21
    mm, and their y in mm.
    """
    x, y, z = np.meshgrid(*((np.arange(round(60 / side)) + 0.5) * side - 30 for side in spacing), indexing="ij")
    return (x / 18) ** 2 + (y / 24) ** 2 + (z / 21) ** 2, y


def ellipsoid(spacing: tuple[float, ...]) -> np.ndarray:
    """An ellipsoid of intensities that grow along y, zero around it."""
    distance, y = places(spacing)
    return np.where(distance < 1, 500 + 3 * y, 0).astype(np.float32)


def shell(spacing: tuple[float, ...]) -> np.ndarray:
    """An ellipsoid that is bright all along its surface."""
    distance, _ = places(spacing)
    return np.where(distance < 1, np.where(distance < 0.2, 100, 500), 0).astype(np.float32)


def save(path: Path, voxels: np.ndarray, affine: np.ndarray | None = None) -> Path:
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4) if affine is None else affine), path)
    return path


@pytest.mark.parametrize("spacing", SPACINGS, ids=str)
@pytest.mark.parametrize("codes", ["RAS", "PSR", "LIA"])
def test_sides_follow_the_axes(tmp_path: Path, spacing: tuple[float, ...], codes: str) -> None:
    image = nibabel.Nifti1Image(ellipsoid(spacing), np.diag([*spacing, 1]))
    orientation = nibabel.orientations.axcodes2ornt(codes)
    stored = image.as_reoriented(nibabel.orientations.ornt_transform(nibabel.io_orientation(image.affine), orientation))
    assert nibabel.aff2axcodes(stored.affine) == tuple(codes)
    nibabel.save(stored, tmp_path / "v.nii")
    np.testing.assert_array_equal(load_volume(tmp_path / "v.nii"), ellipsoid(spacing))
    volume = read_volume(tmp_path / "v.nii")  # in its order of storage
    assert sorted(volume.voxel_sizes) == pytest.approx(sorted(spacing))
    assert nibabel.aff2axcodes(volume.affine) == tuple(codes)


@pytest.mark.parametrize("spacing", [(1, 1, 1), (0.5, 0.5, 0.5), *SPACINGS], ids=str)
@pytest.mark.parametrize(("axis", "width", "height"), [(0, 24, 21), (1, 18, 21), (2, 18, 24)])
def test_a_millimeter_is_as_wide_as_high(spacing: tuple[float, ...], axis: int, width: float, height: float) -> None:
    volume = shell(spacing)
    picture = volume_slices(volume, axis, num_slices=1, size=120, voxel_size=spacing)[0] > 127
    tolerance = 2 * max(spacing) + 2  # 60 mm are 120 pixels, and half a voxel is lost at each end
    assert abs(picture.any(0).sum() - 4 * width) <= tolerance
    assert abs(picture.any(1).sum() - 4 * height) <= tolerance


def test_stretching_is_bilinear() -> None:
    """A slope stays one: at the centers of its pixels, 4 for each voxel of 4 mm."""
    volume = np.zeros((16, 4, 1), np.float32)
    volume[:] = np.linspace(100, 400, 4)[None, :, None]
    picture = volume_slices(volume, num_slices=1, size=16, percentiles=(0, 100), voxel_size=(1, 4, 1))[0]
    expected = np.interp((np.arange(16) + 0.5) / 4 - 0.5, np.arange(4), np.linspace(0, 255, 4))[::-1]
    assert np.abs(picture.astype(float) - expected[:, None])[2:-2].max() <= 0.51  # out of the volume all is 0


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("spacing", [(1, 1, 1), (1, 1, 1.01)], ids=str)
def test_cubes_are_left_alone(tmp_path: Path, suffix: str, spacing: tuple[float, ...]) -> None:
    voxels = ellipsoid((1, 1, 1))
    read = read_volume(save(tmp_path / f"v{suffix}", voxels, np.diag([*spacing, 1])))
    plain = volume_slices(read.data, num_slices=4, size=60)
    shown = volume_slices(read.data, num_slices=4, size=60, voxel_size=tuple(read.voxel_sizes))
    assert np.abs(shown.astype(int) - plain).max() <= 1


def change(function: Callable[[nibabel.Nifti1Image], None]) -> Callable[[Path], Path]:
    """A volume of 1 x 1 x 3 mm with a changed header."""

    def write(path: Path) -> Path:
        image = nibabel.Nifti1Image(ellipsoid((1, 1, 3)), np.diag([1, 1, 3, 1]))
        image.set_qform(np.diag([1, 1, 3, 1]), 1)
        function(image)
        nibabel.save(image, path)
        return path

    return write


def sheared(image: nibabel.Nifti1Image) -> None:
    affine = np.diag([1.0, 1, 3, 1])
    affine[1, 2] = 1
    image.set_sform(affine, 1)
    image.header["qform_code"] = 0


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda image: image.set_sform(np.diag([-1, 1, 3, 1]), 1), "two orientations in its header, LAS by its sform"),
        (lambda image: image.set_qform(np.diag([1, -1, -3, 1]), 1), "two orientations in its header, RAS by its sform"),
        (lambda image: image.set_sform(np.eye(4), 1), "1 x 1 x 3 mm by the pixdim of its header, and of 1 x 1 x 1 mm"),
        (lambda image: image.header.set_zooms((1, 1, 1)), "1 x 1 x 1 mm by the pixdim of its header, and of 1 x 1 x 3"),
        (lambda image: image.set_sform(np.diag([1, 1, 500, 1]), 1), "voxels of 1 x 1 x 500 mm by its header"),
        (sheared, "axes that are not at right angles"),
    ],
)
def test_headers_that_contradict_themselves(
    tmp_path: Path, function: Callable[[nibabel.Nifti1Image], None], message: str
) -> None:
    path = change(function)(tmp_path / "v.nii.gz")
    with pytest.raises(InputError, match=message) as error:
        load_volume(path)
    assert str(error.value).startswith(f"{path} ")
    assert "\n" not in str(error.value)


def test_no_orientation(tmp_path: Path) -> None:
    """nibabel would take x to run to the left."""
    path = save(tmp_path / "v.nii", ellipsoid((1, 1, 1)))
    raw = bytearray(path.read_bytes())
    raw[252:256] = bytes(4)  # qform_code and sform_code, 16 bits each
    path.write_bytes(raw)
    with pytest.raises(InputError, match=r"v\.nii does not tell left from right \(its sform_code and qform_code"):
        load_volume(path)


def test_a_template_turns_and_stretches_a_little(tmp_path: Path) -> None:
    turned = nibabel.affines.from_matvec(nibabel.eulerangles.euler2mat(0.2, 0.1, -0.2) @ np.diag([1.1, 1.05, 3.3]))
    path = change(lambda image: image.set_sform(turned, 4))(tmp_path / "v.nii")
    assert read_volume(path).voxel_sizes == pytest.approx((1.1, 1.05, 3.3), rel=1e-5)


@pytest.mark.parametrize("change_qform", [True, False])
def test_an_orientation_alone_is_enough(tmp_path: Path, change_qform: bool) -> None:
    def drop(image: nibabel.Nifti1Image) -> None:
        image.header["sform_code" if change_qform else "qform_code"] = 0

    assert read_volume(change(drop)(tmp_path / "v.nii")).voxel_sizes == pytest.approx((1, 1, 3))


def test_every_damage_of_a_compressed_volume_is_found(tmp_path: Path) -> None:
    """Also that which decompresses, by the checksum that lies behind the last voxel."""
    voxels = np.random.default_rng(0).integers(1, 100, (12, 12, 12)).astype(np.int16)
    path = save(tmp_path / "v.nii.gz", voxels)
    whole = gzip.compress(gzip.decompress(path.read_bytes()), 0, mtime=0)
    path.write_bytes(whole)
    np.testing.assert_array_equal(load_volume(path), voxels)
    for place in range(400, len(whole), 37):
        damaged = bytearray(whole)
        damaged[place] ^= 4
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"v\.nii\.gz cannot be read as a volume"):
            load_volume(path)
    path.write_bytes(whole[:-8])  # without the checksum
    with pytest.raises(InputError, match=r"v\.nii\.gz cannot be read as a volume"):
        load_volume(path)


def test_much_more_than_the_voxels_is_not_decompressed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monai_vqprior.volumes.headers._MOST_HEADER_BYTES", 1000)
    path = save(tmp_path / "v.nii.gz", ellipsoid((2, 2, 2)))
    load_volume(path)
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + bytes(1000)))
    with pytest.raises(InputError, match=r"v\.nii\.gz holds more than the \d+ bytes of its header and voxels"):
        load_volume(path)


class TestIntensities:
    @pytest.mark.parametrize("offset", [-1024, -3.5])
    def test_a_negative_background_is_black(self, offset: float) -> None:
        """As in CT: the same pictures as without the offset, also where a voxel of the brain is 0."""
        volume = ellipsoid((1, 1, 1))
        volume[30, 30, 30] = -offset  # which becomes 0
        plain = volume_slices(volume, num_slices=3, size=60)
        shifted = volume_slices(volume + np.float32(offset), num_slices=3, size=60)
        assert np.abs(shifted.astype(int) - plain).max() <= 1

    def test_background_of_zero_in_the_middle_of_the_range(self) -> None:
        """As of z-scores within a mask."""
        volume = ellipsoid((1, 1, 1))
        inside = volume > 0
        volume[inside] = (volume[inside] - volume[inside].mean()) / volume[inside].std()
        low, high = np.percentile(volume[inside], (0.5, 99.5))
        expected = np.rint(np.clip((volume - low) / (high - low), 0, 1) * 255) * inside
        shown = volume_slices(volume, num_slices=1, size=60)[0]
        assert np.abs(shown.astype(float) - np.rot90(expected[:, :, 29])).max() <= 1

    def test_without_a_background_no_voxel_is_set_to_black(self) -> None:
        volume = np.random.default_rng(0).integers(-50, 51, (16, 16, 1)).astype(np.float32)
        shown = volume_slices(volume, num_slices=1, size=16, percentiles=(0, 100))[0]
        np.testing.assert_allclose(shown, np.rot90((volume[:, :, 0] + 50) / 100 * 255), atol=0.5)

    @pytest.mark.parametrize(("slope", "inter"), [(0.5, 0), (2, 100), (0.01, -5)])
    def test_slope_and_intercept(self, tmp_path: Path, slope: float, inter: float) -> None:
        image = nibabel.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.eye(4))
        image.header.set_slope_inter(slope, inter)
        nibabel.save(image, tmp_path / "v.nii")
        raw = np.frombuffer((tmp_path / "v.nii").read_bytes()[352:], "<i2").reshape(3, 4, 5, order="F")
        header = nibabel.load(tmp_path / "v.nii").dataobj
        np.testing.assert_allclose(load_volume(tmp_path / "v.nii"), raw * header.slope + header.inter, rtol=1e-5)

    def test_colors_are_refused(self, tmp_path: Path) -> None:
        colors = np.zeros((4, 4, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")])
        with pytest.raises(InputError, match=r"v\.nii holds voxels of type .*, not real numbers"):
            load_volume(save(tmp_path / "v.nii", colors))
