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

import pytest
import torch
import torch.nn as nn
from monai.networks.nets import VQVAE

from monai_vqprior.networks import (
    AutoencoderVQ,
    CosineCodebook,
    EMACodebook,
    FSQCodebook,
    RotationTrick,
    StraightThrough,
)


def encoder_gradient(network: AutoencoderVQ, of: str, images: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Gradient of a weighted sum of what a method returns, for the encoder's last bias."""
    network.zero_grad()
    result = getattr(network, of)(images)
    (result * weight.to(result.dtype).expand_as(result)).sum().backward()
    gradient = network.encoder[-1].bias.grad
    assert gradient is not None
    return gradient.clone()


@pytest.mark.parametrize("estimator", [StraightThrough(), RotationTrick()], ids=repr)
@pytest.mark.parametrize("training", [True, False])
def test_latents_of_stage_two_hand_their_gradient_to_the_encoder(
    training: bool, estimator: StraightThrough | RotationTrick
) -> None:
    """As MONAI's do. By hand: that of a code is its vector's, straight or turned."""
    torch.manual_seed(0)
    network = AutoencoderVQ(channels=(8,), codebook=EMACodebook(16, 4, gradient=estimator))
    images = torch.rand(2, 1, 16, 16)
    network(images)
    network.train(training)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    weight = torch.randn(1, 4, 1, 1)
    found = encoder_gradient(network, "encode_stage_2_inputs", images, weight)
    vectors = network.encode(images).detach().movedim(1, -1).reshape(-1, 4).requires_grad_()
    codes = network.codebook.embedding[torch.cdist(vectors, network.codebook.embedding).argmin(1)]
    (estimator(vectors, codes) * weight.flatten()).sum().backward()
    assert vectors.grad is not None
    torch.testing.assert_close(found, vectors.grad.sum(0))
    assert found.abs().min() > 0
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("codebook", [EMACodebook(16, 4), CosineCodebook(16, 4), FSQCodebook((4, 4))], ids=repr)
def test_gradient_in_evaluation_mode_is_that_of_training(codebook: nn.Module) -> None:
    torch.manual_seed(0)
    network = AutoencoderVQ(channels=(8,), codebook=codebook)
    images, weight = torch.rand(2, 1, 16, 16), torch.randn(1, 1, 16, 16)
    network(images)
    network.eval()
    without = network.encode(images).detach().requires_grad_(False)
    with torch.no_grad():
        plain = network(images)
    assert torch.equal(network(images), plain)
    found = encoder_gradient(network, "forward", images, weight)
    quantized, _, _ = network.codebook.quantize(network.encode(images))
    network.zero_grad()
    (network.decode(quantized) * weight).sum().backward()
    torch.testing.assert_close(found, network.encoder[-1].bias.grad)
    assert found.any()
    assert not network._quantized(without).requires_grad


def test_gradients_reach_what_those_of_monai_reach() -> None:
    """The interface of VQVAE, in evaluation mode."""
    theirs = VQVAE(2, 1, 1, channels=(8, 8), num_res_channels=8, num_res_layers=1, num_embeddings=16, embedding_dim=4,
                   downsample_parameters=(2, 4, 1, 1), upsample_parameters=(2, 4, 1, 1, 0)).eval()  # fmt: skip
    for network in (theirs, AutoencoderVQ(channels=(8,), codebook=EMACodebook(16, 4)).eval()):
        images = torch.rand(1, 1, 16, 16, requires_grad=True)
        result = network(images)
        (result[0] if isinstance(result, tuple) else result).sum().backward()
        assert images.grad is not None
        assert images.grad.any()
        images.grad = None
        network.encode_stage_2_inputs(images).sum().backward()
        assert images.grad.any()
