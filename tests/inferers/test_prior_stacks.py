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
"""Stacks of slices, each drawn given the one below it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from monai_vqprior.errors import InputError
from monai_vqprior.inferers import VQPriorInferer, sample_uniforms
from monai_vqprior.networks import CodeContext, GatedPixelCNN
from monai_vqprior.sampling import Conditioning

MakePrior = Callable[..., GatedPixelCNN]
HEIGHT, SEED = 3, 7


@pytest.fixture(params=[["given", "neighbor"], ["neighbor_2", "given", "neighbor"]], ids=["one below", "two below"])
def prior(request: pytest.FixtureRequest, make_prior: MakePrior) -> GatedPixelCNN:
    """It knows what is given, and the slice below or two of them, in any order."""
    torch.manual_seed(1)
    names = request.param
    network = CodeContext([7] * len(names), 4, 8, [1] * len(names), num_blocks=1)
    return make_prior(context_network=network, context_names=names, num_values=1).double()


def asked(number: int = 1) -> list[Conditioning]:
    return [Conditioning(values=[[0.3 * i - row] for row in range(number)]) for i in range(HEIGHT)]


def stacks(prior: GatedPixelCNN, indices: list[int], conditionings: list[Conditioning], **options: int) -> torch.Tensor:
    drawn = torch.full((len(indices), HEIGHT, 4, 4), -1)
    for rows, grids in VQPriorInferer(**options).sample_stacks(prior, indices, conditionings, SEED):
        drawn[rows] = grids
    return drawn


@torch.no_grad()
def by_hand(prior: GatedPixelCNN, index: int, values: list[float]) -> np.ndarray:
    """A stack, code by code: each from the dense network and the random numbers of its slice."""
    names = prior.context_names
    context = torch.full((1, len(names), 4, 4), -1)
    slices = []
    for part, value in enumerate(values):
        uniforms = sample_uniforms(SEED, index, 16, part)
        grid = torch.zeros(1, 4, 4).long()
        for position, uniform in enumerate(uniforms):
            logits = prior(grid, values=torch.tensor([[value]]).double(), context=context)[0].flatten(1)[:, position]
            probabilities = np.exp(logits.numpy()) / np.exp(logits.numpy()).sum()
            grid.view(-1)[position] = int(np.searchsorted(probabilities.cumsum(), uniform, side="right"))
        if "neighbor_2" in names:
            context[0, names.index("neighbor_2")] = context[0, names.index("neighbor")]
        context[0, names.index("neighbor")] = grid
        slices.append(grid[0].numpy())
    return np.stack(slices)


def test_each_slice_is_drawn_given_the_one_below_it(prior: GatedPixelCNN) -> None:
    drawn = stacks(prior, [0, 5, 1], asked(3), tile_size=2)
    for row, index in enumerate([0, 5, 1]):
        np.testing.assert_array_equal(drawn[row], by_hand(prior, index, [0.3 * i - row for i in range(HEIGHT)]))


def test_a_stack_depends_on_seed_and_index_alone(prior: GatedPixelCNN) -> None:
    together = stacks(prior, [0, 1, 2, 3, 4], asked(), tile_size=2)
    assert torch.equal(stacks(prior, [3], asked(), tile_size=2)[0], together[3])
    assert len({grid.numpy().tobytes() for grid in together.flatten(0, 1)}) == 5 * HEIGHT


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_by_a_worker(prior: GatedPixelCNN) -> None:
    expected = stacks(prior, [0, 1, 2], asked(), tile_size=2)
    assert torch.equal(stacks(prior, [0, 1, 2], asked(), tile_size=2, num_workers=1), expected)


def test_reports_each_position_of_each_slice(prior: GatedPixelCNN) -> None:
    count = []
    for _ in VQPriorInferer(tile_size=2).sample_stacks(prior, [0, 2], asked(), on_position=lambda: count.append(1)):
        pass
    assert len(count) == 2 * HEIGHT * 16


def test_a_prior_of_single_slices_is_refused(make_prior: MakePrior) -> None:
    with pytest.raises(InputError, match="train one with --neighbor_context true"):
        VQPriorInferer().sample_stacks(make_prior(), [0], [Conditioning()])


def test_parts_have_random_numbers_of_their_own() -> None:
    first, second, other = sample_uniforms(1, 2, 50), sample_uniforms(1, 2, 50, 1), sample_uniforms(1, 1, 50, 2)
    assert np.array_equal(first, sample_uniforms(1, 2, 50, 0))
    assert not np.intersect1d(first, second).size
    assert not np.intersect1d(second, other).size
