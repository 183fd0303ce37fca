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
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from monai.losses import SSIMLoss
from monai.metrics import SSIMMetric
from skimage.metrics import structural_similarity

from monai_vqprior.data import phantom_slice
from monai_vqprior.losses import ssim_map
from monai_vqprior.losses.structural_similarity import _window_matrix

MARGIN = 5  # windows of 11 pixels are centered on what is 5 pixels from the border


def batch(image: np.ndarray) -> torch.Tensor:
    """(H, W) -> (1, 1, H, W) float32."""
    return torch.from_numpy(image).float()[None, None]


def random_pair(*shape: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator), torch.rand(shape, generator=generator)


def pair(name: str, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Two images in 0..1 to compare."""
    rng = np.random.default_rng(size)
    brain = phantom_slice(subject=0, index=10, size=size).image / 255
    return {
        "two brains": (phantom_slice(subject=1, index=10, size=size).image / 255, brain),
        "a brain and itself": (brain, brain),
        "a noisy brain": (np.clip(brain + rng.normal(0, 0.1, brain.shape), 0, 1), brain),
        "a faint brain": (0.6 * brain, brain),
        "a brain and black": (np.zeros_like(brain), brain),
        "noise": (rng.random((size, size + 7)), rng.random((size, size + 7))),
        "nearly white": (1 - 1e-3 * rng.random((size, size)), np.ones((size, size))),
    }[name]


NAMES = [
    "two brains",
    "a brain and itself",
    "a noisy brain",
    "a faint brain",
    "a brain and black",
    "noise",
    "nearly white",
]


class TestAgainstOthers:
    @pytest.mark.parametrize("size", [64, 128, 300])
    @pytest.mark.parametrize("name", NAMES)
    def test_scikit_image(self, name: str, size: int) -> None:
        prediction, target = pair(name, size)
        mean, full = structural_similarity(
            target, prediction, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1, full=True
        )
        similarity = ssim_map(batch(prediction), batch(target))
        assert similarity.dtype == torch.float32
        assert similarity.mean().item() == pytest.approx(mean, abs=1e-4 if name == "nearly white" else 2e-6)
        inner = full[MARGIN:-MARGIN, MARGIN:-MARGIN]
        np.testing.assert_allclose(similarity[0, 0], inner, atol=1e-3)

    @pytest.mark.parametrize("size", [64, 128])
    @pytest.mark.parametrize("name", NAMES[:-1])
    def test_monai(self, name: str, size: int) -> None:
        prediction, target = map(batch, pair(name, size))
        expected = SSIMMetric(spatial_dims=2)(prediction, target).item()
        assert ssim_map(prediction, target).mean().item() == pytest.approx(expected, abs=1e-5)

    @pytest.mark.parametrize(
        ("shape", "win_size", "sigma"),
        [
            ((2, 3, 20, 17), 11, 1.5),
            ((2, 2, 16, 14, 13), 11, 1.5),
            ((2, 1, 9, 12, 7), 7, 1.0),
            ((1, 1, 12, 12), 5, 3.0),
        ],
    )
    def test_monai_with_channels_depth_and_other_windows(
        self, shape: tuple[int, ...], win_size: int, sigma: float
    ) -> None:
        prediction, target = random_pair(*shape)
        metric = SSIMMetric(spatial_dims=len(shape) - 2, win_size=win_size, kernel_sigma=sigma)
        similarity = ssim_map(prediction, target, win_size=win_size, sigma=sigma)
        assert similarity.shape == (*shape[:2], *(side - win_size + 1 for side in shape[2:]))
        np.testing.assert_allclose(similarity.flatten(1).mean(1), metric(prediction, target)[:, 0], atol=1e-5)

    @pytest.mark.parametrize("data_range", [255.0, 4.0])
    def test_another_range(self, data_range: float) -> None:
        prediction, target = (
            image.numpy().astype(np.float64)[0, 0] * data_range for image in random_pair(1, 1, 30, 30)
        )
        expected = structural_similarity(
            target, prediction, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=data_range
        )
        similarity = ssim_map(batch(prediction), batch(target), data_range)
        assert similarity.mean().item() == pytest.approx(expected, abs=2e-6)

    @pytest.mark.parametrize("shape", [(2, 1, 40, 33), (2, 1, 13, 12, 14), (1, 1, 300, 140)])
    def test_gradient(self, shape: tuple[int, ...]) -> None:
        prediction, target = random_pair(*shape)
        gradients = []
        for loss in (SSIMLoss(spatial_dims=len(shape) - 2), lambda x, y: 1 - ssim_map(x, y).mean()):
            image = prediction.clone().requires_grad_()
            loss(image, target).backward()
            gradients.append(image.grad)
        largest = gradients[0].abs().max().item()
        assert largest > 0
        np.testing.assert_allclose(gradients[1], gradients[0], atol=1e-4 * largest)

    def test_gradient_is_the_slope(self) -> None:
        prediction, target = random_pair(1, 1, 20, 20)
        direction = torch.randn(prediction.shape, generator=torch.Generator().manual_seed(1))
        image = prediction.clone().requires_grad_()
        ssim_map(image, target).mean().backward()
        step = 1e-3
        ahead, behind = (ssim_map(prediction + s * direction, target).mean().item() for s in (step, -step))
        assert (image.grad * direction).sum().item() == pytest.approx((ahead - behind) / (2 * step), rel=1e-2)


class TestProperties:
    @settings(derandomize=True, deadline=None, max_examples=50)
    @given(images=arrays(np.float32, (2, 13, 12), elements=st.floats(0, 1, width=32)))
    def test_symmetric_and_at_most_one(self, images: np.ndarray) -> None:
        prediction, target = (batch(image) for image in images)
        similarity = ssim_map(prediction, target)
        assert similarity.abs().max() <= 1 + 1e-3
        np.testing.assert_allclose(similarity, ssim_map(target, prediction), atol=1e-4)
        np.testing.assert_allclose(ssim_map(target, target), 1, atol=1e-3)

    def test_index_is_the_window_centered_there(self) -> None:
        target = random_pair(1, 1, 40, 30)[0]
        prediction = target.clone()
        prediction[0, 0, 22, 13] += 0.5
        similarity = ssim_map(prediction, target)[0, 0]
        changed = torch.nonzero((similarity - 1).abs() > 1e-6) + MARGIN
        assert changed.min(0).values.tolist() == [22 - MARGIN, 13 - MARGIN]
        assert changed.max(0).values.tolist() == [22 + MARGIN, 13 + MARGIN]
        lowest = int(similarity.argmin())
        assert (lowest // similarity.shape[1] + MARGIN, lowest % similarity.shape[1] + MARGIN) == (22, 13)

    def test_one_window(self) -> None:
        prediction, target = random_pair(2, 1, 11, 11)
        assert ssim_map(prediction, target).shape == (2, 1, 1, 1)


class TestPrecision:
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_computes_in_float32_under_autocast(self, dtype: torch.dtype) -> None:
        prediction, target = random_pair(2, 1, 24, 24)
        expected = ssim_map(prediction, target)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(ssim_map(prediction, target), expected)
            low = ssim_map(prediction.to(dtype), target)
        assert low.dtype == torch.float32
        assert torch.equal(low, ssim_map(prediction.to(dtype).float(), target))

    def test_double_and_8_bit_input(self) -> None:
        prediction, target = random_pair(1, 1, 16, 16)
        assert torch.equal(ssim_map(prediction.double(), target), ssim_map(prediction, target))
        shown, wanted = ((255 * image).to(torch.uint8) for image in (prediction, target))
        assert torch.equal(ssim_map(shown, wanted, 255), ssim_map(shown.float(), wanted.float(), 255))

    def test_training_after_inference(self) -> None:
        _window_matrix.cache_clear()
        prediction, target = random_pair(1, 1, 16, 16)
        with torch.inference_mode():
            ssim_map(prediction, target)
        image = prediction.clone().requires_grad_()
        ssim_map(image, target).mean().backward()
        assert image.grad is not None
        assert image.grad.abs().max() > 0


class TestErrors:
    @pytest.mark.parametrize("shape", [(1, 1, 16, 17), (1, 2, 16, 16), (2, 1, 16, 16), (1, 1, 16, 16, 16)])
    def test_shapes_differ(self, shape: tuple[int, ...]) -> None:
        message = r"prediction and target must have one shape, got \(.*\) and \(1, 1, 16, 16\)"
        with pytest.raises(ValueError, match=message):
            ssim_map(torch.zeros(shape), torch.zeros(1, 1, 16, 16))

    @pytest.mark.parametrize(
        ("shape", "win_size"), [((1, 1, 10, 16), 11), ((1, 1, 16, 10), 11), ((1, 1, 16, 16, 6), 7)]
    )
    def test_smaller_than_the_window(self, shape: tuple[int, ...], win_size: int) -> None:
        with pytest.raises(ValueError, match=rf"at least the window of {win_size} pixels, got \(1, 1, "):
            ssim_map(torch.zeros(shape), torch.zeros(shape), win_size=win_size)
