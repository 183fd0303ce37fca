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

from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn as nn

from monai_vqprior.inferers import VQPriorInferer
from monai_vqprior.networks import GatedPixelCNN

MakePrior = Callable[..., GatedPixelCNN]
MakePlain = Callable[[nn.Module], nn.Module]


class TestSampleDependsOnSeedAndNumberAlone:
    @pytest.mark.parametrize(
        "asked",
        [[0], [5], [2, 3], [7, 6, 5, 4, 3, 2, 1, 0], [3, 3, 0, 3], [1, 0, 6], range(2, 8, 2)],
        ids=str,
    )
    @pytest.mark.parametrize("tile_size", [1, 3, 16])
    def test_whatever_else_is_asked_for(self, make_prior: MakePrior, asked: Sequence[int], tile_size: int) -> None:
        prior, inferer = make_prior(), VQPriorInferer(tile_size=tile_size)
        whole = inferer.sample(prior, range(8), seed=1)
        assert torch.equal(inferer.sample(prior, asked, seed=1), whole[list(asked)])
        assert torch.equal(inferer.sample(prior, iter(asked), seed=1), whole[list(asked)])

    def test_tile_size_does_not_matter(self, make_prior: MakePrior) -> None:
        samples = [VQPriorInferer(tile_size=size).sample(make_prior(), range(8), seed=1) for size in (1, 3, 16)]
        assert torch.equal(samples[0], samples[1])
        assert torch.equal(samples[0], samples[2])

    def test_global_random_state_does_not_matter(self, make_prior: MakePrior) -> None:
        prior, inferer = make_prior(), VQPriorInferer()
        torch.manual_seed(1)
        one = inferer.sample(prior, range(4), seed=1)
        torch.manual_seed(2)
        assert torch.equal(inferer.sample(prior, range(4), seed=1), one)

    def test_seeds_and_numbers_differ(self, make_prior: MakePrior) -> None:
        prior, inferer = make_prior(), VQPriorInferer()
        grids = torch.cat([inferer.sample(prior, range(10), seed=seed) for seed in (0, 1, 2)])
        assert len(torch.unique(grids, dim=0)) == 30

    def test_training_mode_does_not_matter(self, make_prior: MakePrior) -> None:
        prior = make_prior(dropout=0.5)
        expected = VQPriorInferer().sample(prior, range(4))
        assert torch.equal(VQPriorInferer().sample(prior.train(), range(4)), expected)


class TestCachedPathIsThePlainPath:
    @pytest.mark.parametrize("spatial_size", [(4, 4), (3, 6), (1, 5), (2, 3, 2)])
    @pytest.mark.parametrize("conditional", [False, True])
    def test_code_by_code(
        self, make_prior: MakePrior, plain: MakePlain, spatial_size: tuple[int, ...], conditional: bool
    ) -> None:
        conditions = {"labels": [2, 0], "values": [0.4]} if conditional else {}
        networks = {"num_classes": [3, 2], "num_values": 1} if conditional else {}
        prior = make_prior(spatial_dims=len(spatial_size), spatial_size=spatial_size, **networks)
        inferer = VQPriorInferer(tile_size=4)
        fast = inferer.sample(prior, range(6), seed=2, **conditions)
        slow = inferer.sample(plain(prior), range(6), seed=2, **conditions)
        assert fast.shape == (6, *spatial_size)
        assert fast.dtype == torch.int64
        assert torch.equal(fast, slow)
        assert len(torch.unique(fast)) > 3

    @pytest.mark.parametrize("settings", [{"temperature": 0.5}, {"top_k": 2}, {"temperature": 3.0, "top_k": 4}])
    def test_with_temperature_and_top_k(
        self, make_prior: MakePrior, plain: MakePlain, settings: dict[str, float]
    ) -> None:
        prior, inferer = make_prior(), VQPriorInferer(**settings)
        samples = inferer.sample(prior, range(6))
        assert torch.equal(samples, inferer.sample(plain(prior), range(6)))
        assert not torch.equal(samples, VQPriorInferer().sample(prior, range(6)))


class TestConditions:
    def test_reach_the_network(self, make_prior: MakePrior) -> None:
        prior, inferer = make_prior(num_classes=[3, 2], num_values=2), VQPriorInferer()
        given = [
            {},
            {"labels": [0, 0]},
            {"labels": [2, 0]},
            {"labels": [2, 1]},
            {"values": [0.5, 0.5]},
            {"values": [0.5, -2.0]},
            {"labels": [2, 1], "values": [0.5, 0.5]},
        ]
        samples = torch.stack([inferer.sample(prior, range(4), **conditions) for conditions in given])
        assert len(torch.unique(samples, dim=0)) == len(given)

    def test_unknown_is_as_none(self, make_prior: MakePrior) -> None:
        prior, inferer = make_prior(num_classes=[3], num_values=1), VQPriorInferer()
        unknown = inferer.sample(prior, range(4), labels=[-1], values=[float("nan")])
        assert torch.equal(unknown, inferer.sample(prior, range(4)))


class TestTopK:
    def test_one_is_the_greedy_grid(self, make_prior: MakePrior) -> None:
        prior = make_prior()
        grids = VQPriorInferer(top_k=1).sample(prior, range(3))
        assert torch.equal(grids[0], grids[2])
        assert torch.equal(prior(grids).argmax(1), grids)

    def test_every_code_is_among_the_k_most_probable(self, make_prior: MakePrior) -> None:
        prior = make_prior()
        grids = VQPriorInferer(top_k=3).sample(prior, range(20))
        logits = prior(grids)
        rank = (logits > logits.gather(1, grids[:, None])).sum(1)
        assert rank.max() == 2


def test_callback_is_called_once_a_position_of_a_tile(make_prior: MakePrior, plain: MakePlain) -> None:
    calls: list[None] = []
    inferer = VQPriorInferer(tile_size=4)
    for network in (make_prior(), plain(make_prior())):
        calls.clear()
        inferer.sample(network, [0, 3, 9, 1], on_position=lambda: calls.append(None))
        assert len(calls) == 2 * 16  # tiles 0 and 2


def test_grid_size_can_be_given_for_networks_that_take_any(make_prior: MakePrior) -> None:
    class Anywhere(nn.Module):
        """Answers with code 3 everywhere."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.tensor([0.0, 0, 0, 50, 0]))

        def forward(self, codes: torch.Tensor) -> torch.Tensor:
            return self.weight.view(1, 5, 1, 1).expand(len(codes), 5, *codes.shape[1:])

    grids = VQPriorInferer().sample(Anywhere(), range(2), spatial_size=(3, 5))
    assert torch.equal(grids, torch.full((2, 3, 5), 3))


def test_no_sample(make_prior: MakePrior) -> None:
    grids = VQPriorInferer().sample(make_prior(), [])
    assert grids.shape == (0, 4, 4)
    assert grids.dtype == torch.int64


@pytest.mark.parametrize(("indices", "seed", "message"), [([0, -2, 3], 0, "got 0 and -2"), ([0], -1, "got -1 and 0")])
def test_negative_numbers(make_prior: MakePrior, indices: list[int], seed: int, message: str) -> None:
    with pytest.raises(ValueError, match=f"seed and indices must not be negative, {message}"):
        VQPriorInferer().sample(make_prior(), indices, seed)


@pytest.mark.parametrize("conditions", [{"labels": [1]}, {"labels": [1, 1, 1]}, {"values": [0.1]}])
def test_conditions_of_another_network(
    make_prior: MakePrior, plain: MakePlain, conditions: dict[str, list[float]]
) -> None:
    prior = make_prior(num_classes=[3, 2])
    for network in (prior, plain(prior)):
        with pytest.raises(ValueError, match="must be"):
            VQPriorInferer().sample(network, [0], **conditions)
