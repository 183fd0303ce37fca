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

import nibabel
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import gaussian_filter
from small_volumes import RAS, brain, save

from monai_vqprior.data.volumes import find_volumes, load_volume, session_of, subject_of, volume_slices
from monai_vqprior.errors import InputError


def truncate(path: Path, keep: float = 0.5) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    return path


class TestFindVolumes:
    def test_lists_each_format_once_and_in_natural_order(self, tmp_path: Path) -> None:
        for name in ("b/v10.nii", "b/v9.nii.gz", "a.img", "v2.nii"):
            save(tmp_path / name)
        for name in ("notes.txt", ".hidden.nii", "a.nii.json"):
            (tmp_path / name).write_text("")
        found = [path.relative_to(tmp_path).as_posix() for path in find_volumes(tmp_path)]
        assert found == ["a.img", "b/v9.nii.gz", "b/v10.nii", "v2.nii"]

    def test_takes_the_masked_images_of_an_oasis_disc(self, disc: Path) -> None:
        found = find_volumes(disc)
        assert len(found) == 6
        assert all(path.name.endswith("_t88_masked_gfc.img") for path in found)

    def test_pattern_overrides_the_choice(self, disc: Path) -> None:
        assert {path.parent.name for path in find_volumes(disc, "RAW/*")} == {"RAW"}
        assert {path.name[-9:] for path in find_volumes(disc, "*_fseg.*")} == {"_fseg.img"}

    @pytest.mark.parametrize(
        ("pattern", "message"),
        [("*_T2w*", r"no volume .* that matches '\*_T2w\*'"), ("/*.nii", "relative glob")],
    )
    def test_refuses_a_pattern_without_volumes(self, bids: Path, pattern: str, message: str) -> None:
        with pytest.raises(InputError, match=message):
            find_volumes(bids, pattern)

    def test_refuses_a_folder_without_volumes(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="absent is not a folder"):
            find_volumes(tmp_path / "absent")
        with pytest.raises(InputError, match="holds no volume"):
            find_volumes(tmp_path)


@pytest.mark.parametrize(
    ("name", "subject", "session"),
    [
        ("OAS1_0061_MR2_mpr_n4_anon_111_t88_masked_gfc.img", "OAS1_0061", "OAS1_0061_MR2"),
        ("OAS1_0001_MR1.nii.gz", "OAS1_0001", "OAS1_0001_MR1"),
        ("OAS1_0001.nii", "OAS1_0001", "OAS1_0001"),
        ("OAS1_00012.nii", "OAS1_00012", "OAS1_00012"),
        ("OAS2_0007_MR3_mpr-1.nii", "OAS2_0007", "OAS2_0007_MR3"),
        ("x/sub-01/sub-01_ses-02_acq-a_T1w.nii.gz", "sub-01", "sub-01_ses-02"),
        ("sub-a1.nii.gz", "sub-a1", "sub-a1"),
        ("patient.7.nii.gz", "patient.7", "patient.7"),
        ("case9.img", "case9", "case9"),
    ],
)
def test_subject_and_session_from_the_name(name: str, subject: str, session: str) -> None:
    assert subject_of(name) == subject
    assert session_of(Path(name)) == session


class TestLoadVolume:
    @pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".img"])
    def test_reads_what_nibabel_wrote(self, tmp_path: Path, suffix: str) -> None:
        volume = load_volume(save(tmp_path / f"v{suffix}", brain()))
        assert volume.dtype == np.float32
        np.testing.assert_array_equal(volume, brain())

    def test_reads_a_nifti_pair(self, tmp_path: Path) -> None:
        nibabel.save(nibabel.Nifti1Pair(brain(), RAS), tmp_path / "v.img")
        np.testing.assert_array_equal(load_volume(tmp_path / "v.img"), brain())

    def test_drops_trailing_axes_of_length_one(self, tmp_path: Path) -> None:
        np.testing.assert_array_equal(load_volume(save(tmp_path / "v.img", brain()[..., None])), brain())
        np.testing.assert_array_equal(load_volume(save(tmp_path / "v.nii", brain()[..., None, None])), brain())

    @pytest.mark.parametrize("codes", ["LAS", "RPI", "PSR", "ILA"])
    def test_turns_any_orientation_to_ras(self, tmp_path: Path, codes: str) -> None:
        # Axis i of the stored array runs along the anatomical axis that codes[i] names.
        axes = [{"L": 0, "R": 0, "P": 1, "A": 1, "I": 2, "S": 2}[code] for code in codes]
        affine = np.zeros((4, 4))
        affine[3, 3] = 1
        for stored, (axis, code) in enumerate(zip(axes, codes, strict=True)):
            affine[axis, stored] = 1 if code in "RAS" else -1
        stored_data = brain().transpose(axes)
        stored_data = stored_data[tuple(slice(None, None, 1 if code in "RAS" else -1) for code in codes)]
        np.testing.assert_array_equal(load_volume(save(tmp_path / "v.nii", stored_data, affine)), brain())

    @pytest.mark.parametrize("keep", [0.0, 0.02, 0.5])
    @pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".img"])
    def test_refuses_a_truncated_file(self, tmp_path: Path, suffix: str, keep: float) -> None:
        path = truncate(save(tmp_path / f"broken{suffix}"), keep)
        with pytest.raises(InputError, match=r"broken\S* cannot be read as a volume"):
            load_volume(path)

    def test_refuses_what_is_no_volume(self, tmp_path: Path) -> None:
        (tmp_path / "text.nii").write_text("not a volume " * 100)
        with pytest.raises(InputError, match=r"text\.nii cannot be read"):
            load_volume(tmp_path / "text.nii")
        with pytest.raises(InputError, match=r"absent\.nii cannot be read"):
            load_volume(tmp_path / "absent.nii")

    def test_refuses_data_on_a_surface(self, tmp_path: Path) -> None:
        axes = (nibabel.cifti2.ScalarAxis(["thickness"]), nibabel.cifti2.BrainModelAxis.from_mask(np.ones((4, 4, 4))))
        nibabel.save(nibabel.Cifti2Image(np.ones((1, 64), np.float32), axes), tmp_path / "v.dscalar.nii")
        with pytest.raises(InputError, match=r"v\.dscalar\.nii is not a volume: nibabel reads it as Cifti2Image"):
            load_volume(tmp_path / "v.dscalar.nii")

    def test_refuses_an_img_without_hdr(self, tmp_path: Path) -> None:
        path = save(tmp_path / "alone.img")
        path.with_suffix(".hdr").unlink()
        with pytest.raises(InputError, match=r"alone\.img has no header: alone\.hdr"):
            load_volume(path)

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
    def test_refuses_nan_and_infinity(self, tmp_path: Path, value: float) -> None:
        data = brain().astype(np.float64)
        data[3, 3, 3:5] = value
        with pytest.raises(InputError, match=r"v\.nii holds NaN or infinity in 2 of its 3840 voxels"):
            load_volume(save(tmp_path / "v.nii", data))

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (np.ones((4, 4, 4, 3), np.int16), r"v\.nii holds 3 volumes"),
            (np.ones((4, 4, 4, 1, 3), np.int16), r"v\.nii holds 3 volumes"),
            (np.ones((4, 4), np.int16), r"v\.nii is not a 3-D volume: its shape is \(4, 4\)"),
            (np.ones((4, 4, 4), np.complex64), r"v\.nii holds voxels of type complex64"),
            (np.zeros((4, 4, 4), np.int16), r"v\.nii is empty: each of its voxels is 0"),
            (np.full((4, 4, 4), 7, np.int16), r"v\.nii is empty: each of its voxels is 7"),
        ],
    )
    def test_refuses_all_but_one_volume_with_content(self, tmp_path: Path, data: np.ndarray, message: str) -> None:
        with pytest.raises(InputError, match=message):
            load_volume(save(tmp_path / "v.nii", data))


class TestVolumeSlices:
    @pytest.mark.parametrize(
        ("axis", "corners"),
        [
            # (top left, top right, bottom left, bottom right) as (x, y, z), 0 the low end and -1 the high end
            (2, [(0, -1, 8), (-1, -1, 8), (0, 0, 8), (-1, 0, 8)]),  # anterior on top, left on the left
            (1, [(0, 8, -1), (-1, 8, -1), (0, 8, 0), (-1, 8, 0)]),  # superior on top, left on the left
            (0, [(8, 0, -1), (8, -1, -1), (8, 0, 0), (8, -1, 0)]),  # superior on top, anterior on the right
        ],
    )
    def test_orientation(self, axis: int, corners: list[tuple[int, int, int]]) -> None:
        volume = np.zeros((18, 18, 18), np.float32)
        volume[8, 8, 8] = 5.0  # a mark in the middle, which becomes 0
        for value, corner in zip((10.0, 20.0, 35.0, 56.0), corners, strict=True):
            volume[corner] = value
        picture = volume_slices(volume, axis, num_slices=1, size=18, percentiles=(0, 100))[0]
        shown = [picture[0, 0], picture[0, -1], picture[-1, 0], picture[-1, -1]]
        assert shown == [25, 75, 150, 255]  # (value - 5) / 51 * 255
        assert np.count_nonzero(picture[5:-5, 5:-5]) == 0

    def test_scales_by_the_percentiles_of_the_non_zero_voxels(self) -> None:
        volume = brain(1, (16, 16, 10)).astype(np.float32)
        low, high = np.percentile(volume[volume != 0], (5, 90))
        expected = np.clip((volume.astype(np.float64) - low) / (high - low), 0, 1) * 255
        expected[volume == 0] = 0
        slices = volume_slices(volume, num_slices=4, size=16, percentiles=(5, 90))
        assert slices.dtype == np.uint8
        for index, z in enumerate((3, 4, 5, 6)):
            np.testing.assert_array_equal(slices[index], np.rint(np.rot90(expected[:, :, z])))

    @settings(max_examples=60, deadline=None)
    @given(
        volume=arrays(np.float32, (16, 16, 1), elements=st.just(0.0) | st.floats(0, 1e6, width=32)),
        low=st.floats(0, 40),
        high=st.floats(60, 100),
    )
    def test_scaling_keeps_order_range_and_background(self, volume: np.ndarray, low: float, high: float) -> None:
        foreground = volume[volume != 0].astype(np.float64)
        assume(foreground.size > 0)
        bottom, top = np.percentile(foreground, (low, high))
        assume(bottom < top)
        picture = np.rot90(volume_slices(volume, num_slices=1, size=16, percentiles=(low, high))[0], -1).astype(int)
        values = volume[:, :, 0]
        assert np.all(picture[values == 0] == 0)
        assert np.all(picture[(values != 0) & (values <= bottom)] == 0)
        assert np.all(picture[(values != 0) & (values >= top)] == 255)
        order = np.argsort(values[values != 0], kind="stable")
        assert np.all(np.diff(picture[values != 0][order]) >= 0)

    def test_pads_to_a_square_around_the_field_of_view(self) -> None:
        volume = np.ones((10, 16, 1), np.float32)
        volume[0] = 2.0
        picture = volume_slices(volume, num_slices=1, size=16, percentiles=(0, 100))[0]
        expected = np.zeros((16, 16))
        expected[:, 3] = 255  # x = 0 lies behind (16 - 10) / 2 columns of padding
        np.testing.assert_array_equal(picture, expected)

    def test_enlarges_bilinearly(self) -> None:
        volume = brain(2, (16, 16, 3)).astype(np.float64)
        volume[2:-2, 2:-2, 1] = np.random.default_rng(2).integers(1, 1001, (12, 12))
        volume[5, 5, 1], volume[6, 6, 1] = 1, 1000  # the percentiles 0 and 100
        plane = np.rot90(np.where(volume == 0, 0, (volume - 1) / 999 * 255)[:, :, 1])
        # Pixel centers of the fine grid in units of the coarse one; what lies outside continues the border.
        position = np.clip((np.arange(24) + 0.5) * 16 / 24 - 0.5, 0, 15)
        rows = np.stack([np.interp(position, np.arange(16), column) for column in plane.T], axis=1)
        expected = np.stack([np.interp(position, np.arange(16), row) for row in rows])
        picture = volume_slices(volume, num_slices=1, size=24, percentiles=(0, 100))[0]
        np.testing.assert_allclose(picture, expected, atol=0.5001)

    def test_filters_before_it_shrinks(self) -> None:
        stripes = np.zeros((48, 48, 1), np.float32)
        stripes[::2] = 100.0
        stripes[0, 0] = 50.0  # some spread to scale by; it becomes 0
        picture = volume_slices(stripes, num_slices=1, size=16, percentiles=(0, 100))[0]
        filtered = gaussian_filter(np.where(np.rot90(stripes[:, :, 0]) == 100, 255.0, 0.0), sigma=1, mode="nearest")
        # The center of pixel i of 16 is voxel 3 i + 1 of 48: three times coarser on the same field of view.
        np.testing.assert_allclose(picture[:, 1:-1], filtered[1::3, 1::3][:, 1:-1], atol=0.51)
        assert np.ptp(picture[4:-4, 4:-4].astype(int)) < 10  # no moiré

    @pytest.mark.parametrize(
        ("length", "arguments", "expected"),
        [
            (10, {"num_slices": 4}, [3, 4, 5, 6]),
            (9, {"num_slices": 3}, [3, 4, 5]),
            (9, {"num_slices": 4}, [2, 3, 4, 5]),
            (10, {"num_slices": 4, "center_offset": 3}, [6, 7, 8, 9]),
            (10, {"num_slices": 4, "center_offset": -3}, [0, 1, 2, 3]),
            (10, {"num_slices": 4, "spacing": 2}, [1, 3, 5, 7]),
            (10, {"num_slices": 4, "spacing": 3}, [0, 3, 6, 9]),
            (10, {"num_slices": 10}, [*range(10)]),
        ],
    )
    def test_takes_slices_around_the_middle(self, length: int, arguments: dict[str, int], expected: list[int]) -> None:
        volume = np.broadcast_to(np.arange(1.0, length + 1), (16, 16, length))  # the value tells the slice
        slices = volume_slices(volume, size=16, percentiles=(0, 100), **arguments)
        np.testing.assert_array_equal(slices[:, 8, 8], np.rint(np.array(expected) / (length - 1) * 255))

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"num_slices": 13}, "num_slices=13 .* asks for the slices -1 to 11, but the volume has 12 along axis 2"),
            ({"num_slices": 4, "center_offset": 5}, "center_offset=5 asks for the slices 9 to 12.* has 12 along"),
            ({"num_slices": 4, "center_offset": -5}, "center_offset=-5 asks for the slices -1 to 2.* has 12 along"),
            ({"num_slices": 4, "spacing": 4}, "spacing=4"),
            ({"num_slices": 17, "axis": 0}, "has 16 along axis 0"),
            ({"num_slices": 0}, "num_slices must be a whole number in 1..100000, got 0"),
            ({"spacing": 0}, "spacing must be a number above 0 and at most 1000, got 0"),
            ({"size": 17}, "size must be an even number in 16..8192, got 17"),
            ({"size": 14}, "size must be an even number in 16..8192, got 14"),
            ({"axis": 3}, "axis must be a whole number in 0..2, got 3"),
            ({"axis": -1}, "axis must be a whole number in 0..2, got -1"),
            ({"percentiles": (99, 1)}, r"percentiles must be two ascending numbers from 0 to 100, got \(99, 1\)"),
            ({"percentiles": (5, 5)}, "percentiles must be"),
            ({"percentiles": (-1, 99)}, "percentiles must be"),
            ({"percentiles": (1, 101)}, "percentiles must be"),
            ({"percentiles": (1,)}, "percentiles must be"),
        ],
    )
    def test_refuses_arguments_out_of_range(self, arguments: dict, message: str) -> None:
        with pytest.raises(InputError, match=message):
            volume_slices(brain().astype(np.float32), **arguments)

    @pytest.mark.parametrize(
        ("volume", "message"),
        [
            (np.zeros((16, 16, 4)), "the volume is empty"),
            (np.tri(16)[..., None] * np.ones(4), "of the non-zero voxels are 1 and 1: nothing to scale"),
            (np.ones((16, 16)), r"3 axes, got the shape \(16, 16\)"),
        ],
    )
    def test_refuses_volumes_without_spread(self, volume: np.ndarray, message: str) -> None:
        with pytest.raises(InputError, match=message):
            volume_slices(volume, num_slices=1)

    def test_same_slices_from_a_flipped_affine(self, tmp_path: Path) -> None:
        flipped = np.diag([-1.0, -1.0, 1.0, 1.0])
        paths = [
            save(tmp_path / "a.nii", brain()),
            save(tmp_path / "b.nii", brain()[::-1, ::-1], flipped),
            save(tmp_path / "c.img", brain()),
        ]
        first, *others = [volume_slices(load_volume(path), num_slices=4, size=32) for path in paths]
        for other in others:
            np.testing.assert_array_equal(other, first)
