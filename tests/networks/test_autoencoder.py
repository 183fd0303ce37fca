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

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from monai.networks.nets import VQVAE
from monai.networks.utils import pixelshuffle, pixelunshuffle

from monai_vqprior.networks.autoencoder import AutoencoderVQ, PreactivationBlock, fold, unfold
from monai_vqprior.networks.codebook import EMACodebook
from monai_vqprior.networks.predictability import unpredicted_share

SIZES = {2: (16, 24), 3: (8, 12, 16)}


def tiny(spatial_dims: int = 2, **options: object) -> AutoencoderVQ:
    """A network of stride 4 with 16 codes of length 4 whose blocks have left the identity."""
    torch.manual_seed(0)
    small = {"channels": (16,), "num_encoder_blocks": 1, "num_decoder_blocks": 1, "codebook": EMACodebook(16, 4)}
    network = AutoencoderVQ(spatial_dims, **(small | options))
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(0, 0.1)
    return network


def monai_twin(spatial_dims: int, in_channels: int = 1, out_channels: int = 1) -> VQVAE:
    """MONAI's network of the same stride and codes."""
    return VQVAE(
        spatial_dims,
        in_channels,
        out_channels,
        channels=(8, 8),
        num_res_layers=1,
        num_res_channels=(8, 8),
        downsample_parameters=((2, 4, 1, 1), (2, 4, 1, 1)),
        upsample_parameters=((2, 4, 1, 1, 0), (2, 4, 1, 1, 0)),
        num_embeddings=16,
        embedding_dim=4,
    )


def images(spatial_dims: int = 2, batch: int = 2, channels: int = 1) -> torch.Tensor:
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.random((batch, channels, *SIZES[spatial_dims]), np.float32))


def discs(size: int = 16) -> torch.Tensor:
    """Four images (4, 1, size, size) of a bright disc, each elsewhere."""
    rows, columns = np.mgrid[:size, :size] / size
    centers = [(0.3, 0.3), (0.3, 0.7), (0.7, 0.4), (0.5, 0.6)]
    discs = [np.exp(-(((rows - r) ** 2 + (columns - c) ** 2) / 0.05)) for r, c in centers]
    return torch.from_numpy(np.stack(discs)[:, None].astype(np.float32))


def snapshot(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def loss_of(network: AutoencoderVQ, x: torch.Tensor) -> torch.Tensor:
    reconstruction, commitment = network(x)
    return F.mse_loss(reconstruction.float(), x) + commitment


# the interface


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("channels", [(1, 1), (2, 3)])
@pytest.mark.parametrize("two_levels", [False, True])
def test_shapes_are_those_of_monai(spatial_dims: int, channels: tuple[int, int], two_levels: bool) -> None:
    levels = {"channels": (16, 32), "patch_size": 2} if two_levels else {"channels": (16,), "patch_size": 4}
    ours = tiny(spatial_dims, in_channels=channels[0], out_channels=channels[1], **levels)
    theirs = monai_twin(spatial_dims, *channels)
    x = images(spatial_dims, channels=channels[0])
    z = ours.encode(x)
    indices = ours.index_quantize(x)
    calls: dict[str, torch.Tensor] = {
        "forward": x,
        "encode": x,
        "quantize": z,
        "decode": z,
        "index_quantize": x,
        "decode_samples": indices,
        "encode_stage_2_inputs": x,
        "decode_stage_2_outputs": z,
    }
    for name, argument in calls.items():
        mine, monais = getattr(ours, name)(argument), getattr(theirs, name)(argument)
        assert isinstance(mine, tuple) == isinstance(monais, tuple), name
        for a, b in zip(*((y if isinstance(y, tuple) else (y,)) for y in (mine, monais)), strict=True):
            assert (a.shape, a.dtype) == (b.shape, b.dtype), name
    assert ours.num_embeddings == theirs.num_embeddings
    assert (ours.stride, ours.embedding_dim) == (4, 4)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_evaluation_returns_the_decoded_codes(spatial_dims: int) -> None:
    network = tiny(spatial_dims).eval()
    x = images(spatial_dims)
    reconstruction = network(x)
    assert isinstance(reconstruction, torch.Tensor)
    codes = network.codebook.embedding[network.index_quantize(x)].movedim(-1, 1)
    torch.testing.assert_close(reconstruction, network.decode(codes))
    torch.testing.assert_close(network.decode_samples(network.index_quantize(x)), network.decode(codes))


def test_training_returns_reconstruction_and_commitment() -> None:
    network = tiny(codebook=EMACodebook(16, 4, commitment_cost=0.5))
    x = images()
    network(x)  # starts the codebook
    z = network.encode(x)
    codes = network.codebook.embedding[network.index_quantize(x)].movedim(-1, 1)
    reconstruction, loss = network(x)
    torch.testing.assert_close(reconstruction, network.decode(codes), atol=1e-5, rtol=1e-4)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(0.5 * (z - codes).square().mean().item(), rel=1e-4)


def test_training_mode_moves_the_codebook_and_evaluation_does_not() -> None:
    network = tiny()
    before = snapshot(network)
    network.eval()(images())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    network.train()(images())
    assert not torch.equal(network.codebook.embedding, before["codebook.embedding"])


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda network, x: network.encode(x), id="encode"),
        pytest.param(lambda network, x: network.quantize(network.encode(x)), id="quantize"),
        pytest.param(lambda network, x: network.index_quantize(x), id="index_quantize"),
        pytest.param(lambda network, x: network.decode_samples(network.index_quantize(x)), id="decode_samples"),
        pytest.param(lambda network, x: network.encode_stage_2_inputs(x), id="encode_stage_2_inputs"),
        pytest.param(lambda network, x: network.decode_stage_2_outputs(network.encode(x)), id="decode_stage_2_outputs"),
    ],
)
def test_encoding_and_decoding_in_training_mode_write_nothing(
    call: Callable[[AutoencoderVQ, torch.Tensor], object],
) -> None:
    network = tiny().train()
    before = snapshot(network)
    call(network, images())
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_latents_of_stage_two_are_codes_and_are_quantized_before_decoding() -> None:
    network = tiny().eval()
    x = images()
    latents = network.encode_stage_2_inputs(x).detach()
    distance = torch.cdist(latents.movedim(1, -1).reshape(-1, 4).double(), network.codebook.embedding.double())
    np.testing.assert_allclose(distance.min(1).values.numpy(), 0, atol=1e-6)
    torch.testing.assert_close(network.decode_stage_2_outputs(latents + 1e-4), network(x))


def test_given_codebook_is_used() -> None:
    codebook = EMACodebook(33, 5)
    network = tiny(codebook=codebook)
    assert network.codebook is codebook
    assert (network.num_embeddings, network.embedding_dim) == (33, 5)
    assert network.encode(images()).shape[1] == 5


def test_default_grid_is_32_x_32_codes_of_512_for_128_pixels() -> None:
    network = AutoencoderVQ(num_encoder_blocks=0, num_decoder_blocks=0)
    indices = network.index_quantize(torch.zeros(1, 1, 128, 128))
    assert (tuple(indices.shape), network.num_embeddings) == ((1, 32, 32), 512)


@pytest.mark.parametrize("patch_size", [1, 2, 8])
def test_patch_size_is_the_stride_of_one_level(patch_size: int) -> None:
    network = tiny(patch_size=patch_size).eval()
    x = images()
    assert network.index_quantize(x).shape == (2, 16 // patch_size, 24 // patch_size)
    assert network(x).shape == x.shape


@pytest.mark.parametrize(("spatial_dims", "cell"), [(2, (0, 5)), (2, (4, 1)), (3, (0, 3, 2)), (3, (3, 0, 1))])
def test_code_and_image_patch_lie_at_the_same_place(spatial_dims: int, cell: tuple[int, ...]) -> None:
    # Without blocks the encoder sees one cell around its own and the decoder reaches two; the norms add a little.
    network = tiny(spatial_dims, num_encoder_blocks=0, num_decoder_blocks=0).eval()
    x = torch.zeros(1, 1, *[4 * 6] * spatial_dims)
    z = torch.zeros(1, 4, *[6] * spatial_dims)
    x_moved, z_moved = x.clone(), z.clone()
    x_moved[(..., *[slice(4 * i, 4 * i + 4) for i in cell])] = 1
    z_moved[(..., *cell)] = 1
    for change, size, reach in [
        (network.encode(x_moved) - network.encode(x), 1, 1),
        (network.decode(z_moved) - network.decode(z), 4, 2),
    ]:
        strongest = np.unravel_index(int(change.abs().amax(1).argmax()), change.shape[2:])
        assert all(abs(int(s) // size - i) <= reach for s, i in zip(strongest, cell, strict=True)), strongest


# learning


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("channels", [(16,), (16, 16)])
def test_gradient_reaches_every_parameter(spatial_dims: int, channels: tuple[int, ...]) -> None:
    network = tiny(spatial_dims, channels=channels, patch_size=4 // len(channels))
    loss_of(network, images(spatial_dims)).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


@pytest.mark.parametrize("part", [0, 1], ids=["reconstruction", "commitment"])
def test_each_output_alone_trains_the_encoder(part: int) -> None:
    network = tiny()
    network(images())[part].square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in network.encoder.parameters())


@pytest.mark.parametrize("channels", [(32,), (16, 32)])
def test_a_few_steps_reduce_the_loss_much(channels: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    network = AutoencoderVQ(
        channels=channels,
        num_encoder_blocks=1,
        num_decoder_blocks=1,
        patch_size=4 // len(channels),
        codebook=EMACodebook(64, 4, decay=0.9),
    )
    x = discs()
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(80):
        optimizer.zero_grad()
        loss = loss_of(network, x)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    variance = x.var().item()  # what the mean image would leave
    assert losses[-1] < 0.05 * losses[0]
    assert F.mse_loss(network.eval()(x), x).item() < 0.1 * variance


def test_volume_of_64_cubed_trains_with_checkpointing() -> None:
    torch.manual_seed(0)
    network = AutoencoderVQ(
        3,
        channels=(16,),
        num_encoder_blocks=1,
        num_decoder_blocks=1,
        codebook=EMACodebook(32, 4),
        use_checkpointing=True,
    )
    axis = torch.linspace(-1, 1, 64)
    volume = (torch.cartesian_prod(axis, axis, axis).norm(dim=1) < 0.7).float().view(1, 1, 64, 64, 64)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(6):
        optimizer.zero_grad()
        reconstruction, commitment = network(volume)
        loss = F.l1_loss(reconstruction, volume) + commitment
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]
    assert network.eval().index_quantize(volume).shape == (1, 16, 16, 16)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_codes_follow_the_patches_with_a_pixel_above_the_background(spatial_dims: int) -> None:
    network = tiny(spatial_dims, background=0.5)
    x = 0.5 * images(spatial_dims, batch=3)
    x[0, 0][(slice(4, 8),) * spatial_dims] = 0.9  # one patch of the first image
    masks = []
    network.codebook.register_forward_pre_hook(lambda _, args, kwargs: masks.append(kwargs["mask"]), with_kwargs=True)
    network(x)
    expected = torch.zeros(3, *(side // 4 for side in SIZES[spatial_dims]), dtype=torch.bool)
    expected[(0,) + (1,) * spatial_dims] = True
    assert torch.equal(masks[0], expected)


@pytest.mark.parametrize("background", [None, 0.5])
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_loss_of_predictability(spatial_dims: int, background: float | None) -> None:
    """Of the patches with a pixel above 0.02, or above the background that is given."""
    x = images(spatial_dims)
    x[0, 0][..., :8] = 0.01
    x[1, 0][..., :4] = 0.3
    plain, asked = (tiny(spatial_dims, background=background, predictability_weight=w) for w in (0.0, 0.5))
    patches = x.numpy().reshape(len(x), *(n for side in SIZES[spatial_dims] for n in (side // 4, 4)))
    brightest = torch.from_numpy(patches.max(tuple(range(2, patches.ndim, 2))))
    weights = brightest > (0.02 if background is None else background)
    assert weights.any()
    assert not weights.all()
    outputs, losses = [], []
    for network in (plain, asked):
        network.codebook.register_forward_hook(lambda _, args, output: outputs.append(output[0]))
        torch.manual_seed(1)  # the codebooks start with draws
        losses.append(network(x)[1])
    share = unpredicted_share(outputs[1], weights)
    assert (losses[1] - losses[0]).item() == pytest.approx(0.5 * share.log().item(), rel=1e-4)


def test_numbers_of_blocks_one_for_each_level() -> None:
    network = tiny(channels=(16, 16), num_encoder_blocks=(1, 3), num_decoder_blocks=[0, 2])
    blocks = [[isinstance(layer, PreactivationBlock) for layer in half] for half in (network.encoder, network.decoder)]
    # Down: a stem and its blocks, twice, then norm, activation and convolution; up: the mirror of it.
    assert blocks[0] == [False, True, False, True, True, True] + [False] * 3
    assert blocks[1] == [False, True, True] + [False] * 6


@pytest.mark.parametrize("factor", [1, 2, 3])
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_folding_is_that_of_monai(spatial_dims: int, factor: int) -> None:
    x = torch.rand(2, 5, *(factor * side for side in (2, 3, 4)[:spatial_dims]))
    folded = fold(x, factor)
    assert torch.equal(folded, pixelunshuffle(x, spatial_dims, factor))
    assert torch.equal(unfold(folded, factor), pixelshuffle(folded, spatial_dims, factor))
    assert torch.equal(unfold(folded, factor), x)


def test_new_block_is_the_identity() -> None:
    x = torch.randn(2, 16, 5, 7, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(PreactivationBlock(2, 16)(x), x)


@pytest.mark.parametrize("training", [True, False])
def test_dropout_acts_in_training_only(training: bool) -> None:
    network = tiny(dropout=0.5).train(training)
    z = network.encode(images())
    assert torch.equal(network.encode(images()), z) is not training


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_checkpointing_gives_the_same_gradients(dropout: float) -> None:
    gradients, runs = [], []
    for use_checkpointing in (False, True):
        network = tiny(dropout=dropout, use_checkpointing=use_checkpointing)
        calls: list[str] = []
        for name, module in network.named_modules():
            if isinstance(module, PreactivationBlock):
                module.conv1.register_forward_pre_hook(lambda *_, calls=calls, name=name: calls.append(name))
        torch.manual_seed(1)
        loss_of(network, images()).backward()
        gradients.append({name: p.grad for name, p in network.named_parameters()})
        runs.append(len(calls))
    assert runs == [2, 4]  # each block of encoder and decoder runs once more in the backward pass
    torch.testing.assert_close(gradients[0], gradients[1])


def test_checkpointing_recomputes_nothing_without_gradients() -> None:
    network = tiny(use_checkpointing=True).eval()
    with torch.no_grad():
        torch.testing.assert_close(network(images()), tiny().eval()(images()))


def test_bfloat16_autocast_with_channels_last() -> None:
    x = images().to(memory_format=torch.channels_last)
    network = tiny().to(memory_format=torch.channels_last)
    z = network.encode(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z16 = network.encode(x)
        loss = loss_of(network, x)
        reconstruction = network.eval()(x)
    assert z16.dtype == torch.bfloat16
    assert (z16 - z).abs().max() < 0.05 * z.abs().max()
    loss.backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    for name, buffer in network.named_buffers():
        assert buffer.dtype in (torch.float32, torch.bool), name
        assert buffer.isfinite().all(), name
    assert reconstruction.shape == x.shape
    assert reconstruction.isfinite().all()


# errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spatial_dims": 1}, "spatial_dims must be 2 or 3, got 1"),
        ({"channels": ()}, r"channels must .*, got \[\]"),
        ({"channels": (16, 0)}, r"channels must .*, got \[16, 0\]"),
        ({"patch_size": 0}, "patch_size must be at least 1, got 0"),
        ({"num_encoder_blocks": -1}, r"num_encoder_blocks must not be negative, got -1\."),
        ({"in_channels": 0}, "in_channels and out_channels must be positive, got 0 and 1"),
        ({"predictability_weight": -0.1}, r"predictability_weight must not be negative, got -0\.1\."),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        (
            {"num_encoder_blocks": (1, 2)},
            r"num_encoder_blocks must be one number or one for each of the 1 channels, .*",
        ),
        ({"num_decoder_blocks": -2}, r"num_decoder_blocks must not be negative, got -2\."),
    ],
)
def test_bad_argument_is_quoted(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AutoencoderVQ(**options)


@pytest.mark.parametrize("shape", [(1, 1, 18, 16), (1, 1, 16, 18)])
@pytest.mark.parametrize("method", ["forward", "encode", "index_quantize", "encode_stage_2_inputs"])
def test_side_that_the_stride_does_not_divide(shape: tuple[int, ...], method: str) -> None:
    with pytest.raises(ValueError, match="multiples of the network's stride 4, got 18"):
        getattr(tiny(), method)(torch.zeros(shape))


@pytest.mark.parametrize(("spatial_dims", "shape"), [(2, (1, 1, 8, 8, 8)), (3, (1, 1, 8, 8)), (2, (1, 8, 8))])
def test_images_of_other_dimensions(spatial_dims: int, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=f"must have {spatial_dims + 2} dimensions .*, got {len(shape)}"):
        tiny(spatial_dims).encode(torch.zeros(shape))
