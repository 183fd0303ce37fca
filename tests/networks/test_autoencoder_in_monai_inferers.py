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
from monai.inferers import LatentDiffusionInferer, VQVAETransformerInferer
from monai.networks.nets import DecoderOnlyTransformer, DiffusionModelUNet
from monai.networks.schedulers import DDPMScheduler
from monai.utils.ordering import Ordering

from monai_vqprior.networks.autoencoder import AutoencoderVQ
from monai_vqprior.networks.codebook import EMACodebook


def tiny() -> AutoencoderVQ:
    """A network of stride 4 with 16 codes of length 4."""
    torch.manual_seed(0)
    return AutoencoderVQ(channels=(16,), num_encoder_blocks=1, num_decoder_blocks=1, codebook=EMACodebook(16, 4)).eval()


def images() -> torch.Tensor:
    return torch.rand(2, 1, 16, 24, generator=torch.Generator().manual_seed(0))


def transformer() -> DecoderOnlyTransformer:
    pytest.importorskip("einops", reason="MONAI's transformer needs einops")
    torch.manual_seed(0)
    return DecoderOnlyTransformer(
        num_tokens=17, max_seq_len=24, attn_layers_dim=8, attn_layers_depth=1, attn_layers_heads=2
    ).eval()


def test_vqvae_transformer_inferer_reads_the_codes() -> None:
    network, model = tiny(), transformer()
    x = images()
    prediction = VQVAETransformerInferer()(x, network, model, Ordering("raster_scan", 2, (1, 4, 6)))
    codes = network.index_quantize(x).reshape(2, 24)
    started = torch.cat([torch.full((2, 1), 16), codes[:, :-1]], 1)  # token 16 begins each sequence
    torch.testing.assert_close(prediction, model(started))


def test_vqvae_transformer_inferer_samples() -> None:
    network, model = tiny(), transformer()
    ordering = Ordering("raster_scan", 2, (1, 2, 2))
    sample = VQVAETransformerInferer().sample((2, 2), torch.full((3, 1), 16), network, model, ordering, verbose=False)
    assert sample.shape == (3, 1, 8, 8)


def test_latent_diffusion_inferer() -> None:
    pytest.importorskip("einops", reason="MONAI's diffusion network needs einops")
    network = tiny()
    torch.manual_seed(0)
    unet = DiffusionModelUNet(
        spatial_dims=2,
        in_channels=4,
        out_channels=4,
        channels=(8,),
        attention_levels=(False,),
        num_res_blocks=1,
        norm_num_groups=8,
        num_head_channels=8,
    ).eval()
    scheduler = DDPMScheduler(num_train_timesteps=10)
    inferer = LatentDiffusionInferer(scheduler, scale_factor=2.0)
    noise = torch.randn(2, 4, 4, 6)
    timesteps = torch.tensor([3, 7])
    prediction = inferer(images(), network, unet, noise, timesteps)
    latents = 2 * network.codebook.embedding[network.index_quantize(images())].movedim(-1, 1)
    torch.testing.assert_close(prediction, unet(scheduler.add_noise(latents, noise, timesteps), timesteps))

    scheduler.set_timesteps(2)
    sample = inferer.sample(noise[:, :, :2, :2], network, unet, scheduler, verbose=False)
    assert sample.shape == (2, 1, 8, 8)
