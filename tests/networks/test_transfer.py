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

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn as nn

from monai_vqprior.data import Conditions
from monai_vqprior.networks import (
    CodeContext,
    CodeSketch,
    GatedPixelCNN,
    HierarchicalPrior,
    resample_tables,
    transfer_conditions,
    transfer_contexts,
)

AGE: dict[str, Any] = {"name": "age", "mean": 50.0, "std": 20.0}
SLICE: dict[str, Any] = {"name": "slice", "mean": 0.5, "std": 0.3}
SEX: dict[str, Any] = {"name": "sex", "classes": ["F", "M"]}
GROUP: dict[str, Any] = {"name": "group", "classes": ["a", "b", "c"]}


def randomized(network: nn.Module) -> nn.Module:
    """Nothing at zero, where a new network has much."""
    torch.manual_seed(1)
    with torch.no_grad():
        for tensor in [*network.parameters(), *network.buffers()]:
            if tensor.is_floating_point():
                tensor.normal_(0, 0.3)
    return network.eval()


def prior(size: int, block: int) -> HierarchicalPrior:
    side = size // block
    sketch = CodeSketch(num_embeddings=8, embedding_dim=2, spatial_size=size, block=block, num_sketch_codes=4)
    coarse = GatedPixelCNN(num_embeddings=4, spatial_size=side, channels=4, num_layers=1, position_logits=True)
    context = CodeContext(num_embeddings=4, spatial_size=size, channels=4, strides=block)
    fine = GatedPixelCNN(num_embeddings=8, spatial_size=size, channels=4, num_layers=1, context_network=context)
    return randomized(HierarchicalPrior(sketch, coarse, fine))


def interpolated(table: np.ndarray, size: int) -> np.ndarray:
    """(C, X, Y) by linear interpolation along one axis after the other, between the centers of pixels."""
    for axis in (1, 2):
        old = table.shape[axis]
        places = (np.arange(size) + 0.5) * old / size - 0.5
        table = np.apply_along_axis(lambda line, at=places, n=old: np.interp(at, np.arange(n), line), axis, table)
    return table


@pytest.mark.parametrize(("size", "block"), [(8, 2), (8, 4), (24, 4), (16, 2)])
def test_tables_are_interpolated(size: int, block: int) -> None:
    before, own = prior(16, 4).state_dict(), prior(size, block).state_dict()
    found, sizes = resample_tables(before, own)
    assert {key: value.shape for key, value in found.items()} == {key: value.shape for key, value in own.items()}
    tables = [key for key in own if key.endswith(("position", "position_logits"))]
    assert len(tables) == 4
    assert sizes == {key: tuple(before[key].shape[2:]) for key in tables if before[key].shape != own[key].shape}
    for key in tables:
        expected = interpolated(before[key][0].double().numpy(), own[key].shape[2])
        np.testing.assert_allclose(found[key][0].double(), expected, atol=1e-3 if "logits" in key else 1e-6)
    others = [key for key in own if key not in tables and ".up." not in key]
    assert all(torch.equal(found[key], before[key]) for key in others)


def test_blocks_of_half_the_size_are_means() -> None:
    before, found = prior(16, 4).state_dict(), resample_tables(prior(16, 4).state_dict(), prior(8, 2).state_dict())[0]
    for name in ("weight", "bias"):
        key = f"code_prior.context_network.sources.0.up.{name}"
        rows = before[key].reshape(4, 2, 2, 2, 2, -1).mean((2, 4))  # (C, block, block, I), of two halves each
        torch.testing.assert_close(found[key], rows.reshape(found[key].shape))


def test_what_is_another_network_is_left_alone() -> None:
    before = {"position": torch.zeros(1, 3, 4, 4), "a.up.weight": torch.zeros(12, 3, 1, 1), "b": torch.zeros(2)}
    own = {"position": torch.zeros(1, 5, 8, 8), "a.up.weight": torch.zeros(48, 3, 1, 1), "b": torch.zeros(3)}
    found, sizes = resample_tables(before, own)
    assert all(found[key] is before[key] for key in before)
    assert sizes == {}


def network(conditions: list[dict[str, Any]]) -> GatedPixelCNN:
    known = Conditions(conditions)
    made = GatedPixelCNN(
        num_embeddings=5, spatial_size=3, channels=6, num_layers=2, num_classes=known.num_classes,
        num_values=known.num_values,
    )  # fmt: skip
    randomized(made)
    return made


def rated(made: GatedPixelCNN, conditions: list[dict[str, Any]], cells: dict[str, str]) -> torch.Tensor:
    """Logits of a grid under the conditions of a row of a table."""
    known = Conditions(conditions)
    told = known.encode(cells)
    labels, values = (
        torch.tensor([[told[name] for name in names]]) for names in (known.label_names, known.value_names)
    )
    codes = torch.arange(9).view(1, 3, 3) % 5
    return made(codes, labels.long() if labels.numel() else None, values.float() if values.numel() else None)


ROWS = [{"age": "71", "sex": "M"}, {"age": "20", "slice": "0.9"}, {"sex": "F", "group": "c", "slice": "0.1"}, {}]


@pytest.mark.parametrize(
    "now",
    [
        [{**AGE, "mean": 61.0, "std": 7.0}, {**SEX, "classes": ["M", "D", "F"]}, SLICE, GROUP],
        [GROUP, SLICE, SEX, AGE],
        [SLICE, SEX],
        [GROUP],
        [],
        [{"name": "height", "mean": 170.0, "std": 9.0}, AGE],
        [{"name": "hand", "classes": ["left", "right"]}, {"name": "age", "classes": ["young", "old"]}],
    ],
    ids=lambda now: ",".join(condition["name"] for condition in now) or "none",
)
@torch.no_grad()
def test_conditions_keep_their_meaning(now: list[dict[str, Any]]) -> None:
    """A row of a table comes to the same, as far as the network still has its conditions; new ones change nothing."""
    before = [SEX, AGE, GROUP, SLICE]
    old, new = network(before), network(now)
    new.load_state_dict(transfer_conditions(old.state_dict(), new.state_dict(), before, now))
    kinds = {condition["name"]: "classes" in condition for condition in before}
    shared = {condition["name"] for condition in now if kinds.get(condition["name"]) == ("classes" in condition)}
    for row in ROWS:
        known = {name: cell for name, cell in row.items() if name in shared}
        told = {**row, "height": "182", "hand": "left"}
        torch.testing.assert_close(rated(new, now, told), rated(old, before, known), atol=1e-5, rtol=1e-5)


def test_conditions_of_weights_that_know_none() -> None:
    old, new = network([]), network([AGE, SEX])
    new.load_state_dict(transfer_conditions(old.state_dict(), new.state_dict(), [], [AGE, SEX]))
    rating = rated(new, [AGE, SEX], ROWS[0])
    torch.testing.assert_close(rating, rated(old, [], {}))
    rating.square().sum().backward()
    assert all(
        head.weight.grad is not None and head.weight.grad.any() for head in new.condition_heads
    )  # they can learn


@pytest.mark.parametrize("told", [[], [AGE], [{**SEX, "classes": ["F"]}], [SEX, AGE]], ids=str)
def test_weights_of_other_conditions_than_said_are_left_alone(told: list[dict[str, Any]]) -> None:
    """The file beside them may be a stranger's."""
    old, own = network([SEX]).state_dict(), network([GROUP]).state_dict()
    found = transfer_conditions(old, own, told, [GROUP])
    assert set(found) == set(old)
    assert all(found[key] is old[key] for key in old)


def with_contexts(names: list[str], sketch: bool) -> GatedPixelCNN:
    """A new prior of 4 x 4 codes with grids in its context, behind a coarse one or alone."""
    strides = [2] * sketch + [1] * len(names)
    context = CodeContext([5] * len(strides), 4, 6, strides, num_blocks=1) if strides else None
    return GatedPixelCNN(2, 5, 4, 6, 2, context_network=context, context_names=names).eval()


@pytest.mark.parametrize("sketch", [False, True])
@pytest.mark.parametrize(
    ("before", "now"),
    [
        ([], ["given"]),
        (["given"], ["neighbor", "neighbor_2", "given"]),
        (["neighbor", "given"], ["given", "neighbor"]),
    ],
    ids=str,
)
@torch.no_grad()
def test_grids_of_a_context_keep_their_meaning(before: list[str], now: list[str], sketch: bool) -> None:
    """New ones change nothing, whatever they are."""
    old, new = with_contexts(before, sketch), with_contexts(now, sketch)
    randomized(old)
    new.load_state_dict(transfer_contexts(old.state_dict(), new.state_dict(), before, now))
    codes, coarse = torch.arange(16).view(1, 4, 4) % 5, torch.tensor([[[4, 4, 1, 1], [4, 4, 1, 1], [2] * 4, [2] * 4]])
    grids = {name: torch.randint(5, (1, 4, 4)) for name in now}

    def rated(prior: GatedPixelCNN, names: list[str]) -> torch.Tensor:
        known = [coarse] * sketch + [grids[name] for name in names]
        return prior(codes, context=torch.stack(known, 1) if known else None)

    torch.testing.assert_close(rated(new, now), rated(old, before), atol=1e-5, rtol=1e-5)


def test_grids_of_a_context_come_and_go() -> None:
    old, new = with_contexts(["neighbor", "given"], True), with_contexts(["given"], True)
    randomized(old)
    found = transfer_contexts(old.state_dict(), new.state_dict(), ["neighbor", "given"], ["given"])
    new.load_state_dict(found)
    for place, number in ((0, 0), (1, 2)):
        key = "context_network.sources.{}.embedding.weight"
        assert torch.equal(found[key.format(place)], old.state_dict()[key.format(number)])
    alone = with_contexts([], False)
    alone.load_state_dict(transfer_contexts(new.state_dict(), alone.state_dict(), ["sketch", "given"], []))
    told_wrongly = transfer_contexts(new.state_dict(), alone.state_dict(), ["given"], [])
    assert set(told_wrongly) == set(new.state_dict())  # the file beside them may be a stranger's


def test_a_new_grid_can_be_learned() -> None:
    old, new = with_contexts([], False), with_contexts(["given"], False)
    randomized(old)
    new.load_state_dict(transfer_contexts(old.state_dict(), new.state_dict(), [], ["given"]))
    codes = torch.arange(16).view(1, 4, 4) % 5
    new(codes, context=codes[None]).square().sum().backward()
    up = new.context_network.sources[0].up.weight
    assert up.grad is not None
    assert up.grad.any()
