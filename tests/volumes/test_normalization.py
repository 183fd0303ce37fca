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

from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

from monai_vqprior.errors import InputError
from monai_vqprior.prepare_arguments import Cutting
from monai_vqprior.volumes import HeadCutter, Volume, correct_bias, scale_by_percentiles, scale_by_white_matter
from monai_vqprior.volumes.normalization import white_matter_peak


def tissues(gain: float = 1.0, bright: int = 4) -> Volume:
    """A ball of grey matter (about 60) around one of white matter (about 100), with noise, and some bright voxels."""
    x, y, z = np.meshgrid(*[np.arange(-24, 24)] * 3, indexing="ij")
    radius = np.sqrt(x**2 + y**2 + z**2)
    values = np.where(radius < 15, 100, 60) + np.random.default_rng(0).normal(0, 4, radius.shape)
    values[20:22, 20:24, 20 : 20 + bright] = 300
    return Volume(np.where(radius < 22, values * gain, 0).astype(np.float32), np.diag([2.0, 2.0, 2.0, 1.0]))


@pytest.mark.parametrize("gain", [0.01, 1.0, 37.0])
def test_white_matter_is_found_whatever_the_unit(gain: float) -> None:
    volume = tissues(gain)
    assert white_matter_peak(volume) == pytest.approx(100 * gain, rel=0.03)
    scaled = scale_by_white_matter(volume).data
    inside = np.median(scaled[18:30, 18:30, 30:36])
    assert inside == pytest.approx(200, abs=6)
    assert scaled.max() == 255
    assert (scaled[volume.data == 0] == 0).all()


def test_slices_show_white_matter_alike_whatever_is_brighter(tmp_path: Path) -> None:
    """Vessels and eyes that a stripping program has left move the percentiles of a head, not its white matter."""
    shown: dict[str, list[float]] = {"percentiles": [], "white_matter": []}
    for scaling, brightness in shown.items():
        cutter = HeadCutter(
            Cutting(space="native", scaling=scaling, size=48, voxel_size=2, num_slices=3, spacing=6, center=-9.5)
        )
        for gain, bright in ((0.3, 4), (20.0, 40)):
            head = tissues(gain, bright)
            if bright > 4:
                head.data[10:16, 20:28, 20:28] = 300 * gain
            path = tmp_path / f"head{bright}.nii.gz"
            nibabel.save(nibabel.Nifti1Image(head.data, head.affine), path)
            slices = cutter(path, path.name).slices
            brightness.append(float(np.median(slices[:, 20:28, 26:34])))
    assert shown["white_matter"] == pytest.approx([200, 200], abs=6)
    assert abs(np.subtract(*shown["percentiles"])) > 30


def test_percentiles_are_those_of_numpy() -> None:
    volume = tissues()
    scaled = scale_by_percentiles(volume, (5, 95)).data
    low, high = np.percentile(volume.data[volume.data != 0], (5, 95))
    expected = np.interp(volume.data, (low, high), (0, 255))
    expected[volume.data == 0] = 0
    np.testing.assert_allclose(scaled, expected, atol=0.01)


def test_what_cannot_be_scaled() -> None:
    empty = Volume(np.zeros((4, 4, 4), np.float32), np.eye(4))
    mask = Volume(np.ones((4, 4, 4), np.float32), np.eye(4))
    for scale in (scale_by_percentiles, scale_by_white_matter):
        with pytest.raises(InputError, match="empty"):
            scale(empty)
        with pytest.raises(InputError, match="mask"):
            scale(mask)


def test_a_bias_field_is_taken_away() -> None:
    pytest.importorskip("SimpleITK")
    plain = tissues()
    along = np.linspace(0.7, 1.3, 48, dtype=np.float32)[:, None, None]
    biased = Volume(plain.data * along, plain.affine)

    def spread(volume: Volume) -> float:
        """Of the white matter, relative to its mean."""
        white = volume.data[(plain.data > 88) & (plain.data < 112)]
        return float(white.std() / white.mean())

    corrected = correct_bias(biased)
    assert spread(biased) > 0.08
    assert spread(corrected) < 0.6 * spread(biased)
    assert corrected.data[plain.data > 0].mean() == pytest.approx(biased.data[plain.data > 0].mean(), rel=1e-3)
    assert (corrected.data[plain.data == 0] == 0).all()


def test_a_field_has_the_axes_of_its_volume(sample: Callable[..., Volume]) -> None:
    pytest.importorskip("SimpleITK")
    volume = sample(np.diag([4.0, 3.0, 5.0]))
    assert correct_bias(volume).data.shape == volume.data.shape
