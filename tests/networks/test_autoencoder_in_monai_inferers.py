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

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from monai.inferers import DiffusionInferer, LatentDiffusionInferer, VQVAETransformerInferer
from monai.networks.nets import DecoderOnlyTransformer, DiffusionModelUNet
from monai.networks.schedulers import DDPMScheduler
from monai.utils.ordering import Ordering
from scipy.special import log_softmax

from monai_vqprior.networks.autoencoder import AutoencoderVQ
from monai_vqprior.networks.codebook import CosineCodebook, EMACodebook
from monai_vqprior.networks.fsq import FSQCodebook

pytest.importorskip("einops", reason="MONAI's transformer and diffusion networks need einops")

NUM_CODES, LATENT_CHANNELS, STRIDE = 16, 4, 4
GRIDS = {2: (4, 6), 3: (2, 4, 2)}
FIRST = NUM_CODES  # the token that begins each sequence
ORDERINGS = ["raster_scan", "s_curve"]


def images(spatial_dims: int) -> torch.Tensor:
    size = [STRIDE * side for side in GRIDS[spatial_dims]]
    return torch.rand(2, 1, *size, generator=torch.Generator().manual_seed(0))


def tiny(spatial_dims: int) -> AutoencoderVQ:
    """A network in evaluation mode whose codes lie where the encodings do."""
    torch.manual_seed(0)
    codebook = EMACodebook(NUM_CODES, LATENT_CHANNELS)
    network = AutoencoderVQ(
        spatial_dims, channels=(16,), num_encoder_blocks=1, num_decoder_blocks=1, codebook=codebook, patch_size=STRIDE
    )
    network(images(spatial_dims))
    return network.eval()


def nearest(network: AutoencoderVQ, latents: torch.Tensor) -> torch.Tensor:
    """Codes (B, *grid) of latents (B, D, *grid), by brute force in double precision."""
    return torch.cdist(latents.movedim(1, -1).double(), network.codebook.embedding.double()).argmin(-1)


def embedded(network: AutoencoderVQ, codes: torch.Tensor) -> torch.Tensor:
    """Codes (B, *grid) as latents (B, D, *grid)."""
    return network.codebook.embedding[codes].movedim(-1, 1)


def transformer(spatial_dims: int, max_seq_len: int | None = None) -> DecoderOnlyTransformer:
    torch.manual_seed(1)
    length = math.prod(GRIDS[spatial_dims])
    return DecoderOnlyTransformer(
        num_tokens=NUM_CODES + 1,
        max_seq_len=length if max_seq_len is None else max_seq_len,
        attn_layers_dim=8,
        attn_layers_depth=1,
        attn_layers_heads=2,
    ).eval()


def order(ordering_type: str, spatial_dims: int) -> Ordering:
    return Ordering(ordering_type, spatial_dims, (1, *GRIDS[spatial_dims]))


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("ordering_type", ORDERINGS)
class TestVQVAETransformerInferer:
    @pytest.mark.parametrize("training", [False, True])
    def test_call_gives_the_transformer_the_codes_in_order(
        self, spatial_dims: int, ordering_type: str, training: bool
    ) -> None:
        network, model, x = tiny(spatial_dims), transformer(spatial_dims), images(spatial_dims)
        codes = nearest(network, network.encode(x))
        assert len(codes.unique()) > NUM_CODES // 2
        ordering = order(ordering_type, spatial_dims)
        prediction, target, grid = VQVAETransformerInferer()(
            x, network.train(training), model, ordering, return_latent=True
        )
        sequence = codes.flatten(1)[:, ordering.get_sequence_ordering()]
        assert torch.equal(target, sequence)
        assert grid == GRIDS[spatial_dims]
        started = torch.cat([torch.full((2, 1), FIRST), sequence[:, :-1]], 1)
        torch.testing.assert_close(prediction, model(started))

    def test_a_training_step_reaches_the_transformer_alone(self, spatial_dims: int, ordering_type: str) -> None:
        network, model = tiny(spatial_dims).train(), transformer(spatial_dims).train()
        before = {name: value.clone() for name, value in network.state_dict().items()}
        prediction, target, _ = VQVAETransformerInferer()(
            images(spatial_dims), network, model, order(ordering_type, spatial_dims), return_latent=True
        )
        F.cross_entropy(prediction.movedim(-1, 1), target).backward()
        for layer in (
            model.token_embeddings,
            model.position_embeddings.embedding,
            model.blocks[0].attn,
            model.to_logits,
        ):
            assert all(parameter.grad is not None and parameter.grad.any() for parameter in layer.parameters())
        assert all(parameter.grad is None for parameter in network.parameters())
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())

    @pytest.mark.parametrize("window", [None, 5], ids=["whole sequence", "window of 5"])
    def test_likelihood_is_that_of_one_code_after_the_other(
        self, spatial_dims: int, ordering_type: str, window: int | None
    ) -> None:
        network, model, x = tiny(spatial_dims), transformer(spatial_dims, window), images(spatial_dims)
        ordering = order(ordering_type, spatial_dims)
        likelihood = VQVAETransformerInferer().get_likelihood(x, network, model, ordering)
        codes = nearest(network, network.encode(x))
        places = ordering.get_sequence_ordering()
        sequence = codes.flatten(1)[:, places]
        known = torch.cat([torch.full((2, 1), FIRST), sequence], 1)
        expected = np.zeros(sequence.shape)
        with torch.no_grad():
            for i, place in enumerate(places):
                logits = model(known[:, max(0, i + 1 - model.max_seq_len) : i + 1])[:, -1].double().numpy()
                expected[:, place] = log_softmax(logits, axis=1)[[0, 1], sequence[:, i]]
        assert likelihood.shape == codes.shape
        np.testing.assert_allclose(likelihood.flatten(1), expected, atol=1e-5)

    def test_likelihood_at_the_size_of_the_images(self, spatial_dims: int, ordering_type: str) -> None:
        arguments = (
            images(spatial_dims),
            tiny(spatial_dims),
            transformer(spatial_dims),
            order(ordering_type, spatial_dims),
        )
        likelihood = VQVAETransformerInferer().get_likelihood(*arguments)
        for axis in range(1, spatial_dims + 1):
            likelihood = likelihood.repeat_interleave(STRIDE, axis)
        resampled = VQVAETransformerInferer().get_likelihood(*arguments, resample_latent_likelihoods=True)
        assert torch.equal(resampled, likelihood[:, None])

    def test_sample_of_the_most_probable_codes(self, spatial_dims: int, ordering_type: str) -> None:
        network, model = tiny(spatial_dims), transformer(spatial_dims)
        ordering, grid = order(ordering_type, spatial_dims), GRIDS[spatial_dims]
        start = torch.full((1, 1), FIRST)
        with torch.no_grad():
            model.to_logits.bias[FIRST] = -1e4  # or the transformer might begin anew where it must draw a code
        sample = VQVAETransformerInferer().sample(grid, start, network, model, ordering, top_k=1, verbose=False)
        codes = torch.zeros(math.prod(grid), dtype=torch.long)
        sequence = [FIRST]
        with torch.no_grad():
            for place in ordering.get_sequence_ordering():
                sequence.append(int(model(torch.tensor([sequence]))[0, -1].argmax()))
                codes[place] = sequence[-1]
            expected = network.decode(embedded(network, codes.view(1, *grid)))
        assert len(codes.unique()) > 1
        torch.testing.assert_close(sample, expected)

    def test_samples_are_images(self, spatial_dims: int, ordering_type: str) -> None:
        start = torch.full((3, 1), FIRST)
        torch.manual_seed(0)
        samples = VQVAETransformerInferer().sample(
            GRIDS[spatial_dims],
            start,
            tiny(spatial_dims),
            transformer(spatial_dims),
            order(ordering_type, spatial_dims),
            verbose=False,
        )
        assert samples.shape == (3, *images(spatial_dims).shape[1:])
        assert not torch.equal(samples[0], samples[1])


def unet(spatial_dims: int, latent_channels: int = LATENT_CHANNELS) -> DiffusionModelUNet:
    torch.manual_seed(1)
    return DiffusionModelUNet(
        spatial_dims=spatial_dims,
        in_channels=latent_channels,
        out_channels=latent_channels,
        channels=(8,),
        attention_levels=(False,),
        num_res_blocks=1,
        norm_num_groups=8,
        num_head_channels=8,
    )


def noise_like_latents(spatial_dims: int) -> torch.Tensor:
    return torch.randn(2, LATENT_CHANNELS, *GRIDS[spatial_dims], generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("spatial_dims", [2, 3])
class TestLatentDiffusionInferer:
    def test_call_adds_noise_to_the_quantized_latents(self, spatial_dims: int) -> None:
        network, model, x = tiny(spatial_dims), unet(spatial_dims), images(spatial_dims)
        with torch.no_grad():
            model.out[-1].conv.weight.normal_(0, 0.1)  # which starts at zero
        scheduler = DDPMScheduler(num_train_timesteps=10)
        noise, timesteps = noise_like_latents(spatial_dims), torch.tensor([3, 7])
        prediction = LatentDiffusionInferer(scheduler, scale_factor=2.0)(x, network, model, noise, timesteps)
        latents = 2 * embedded(network, nearest(network, network.encode(x)))
        kept = torch.from_numpy(np.cumprod(1 - scheduler.betas.double().numpy())).float()[timesteps]
        kept = kept.view(2, *[1] * (spatial_dims + 1))
        torch.testing.assert_close(prediction, model(kept.sqrt() * latents + (1 - kept).sqrt() * noise, timesteps))
        assert prediction.abs().max() > 0.01

    @pytest.mark.parametrize("training", [False, True])
    def test_training_steps_teach_the_unet_alone(self, spatial_dims: int, training: bool) -> None:
        network, model = tiny(spatial_dims).train(training), unet(spatial_dims)
        inferer = LatentDiffusionInferer(DDPMScheduler(num_train_timesteps=10))
        noise, timesteps = noise_like_latents(spatial_dims), torch.tensor([3, 7])
        before = {name: value.clone() for name, value in network.state_dict().items()}
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        losses = []
        for _ in range(8):
            optimizer.zero_grad()
            loss = F.mse_loss(inferer(images(spatial_dims), network, model, noise, timesteps), noise)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.9 * losses[0]
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.any(), name
        assert all(parameter.grad is None for parameter in network.parameters())
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())

    def test_samples_are_quantized_before_they_are_decoded(self, spatial_dims: int) -> None:
        network, model = tiny(spatial_dims), unet(spatial_dims)
        scheduler = DDPMScheduler(num_train_timesteps=10)
        scheduler.set_timesteps(4)
        noise = noise_like_latents(spatial_dims)
        inferer = LatentDiffusionInferer(scheduler, scale_factor=2.0)
        torch.manual_seed(3)
        samples = inferer.sample(noise, network, model, scheduler, verbose=False)
        torch.manual_seed(3)
        latents = DiffusionInferer(scheduler).sample(noise, model, scheduler, verbose=False)
        with torch.no_grad():
            expected = network.decode(embedded(network, nearest(network, latents / 2)))
        assert samples.shape == images(spatial_dims).shape
        torch.testing.assert_close(samples, expected)

    def test_latents_of_another_size_than_the_grid(self, spatial_dims: int) -> None:
        network, model, scheduler = tiny(spatial_dims), unet(spatial_dims), DDPMScheduler(num_train_timesteps=10)
        size = [8] * spatial_dims
        inferer = LatentDiffusionInferer(
            scheduler, ldm_latent_shape=size, autoencoder_latent_shape=list(GRIDS[spatial_dims])
        )
        noise = torch.randn(2, LATENT_CHANNELS, *size, generator=torch.Generator().manual_seed(2))
        prediction = inferer(images(spatial_dims), network, model, noise, torch.tensor([3, 7]))
        assert prediction.shape == noise.shape
        scheduler.set_timesteps(2)
        samples = inferer.sample(noise, network, model, scheduler, verbose=False)
        assert samples.shape == images(spatial_dims).shape

    def test_likelihood_of_each_image(self, spatial_dims: int) -> None:
        scheduler = DDPMScheduler(num_train_timesteps=10)
        scheduler.set_timesteps(2)
        likelihood = LatentDiffusionInferer(scheduler).get_likelihood(
            images(spatial_dims), tiny(spatial_dims), unet(spatial_dims), verbose=False
        )
        assert likelihood.shape == (2,)
        assert likelihood.isfinite().all()


@pytest.mark.parametrize(
    "codebook",
    [EMACodebook(16, 4), CosineCodebook(16, 4), FSQCodebook((4, 4))],
    ids=lambda codebook: type(codebook).__name__,
)
def test_every_codebook_serves_both_inferers(codebook: torch.nn.Module) -> None:
    torch.manual_seed(0)
    network = AutoencoderVQ(channels=(16,), num_encoder_blocks=0, num_decoder_blocks=0, codebook=codebook).eval()
    x, ordering, start = images(2), order("raster_scan", 2), torch.full((1, 1), FIRST)
    inferer, model = VQVAETransformerInferer(), transformer(2)
    _, sequences, grid = inferer(x, network, model, ordering, return_latent=True)
    assert 0 <= sequences.min() <= sequences.max() < network.num_embeddings == NUM_CODES
    torch.testing.assert_close(network.decode_samples(sequences.view(2, *grid)), network(x))
    assert inferer.sample(grid, start, network, model, ordering, verbose=False).shape == (1, *x.shape[1:])

    latents = network.encode_stage_2_inputs(x)
    torch.testing.assert_close(network.decode_stage_2_outputs(latents), network(x))
    scheduler = DDPMScheduler(num_train_timesteps=10)
    scheduler.set_timesteps(2)
    diffusion = DiffusionInferer(scheduler)
    model = unet(2, network.embedding_dim)
    noise, timesteps = torch.randn(latents.shape), torch.tensor([3, 7])
    prediction = LatentDiffusionInferer(scheduler)(x, network, model, noise, timesteps)
    torch.testing.assert_close(prediction, diffusion(latents, model, noise, timesteps))
    samples = LatentDiffusionInferer(scheduler).sample(noise, network, model, scheduler, verbose=False)
    assert samples.shape == x.shape
