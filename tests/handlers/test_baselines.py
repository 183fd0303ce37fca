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
from ignite.engine import Engine
from skimage.metrics import structural_similarity

from monai_vqprior.handlers import SSIM, BrainSSIM, ConstantBaselines

MEAN = torch.linspace(0, 1, 16 * 24).reshape(1, 16, 24)


def batches(seed: int) -> list[dict[str, torch.Tensor]]:
    """Batches of three and of two images, with reconstructions that are near."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(5, 1, 16, 24, generator=generator)
    images[:, :, :, :12] = 0  # no brain
    noise = 0.1 * torch.rand(5, 1, 16, 24, generator=generator)
    return [
        {"image": image, "reconstruction": image + part}
        for image, part in zip(images.split(3), noise.split(3), strict=True)
    ]


def similarity(image: torch.Tensor, constant: torch.Tensor, brain: bool) -> float:
    """SSIM of two images (1, H, W) by scikit-image, over all windows or over those whose center is above 0.02."""
    _, values = structural_similarity(
        constant[0].numpy(),
        image[0].numpy(),
        full=True,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=1,
    )
    inside = values[5:-5, 5:-5]
    return float(inside[image[0, 5:-5, 5:-5].numpy() > 0.02].mean() if brain else inside.mean())


@pytest.fixture
def engine() -> Engine:
    """An engine whose outputs are its batches, with two metrics of the reconstructions."""
    return Engine(lambda engine, batch: batch)


def attached(engine: Engine) -> ConstantBaselines:
    """Baselines of metrics that measure the reconstructions of the engine in the same pass."""
    pair = {"output_transform": lambda output: (output["reconstruction"], output["image"])}
    metrics = {"ssim": SSIM(**pair), "ssim_brain": BrainSSIM(**pair)}
    baselines = ConstantBaselines({"black": None, "mean": MEAN}, metrics)
    for key, metric in metrics.items():
        metric.attach(engine, key)
    baselines.attach(engine)
    return baselines


def test_values_are_those_of_scikit_image(engine: Engine) -> None:
    baselines = attached(engine)
    for seed in (0, 1):  # the second run begins anew
        engine.run(batches(seed))
        images = torch.cat([batch["image"] for batch in batches(seed)])
        for name, constant in (("black", torch.zeros_like(MEAN)), ("mean", MEAN)):
            expected = {
                key: np.mean([similarity(image, constant, key == "ssim_brain") for image in images])
                for key in ("ssim", "ssim_brain")
            }
            assert baselines.values[name] == pytest.approx(expected, abs=1e-4)


def test_the_figures_of_the_reconstructions_do_not_change(engine: Engine) -> None:
    attached(engine)
    engine.run(batches(0))
    both = [torch.cat([batch[key] for batch in batches(0)]) for key in ("reconstruction", "image")]
    expected = np.mean([similarity(image, rebuilt, False) for rebuilt, image in zip(*both, strict=True)])
    assert engine.state.metrics["ssim"] == pytest.approx(expected, abs=1e-4)
