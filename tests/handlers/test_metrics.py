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

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from ignite.metrics import Metric
from monai.engines import SupervisedEvaluator
from monai.handlers import from_engine
from monai.metrics import MultiScaleSSIMMetric, SSIMMetric
from scipy.ndimage import gaussian_filter
from skimage.metrics import structural_similarity

from monai_vqprior.handlers import SSIM, BrainSSIM, MultiScaleSSIM

BATCHES = (3, 1, 2)
Pair = tuple[torch.Tensor, torch.Tensor]


def pairs(size: tuple[int, ...] = (40, 48), batches: Sequence[int] = BATCHES, data_range: float = 1.0) -> list[Pair]:
    """Batches (reconstruction, image), (B, 1, *size): bright blobs on black, and the same blurred and noisy."""
    rng = np.random.default_rng(0)
    result = []
    for number in batches:
        smooth = np.stack([gaussian_filter(rng.normal(size=size), 3) for _ in range(number)])[:, None]
        image = np.clip(6 * smooth, 0, 1)
        noise = rng.normal(0, 0.05, image.shape) * (1 + np.arange(number)).reshape(-1, *[1] * (len(size) + 1))
        blurred = np.clip(0.9 * image + noise, 0, 1)
        result.append(tuple(torch.from_numpy(data_range * x).float() for x in (blurred, image)))
    return result


def run(metric: Metric, batches: Sequence[Any]) -> Engine:
    """Attach a metric as ``value`` to a plain engine whose output is the batch, and run it."""
    engine = Engine(lambda _, batch: batch)
    metric.attach(engine, "value")
    engine.run(batches)
    return engine


def skimage_map(pair: tuple[np.ndarray, np.ndarray], data_range: float = 1.0) -> np.ndarray:
    """SSIM of the windows of two images that lie inside the image."""
    _, full = structural_similarity(
        *pair, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=data_range, full=True
    )
    return full[(slice(5, -5),) * full.ndim]


def images_of(batches: Sequence[Pair]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pairs of single images, float64 without channel."""
    return [(a[0].double().numpy(), b[0].double().numpy()) for batch in batches for a, b in zip(*batch, strict=True)]


@pytest.mark.parametrize("size", [(40, 48), (14, 12, 16)])
@pytest.mark.parametrize("data_range", [1.0, 255.0])
def test_ssim_is_the_mean_of_scikit_images(size: tuple[int, ...], data_range: float) -> None:
    batches = pairs(size, data_range=data_range)
    expected = [skimage_map(pair, data_range).mean() for pair in images_of(batches)]
    engine = run(SSIM(data_range), batches)
    assert np.std(expected) > 0.02
    assert engine.state.metrics["value"] == pytest.approx(np.mean(expected), abs=1e-4)
    details = engine.state.metric_details["value"]
    assert details.shape == (sum(BATCHES), 1)
    np.testing.assert_allclose(details[:, 0], expected, atol=1e-4)


def test_ssim_is_monais() -> None:
    batches = pairs()
    theirs = SSIMMetric(spatial_dims=2)
    for batch in batches:
        theirs(*batch)
    assert run(SSIM(), batches).state.metrics["value"] == pytest.approx(float(theirs.aggregate()), abs=1e-5)


@pytest.mark.parametrize("threshold", [0.02, 0.5])
def test_brain_ssim_is_the_mean_over_windows_centered_on_brain(threshold: float) -> None:
    batches = pairs()
    expected = [skimage_map(pair)[pair[1][5:-5, 5:-5] > threshold].mean() for pair in images_of(batches)]
    engine = run(BrainSSIM(threshold=threshold), batches)
    assert engine.state.metrics["value"] == pytest.approx(np.mean(expected), abs=1e-4)
    np.testing.assert_allclose(engine.state.metric_details["value"][:, 0], expected, atol=1e-4)


def test_brain_ssim_leaves_out_images_without_brain() -> None:
    batches = pairs()
    full = run(BrainSSIM(), batches).state.metric_details["value"][:, 0]
    batches[1][1].zero_()  # the fourth image
    engine = run(BrainSSIM(), batches)
    assert torch.isnan(engine.state.metric_details["value"][3, 0])
    assert engine.state.metrics["value"] == pytest.approx(float(full[[0, 1, 2, 4, 5]].mean()), abs=1e-6)


@pytest.mark.parametrize(
    ("size", "weights"),
    [
        (176, [0.0448, 0.2856, 0.3001, 0.2363, 0.1333]),
        (64, [0.0448 / 0.6305, 0.2856 / 0.6305, 0.3001 / 0.6305]),
        (16, [1.0]),
    ],
)
def test_multi_scale_ssim_is_monais_with_the_scales_that_fit(size: int, weights: list[float]) -> None:
    batches = pairs((size, size), batches=(2, 1))
    theirs = MultiScaleSSIMMetric(spatial_dims=2, weights=weights)
    expected = [float(theirs(a[None], b[None])) for batch in batches for a, b in zip(*batch, strict=True)]
    engine = run(MultiScaleSSIM(), batches)
    assert engine.state.metrics["value"] == pytest.approx(np.mean(expected), abs=1e-4)
    np.testing.assert_allclose(engine.state.metric_details["value"][:, 0], expected, atol=1e-4)


@pytest.mark.parametrize("handler", [SSIM, BrainSSIM, MultiScaleSSIM])
def test_a_perfect_reconstruction_scores_one(handler: type[Metric]) -> None:
    engine = run(handler(), [(image, image) for _, image in pairs()])
    assert engine.state.metrics["value"] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("handler", [SSIM, BrainSSIM, MultiScaleSSIM])
def test_another_run_starts_anew(handler: type[Metric]) -> None:
    batches = pairs()
    engine = Engine(lambda _, batch: batch)
    handler().attach(engine, "value")
    engine.run([(image, image) for _, image in batches])
    engine.run(batches)
    assert engine.state.metrics["value"] == run(handler(), batches).state.metrics["value"] < 1
    assert engine.state.metric_details["value"].shape == (sum(BATCHES), 1)


def test_details_are_not_kept_when_not_wanted() -> None:
    engine = run(SSIM(save_details=False), pairs())
    assert not hasattr(engine.state, "metric_details")


class Dim(torch.nn.Module):
    """A network whose output is its input, darker."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return 0.7 * images


@pytest.mark.parametrize("decollate", [False, True])
def test_handlers_fit_monais_evaluator(decollate: bool) -> None:
    images = torch.cat([image for _, image in pairs()])
    loader = [{"image": part, "label": part} for part in images.split(4)]
    transform = from_engine(["pred", "label"])
    evaluator = SupervisedEvaluator(
        device="cpu",
        val_data_loader=loader,
        network=Dim(),
        key_val_metric={"ssim": SSIM(output_transform=transform)},
        additional_metrics={
            "ssim_brain": BrainSSIM(output_transform=transform),
            "ms_ssim": MultiScaleSSIM(output_transform=transform),
        },
        decollate=decollate,
    )
    evaluator.run()
    dimmed = images_of([(0.7 * images, images)])
    maps = [skimage_map(pair) for pair in dimmed]
    brain = [m[pair[1][5:-5, 5:-5] > 0.02].mean() for m, pair in zip(maps, dimmed, strict=True)]
    weights = [0.0448 / 0.3304, 0.2856 / 0.3304]  # 40 x 48 pixels have room for two scales
    multi_scale = MultiScaleSSIMMetric(spatial_dims=2, weights=weights)(0.7 * images, images)
    assert evaluator.state.metrics["ssim"] == pytest.approx(np.mean([m.mean() for m in maps]), abs=1e-4)
    assert evaluator.state.metrics["ssim_brain"] == pytest.approx(np.mean(brain), abs=1e-4)
    assert evaluator.state.metrics["ms_ssim"] == pytest.approx(float(multi_scale.mean()), abs=1e-4)
    assert evaluator.state.best_metric == evaluator.state.metrics["ssim"]
    assert {name: len(values) for name, values in evaluator.state.metric_details.items()} == {
        "ssim": len(images),
        "ssim_brain": len(images),
        "ms_ssim": len(images),
    }
