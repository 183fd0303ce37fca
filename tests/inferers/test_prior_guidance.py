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
import torch.nn as nn
from scipy.special import softmax

from monai_vqprior.errors import InputError
from monai_vqprior.inferers import VQPriorInferer, guide, sample_uniforms
from monai_vqprior.networks import GatedPixelCNN

MakePrior = Callable[..., GatedPixelCNN]
MakePlain = Callable[[nn.Module], nn.Module]
NAN = float("nan")
CONDITIONS = {"labels": [2, 0], "values": [0.4]}


@pytest.fixture
def prior(make_prior: MakePrior) -> GatedPixelCNN:
    return make_prior(num_classes=[3, 2], num_values=1)


def guided_by_hand(
    prior: GatedPixelCNN, indices: range, seed: int, scale: float, labels: list[list[int]], values: list[list[float]]
) -> torch.Tensor:
    """Two plain passes a position, the draw by NumPy."""
    grids = torch.zeros(len(indices), *prior.spatial_size, dtype=torch.long)
    flat = grids.view(len(indices), -1)
    uniforms = [sample_uniforms(seed, index, flat.shape[1]) for index in indices]
    for position in range(flat.shape[1]):
        with torch.no_grad():
            passes = [prior(grids, torch.tensor(labels), torch.tensor(values)), prior(grids)]
        said, unsaid = (logits.flatten(2)[:, :, position].double().numpy() for logits in passes)
        upper = np.cumsum(softmax((1 - scale) * unsaid + scale * said, axis=1), axis=1)
        for row, edges in enumerate(upper):
            flat[row, position] = int(np.searchsorted(edges, uniforms[row][position], side="right"))
    return grids


@pytest.mark.parametrize("scale", [0.0, 0.5, 2.0, 6.0])
def test_is_two_passes_by_hand(prior: GatedPixelCNN, plain: MakePlain, scale: float) -> None:
    expected = guided_by_hand(prior, range(5), 3, scale, [CONDITIONS["labels"]] * 5, [CONDITIONS["values"]] * 5)
    inferer = VQPriorInferer(tile_size=4, guidance_scale=scale)
    for network in (prior, plain(prior)):
        assert torch.equal(inferer.sample(network, range(5), 3, **CONDITIONS), expected)
    free = VQPriorInferer().sample(prior, range(5), 3)
    assert torch.equal(expected, free) == (scale == 0)


def test_of_rows_that_differ(prior: GatedPixelCNN) -> None:
    """A sample about which nothing is known is drawn as without guidance."""
    labels = [[2, 0], [-1, -1], [0, -1], [-1, 1]]
    values = [[0.4], [NAN], [NAN], [-2.0]]
    grids = VQPriorInferer(tile_size=3, guidance_scale=3.0).sample(prior, range(4), 0, labels, values)
    assert torch.equal(grids, guided_by_hand(prior, range(4), 0, 3.0, labels, values))
    assert torch.equal(grids[1], VQPriorInferer().sample(prior, [1])[0])


def test_one_batch_of_two_tiles_and_nothing_when_off(prior: GatedPixelCNN, plain: MakePlain) -> None:
    for scale, size in ((1.0, 3), (2.0, 6)):
        network = plain(prior)
        VQPriorInferer(tile_size=3, guidance_scale=scale).sample(network, [0], **CONDITIONS)
        assert network.batches == {size}


def test_stresses_the_condition(prior: GatedPixelCNN) -> None:
    """The more guidance, the more of the difference that the condition makes is in the samples."""
    told = {"labels": torch.tensor([CONDITIONS["labels"]] * 64), "values": torch.tensor([CONDITIONS["values"]] * 64)}
    gains = []
    for scale in (0.0, 1.0, 3.0):
        inferer = VQPriorInferer(tile_size=64, guidance_scale=scale)
        grids = inferer.sample(prior, range(64), **CONDITIONS)
        gains.append(float((inferer.bits(grids, prior) - inferer.bits(grids, prior, **told)).mean()))
    assert gains[0] < 0 < gains[1] < gains[2]


@pytest.mark.parametrize(
    "conditions",
    [{}, {"labels": [-1, -1]}, {"values": [NAN]}, {"labels": [-1, -1], "values": [NAN]}],
    ids=str,
)
def test_needs_a_condition(prior: GatedPixelCNN, conditions: dict[str, list[float]]) -> None:
    with pytest.raises(InputError, match="guidance_scale stresses a condition, got none"):
        VQPriorInferer(guidance_scale=2.0).sample(prior, [0], **conditions)


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
def test_formula(scale: float) -> None:
    logits = torch.randn(6, 5, generator=torch.manual_seed(0))
    guided = guide(logits, scale)
    assert guided.dtype == torch.float64
    halves = logits.double().numpy()
    np.testing.assert_allclose(guided, halves[3:] + scale * (halves[:3] - halves[3:]), rtol=1e-12)
