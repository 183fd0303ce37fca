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

import pytest
import torch

from monai_vqprior.errors import InputError
from monai_vqprior.inferers import VQPriorInferer
from monai_vqprior.networks import GatedPixelCNN
from monai_vqprior.sampling import Conditioning

MakePrior = Callable[..., GatedPixelCNN]


def test_keywords_and_conditioning_ask_for_the_same_tiles(make_prior: MakePrior) -> None:
    prior = make_prior(num_classes=[3], num_values=1)
    generator = torch.Generator().manual_seed(0)
    parts = {
        "labels": [[0], [2], [1]],
        "values": [0.5],
        "given": torch.randint(7, (3, 4, 4), generator=generator),
        "mask": torch.rand(3, 4, 4, generator=generator) < 0.3,
    }
    inferer = VQPriorInferer(tile_size=2)
    expected = inferer.sample(prior, [0, 3, 1], 5, **parts)
    for tiles in (
        inferer.sample_tiles(prior, [0, 3, 1], 5, **parts),
        inferer.sample_tiles(prior, [0, 3, 1], 5, conditioning=Conditioning(**parts)),
    ):
        drawn = torch.full_like(expected, -1)
        for rows, grids in tiles:
            drawn[rows] = grids
        assert torch.equal(drawn, expected)


def test_parts_beside_a_conditioning_are_refused(make_prior: MakePrior) -> None:
    prior = make_prior(num_classes=[3])
    with pytest.raises(InputError, match="conditioning must have all of its parts itself, got labels beside it"):
        VQPriorInferer().sample_tiles(prior, [0], conditioning=Conditioning(values=None), labels=[1])


def test_unknown_part_is_refused(make_prior: MakePrior) -> None:
    with pytest.raises(TypeError, match="label"):
        VQPriorInferer().sample_tiles(make_prior(), [0], label=[1])
