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

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.networks.utils import convert_to_torchscript

from monai_vqprior.networks import CodeContext, GatedPixelCNN

#: size of the grid, and the strides and numbers of codes of its context.
CONTEXTS: dict[str, dict[str, Any]] = {
    "2-D, sketch": {"spatial_size": (4, 6), "strides": 2, "num_embeddings": 5},
    "2-D, neighbor": {"spatial_size": (3, 4), "strides": 1, "num_embeddings": 6},
    "2-D, both": {"spatial_size": (4, 4), "strides": [2, 1], "num_embeddings": [5, 6]},
    "2-D, surroundings": {"spatial_size": (4, 4), "strides": [2, 1], "num_embeddings": [5, 6], "kernel_sizes": [1, 3]},
    "2-D, blocks cut off": {"spatial_size": (5, 3), "strides": 2, "num_embeddings": 5},
    "3-D, sketch": {"spatial_dims": 3, "spatial_size": (2, 4, 2), "strides": 2, "num_embeddings": 5},
    "3-D, both": {"spatial_dims": 3, "spatial_size": (2, 3, 2), "strides": [2, 1], "num_embeddings": [5, 6]},
}
each_context = pytest.mark.parametrize("options", CONTEXTS.values(), ids=CONTEXTS.keys())

# torch.export copies its own tree of arguments


def prior(options: dict[str, Any], **more: Any) -> GatedPixelCNN:
    """A small prior in evaluation mode with a context network of which no part is without effect."""
    torch.manual_seed(0)
    context = CodeContext(channels=6, num_blocks=1, **options)
    shape = {name: options[name] for name in ("spatial_dims", "spatial_size") if name in options}
    network = GatedPixelCNN(num_embeddings=5, channels=6, num_layers=3, context_network=context, **shape, **more)
    with torch.no_grad():
        for tensor in network.parameters():
            if not tensor.any():
                tensor.normal_(0, 0.3)
    return network.eval()


def grids(network: GatedPixelCNN, batch: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(1).integers(0, 5, (batch, *network.spatial_size)))


def context(network: GatedPixelCNN, batch: int, unknown: float = 0.2) -> torch.Tensor:
    """A context (B, number of grids, *spatial); some of its codes are not known."""
    rng = np.random.default_rng(2)
    number = len(network.context_network.sources)
    codes = rng.integers(0, 5, (batch, number, *network.spatial_size))
    codes[rng.random(codes.shape) < unknown] = -1
    return torch.from_numpy(codes)


def generated(network: GatedPixelCNN, codes: torch.Tensor, told: torch.Tensor | None) -> torch.Tensor:
    """The logits (B, K, *spatial) that ``generate`` visits when it is told these codes."""
    visited: list[torch.Tensor] = []

    def choose(position: int, logits: torch.Tensor) -> torch.Tensor:
        visited.append(logits.clone())
        return codes.flatten(1)[:, position]

    assert torch.equal(network.generate(choose, len(codes), context=told), codes)
    return torch.stack(visited, -1).view(len(codes), -1, *network.spatial_size)


@each_context
def test_a_logit_knows_all_of_the_context_and_earlier_codes_alone(options: dict[str, Any]) -> None:
    network = prior(options).double()
    codes, told = grids(network, 1), context(network, 1, unknown=0)
    number = codes[0].numel()

    changed = codes.flatten(1).repeat(number, 1)  # grid j differs in code j
    changed[range(number), range(number)] = (changed.diagonal() + 1) % 5
    with torch.no_grad():
        before = network(codes, context=told)
        after = network(changed.view(number, *network.spatial_size), context=told.expand(number, *told.shape[1:]))
    moved = (after - before).abs().amax(1).flatten(1)  # (changed code, position of the logit)
    later = np.triu(np.ones((number, number), bool), 1)
    assert moved[~later].max() < 1e-12

    # Logits know the context of positions after them: a change at the end of the grid moves the first ones.
    for source, stride in enumerate(np.atleast_1d(options["strides"])):
        other = told.clone()
        last = tuple(slice(-(size % stride or stride), None) for size in network.spatial_size)  # the last block
        other[0, source][last] = (other[0, source][last] + 1) % 5
        with torch.no_grad():
            moved = (network(codes, context=other) - before).abs().amax(1).flatten()
        assert moved[-1] > 1e-9
        assert moved[:-1].max() > 1e-9


@each_context
@pytest.mark.parametrize("batch", [1, 4, 128])
def test_generate_visits_the_logits_of_forward(options: dict[str, Any], batch: int) -> None:
    network = prior(options, attention_every=2, num_heads=2, skip_connections=True, position_logits=True)
    codes, told = grids(network, batch), context(network, batch)
    told[1:2] = -1  # one grid without context among others
    with torch.no_grad():
        expected = network(codes, context=told)
    torch.testing.assert_close(generated(network, codes, told), expected, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(network(codes), expected)


@each_context
def test_no_context_is_the_same_however_it_is_told(options: dict[str, Any]) -> None:
    network = prior(options)
    codes, told = grids(network, 3), context(network, 3)
    told[1] = -1
    with torch.no_grad():
        alone, beside = network(codes), network(codes, context=told)
    torch.testing.assert_close(beside[1], alone[1])
    assert not torch.allclose(beside[0], alone[0])


def test_one_context_does_not_reach_another_grid() -> None:
    network = prior(CONTEXTS["2-D, both"])
    codes, told = grids(network, 3), context(network, 3)
    other = told.clone()
    other[0] = (other[0] + 1) % 5
    with torch.no_grad():
        before, after = network(codes, context=told), network(codes, context=other)
    assert not torch.allclose(before[0], after[0])
    torch.testing.assert_close(before[1:], after[1:])


def test_context_is_withheld_in_training_only() -> None:
    network = prior(CONTEXTS["2-D, sketch"], context_dropout=0.5)
    codes, told = grids(network, 1).expand(400, -1, -1), context(network, 1).expand(400, -1, -1, -1)
    with torch.no_grad():
        alone, known = network(codes[:1]), network(codes[:1], context=told[:1])
        torch.manual_seed(0)
        rows = network.train()(codes, context=told)
        assert torch.allclose(network.eval()(codes, context=told), known.expand_as(rows), atol=1e-5)
    withheld = torch.isclose(rows, alone, atol=1e-5).flatten(1).all(1)
    given = torch.isclose(rows, known, atol=1e-5).flatten(1).all(1)
    assert bool((withheld ^ given).all())
    assert 160 < int(withheld.sum()) < 240  # 4 standard deviations of 10


def test_a_sketch_code_is_read_once_a_block() -> None:
    """By hand: stride 2, no blocks, no positions: the map is a linear function of the block's own code."""
    network = CodeContext(num_embeddings=3, spatial_size=(2, 4), channels=2, strides=2, num_blocks=0, num_fine_blocks=0)
    sketch = torch.tensor([[[1, -1]]])
    (source,) = network.sources
    with torch.no_grad():
        got = network(sketch.repeat_interleave(2, 1).repeat_interleave(2, 2)[:, None])[0]
        weight, bias = source.up.weight[:, :, 0, 0].numpy(), source.up.bias.numpy()
        for place, code in enumerate((1, 3)):  # code -1 has the last embedding
            vector = (weight @ source.embedding.weight[code].numpy() + bias).reshape(2, 2, 2)  # (C, row, column)
            np.testing.assert_allclose(got[:, :, 2 * place : 2 * place + 2], vector, rtol=1e-5)


def test_surroundings_are_read_from_the_first_step_on() -> None:
    """Residual blocks start as the identity, so without the convolution a map knows nothing of the codes around."""
    codes = torch.arange(25).view(1, 1, 5, 5) % 3
    codes[..., 2, 2] = -1
    other = codes.clone()
    other[..., 3, 1] = 0 if codes[..., 3, 1] else 1
    for kernel, reaches in ((1, False), (3, True)):
        torch.manual_seed(0)
        network = CodeContext(num_embeddings=3, spatial_size=5, channels=4, strides=1, kernel_sizes=kernel)
        with torch.no_grad():
            moved = (network(other) - network(codes)).abs().amax(1)[0]
        assert bool(moved[2, 2] > 0) == reaches
        assert moved[3, 1] > 0
        assert moved[0, 4] == 0


@each_context
def test_gradient_reaches_every_parameter(options: dict[str, Any]) -> None:
    network = prior(options).train()
    network(grids(network, 2), context=context(network, 2)).square().sum().backward()
    unmoved = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    # The embedding of a code that is not known, where the seed draws none.
    assert not [name for name in unmoved if "embedding" not in name]


@each_context
def test_as_torchscript(options: dict[str, Any], tmp_path: Path) -> None:
    network = prior(options)
    convert_to_torchscript(network, str(tmp_path / "prior.ts"))
    loaded = torch.jit.load(tmp_path / "prior.ts")
    for batch in (1, 3, 3):
        codes, told = grids(network, batch), context(network, batch)
        torch.testing.assert_close(loaded(codes, context=told), network(codes, context=told))
        torch.testing.assert_close(loaded(codes), network(codes))


# errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_embeddings": [5, 6]}, r"one number for each grid, got \[5, 6\] and \[4\]"),
        ({"num_embeddings": []}, r"one number for each grid, got \[\] and \[4\]"),
        ({"num_embeddings": 0}, r"must be positive, got \[0\] and \[4\]"),
        ({"strides": 0}, r"must be positive, got \[512\] and \[0\]"),
        ({"kernel_sizes": 2}, r"kernel_sizes must be odd, one number for each of 1 grids, got \[2\]"),
        ({"kernel_sizes": [1, 3]}, r"one number for each of 1 grids, got \[1, 3\]"),
        ({"num_blocks": -1}, "must not be negative, got -1 and 1"),
    ],
)
def test_bad_argument_is_quoted(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CodeContext(**options)


def test_bad_context() -> None:
    network = prior(CONTEXTS["2-D, both"])
    codes = grids(network, 2)
    for told, message in (
        (context(network, 3), "context must be of 2 grids, got 3"),
        (context(network, 2)[:, :1], r"context must be \(B, 2, ...\), got \[2, 1, 4, 4\]"),
        (context(network, 2)[..., :3], r"context must be of size \[4, 4\], got \[2, 2, 4, 3\]"),
    ):
        with pytest.raises(ValueError, match=message):
            network(codes, context=told)
        with pytest.raises(ValueError, match=message):
            network.generate(lambda position, logits: logits.argmax(1), 2, context=told)
    with pytest.raises(ValueError, match="a context needs a network with a context_network"):
        GatedPixelCNN(spatial_size=4, channels=4, num_layers=1)(codes, context=context(network, 2))
    with pytest.raises(ValueError, match=r"context_dropout must be at least 0 and less than 1, got 1"):
        GatedPixelCNN(context_dropout=1)
