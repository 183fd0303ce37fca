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


"""Completion by a network that sees what is given on all sides of a hole."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn as nn
from torch.utils.data import default_collate

from monai_vqprior.data import CodeGridDataset, GivenCodes
from monai_vqprior.engines import PrepareBatchCodes
from monai_vqprior.inferers import VQPriorInferer
from monai_vqprior.losses import BitsPerCodeLoss
from monai_vqprior.networks import CodeContext, CodeSketch, GatedPixelCNN, HierarchicalPrior

MakePrior = Callable[..., GatedPixelCNN]
MakePlain = Callable[[nn.Module], nn.Module]


@pytest.fixture(params=[("given",), ("neighbor", "given")], ids=len)
def prior(request: pytest.FixtureRequest, make_prior: MakePrior) -> GatedPixelCNN:
    """With a context that reaches over the whole grid."""
    number = len(request.param)
    torch.manual_seed(1)
    network = CodeContext([7] * number, 4, 8, [1] * number, num_blocks=1)
    return make_prior(context_network=network, context_names=request.param, num_values=1)


@pytest.fixture
def codes() -> torch.Tensor:
    return torch.randint(7, (6, 4, 4), generator=torch.manual_seed(5))


@pytest.fixture
def lower() -> torch.Tensor:
    """The lower half of a grid."""
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[2:] = True
    return mask


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_plain_path_draws_the_same(prior: GatedPixelCNN, plain: MakePlain, codes: torch.Tensor, scale: float) -> None:
    mask = torch.rand(6, 4, 4, generator=torch.manual_seed(6)) < 0.5
    inferer = VQPriorInferer(tile_size=4, guidance_scale=scale)
    told = {"given": codes, "mask": mask, "values": [0.4]}
    drawn = inferer.sample(prior, range(6), 2, **told)
    assert torch.equal(drawn[mask], codes[mask])
    twin = plain(prior)
    twin.context_names = prior.context_names
    assert torch.equal(inferer.sample(twin, range(6), 2, **told), drawn)


def test_what_comes_after_a_hole_informs_it(prior: GatedPixelCNN, codes: torch.Tensor, lower: torch.Tensor) -> None:
    inferer = VQPriorInferer(tile_size=4)
    completed = inferer.sample(prior, range(6), given=codes, mask=lower)
    assert not torch.equal(completed[:, :2], inferer.sample(prior, range(6))[:, :2])
    other = codes.clone()
    other[:, 3] = (other[:, 3] + 1) % 7  # the last row
    assert not torch.equal(inferer.sample(prior, range(6), given=other, mask=lower)[:, :2], completed[:, :2])
    other = codes.clone()
    other[:, :2] = -9  # of any value where they are not kept
    assert torch.equal(inferer.sample(prior, range(6), given=other, mask=lower), completed)


def test_the_network_is_told_what_is_given(prior: GatedPixelCNN, codes: torch.Tensor, lower: torch.Tensor) -> None:
    """Greedily, as the network itself tells with a context that is made by hand; a neighbor that is told stays."""
    names = list(prior.context_names)
    context = torch.full((6, len(names), 4, 4), -1)
    asked = {}
    if "neighbor" in names:
        context[:, 0] = codes.flip(0)
        asked = {"context": context.clone()}
    context[:, names.index("given"), 2:] = codes[:, 2:]
    greedy = VQPriorInferer(top_k=1, tile_size=2).sample(prior, range(6), given=codes, mask=lower, **asked)
    with torch.no_grad():
        assert torch.equal(prior(greedy, context=context).argmax(1)[:, :2], greedy[:, :2])


def test_each_sample_has_its_own(prior: GatedPixelCNN, codes: torch.Tensor) -> None:
    mask = torch.rand(6, 4, 4, generator=torch.manual_seed(6)) < 0.5
    inferer = VQPriorInferer(tile_size=4)
    whole = inferer.sample(prior, range(6), given=codes, mask=mask)
    for row in range(6):
        assert torch.equal(inferer.sample(prior, [row], given=codes[row], mask=mask[row])[0], whole[row])
    assert torch.equal(inferer.sample(prior, [4, 4], given=codes[4], mask=mask[[4, 1]])[0], whole[4])


def test_by_way_of_a_sketch() -> None:
    """Blocks that are wholly given keep their sketch, and codes after the hole change sketch and codes in it."""
    torch.manual_seed(0)
    sketch = CodeSketch(7, 3, 8, 2, 5)
    sketch.fit(torch.randint(7, (50, 8, 8)), torch.randn(7, 3))
    parts = {"channels": 8, "num_layers": 2, "context_names": ("given",)}
    coarse = GatedPixelCNN(2, 5, 4, context_network=CodeContext(5, 4, 8, 1, 1), **parts)
    fine = GatedPixelCNN(2, 7, 8, context_network=CodeContext([7 - 2, 7], 8, 8, [2, 1], 1), **parts)
    prior = HierarchicalPrior(sketch, coarse, fine).eval()
    with torch.no_grad():
        for parameter in prior.parameters():
            if not parameter.any():  # the residual blocks, through which a context reaches beyond its place
                parameter.normal_(0, 0.3)
    codes = torch.randint(7, (3, 8, 8))
    mask = torch.ones(8, 8, dtype=torch.bool)
    mask[:4] = False
    drawn: list[torch.Tensor] = []
    spread = sketch.spread
    prior.sketch.spread = lambda told: drawn.append(told) or spread(told)  # type: ignore[method-assign]
    inferer = VQPriorInferer(temperature=0.1, tile_size=3)  # so that small differences of logits change draws
    completed = inferer.sample(prior, range(3), given=codes, mask=mask)
    assert torch.equal(completed[:, 4:], codes[:, 4:])
    assert torch.equal(drawn[0][:, 2:], sketch(codes)[:, 2:])
    other = codes.clone()
    other[:, 4:] = (codes[:, 4:] + 3) % 7
    assert not torch.equal(inferer.sample(prior, range(3), given=other, mask=mask)[:, :4], completed[:, :4])
    assert not torch.equal(drawn[1][:, :2], drawn[0][:, :2])


def trained(grids: torch.Tensor, size: int, kernel_size: int, steps: int) -> GatedPixelCNN:
    """A small prior of grids (N, size, size), trained with what is given of them, in batches of at most eight."""
    torch.manual_seed(0)
    number = int(grids.max()) + 1
    dataset = CodeGridDataset(grids, seed=0, given=GivenCodes())
    prepare = PrepareBatchCodes(context_keys=["given"])
    context = CodeContext(number, size, 12, 1, num_blocks=1, kernel_sizes=kernel_size)
    prior = GatedPixelCNN(2, number, size, 12, 2, context_network=context, context_names=("given",))
    optimizer, loss = torch.optim.Adam(prior.parameters(), 0.01), BitsPerCodeLoss()
    batches = list(torch.arange(len(grids)).split(8))
    for step in range(steps):
        dataset.set_epoch(step // len(batches))
        batch = default_collate([dataset[int(i)] for i in batches[step % len(batches)]])
        codes, target, _, known = prepare(batch)
        optimizer.zero_grad()
        loss(prior(codes, **known), target).backward()
        optimizer.step()
    return prior.eval()


def test_a_training_learns_to_look_below_a_hole() -> None:
    """Grids of one code each: what is given below tells the first code, which is a guess without it."""
    grids = torch.arange(6)[:, None, None].expand(6, 4, 4)
    prior = trained(grids, 4, kernel_size=1, steps=150)
    below = torch.full((6, 1, 4, 4), -1)
    below[:, 0, 2:] = grids[:, 2:]
    inferer = VQPriorInferer()
    assert inferer.bits(grids, prior, context=below)[:, 0, 0].mean() < 1.5
    assert inferer.bits(grids, prior)[:, 0, 0].mean() > 2.2


def test_a_short_training_learns_what_is_around_a_code() -> None:
    """
    Rows in pairs: the code below tells a code of the upper row, which is 3 bits without it.

    With ``GivenCodes(scattered=0)`` 2.7 bits are left after as many steps, and with ``kernel_sizes=1`` 3.1.
    """

    def pairs() -> torch.Tensor:
        return torch.randint(8, (64, 3, 6), generator=draw).repeat_interleave(2, 1)

    draw = torch.Generator().manual_seed(1)
    prior = trained(pairs(), 6, kernel_size=3, steps=160)
    hole = torch.zeros(6, 6, dtype=torch.bool)
    hole[2::2, ::2] = True  # single codes of upper rows
    grids, inferer = pairs(), VQPriorInferer()
    known = grids.masked_fill(hole, -1)[:, None]
    assert inferer.bits(grids, prior, context=known)[:, hole].mean() < 2
    assert inferer.bits(grids, prior)[:, hole].mean() > 2.9
