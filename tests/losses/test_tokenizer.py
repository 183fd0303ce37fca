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
from monai.networks.nets import VQVAE
from skimage.metrics import structural_similarity

from monai_vqprior.losses import TokenizerLoss


def images(batch: int = 3, size: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(batch, 1, size, size, generator=generator)
    return (target + 0.2 * torch.rand(target.shape, generator=generator)) / 1.2, target


def l1_and_ssim(reconstruction: torch.Tensor, target: torch.Tensor, data_range: float = 1.0) -> tuple[float, float]:
    """Both in double precision, SSIM by scikit-image."""
    x, y = reconstruction.double().numpy()[:, 0], target.double().numpy()[:, 0]
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": data_range}
    similarities = [structural_similarity(*images, **options) for images in zip(x, y, strict=True)]
    return float(np.abs(x - y).mean()), float(np.mean(similarities))


class TestTokenizerLoss:
    @pytest.mark.parametrize("commitment", [0.0, 0.25])
    @pytest.mark.parametrize(("l1_weight", "ssim_weight"), [(1, 1), (2, 0.5), (0, 1), (1, 0), (0, 3)])
    def test_is_the_weighted_sum(self, l1_weight: float, ssim_weight: float, commitment: float) -> None:
        reconstruction, target = images()
        l1, ssim = l1_and_ssim(reconstruction, target)
        loss = TokenizerLoss(l1_weight, ssim_weight)((reconstruction, torch.tensor(commitment)), target)
        assert loss.shape == ()
        assert loss.item() == pytest.approx(commitment + l1_weight * l1 + ssim_weight * (1 - ssim), abs=1e-5)

    def test_range_of_the_images(self) -> None:
        reconstruction, target = (255 * image for image in images())
        l1, ssim = l1_and_ssim(reconstruction, target, data_range=255)
        loss = TokenizerLoss(l1_weight=0.1, data_range=255)((reconstruction, torch.tensor(0.0)), target)
        assert loss.item() == pytest.approx(0.1 * l1 + 1 - ssim, rel=1e-5)

    def test_perfect_reconstruction_leaves_the_commitment(self) -> None:
        _, target = images()
        assert TokenizerLoss()((target, torch.tensor(0.125)), target).item() == pytest.approx(0.125, abs=1e-5)

    def test_every_part_has_a_gradient(self) -> None:
        reconstruction, target = images()
        reconstruction, commitment = reconstruction.requires_grad_(), torch.tensor(0.5, requires_grad=True)
        TokenizerLoss()((reconstruction, commitment), target).backward()
        assert commitment.grad is not None
        assert commitment.grad.item() == 1
        assert reconstruction.grad is not None
        assert torch.all(reconstruction.grad.abs().amax((1, 2, 3)) > 0)

    def test_gradient_of_l1_alone(self) -> None:
        reconstruction, target = images()
        reconstruction.requires_grad_()
        TokenizerLoss(l1_weight=2, ssim_weight=0)((reconstruction, torch.tensor(0.0)), target).backward()
        expected = 2 * torch.sign(reconstruction.detach() - target) / target.numel()
        torch.testing.assert_close(reconstruction.grad, expected)

    def test_l1_alone_needs_no_window(self) -> None:
        reconstruction, target = images(size=8)
        l1 = (reconstruction - target).abs().mean().item()
        loss = TokenizerLoss(ssim_weight=0)((reconstruction, torch.tensor(0.0)), target)
        assert loss.item() == pytest.approx(l1)
        with pytest.raises(ValueError, match="at least the window of 11 pixels"):
            TokenizerLoss()((reconstruction, torch.tensor(0.0)), target)

    def test_low_precision_reconstructions(self) -> None:
        reconstruction, target = images()
        half = reconstruction.bfloat16()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = TokenizerLoss()((half, torch.tensor(0.25)), target)
        l1, ssim = l1_and_ssim(half.float(), target)
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(0.25 + l1 + 1 - ssim, abs=1e-5)

    @pytest.mark.parametrize("spatial_dims", [2, 3])
    def test_takes_what_monai_vqvae_returns(self, spatial_dims: int) -> None:
        torch.manual_seed(0)
        network = VQVAE(
            spatial_dims,
            in_channels=1,
            out_channels=1,
            channels=(8,),
            num_res_layers=1,
            num_res_channels=(8,),
            downsample_parameters=((2, 4, 1, 1),),
            upsample_parameters=((2, 4, 1, 1, 0),),
            num_embeddings=8,
            embedding_dim=4,
        )
        target = torch.rand(2, 1, *[12] * spatial_dims, generator=torch.Generator().manual_seed(0))
        reconstruction, commitment = network.train()(target)
        loss = TokenizerLoss()((reconstruction, commitment), target)
        assert loss.shape == ()
        loss.backward()
        learned = {name: p.grad for name, p in network.named_parameters() if "embedding" not in name}
        assert all(gradient is not None and gradient.isfinite().all() for gradient in learned.values())

    @pytest.mark.parametrize("weights", [(-1, 1), (1, -0.5), (0, 0)])
    def test_refuses_weights_that_make_no_sense(self, weights: tuple[float, float]) -> None:
        message = f"must not be negative nor both 0, got {weights[0]} and {weights[1]}"
        with pytest.raises(ValueError, match=message):
            TokenizerLoss(*weights)

    def test_refuses_another_shape_of_target(self) -> None:
        reconstruction, _ = images(size=24)
        with pytest.raises((ValueError, RuntimeError)):
            TokenizerLoss()((reconstruction, torch.tensor(0.0)), torch.zeros(3, 1, 16, 16))
