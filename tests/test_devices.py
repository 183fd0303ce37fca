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

"""
No code makes a tensor on another device than that of its inputs: all of it on the device ``meta``, which every machine
has, and which does not mix with the CPU in most operations.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch

from monai_vqprior.inferers import ConstantInferer, TokenizerInferer, VQPriorInferer
from monai_vqprior.losses import BitsPerCodeLoss, TokenizerLoss, ssim_map
from monai_vqprior.metrics import FittingMSSSIMMetric, MaskedSSIMMetric
from monai_vqprior.networks import (
    AutoencoderVQ,
    CodeContext,
    CodeSketch,
    CosineCodebook,
    EMACodebook,
    FSQCodebook,
    GatedPixelCNN,
    HierarchicalPrior,
)

META = torch.device("meta")
CODEBOOKS = {
    "EMACodebook": lambda: EMACodebook(16, 4, entropy_weight=0.1, accumulation_steps=2),
    "CosineCodebook": lambda: CosineCodebook(16, 4),
    "FSQCodebook": lambda: FSQCodebook((4, 4)),
}
CONDITIONS: dict[str, Any] = {"num_classes": [3], "num_values": 1, "condition_dropout": 0.1}


@pytest.fixture(autouse=True)
def _no_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device has none."""
    monkeypatch.setattr(torch, "autocast", lambda *args, **options: nullcontext())


def sketched(**options: Any) -> HierarchicalPrior:
    sketch = CodeSketch(16, spatial_size=4, block=2)
    coarse = GatedPixelCNN(2, sketch.num_sketch_codes, sketch.spatial_size, 8, 2, attention_every=1, **options)
    context = CodeContext(sketch.num_sketch_codes, 4, 8, sketch.block)
    return HierarchicalPrior(sketch, coarse, GatedPixelCNN(2, 16, 4, 8, 2, context_network=context, **options))


PRIORS: dict[str, Callable[..., torch.nn.Module]] = {
    "plain": lambda **options: GatedPixelCNN(2, 16, 4, 8, 2, **options),
    "with attention and skip connections": lambda **options: GatedPixelCNN(
        2, 16, 4, 8, 2, attention_every=2, skip_connections=True, **options
    ),
    "with a sketch": sketched,
}


@pytest.mark.parametrize("name", CODEBOOKS)
def test_a_step_of_the_autoencoder(name: str) -> None:
    network = AutoencoderVQ(channels=(16,), codebook=CODEBOOKS[name]()).to(META).train()
    network.codebook._has_started = True  # the start asks whether there are values
    images = torch.rand(2, 1, 32, 32, device=META)
    TokenizerLoss()(network(images), images).backward()
    assert all(parameter.grad.device == META for parameter in network.parameters())


@pytest.mark.parametrize("name", CODEBOOKS)
def test_reconstructions_and_their_metrics(name: str) -> None:
    network = AutoencoderVQ(channels=(16,), codebook=CODEBOOKS[name]()).to(META).eval()
    images = torch.rand(2, 1, 32, 32, device=META)
    output = TokenizerInferer()(images, network)
    assert {value.device for value in output.values()} == {META}
    mean = ConstantInferer(torch.zeros(1, 32, 32, device=META))(images, None)["reconstruction"]
    for metric in (MaskedSSIMMetric(0.02), FittingMSSSIMMetric(2)):
        assert metric(mean, output["reconstruction"]).device == META
    assert ssim_map(images, images).device == META


@pytest.mark.parametrize("name", PRIORS)
def test_a_step_of_the_prior(name: str) -> None:
    network = PRIORS[name](**CONDITIONS).to(META).train()
    codes = torch.randint(16, (2, 4, 4), device=META)
    labels, values = torch.zeros(2, 1, dtype=torch.long, device=META), torch.zeros(2, 1, device=META)
    loss = BitsPerCodeLoss()(network(codes, labels, values), codes)
    loss.backward()
    assert loss.device == META


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 0.8, "top_k": 3, "top_p": 0.9, "guidance_scale": 2.0}], ids=str
)
@pytest.mark.parametrize("name", PRIORS)
def test_samples(name: str, options: dict[str, Any]) -> None:
    network = PRIORS[name](**CONDITIONS).to(META).eval()
    for number in (1, 2):  # a single grid has operations of its own
        inferer = VQPriorInferer(tile_size=number, **options)
        assert inferer.sample(network, range(number), labels=[1], values=[0.3]).device == META


@pytest.mark.parametrize("name", PRIORS)
def test_bits(name: str) -> None:
    codes = torch.randint(16, (2, 4, 4), device=META)
    assert VQPriorInferer().bits(codes, PRIORS[name]().to(META).eval()).device == META
