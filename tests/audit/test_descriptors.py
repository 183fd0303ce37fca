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

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage.draw import disk, ellipse
from skimage.measure import label

from monai_vqprior.audit import ANATOMY, DESCRIPTORS, coarse_pictures, describe, fluid_share, rank_correlation

SIZE = 128


def head(*holes: tuple[int, int, int], level: int = 160) -> np.ndarray:
    """An ellipse of brain with round holes of fluid at (row, column, radius)."""
    image = np.zeros((SIZE, SIZE), np.uint8)
    image[ellipse(64, 64, 55, 45)] = level
    for row, column, radius in holes:
        image[disk((row, column), radius)] = 20
    return image


def described(*images: np.ndarray) -> dict[str, np.ndarray]:
    return describe(torch.as_tensor(np.stack(images))[:, None])


def test_a_head_by_hand() -> None:
    image = head((64, 54, 6), (64, 74, 6))
    found = {name: values[0] for name, values in described(image).items()}
    brain = head() > 0
    assert list(found) == list(DESCRIPTORS)
    assert found["brain_area"] == pytest.approx(brain.mean())
    assert found["fluid_parts"] == label(image[30:98, 40:90] == 20).max() == 2
    inner = ndimage.distance_transform_edt(brain) > 0.11 * SIZE
    assert found["fluid_share"] == pytest.approx(((image == 20) & inner).sum() / inner.sum(), rel=0.05)
    assert found["mean"] == pytest.approx(image[brain].mean() / 255)
    assert found["std"] == pytest.approx(image[brain].std() / 255)


def test_sides() -> None:
    symmetric, one_sided = described(head((64, 54, 6), (64, 74, 6))), described(head((64, 54, 6)))
    assert symmetric["fluid_asymmetry"][0] < 0.1
    assert one_sided["fluid_asymmetry"][0] > 0.8
    assert symmetric["mirror_correlation"][0] > one_sided["mirror_correlation"][0]
    assert symmetric["mirror_difference"][0] < one_sided["mirror_difference"][0]


def test_a_mirror_image_has_the_same_descriptors() -> None:
    image = head((60, 50, 7), (70, 80, 4))
    found = described(image, image[:, ::-1].copy())
    for name, values in found.items():
        assert values[0] == pytest.approx(values[1], rel=0.02, abs=0.01), name


def test_texture_changes_texture_only() -> None:
    plain = head((64, 54, 6), (64, 74, 6))
    noise = np.random.default_rng(0).normal(0, 24, plain.shape) * (plain > 100)
    found = described(plain, np.clip(plain + noise, 0, 255).astype(np.uint8))
    for name in ANATOMY:
        assert found[name][0] == pytest.approx(found[name][1], rel=0.05, abs=0.02), name
    assert found["fine_detail"][1] > 1.5 * found["fine_detail"][0]
    assert found["edges"][1] > found["edges"][0]


def test_slope_of_a_known_spectrum() -> None:
    """Noise whose power falls with the square of the frequency."""
    frequency = np.hypot(np.fft.fftfreq(SIZE)[:, None], np.fft.rfftfreq(SIZE)[None])
    frequency[0, 0] = 1
    white = np.fft.rfft2(np.random.default_rng(0).normal(size=(SIZE, SIZE)))
    image = np.fft.irfft2(white / frequency, s=(SIZE, SIZE))
    image = (image - image.min()) / np.ptp(image)
    slope = describe(torch.as_tensor(image)[None, None])["spectrum_slope"][0]
    assert slope == pytest.approx(-2, abs=0.1)


def test_slices_without_a_brain() -> None:
    found = described(np.zeros((SIZE, SIZE), np.uint8), np.full((SIZE, SIZE), 255, np.uint8))
    assert all(np.isfinite(values).all() for values in found.values())
    assert all(values[0] == 0 for values in found.values())


def test_coarse_pictures_are_means_of_blocks() -> None:
    image = np.random.default_rng(0).integers(0, 256, (2, 1, 64, 32)).astype(np.uint8)
    values = np.where(image < 0.1 * 255, 0, image / 255)
    expected = values.reshape(2, 8, 8, 8, 4).mean((2, 4)).reshape(2, 64)
    np.testing.assert_allclose(coarse_pictures(torch.as_tensor(image)), expected, atol=0.0051)


def test_a_dark_background_is_black() -> None:
    clean, dark = head(), np.where(head() == 0, 4, head()).astype(np.uint8)
    pictures = coarse_pictures(torch.as_tensor(np.stack([clean, dark]))[:, None])
    np.testing.assert_array_equal(pictures[0], pictures[1])


def test_fluid_of_the_inner_brain() -> None:
    images = torch.as_tensor(np.stack([head(), head((64, 64, 8)), np.zeros((SIZE, SIZE), np.uint8)]))[:, None] / 255
    shares = fluid_share(images)
    assert shares[0] == 0
    assert 0.02 < shares[1] < 0.1
    assert np.isnan(shares[2])


def test_rank_correlation_of_what_is_known() -> None:
    assert rank_correlation(np.array([1.0, 2, 3]), np.array([1.0, 4, 9])) == pytest.approx(1)
    assert rank_correlation(np.array([1.0, 2, 3, 4]), np.array([3.0, 2, 1, np.nan])) == pytest.approx(-1)
    assert rank_correlation(np.ones(3), np.arange(3.0)) is None
