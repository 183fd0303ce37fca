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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from monai.networks.utils import convert_to_onnx, convert_to_torchscript

from monai_vqprior.networks import (
    AutoencoderVQ,
    CodeContext,
    CosineCodebook,
    EMACodebook,
    FSQCodebook,
    GatedPixelCNN,
    RotationTrick,
)

# Both networks in the three forms that leave Python, beside the eager network.

NAN = math.nan
SIZES = {2: (16, 24), 3: (8, 12, 16)}
CODEBOOKS: dict[str, Callable[[], torch.nn.Module]] = {
    "EMA": lambda: EMACodebook(16, 4),
    "EMA, rotation": lambda: EMACodebook(16, 4, gradient=RotationTrick()),
    "cosine": lambda: CosineCodebook(16, 4),
    "FSQ": lambda: FSQCodebook((5, 3, 3, 2)),
}
ALL_OF_A_PRIOR: dict[str, Any] = {
    "num_classes": [3, 2],
    "num_values": 2,
    "attention_every": 2,
    "num_heads": 2,
    "skip_connections": True,
    "position_logits": True,
    "dropout": 0.5,
    "condition_dropout": 0.5,
    "context": {"num_embeddings": [5, 6], "strides": [2, 1]},
}
PRIORS: dict[str, dict[str, Any]] = {
    "2-D": {"spatial_dims": 2, "spatial_size": (3, 4)},
    "2-D, attention": {"spatial_dims": 2, "spatial_size": (3, 4), "attention_every": 1, "num_heads": 2},
    "2-D, skip connections": {"spatial_dims": 2, "spatial_size": (3, 4), "skip_connections": True},
    "2-D, position logits": {"spatial_dims": 2, "spatial_size": (3, 4), "position_logits": True},
    "2-D, one class": {"spatial_dims": 2, "spatial_size": (3, 4), "num_classes": [3]},
    "2-D, one value": {"spatial_dims": 2, "spatial_size": (3, 4), "num_values": 1},
    "3-D": {"spatial_dims": 3, "spatial_size": (2, 3, 2)},
    "2-D, all": {"spatial_dims": 2, "spatial_size": (3, 4), **ALL_OF_A_PRIOR},
    "3-D, all": {"spatial_dims": 3, "spatial_size": (2, 3, 2), **ALL_OF_A_PRIOR},
}

# torch.export copies its own tree of arguments
pytestmark = [
    pytest.mark.zoo,
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning"),
]


def autoencoder(spatial_dims: int, codebook: str, background: float | None = None) -> AutoencoderVQ:
    """A small network in evaluation mode whose codes have started and whose blocks have left the identity."""
    torch.manual_seed(0)
    network = AutoencoderVQ(
        spatial_dims,
        channels=(16, 16),
        patch_size=2,
        num_encoder_blocks=1,
        num_decoder_blocks=1,
        codebook=CODEBOOKS[codebook](),
        background=background,
        use_checkpointing=True,
    )
    away_from_zero(network)
    network(images(spatial_dims, 3))
    return network.eval()


def prior(options: dict[str, Any]) -> GatedPixelCNN:
    """A small network in evaluation mode of which no part is without effect."""
    torch.manual_seed(0)
    small: dict[str, Any] = {"num_embeddings": 5, "channels": 4, "num_layers": 2, "kernel_size": 3, **options}
    context = small.pop("context", None)
    if context is not None:
        shape = {name: small[name] for name in ("spatial_dims", "spatial_size", "channels")}
        small["context_network"] = CodeContext(num_blocks=1, **shape, **context)
    network = GatedPixelCNN(**small).eval()
    away_from_zero(network)
    return network


@torch.no_grad()
def away_from_zero(network: torch.nn.Module) -> None:
    for tensor in [*network.parameters(), *network.buffers()]:
        if tensor.is_floating_point() and not tensor.any():
            tensor.normal_(0, 0.3)


def images(spatial_dims: int, batch: int) -> torch.Tensor:
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.random((batch, 1, *SIZES[spatial_dims]), np.float32))


def arguments(network: GatedPixelCNN, batch: int) -> tuple[torch.Tensor, ...]:
    """Codes, and for a network with all conditions labels, values and a context, some of each missing."""
    rng = np.random.default_rng(batch)
    codes = torch.from_numpy(rng.integers(0, 5, (batch, *network.spatial_size)))
    if not (network.num_classes and network.num_values):
        return (codes,)
    labels = torch.from_numpy(rng.integers(-1, 2, (batch, len(network.num_classes))))
    values = torch.from_numpy(rng.standard_normal((batch, network.num_values), np.float32))
    values[0, 0] = NAN
    context = torch.from_numpy(rng.integers(-1, 5, (batch, 2, *network.spatial_size)))
    return codes, labels, values, context


def run_onnx(model: Any, *inputs: torch.Tensor) -> torch.Tensor:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]
    (output,) = session.run(None, {name: value.numpy() for name, value in zip(names, inputs, strict=True)})
    return torch.from_numpy(output)


# TorchScript


@pytest.mark.parametrize(
    ("spatial_dims", "codebook", "background"),
    [
        (2, "EMA", None), (3, "EMA", 0.3), (2, "EMA, rotation", None), (3, "cosine", None), (2, "FSQ", 0.3),
        (3, "FSQ", None),
    ],
)  # fmt: skip
def test_autoencoder_as_torchscript(spatial_dims: int, codebook: str, background: float | None, tmp_path: Path) -> None:
    network = autoencoder(spatial_dims, codebook, background)
    convert_to_torchscript(network, str(tmp_path / "model.ts"))
    loaded = torch.jit.load(tmp_path / "model.ts")
    x = images(spatial_dims, 2)
    for batch in (x, x[:1, ..., :8], x):  # any batch and size; the third call is optimized by what the others were
        reconstruction = loaded(batch)
        assert isinstance(reconstruction, torch.Tensor)
        torch.testing.assert_close(reconstruction, network(batch))
        torch.testing.assert_close(loaded.encode(batch), network.encode(batch))
        codes = loaded.index_quantize(batch)
        assert torch.equal(codes, network.index_quantize(batch))
        torch.testing.assert_close(loaded.decode_samples(codes), network.decode_samples(codes))
        latents = loaded.encode_stage_2_inputs(batch)
        torch.testing.assert_close(latents, network.encode_stage_2_inputs(batch))
        torch.testing.assert_close(loaded.decode_stage_2_outputs(latents), network.decode_stage_2_outputs(latents))
    assert loaded.state_dict().keys() >= network.state_dict().keys()

    # In training mode the pair; the codes stay, as in the eager network's methods but unlike its call.
    quantized, commitment = network.quantize(network.encode(x))
    for _ in range(2):
        reconstruction, loss = loaded.train()(x)
        torch.testing.assert_close(reconstruction, network.decode(quantized))
        torch.testing.assert_close(loss, commitment)


def test_scripted_autoencoder_refuses_what_the_eager_one_refuses() -> None:
    scripted = torch.jit.script(autoencoder(2, "EMA"))
    with pytest.raises(torch.jit.Error, match="multiples of the network's stride 4, got 18"):
        scripted(torch.zeros(1, 1, 16, 18))
    with pytest.raises(torch.jit.Error, match=r"must have 4 dimensions \(B, C, ...\), got 3"):
        scripted(torch.zeros(1, 16, 16))


@pytest.mark.parametrize("options", PRIORS.values(), ids=PRIORS.keys())
def test_prior_as_torchscript(options: dict[str, Any], tmp_path: Path) -> None:
    network = prior(options)
    convert_to_torchscript(network, str(tmp_path / "prior.ts"))
    loaded = torch.jit.load(tmp_path / "prior.ts")
    for batch in (1, 3, 3):
        codes, *conditions = arguments(network, batch)
        torch.testing.assert_close(loaded(codes), network(codes))
        if conditions:
            _, values, context = conditions
            torch.testing.assert_close(loaded(codes, *conditions), network(codes, *conditions))
            torch.testing.assert_close(loaded(codes, values=values), network(codes, values=values))
            torch.testing.assert_close(loaded(codes, context=context), network(codes, context=context))
            assert not torch.allclose(loaded(codes, *conditions), loaded(codes))
    assert loaded.state_dict().keys() >= network.state_dict().keys()


@pytest.mark.parametrize("kind", [torch.uint8, torch.int32, torch.float32])
def test_prior_reads_codes_of_any_type(kind: torch.dtype) -> None:
    network = prior(PRIORS["2-D"])
    (codes,) = arguments(network, 2)
    assert torch.equal(network(codes.to(kind)), network(codes))


def test_scripted_prior_refuses_what_the_eager_one_refuses() -> None:
    scripted = torch.jit.script(prior(PRIORS["2-D, one class"]))
    codes = torch.zeros(2, 3, 4, dtype=torch.long)
    with pytest.raises(torch.jit.Error, match=r"codes must be \(B, 3, 4\), got \(2, 1, 4\)"):
        scripted(codes[:, :1])
    with pytest.raises(torch.jit.Error, match=r"labels must be \(2, 1\), got \(2, 2\)"):
        scripted(codes, torch.zeros(2, 2, dtype=torch.long))
    with pytest.raises(torch.jit.Error, match=r"values must be \(2, 0\), got \(2, 1\)"):
        scripted(codes, None, torch.zeros(2, 1))


# torch.export and ONNX, for any number of images


@pytest.mark.parametrize(("spatial_dims", "codebook"), [(2, "cosine"), (3, "EMA"), (3, "FSQ")])
def test_autoencoder_as_exported_program(spatial_dims: int, codebook: str) -> None:
    network = autoencoder(spatial_dims, codebook)
    x = images(spatial_dims, 3)
    batch = {0: torch.export.Dim("batch")}
    program = torch.export.export(network, (x[:2],), dynamic_shapes=(batch,)).module()
    for given in (x[:1], x):
        torch.testing.assert_close(program(given), network(given))


@pytest.mark.parametrize("kind", ["2-D, all", "3-D"])
def test_prior_as_exported_program(kind: str) -> None:
    network = prior(PRIORS[kind])
    example = arguments(network, 2)
    batch = {0: torch.export.Dim("batch")}
    program = torch.export.export(network, example, dynamic_shapes=(batch,) * len(example)).module()
    for given in (arguments(network, 1), arguments(network, 3)):
        torch.testing.assert_close(program(*given), network(*given))


@pytest.mark.parametrize(("spatial_dims", "codebook"), [(2, "FSQ"), (3, "cosine")])
def test_autoencoder_as_onnx(spatial_dims: int, codebook: str, tmp_path: Path) -> None:
    network = autoencoder(spatial_dims, codebook)
    x = images(spatial_dims, 3)
    model = convert_to_onnx(
        network, (x[:2],), filename=tmp_path / "model.onnx", dynamo=True, dynamic_shapes=({0: "batch"},)
    )
    for given in (x[:1], x):
        torch.testing.assert_close(run_onnx(model, given), network(given), rtol=0, atol=1e-4)


@pytest.mark.filterwarnings("ignore:# The axis name. batch will not be used:UserWarning")  # one name for all inputs
def test_prior_as_onnx(tmp_path: Path) -> None:
    network = prior(PRIORS["3-D, all"])
    example = arguments(network, 2)
    model = convert_to_onnx(
        network, example, filename=tmp_path / "prior.onnx", dynamo=True, dynamic_shapes=({0: "batch"},) * len(example)
    )
    for given in (arguments(network, 1), arguments(network, 3)):
        torch.testing.assert_close(run_onnx(model, *given), network(*given), rtol=0, atol=1e-4)
