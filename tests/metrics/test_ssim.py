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

import math
from typing import Any

import numpy as np
import pytest
import torch
from monai.metrics import MultiScaleSSIMMetric, SSIMMetric
from scipy.ndimage import gaussian_filter
from skimage.metrics import structural_similarity

from monai_vqprior.data import phantom_slice
from monai_vqprior.metrics import BRAIN_THRESHOLD, FittingMSSSIMMetric, MaskedSSIMMetric, ms_ssim_weights

WANG = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def brains(count: int = 3, size: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """Slices of different subjects with noise of different strength, and the slices, each (B, 1, H, W)."""
    target = np.stack([phantom_slice(subject, 5 * subject, size=size).image for subject in range(count)]) / 255
    noise = np.random.default_rng(0).normal(0, 1, target.shape) * np.linspace(0.02, 0.2, count)[:, None, None]
    prediction = np.clip(target + noise * (target > 0), 0, 1)
    return torch.from_numpy(prediction).float()[:, None], torch.from_numpy(target).float()[:, None]


def full_map(prediction: np.ndarray, target: np.ndarray, **arguments: Any) -> np.ndarray:
    """SSIM of scikit-image at each pixel that an 11-pixel window fits around."""
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1} | arguments
    _, similarity = structural_similarity(target.astype(float), prediction.astype(float), full=True, **options)
    return similarity[(slice(5, -5),) * similarity.ndim]


def ms_ssim_by_hand(prediction: np.ndarray, target: np.ndarray, weights: tuple[float, ...]) -> float:
    """Wang et al. 2003, equation 7, for two images (H, W) in 0..1, in double precision."""

    def mean(image: np.ndarray) -> np.ndarray:
        return gaussian_filter(image, 1.5, radius=5)[5:-5, 5:-5]

    value = 1.0
    for scale, weight in enumerate(weights):
        x, y = prediction, target
        for _ in range(scale):
            x, y = (
                (image[0::2, 0::2] + image[1::2, 0::2] + image[0::2, 1::2] + image[1::2, 1::2]) / 4 for image in (x, y)
            )
        mx, my = mean(x), mean(y)
        variances, covariance = mean(x * x) - mx**2 + mean(y * y) - my**2, mean(x * y) - mx * my
        similarity = (2 * covariance + 0.03**2) / (variances + 0.03**2)
        if scale == len(weights) - 1:
            similarity *= (2 * mx * my + 0.01**2) / (mx**2 + my**2 + 0.01**2)
        value *= similarity.mean() ** weight
    return value


class TestMaskedSSIMMetric:
    def test_without_threshold_it_is_scikit_image(self) -> None:
        prediction, target = brains()
        values = MaskedSSIMMetric()(prediction, target)
        assert values.shape == (3, 1)
        expected = [full_map(*pair).mean() for pair in zip(prediction[:, 0].numpy(), target[:, 0].numpy(), strict=True)]
        np.testing.assert_allclose(values[:, 0], expected, atol=1e-5)

    @pytest.mark.parametrize(("win_size", "sigma"), [(11, 1.5), (7, 1.0)])
    def test_without_threshold_it_is_monai(self, win_size: int, sigma: float) -> None:
        prediction, target = brains()
        expected = SSIMMetric(2, win_size=win_size, kernel_sigma=sigma)
        metric = MaskedSSIMMetric(win_size=win_size, sigma=sigma)
        np.testing.assert_allclose(metric(prediction, target), expected(prediction, target), atol=1e-5)
        assert metric.aggregate().item() == pytest.approx(expected.aggregate().item(), abs=1e-5)

    @pytest.mark.parametrize("threshold", [BRAIN_THRESHOLD, 0.3, 0.0])
    def test_with_threshold_it_averages_over_the_brain(self, threshold: float) -> None:
        prediction, target = brains()
        expected = []
        for x, y in zip(prediction[:, 0].numpy(), target[:, 0].numpy(), strict=True):
            mask = y[5:-5, 5:-5] > threshold
            assert 0 < mask.sum() < mask.size
            expected.append(full_map(x, y)[mask].mean())
        np.testing.assert_allclose(MaskedSSIMMetric(threshold)(prediction, target)[:, 0], expected, atol=1e-5)

    def test_in_three_dimensions_and_with_channels(self) -> None:
        generator = torch.Generator().manual_seed(0)
        prediction, target = (torch.rand(1, 2, 14, 13, 15, generator=generator) for _ in range(2))
        channels = zip(prediction[0].numpy(), target[0].numpy(), strict=True)
        total = [full_map(x, y)[y[5:-5, 5:-5, 5:-5] > 0.5] for x, y in channels]
        value = MaskedSSIMMetric(threshold=0.5)(prediction, target)
        assert value.item() == pytest.approx(np.concatenate(total).mean(), abs=1e-5)

    def test_another_range(self) -> None:
        prediction, target = (255 * image for image in brains())
        expected = MaskedSSIMMetric(0.1)(*brains())
        np.testing.assert_allclose(MaskedSSIMMetric(25.5, data_range=255)(prediction, target), expected, atol=1e-5)

    def test_black_scores_nothing_over_the_brain(self) -> None:
        _, target = brains()
        black = torch.zeros_like(target)
        assert MaskedSSIMMetric(BRAIN_THRESHOLD)(black, target).max() < 0.02
        assert MaskedSSIMMetric()(black, target).min() > 0.05

    @pytest.mark.parametrize("batches", [[4], [2, 2], [1, 3]])
    def test_an_image_without_brain_is_left_out(self, batches: list[int]) -> None:
        prediction, target = brains(4)
        target[1] = BRAIN_THRESHOLD  # not above it
        metric = MaskedSSIMMetric(BRAIN_THRESHOLD, get_not_nans=True)
        values = torch.cat(
            [metric(x, y) for x, y in zip(prediction.split(batches), target.split(batches), strict=True)]
        )
        assert values.isnan().flatten().tolist() == [False, True, False, False]
        mean, count = metric.aggregate()
        assert count.item() == 3
        brain = target[:, 0, 5:-5, 5:-5].numpy() > 0.02
        kept = [full_map(prediction[i, 0].numpy(), target[i, 0].numpy())[brain[i]].mean() for i in (0, 2, 3)]
        assert mean.item() == pytest.approx(np.mean(kept), abs=1e-5)

    def test_takes_lists_and_other_reductions_as_monai_metrics_do(self) -> None:
        prediction, target = brains()
        values = MaskedSSIMMetric(BRAIN_THRESHOLD)(prediction, target)
        metric = MaskedSSIMMetric(BRAIN_THRESHOLD, reduction="none")
        metric(list(prediction), list(target))
        assert torch.equal(metric.aggregate(), values)
        assert metric.aggregate("sum").item() == pytest.approx(values.sum().item(), rel=1e-6)

    def test_refuses_another_shape(self) -> None:
        prediction, target = brains()
        with pytest.raises(ValueError, match="shapes dont match"):
            MaskedSSIMMetric()(prediction, target[..., :-1])


class TestMsSsimWeights:
    def test_sum_ratios_and_room_for_the_last_scale(self) -> None:
        for size in range(11, 401):
            weights = ms_ssim_weights(size)
            assert sum(weights) == pytest.approx(sum(WANG))
            assert all(math.isclose(w / weights[0], wang / WANG[0]) for w, wang in zip(weights, WANG, strict=False))
            assert size // 2 ** (len(weights) - 1) >= 11

    @pytest.mark.parametrize(
        ("size", "scales"),
        [(11, 1), (21, 1), (22, 2), (43, 2), (44, 3), (64, 3), (87, 3), (98, 3), (99, 4), (128, 4), (175, 4), (176, 5)],
    )
    def test_as_many_scales_as_monai_accepts(self, size: int, scales: int) -> None:
        assert len(ms_ssim_weights(size)) == scales
        x, y = torch.rand(2, 1, 1, size, size, generator=torch.Generator().manual_seed(size))
        value = MultiScaleSSIMMetric(2, weights=ms_ssim_weights(size))(x, y)
        assert 0 <= value.item() <= 1

    @pytest.mark.parametrize(("size", "refused"), [(98, 4), (175, 5)])
    def test_monai_refuses_one_more(self, size: int, refused: int) -> None:
        images = torch.zeros(1, 1, size, size)
        assert len(ms_ssim_weights(size)) == refused - 1
        with pytest.raises(ValueError, match=f"given number of `weights` parameters {refused}"):
            MultiScaleSSIMMetric(2, weights=WANG[:refused])(images, images)

    @pytest.mark.parametrize("size", [177, 200, 255, 256, 331, 400, 1000])
    def test_all_five_where_there_is_room(self, size: int) -> None:
        assert ms_ssim_weights(size) == pytest.approx(WANG)

    @pytest.mark.parametrize(("size", "win_size"), [(10, 11), (0, 11), (6, 7)])
    def test_refuses_what_is_smaller_than_a_window(self, size: int, win_size: int) -> None:
        with pytest.raises(ValueError, match=f"at least the window of {win_size} pixels, got {size}"):
            ms_ssim_weights(size, win_size)


class TestFittingMSSSIMMetric:
    def test_is_monai_where_that_has_room(self) -> None:
        prediction, target = brains(2, size=256)
        metric, expected = FittingMSSSIMMetric(spatial_dims=2), MultiScaleSSIMMetric(spatial_dims=2)
        np.testing.assert_allclose(metric(prediction, target), expected(prediction, target), rtol=1e-6)
        assert metric.aggregate().item() == pytest.approx(expected.aggregate().item(), rel=1e-6)

    @pytest.mark.parametrize(("size", "scales"), [(32, 2), (64, 3), (128, 4)])
    def test_leaves_out_the_coarsest_scales_of_smaller_images(self, size: int, scales: int) -> None:
        prediction, target = brains(2, size=size)
        weights = tuple(weight * sum(WANG) / sum(WANG[:scales]) for weight in WANG[:scales])
        expected = [
            ms_ssim_by_hand(x.astype(float), y.astype(float), weights)
            for x, y in zip(prediction[:, 0].numpy(), target[:, 0].numpy(), strict=True)
        ]
        np.testing.assert_allclose(FittingMSSSIMMetric(2)(prediction, target)[:, 0], expected, atol=1e-4)

    @pytest.mark.parametrize("size", [256, 64])
    def test_takes_the_weights_that_it_is_given(self, size: int) -> None:
        weights, kept = (0.1, 0.2, 0.3, 0.4), {256: (0.1, 0.2, 0.3, 0.4), 64: (1 / 6, 2 / 6, 3 / 6)}[size]
        prediction, target = brains(2, size=size)
        metric, expected = FittingMSSSIMMetric(2, weights=weights), MultiScaleSSIMMetric(2, weights=kept)
        for _ in range(2):  # whatever size came before
            np.testing.assert_allclose(metric(prediction, target), expected(prediction, target), rtol=1e-5)
            metric(*brains(1, size=32))
        assert not np.allclose(metric(prediction, target), FittingMSSSIMMetric(2)(prediction, target))
        assert metric.weights == weights

    def test_weights_that_leave_nothing_are_quoted(self) -> None:
        with pytest.raises(ValueError, match=r"must not add up to 0, got \(0, 0\)"):
            FittingMSSSIMMetric(2, weights=(0, 0, 1))(*brains(1, size=32))

    def test_a_smaller_window_has_room_for_more(self) -> None:
        prediction, target = brains(1, size=64)
        metric = FittingMSSSIMMetric(2, kernel_size=3, kernel_sigma=0.5)
        expected = MultiScaleSSIMMetric(2, kernel_size=3, kernel_sigma=0.5)
        np.testing.assert_allclose(metric(prediction, target), expected(prediction, target), rtol=1e-6)

    def test_oblong_images_and_sizes_that_change(self) -> None:
        metric = FittingMSSSIMMetric(2)
        for height, width in [(256, 30), (200, 180), (30, 256), (64, 64)]:
            images = torch.rand(1, 1, height, width, generator=torch.Generator().manual_seed(0))
            assert metric(images, images).item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("get_not_nans", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "mean_batch", "mean_channel"])
def test_a_mean_over_nothing_is_nan(reduction: str, get_not_nans: bool) -> None:
    """MONAI's own reduction gives 0, the worst value, for slices that have none."""
    black = torch.zeros(3, 1, 16, 16)
    metric = MaskedSSIMMetric(0.02, reduction=reduction, get_not_nans=get_not_nans)
    metric(black, black)
    result = metric.aggregate()
    value, number = result if get_not_nans else (result, torch.zeros(1))
    assert torch.as_tensor(value).isnan().all()
    assert not torch.as_tensor(number).any()
    # One slice with a brain decides the mean by itself.
    grey = torch.full((1, 1, 16, 16), 0.5)
    metric(grey, grey)
    result = metric.aggregate("mean")
    assert float(result[0] if get_not_nans else result) == pytest.approx(1)


def test_the_sum_over_nothing_is_nothing() -> None:
    metric = MaskedSSIMMetric(0.02, reduction="sum")
    metric(torch.zeros(3, 1, 16, 16), torch.zeros(3, 1, 16, 16))
    assert float(metric.aggregate()) == 0
