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
"""Samples of a prior that knows other grids, such as that of the slice below."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from monai.utils.ordering import Ordering

from monai_vqprior.errors import InputError
from monai_vqprior.inferers import VQPriorInferer
from monai_vqprior.networks import CodeContext, GatedPixelCNN

MakePrior = Callable[..., GatedPixelCNN]


@pytest.fixture
def prior(make_prior: MakePrior) -> GatedPixelCNN:
    torch.manual_seed(1)
    network = CodeContext(7, 4, 8, 1, num_blocks=1)
    return make_prior(context_network=network, context_names=["neighbor"], num_values=1)


def contexts(number: int) -> torch.Tensor:
    codes = torch.randint(-1, 7, (number, 1, 4, 4), generator=torch.Generator().manual_seed(0))
    codes[:, :, 0, 0] = 3
    return codes


def test_each_sample_has_its_own_context(prior: GatedPixelCNN, plain: type[torch.nn.Module]) -> None:
    inferer, known = VQPriorInferer(tile_size=3), contexts(4)
    samples = inferer.sample(prior, [0, 4, 1, 0], 5, context=known)
    assert torch.equal(samples, inferer.sample(plain(prior), [0, 4, 1, 0], 5, context=known))
    for row, index in enumerate([0, 4, 1, 0]):
        assert torch.equal(inferer.sample(prior, [index], 5, context=known[row])[0], samples[row])
    assert not torch.equal(samples[0], samples[3])


def test_guidance_stresses_the_condition_and_keeps_the_context(prior: GatedPixelCNN) -> None:
    """At scale 0 nothing but the context is left of what is asked."""
    known = contexts(2)
    guided = VQPriorInferer(tile_size=2, guidance_scale=0).sample(prior, [0, 1], values=[0.7], context=known)
    assert torch.equal(guided, VQPriorInferer(tile_size=2).sample(prior, [0, 1], context=known))
    assert not torch.equal(guided, VQPriorInferer(tile_size=2).sample(prior, [0, 1]))


def test_likelihood_is_re_ordered_with_its_context(prior: GatedPixelCNN) -> None:
    inferer, codes, known = VQPriorInferer(), contexts(2)[:, 0].clamp_min(0), contexts(2)
    forward = inferer.log_likelihood(codes, prior, context=known)
    torch.testing.assert_close(inferer.bits(codes, prior, context=known), -forward.float() / torch.log(torch.tensor(2)))
    mirrored = inferer.log_likelihood(codes.flip(2), prior, context=known.flip(3), orderings=[(1,)]).flip(2)
    torch.testing.assert_close(mirrored, forward)
    ordering = Ordering("s_curve", 2, (1, 4, 4), (False, False), (), ())
    assert inferer.log_likelihood(codes, prior, context=known, orderings=[ordering]).shape == codes.shape


@pytest.mark.parametrize(
    ("context", "message"),
    [
        (torch.zeros(1, 2, 4, 4).long(), "context must have 1 grids, as the network takes, got 2"),
        (torch.zeros(4, 4).long(), "context must have 1 grids, as the network takes, got 0"),
        (torch.zeros(3, 1, 4, 4).long(), r"context must be \(1, 4, 4\) or \(2, 1, 4, 4\), got \(3, 1, 4, 4\)"),
        (torch.zeros(2, 1, 4, 5).long(), r"got \(2, 1, 4, 5\)"),
        (torch.zeros(2, 1, 4, 4), "context must be of whole numbers, got torch.float32"),
        (torch.full((2, 1, 4, 4), 7), "context must be codes of the network or -1, got 7 to 7"),
        (torch.full((2, 1, 4, 4), -2), "context must be codes of the network or -1, got -2 to -2"),
    ],
)
def test_context_that_does_not_fit(prior: GatedPixelCNN, context: torch.Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        VQPriorInferer().sample(prior, [0, 1], context=context)


def test_prior_of_single_slices_takes_none(make_prior: MakePrior) -> None:
    with pytest.raises(InputError, match="train one with --neighbor_context true"):
        VQPriorInferer().sample(make_prior(), [0], context=contexts(1))
