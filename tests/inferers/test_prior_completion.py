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
from hypothesis import given as drawn_from
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from monai_vqprior.errors import InputError
from monai_vqprior.inferers import VQPriorInferer
from monai_vqprior.networks import GatedPixelCNN

MakePrior = Callable[..., GatedPixelCNN]
MakePlain = Callable[[nn.Module], nn.Module]
OPTIONS = {
    "plain": {},
    "temperature": {"temperature": 0.6},
    "top_k": {"top_k": 3},
    "top_p": {"top_p": 0.7},
    "guidance": {"guidance_scale": 2.0},
    "all": {"temperature": 1.4, "top_k": 5, "top_p": 0.9, "guidance_scale": 1.5},
}


@pytest.fixture
def prior(make_prior: MakePrior) -> GatedPixelCNN:
    return make_prior(num_classes=[3], num_values=1)


@pytest.fixture
def codes() -> torch.Tensor:
    """Codes of six grids that no network has drawn."""
    return torch.randint(7, (6, 4, 4), generator=torch.manual_seed(5))


@pytest.fixture
def mask() -> torch.Tensor:
    return torch.rand(6, 4, 4, generator=torch.manual_seed(6)) < 0.5


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("partly", [False, True])
def test_plain_path_with_every_option(
    prior: GatedPixelCNN,
    plain: MakePlain,
    codes: torch.Tensor,
    mask: torch.Tensor,
    options: dict[str, float],
    partly: bool,
) -> None:
    inferer = VQPriorInferer(tile_size=4, **options)
    told = {"labels": [[0], [1], [2], [-1], [0], [1]], "values": [0.3]}
    told |= {"given": codes, "mask": mask} if partly else {}
    fast = inferer.sample(prior, range(6), 2, **told)
    assert torch.equal(inferer.sample(plain(prior), range(6), 2, **told), fast)


@settings(deadline=None, derandomize=True, max_examples=25)
@drawn_from(arrays(bool, (4, 4)), st.integers(0, 3))
def test_kept_codes_stay_and_the_others_follow_the_network(keep: np.ndarray, seed: int) -> None:
    """Greedily, so that the network itself tells each code that is not kept from those before it."""
    torch.manual_seed(seed)
    prior = GatedPixelCNN(num_embeddings=7, spatial_size=4, channels=8, num_layers=2, kernel_size=3).eval()
    mask, given = torch.from_numpy(keep), torch.randint(7, (4, 4))
    grid = VQPriorInferer(top_k=1, tile_size=2).sample(prior, [1], given=given, mask=mask)
    assert torch.equal(grid[0][mask], given[mask])
    assert torch.equal(grid[0][~mask], prior(grid).argmax(1)[0][~mask])


def test_keeping_nothing_is_sampling(prior: GatedPixelCNN, codes: torch.Tensor) -> None:
    nothing = torch.zeros(6, 4, 4, dtype=torch.bool)
    inferer = VQPriorInferer(tile_size=4)
    expected = inferer.sample(prior, range(6), 1)
    assert torch.equal(inferer.sample(prior, range(6), 1, given=codes, mask=nothing), expected)
    outside = torch.full((4, 4), -9)
    assert torch.equal(inferer.sample(prior, range(6), 1, given=outside, mask=nothing[0]), expected)


def test_keeping_all_draws_nothing(prior: GatedPixelCNN, codes: torch.Tensor) -> None:
    grids = VQPriorInferer(tile_size=4).sample(prior, range(6), given=codes, mask=torch.ones(6, 4, 4).bool())
    assert torch.equal(grids, codes)


def test_what_comes_after_a_hole_does_not_inform_it(prior: GatedPixelCNN, codes: torch.Tensor) -> None:
    """The same draws up to the first code that is kept; a code kept before a hole changes what is drawn in it."""
    lower = torch.zeros(4, 4, dtype=torch.bool)
    lower[2:] = True
    inferer = VQPriorInferer()
    free = inferer.sample(prior, range(6))
    assert torch.equal(inferer.sample(prior, range(6), given=codes, mask=lower)[:, :2], free[:, :2])
    below = inferer.sample(prior, range(6), given=codes, mask=~lower)[:, 2:]
    assert not torch.equal(below, free[:, 2:])
    # A grid's own beginning, kept, ends as the grid did.
    assert torch.equal(inferer.sample(prior, range(6), given=free, mask=~lower), free)


def test_depends_on_its_own_row_alone(prior: GatedPixelCNN, codes: torch.Tensor, mask: torch.Tensor) -> None:
    inferer = VQPriorInferer(tile_size=4)
    whole = inferer.sample(prior, range(6), given=codes, mask=mask)
    for asked in ([4], [5, 0], [3, 3, 1]):
        assert torch.equal(inferer.sample(prior, asked, given=codes[asked], mask=mask[asked]), whole[asked])
    one = inferer.sample(prior, range(6), given=codes[2], mask=mask[2])
    assert torch.equal(one[2], whole[2])
    assert (one == codes[2])[:, mask[2]].all()


@pytest.mark.parametrize("spatial_size", [(2, 3, 2), (1, 5)])
def test_other_grids(make_prior: MakePrior, plain: MakePlain, spatial_size: tuple[int, ...]) -> None:
    prior = make_prior(spatial_dims=len(spatial_size), spatial_size=spatial_size)
    given = torch.randint(7, (3, *spatial_size), generator=torch.manual_seed(0))
    mask = torch.rand(3, *spatial_size, generator=torch.manual_seed(1)) < 0.4
    inferer = VQPriorInferer(tile_size=2)
    grids = inferer.sample(prior, range(3), given=given, mask=mask)
    assert torch.equal(grids[mask], given[mask])
    assert torch.equal(inferer.sample(plain(prior), range(3), given=given, mask=mask), grids)


class TestRows:
    LABELS: tuple[list[int], ...] = ([0], [2], [-1], [1], [1])
    VALUES: tuple[list[float], ...] = ([0.1], [float("nan")], [2.0], [0.5], [-1.0])

    @pytest.mark.parametrize("tile_size", [1, 2, 16])
    def test_each_sample_has_its_own_condition(self, prior: GatedPixelCNN, tile_size: int) -> None:
        inferer = VQPriorInferer(tile_size=tile_size)
        grids = inferer.sample(prior, range(3, 8), 1, self.LABELS, np.array(self.VALUES))
        for row, index in enumerate(range(3, 8)):
            alone = inferer.sample(prior, [index], 1, self.LABELS[row], self.VALUES[row])
            assert torch.equal(grids[row], alone[0])
        others = inferer.sample(prior, [7, 4], 1, [self.LABELS[4], self.LABELS[1]], torch.tensor(self.VALUES)[[4, 1]])
        assert torch.equal(others, grids[[4, 1]])

    def test_one_sample_under_several_conditions(self, prior: GatedPixelCNN) -> None:
        inferer = VQPriorInferer(tile_size=2)
        grids = inferer.sample(prior, [3] * 5 + [0], 1, [*self.LABELS, [0]])
        for row, label in enumerate(self.LABELS):
            assert torch.equal(grids[row], inferer.sample(prior, [3], 1, label)[0])
        assert len(torch.unique(grids[:4], dim=0)) == 4
        assert torch.equal(grids[3], grids[4])
        assert torch.equal(grids[5], inferer.sample(prior, [0], 1, [0])[0])

    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            ([[0], [1]], r"labels must be a row or 3 rows, one for each sample, got \(2, 1\)"),
            ([[[0]]] * 3, r"labels must be a row or 3 rows, one for each sample, got \(3, 1, 1\)"),
            ([[0], [1, 1], [0]], "labels must be a row of numbers"),
            (["old"], "labels must be a row of numbers"),
            (2, r"labels must be a row or 3 rows, one for each sample, got \(\)"),
        ],
    )
    def test_that_do_not_fit(self, prior: GatedPixelCNN, labels: object, message: str) -> None:
        with pytest.raises(InputError, match=message):
            VQPriorInferer().sample(prior, range(3), labels=labels)


@pytest.mark.parametrize(
    ("given", "mask", "message"),
    [
        (torch.zeros(4, 4).long(), None, "given codes and mask come together"),
        (None, torch.zeros(4, 4).bool(), "given codes and mask come together"),
        (torch.zeros(4, 4).long(), torch.zeros(4, 3).bool(), r"mask must be \(4, 4\) or \(2, 4, 4\), got \(4, 3\)"),
        (torch.zeros(3, 4, 4).long(), torch.zeros(4, 4).bool(), r"given codes must be .*, got \(3, 4, 4\)"),
        (torch.zeros(4, 4), torch.zeros(4, 4).bool(), "got torch.float32 and torch.bool"),
        (torch.zeros(4, 4).long(), torch.zeros(4, 4), "got torch.int64 and torch.float32"),
        (torch.full((4, 4), 7), torch.ones(4, 4).bool(), "codes of the network where the mask is True, got 7"),
        (torch.full((4, 4), -1), torch.ones(4, 4).bool(), "codes of the network where the mask is True, got -1"),
    ],
)
def test_given_codes_that_do_not_fit(
    prior: GatedPixelCNN, given: torch.Tensor | None, mask: torch.Tensor | None, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        VQPriorInferer().sample(prior, range(2), given=given, mask=mask)
