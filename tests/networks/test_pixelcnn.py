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

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_vqprior.networks.attention import CausalAttention
from monai_vqprior.networks.pixelcnn import GatedPixelCNN

NAN = math.nan
#: constructor arguments of small networks whose last position can see every other.
NETWORKS = {
    "2-D": {"spatial_dims": 2, "spatial_size": (3, 4)},
    "2-D, kernel 5": {"spatial_dims": 2, "spatial_size": (4, 3), "kernel_size": 5},
    "2-D, conditional": {"spatial_dims": 2, "spatial_size": (3, 4), "num_classes": [3, 2], "num_values": 2},
    "2-D, one row": {"spatial_dims": 2, "spatial_size": (1, 5)},
    "2-D, one column": {"spatial_dims": 2, "spatial_size": (5, 1), "num_values": 1},
    "2-D, attention": {"spatial_dims": 2, "spatial_size": (3, 4), "attention_every": 2, "num_heads": 3},
    "2-D, skip connections": {"spatial_dims": 2, "spatial_size": (3, 4), "skip_connections": True},
    "2-D, position logits": {"spatial_dims": 2, "spatial_size": (3, 4), "position_logits": True},
    "3-D": {"spatial_dims": 3, "spatial_size": (2, 3, 2)},
    "2-D, mirror": {"spatial_size": (3, 4), "mirror": True},
    "2-D, mirror, odd": {"spatial_size": (2, 5), "mirror": True, "attention_every": 2, "num_heads": 2},
    "3-D, mirror": {"spatial_dims": 3, "spatial_size": (2, 2, 3), "mirror": True},
    "3-D, kernel 5": {"spatial_dims": 3, "spatial_size": (3, 2, 3), "kernel_size": 5},
    "3-D, conditional": {"spatial_dims": 3, "spatial_size": (2, 3, 2), "num_classes": [2], "num_values": 1},
    "3-D, attention": {"spatial_dims": 3, "spatial_size": (2, 2, 3), "attention_every": 1, "num_heads": 2},
    "3-D, all": {
        "spatial_dims": 3,
        "spatial_size": (2, 2, 3),
        "attention_every": 2,
        "num_heads": 2,
        "skip_connections": True,
        "position_logits": True,
        "num_classes": [2],
        "num_values": 1,
    },
}
each_network = pytest.mark.parametrize("options", NETWORKS.values(), ids=NETWORKS.keys())


def prior(**options: object) -> GatedPixelCNN:
    """A small network in float64 and evaluation mode, with weights large enough that nothing vanishes."""
    torch.manual_seed(0)
    small = {"num_embeddings": 5, "channels": 6, "num_layers": 5, "kernel_size": 3}
    network = GatedPixelCNN(**(small | options)).double().eval()
    with torch.no_grad():
        network.position.normal_()
        for layer in network.layers:
            for conv in layer.convs:
                conv.conv.weight.mul_(2)
        for attention in network.attentions:
            if isinstance(attention, CausalAttention):
                attention.out.weight.normal_()
        if network.position_logits is not None:
            network.position_logits.normal_()
        if network.mirror is not None:
            for table in network.mirror.parameters():
                table.normal_()
    return network


def grids(network: GatedPixelCNN, batch: int, seed: int = 0) -> torch.Tensor:
    size = (batch, *network.spatial_size)
    return torch.from_numpy(np.random.default_rng(seed).integers(0, network.num_embeddings, size))


def conditions(network: GatedPixelCNN, batch: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels (B, number of labels) and values (B, num_values), about a third of them missing."""
    rng = np.random.default_rng(seed)
    labels = np.array([rng.integers(-1, number, batch) for number in network.num_classes], np.int64)
    values = rng.normal(size=(batch, network.num_values))
    values[rng.random(values.shape) < 0.3] = NAN
    return torch.from_numpy(labels.reshape(-1, batch).T.copy()), torch.from_numpy(values)


def generated(
    network: GatedPixelCNN,
    codes: torch.Tensor,
    labels: torch.Tensor | None = None,
    values: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What ``generate`` fills in when told these codes, and the logits (B, K, *spatial) that it visited."""
    flat = codes.flatten(1)
    visited: list[torch.Tensor] = []

    def choose(position: int, logits: torch.Tensor) -> torch.Tensor:
        assert position == len(visited)
        assert not logits.requires_grad
        visited.append(logits.clone())
        return flat[:, position]

    filled = network.generate(choose, len(codes), labels, values)
    return filled, torch.stack(visited, -1).view(len(codes), -1, *network.spatial_size)


# causality


@each_network
@pytest.mark.parametrize("conditional", [True, False])
def test_a_code_moves_every_later_logit_and_no_other(options: dict[str, object], conditional: bool) -> None:
    network = prior(**options)
    codes = grids(network, 1)
    number = codes[0].numel()
    changed = codes.flatten(1).repeat(number, 1)  # grid j differs in code j
    changed[range(number), range(number)] = (changed.diagonal() + 1) % network.num_embeddings
    batch = torch.cat([codes, changed.view(number, *network.spatial_size)])
    labels, values = (x[:1].repeat(number + 1, 1) for x in conditions(network, 1, seed=1))
    with torch.no_grad():
        logits = network(batch, labels, values) if conditional else network(batch)
    moved = (logits[1:] - logits[:1]).abs().amax(1).flatten(1)  # (changed code, position of the logit)
    later = np.triu(np.ones((number, number), bool), 1)
    assert moved[~later].max() < 1e-12
    assert moved[later].min() > 1e-9  # no blind spot


@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_reach_grows_with_the_layers(num_layers: int) -> None:
    # Kernel 3: each layer looks one position further, and the shift at the entrance gives one more.
    network = prior(spatial_size=(1, 9), num_layers=num_layers)
    codes = grids(network, 1)
    reached = []
    for j in range(9):
        changed = codes.clone()
        changed[0, 0, j] = (changed[0, 0, j] + 1) % 5
        reached.append((network(changed) - network(codes))[0, :, 0, 8].abs().max().item() > 1e-12)
    assert reached == [8 - (num_layers + 1) <= j < 8 for j in range(9)]


@pytest.mark.parametrize(
    "options", [{"spatial_size": 2}, {"spatial_dims": 3, "spatial_size": (1, 2, 3)}], ids=["2-D", "3-D"]
)
def test_probabilities_of_all_grids_sum_to_one(options: dict[str, object]) -> None:
    network = prior(num_embeddings=2, **options)
    number = math.prod(network.spatial_size)
    codes = torch.tensor(list(itertools.product([0, 1], repeat=number))).view(-1, *network.spatial_size)
    with torch.no_grad():
        log_likelihood = -F.cross_entropy(network(codes), codes, reduction="none").flatten(1).sum(1)
    assert log_likelihood.exp().sum().item() == pytest.approx(1, abs=1e-10)
    assert log_likelihood.std() > 0.1  # not the uniform distribution, for which this says nothing


# generate


@each_network
@pytest.mark.parametrize("conditional", [True, False])
@pytest.mark.parametrize("batch", [4, 128])
def test_generate_visits_the_logits_of_forward(options: dict[str, object], conditional: bool, batch: int) -> None:
    network = prior(**options).float()
    codes = grids(network, batch)
    labels, values = conditions(network, batch) if conditional else (None, None)
    with torch.no_grad():
        expected = network(codes, labels, values)
    filled, logits = generated(network, codes, labels, values)
    assert torch.equal(filled, codes)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-4)


@each_network
@pytest.mark.parametrize("batch", [1, 4, 128])
def test_generate_in_bfloat16_is_as_near_as_forward(options: dict[str, object], batch: int) -> None:
    network = prior(**options).bfloat16()
    codes = grids(network, batch)
    labels, values = conditions(network, batch)
    values = values.bfloat16()
    with torch.no_grad():
        dense = network(codes, labels, values).double()
    logits = generated(network, codes, labels, values)[1].double()
    # The network of the same rounded weights whose arithmetic is not rounded.
    with torch.no_grad():
        expected = network.double()(codes, labels, values.double())
    error, error_of_dense = (float((x - expected).std() / expected.std()) for x in (logits, dense))
    assert 0 < error < 0.02
    assert 0 < error_of_dense < 0.02


@settings(derandomize=True, deadline=None, max_examples=25)
@given(
    size=st.lists(st.integers(1, 5), min_size=2, max_size=3),
    kernel_size=st.sampled_from([3, 5]),
    num_layers=st.integers(1, 3),
    num_classes=st.lists(st.integers(1, 3), max_size=2),
    num_values=st.integers(0, 2),
    attention_every=st.integers(0, 3),
    batch=st.sampled_from([1, 2, 3, 128]),  # many grids are convolved otherwise
)
def test_generate_equals_forward_for_any_network(
    size: list[int],
    kernel_size: int,
    num_layers: int,
    num_classes: list[int],
    num_values: int,
    attention_every: int,
    batch: int,
) -> None:
    network = prior(
        spatial_dims=len(size),
        spatial_size=size,
        kernel_size=kernel_size,
        num_layers=num_layers,
        num_classes=num_classes,
        num_values=num_values,
        attention_every=attention_every,
        num_heads=2,
    )
    codes = grids(network, batch)
    labels, values = conditions(network, batch)
    filled, logits = generated(network, codes, labels, values)
    assert torch.equal(filled, codes)
    torch.testing.assert_close(logits, network(codes, labels, values).detach(), atol=1e-9, rtol=1e-9)


def test_generate_samples_what_its_logits_say() -> None:
    # Greedy choice has no randomness: forward must agree that each code is the best one given those before it.
    network = prior(spatial_size=(4, 5))
    codes = network.generate(lambda position, logits: logits.argmax(1), 2)
    assert codes.dtype == torch.int64
    assert torch.equal(network(codes).argmax(1), codes)


# attention


def test_attention_by_its_formula() -> None:
    torch.manual_seed(0)
    attention = CausalAttention(6, num_heads=2).double()
    attention.out.weight.data.normal_()
    x = torch.randn(2, 6, 2, 3, dtype=torch.float64)
    tokens = x.flatten(2).transpose(1, 2).numpy()  # (B, N, C)
    normal = (tokens - tokens.mean(2, keepdims=True)) / np.sqrt(tokens.var(2, keepdims=True) + 1e-5)
    projected = normal @ attention.qkv.weight.detach().numpy().T + attention.qkv.bias.detach().numpy()
    q, k, v = projected.reshape(2, 6, 3, 2, 3).transpose(2, 0, 3, 1, 4)  # (B, heads, N, C / heads)
    scores = np.where(np.tril(np.ones((6, 6), bool)), q @ k.swapaxes(2, 3) / math.sqrt(3), -np.inf)
    weights = np.exp(scores - scores.max(3, keepdims=True))
    mixed = (weights / weights.sum(3, keepdims=True) @ v).transpose(0, 2, 1, 3).reshape(2, 6, 6)
    expected = tokens + mixed @ attention.out.weight.detach().numpy().T
    result = attention(x).detach().flatten(2).transpose(1, 2).numpy()
    np.testing.assert_allclose(result, expected, atol=1e-9)


def test_new_attention_is_the_identity() -> None:
    x = torch.randn(2, 8, 3, 3)
    torch.testing.assert_close(CausalAttention(8)(x), x)


def test_attention_follows_the_layers_that_are_multiples() -> None:
    network = prior(num_layers=5, attention_every=2, num_heads=3)
    found = [isinstance(after, CausalAttention) for after in network.attentions]
    assert found == [False, True, False, True, False]


@pytest.mark.parametrize("heads", [0, 4])
def test_heads_that_do_not_divide_the_channels(heads: int) -> None:
    with pytest.raises(ValueError, match=f"num_heads must divide the channels, got {heads} heads for 6 channels"):
        CausalAttention(6, heads)


# skip connections


def test_skip_connections_by_their_formula() -> None:
    # One layer: what passed its gate is what its residual connection adds, before the 1x1 convolution.
    network = prior(num_layers=1, skip_connections=True, spatial_size=(3, 4))
    plain = prior(num_layers=1, spatial_size=(3, 4))
    plain.load_state_dict({name: w for name, w in network.state_dict().items() if not name.startswith("skip")})
    codes = grids(network, 2)
    with torch.no_grad():
        network.skip.weight.copy_(network.layers[0].outs[1].weight)
        network.skip.bias.copy_(network.layers[0].outs[1].bias)
        plain.layers[0].outs[1].weight.mul_(2)
        plain.layers[0].outs[1].bias.mul_(2)
        torch.testing.assert_close(network(codes), plain(codes), atol=1e-12, rtol=0)


# position and conditions


def test_codes_that_look_alike_start_alike() -> None:
    # Distances between embeddings are about those between the standardized vectors of the codebook, times sqrt(C / D).
    torch.manual_seed(0)
    network = GatedPixelCNN(num_embeddings=40, spatial_size=2, channels=256, num_layers=1, kernel_size=3)
    vectors = torch.randn(40, 3) * torch.tensor([1.0, 100.0, 0.01]) + 7
    network.start_at_codes(vectors)
    standardized = (vectors.numpy() - vectors.numpy().mean(0)) / vectors.numpy().std(0)
    expected = np.linalg.norm(standardized[:, None] - standardized, axis=2) * math.sqrt(256 / 3)
    for weight, scale in ((network.embedding.weight, 1.0), (network.head[-1].weight.flatten(1), math.sqrt(1 / 256))):
        rows = weight.detach().numpy() / scale
        np.testing.assert_allclose(np.linalg.norm(rows[:, None] - rows, axis=2), expected, rtol=0.2)
        assert rows.std() == pytest.approx(1, rel=0.1)
    assert not network(grids(network, 2)).any()


def test_a_component_that_all_codes_share_says_nothing() -> None:
    network = prior()
    network.start_at_codes(torch.tensor([[1.0, 3], [2, 3], [3, 3], [4, 3], [4, 3]]))
    assert network.embedding.weight.isfinite().all()
    assert torch.equal(network.embedding.weight[3], network.embedding.weight[4])


@pytest.mark.parametrize("shape", [(4, 3), (5,)])
def test_one_vector_for_each_code(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"vectors must be \(5, D\), got"):
        prior().start_at_codes(torch.zeros(shape))


def test_start_from_a_histogram() -> None:
    network = prior(spatial_size=(3, 4), position_logits=True)
    codes = grids(network, 6)
    log_probabilities = torch.from_numpy(np.random.default_rng(0).dirichlet(np.ones(5), (3, 4))).log().movedim(-1, 0)
    network.start_from(log_probabilities)
    with torch.no_grad():
        answer = network(codes).log_softmax(1)
    torch.testing.assert_close(answer, log_probabilities.expand(6, -1, -1, -1), atol=1e-12, rtol=0)
    again = prior(spatial_size=(3, 4), position_logits=True)
    again.load_state_dict(network.state_dict())
    torch.testing.assert_close(again(codes).log_softmax(1), answer, atol=1e-12, rtol=0)


def test_start_from_needs_position_logits_of_its_shape() -> None:
    with pytest.raises(ValueError, match="start_from needs a network with position_logits=True"):
        prior(spatial_size=(3, 4)).start_from(torch.zeros(5, 3, 4))
    with pytest.raises(ValueError, match=r"log_probabilities must be \(5, 3, 4\), got \(5, 4, 3\)"):
        prior(spatial_size=(3, 4), position_logits=True).start_from(torch.zeros(5, 4, 3))


def test_position_is_told_apart() -> None:
    network = prior(spatial_size=(3, 3))
    codes = torch.zeros(1, 3, 3, dtype=torch.long)
    with torch.no_grad():
        before = network(codes)
        network.position[:, :, 1, 2] += 1
        moved = (network(codes) - before)[0].abs().amax(0)
    assert moved[1, 2] > 1e-6
    assert moved[0].max() < 1e-12  # the rows above look up, not down


@pytest.mark.parametrize("size", [(3, 3), (2, 2, 2)])
def test_position_matters_once_learned(size: tuple[int, ...]) -> None:
    # Every grid counts 0, 1, 2, ...; without its neighbors the first code says nothing, its place says all.
    torch.manual_seed(0)
    number = math.prod(size)
    network = GatedPixelCNN(len(size), number, size, channels=8, num_layers=1, kernel_size=3)
    with torch.no_grad():
        network.embedding.weight.zero_()
    network.embedding.weight.requires_grad_(False)
    codes = torch.arange(number).view(1, *size)
    optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=0.03)
    for _ in range(100):
        optimizer.zero_grad()
        loss = F.cross_entropy(network(codes), codes)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1 * math.log(number)


def logits_of(labels: list[list[int]] | None, values: list[list[float]] | None) -> torch.Tensor:
    """Logits of one and the same grid under one condition a row."""
    network = prior(spatial_size=(2, 3), num_classes=[3, 2], num_values=2)
    batch = len(labels or values or [0])
    codes = grids(network, 1).repeat(batch, 1, 1)
    with torch.no_grad():
        return network(
            codes,
            None if labels is None else torch.tensor(labels),
            None if values is None else torch.tensor(values, dtype=torch.float64),
        )


@pytest.mark.parametrize("labels", [None, [[-1, -1]]])
@pytest.mark.parametrize("values", [None, [[NAN, NAN]]])
def test_missing_all_conditions_equals_giving_none(
    labels: list[list[int]] | None, values: list[list[float]] | None
) -> None:
    torch.testing.assert_close(logits_of(labels, values), logits_of(None, None), atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("labels", "values"),
    [
        ([[-1, -1], [0, -1], [1, -1], [2, -1], [-1, 0], [-1, 1], [0, 0], [1, 1]], None),
        (None, [[NAN, NAN], [0, NAN], [NAN, 0], [0, 0], [1, NAN], [NAN, 1], [-1, 1]]),
    ],
    ids=["labels", "values"],
)
def test_each_condition_gives_other_logits(labels: list[list[int]] | None, values: list[list[float]] | None) -> None:
    logits = logits_of(labels, values)
    for a, b in itertools.combinations(range(len(logits)), 2):
        assert (logits[a] - logits[b]).abs().amax(0).min() > 1e-6, (a, b)  # at every position


def test_missing_value_does_not_spoil_the_gradient() -> None:
    network = prior(spatial_size=3, num_classes=[2], num_values=2)
    codes = grids(network, 2)
    loss = F.cross_entropy(network(codes, torch.tensor([[-1], [1]]), torch.tensor([[NAN, 0.5], [NAN, NAN]])), codes)
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


# training


@each_network
def test_gradient_reaches_every_parameter(options: dict[str, object]) -> None:
    # A parameter without one makes DistributedDataParallel raise in the second step.
    network = prior(**options)
    codes = grids(network, 8)
    labels, values = conditions(network, 8)
    F.cross_entropy(network(codes, labels, values), codes).backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == []
    assert [name for name, p in network.named_parameters() if not p.grad.any()] == []


def test_untrained_network_is_about_as_good_as_a_guess() -> None:
    torch.manual_seed(0)
    network = GatedPixelCNN(num_embeddings=64, spatial_size=8, channels=32, num_layers=4).eval()
    codes = grids(network, 8)
    with torch.no_grad():
        assert F.cross_entropy(network(codes), codes).item() == pytest.approx(math.log(64), rel=0.05)


@pytest.mark.parametrize("training", [True, False])
def test_dropout_acts_in_training_only(training: bool) -> None:
    network = prior(spatial_size=4, dropout=0.5).train(training)
    codes = grids(network, 2)
    assert torch.equal(network(codes), network(codes)) is not training


# errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spatial_dims": 1}, "spatial_dims must be 2 or 3, got 1"),
        ({"num_embeddings": 0}, "num_embeddings must be at least 1, got 0"),
        ({"channels": 0}, "channels must be at least 1, got 0"),
        ({"num_layers": 0}, "num_layers must be at least 1, got 0"),
        ({"spatial_size": (4, 0)}, r"spatial_size must be positive, got \(4, 0\)"),
        ({"spatial_size": (4, 4, 4)}, "Sequence must have length 2, got 3"),
        ({"kernel_size": 4}, "kernel_size must be odd and at least 3, got 4"),
        ({"num_classes": [2, 0]}, r"num_classes .* got \[2, 0\]"),
        ({"num_values": -1}, "num_values .* -1"),
    ],
)
def test_bad_argument_is_quoted(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GatedPixelCNN(**options)


def both_ways(network: GatedPixelCNN, **given: torch.Tensor) -> list[Callable[[], torch.Tensor]]:
    codes = grids(network, 2)
    return [
        lambda: network(codes, **given),
        lambda: network.generate(lambda position, logits: logits.argmax(1), 2, **given),
    ]


@pytest.mark.parametrize("shape", [(2, 2), (3, 1), (2,)])
def test_conditions_of_another_shape(shape: tuple[int, ...]) -> None:
    network = prior(spatial_size=2, num_classes=[2], num_values=1)
    for call in both_ways(network, labels=torch.zeros(shape, dtype=torch.long)):
        with pytest.raises(ValueError, match=r"labels must be \(2, 1\), got"):
            call()
    for call in both_ways(network, values=torch.zeros(shape)):
        with pytest.raises(ValueError, match=r"values must be \(2, 1\), got"):
            call()


def test_condition_for_a_network_without() -> None:
    for call in both_ways(prior(spatial_size=2), labels=torch.zeros(2, 1, dtype=torch.long)):
        with pytest.raises(ValueError, match=r"labels must be \(2, 0\), got \(2, 1\)"):
            call()


@pytest.mark.parametrize("shape", [(1, 4, 3), (1, 3, 4, 1), (12,)])
def test_codes_of_another_size(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"codes must be \(B, 3, 4\), got"):
        prior(spatial_size=(3, 4))(torch.zeros(shape, dtype=torch.long))
