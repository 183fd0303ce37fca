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
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from monai_vqprior.inferers import VQPriorInferer
from monai_vqprior.losses import BitsPerCodeLoss, code_bits
from monai_vqprior.networks import (
    CodeContext,
    CodeSketch,
    GatedPixelCNN,
    HierarchicalPrior,
    make_prior,
    make_sketch_prior,
    without_sketches,
)
from monai_vqprior.runs import halve_weights, load_weights, start_prior

_CODES, _SKETCH_CODES = 5, 4


def three_levels(levels: int = 2, code_batch_size: int | None = None, **options: Any) -> HierarchicalPrior:
    """A prior of grids of 8 x 12 codes with sketches of 4 x 6, 2 x 3 and so on, of which no part is without effect."""
    torch.manual_seed(0)
    names = options.get("context_names", ())
    sketch = CodeSketch(_CODES, 3, (8, 12), 2, _SKETCH_CODES)
    context = CodeContext([_SKETCH_CODES] + [_CODES] * len(names), (8, 12), 6, [2] + [1] * len(names), num_blocks=1)
    codes = GatedPixelCNN(2, _CODES, (8, 12), 6, 2, context_network=context, position_logits=True, **options)
    coarse = make_sketch_prior(
        _SKETCH_CODES,
        12,
        (4, 6),
        levels,
        8,
        num_layers=1,
        context_kernels=[1] * len(names),
        position_logits=True,
        **options,
    )
    prior = make_prior(codes, coarse, sketch, code_batch_size)
    assert isinstance(prior, HierarchicalPrior)
    start_prior(prior, grids(60, seed=2), torch.randn(_CODES, 3))
    with torch.no_grad():
        for tensor in prior.parameters():
            tensor.add_(torch.randn_like(tensor) * 0.2)
    return prior.eval()


def grids(number: int, seed: int = 1) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, _CODES, (number, 8, 12)))


def bits_by_hand(prior: HierarchicalPrior, codes: torch.Tensor, **known: Any) -> torch.Tensor:
    """Bits (B,) of grids, level by level: each given the sketch above it, the coarsest one by itself."""
    context = known.pop("context", None)
    sketch = prior.sketch(codes)
    nats = F.cross_entropy(
        prior.code_prior(codes, **known, context=prior.code_context(sketch, context)), codes, reduction="none"
    ).flatten(1)
    sketches = None if context is None else torch.stack([prior.sketch.of_known(part) for part in context.unbind(1)], 1)
    if isinstance(prior.sketch_prior, HierarchicalPrior):
        return nats.sum(1) / math.log(2) + bits_by_hand(prior.sketch_prior, sketch, **known, context=sketches)
    coarsest = F.cross_entropy(prior.sketch_prior(sketch, **known, context=sketches), sketch, reduction="none")
    return (nats.sum(1) + coarsest.flatten(1).sum(1)) / math.log(2)


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_bits_are_those_of_all_levels(levels: int) -> None:
    prior = three_levels(levels)
    codes = grids(3)
    with torch.no_grad():
        expected = bits_by_hand(prior, codes)
        torch.testing.assert_close(code_bits(prior(codes), codes).flatten(1).sum(1), expected)
        torch.testing.assert_close(BitsPerCodeLoss()(prior.train()(codes), codes), expected.mean() / 96)


def test_conditions_and_contexts_reach_all_levels() -> None:
    prior = three_levels(num_values=1, num_classes=[2], context_names=("neighbor",))
    codes, below = grids(2), grids(2, seed=5)[:, None]
    below[:, :, 3:, 5:] = -1
    known = {"values": torch.tensor([[0.4], [-1.0]]), "labels": torch.tensor([[1], [0]]), "context": below}
    with torch.no_grad():
        torch.testing.assert_close(
            code_bits(prior(codes, **known), codes).flatten(1).sum(1), bits_by_hand(prior, codes, **dict(known))
        )
    assert isinstance(prior.sketch_prior, HierarchicalPrior)
    for level in (prior.sketch_prior.sketch_prior, prior.sketch_prior.code_prior, prior.code_prior):
        assert isinstance(level, GatedPixelCNN)
        assert (level.num_values, level.num_classes, level.context_names) == (1, (2,), ("neighbor",))


def test_generate_draws_from_the_coarsest_level_to_the_finest() -> None:
    prior = three_levels()
    positions: list[int] = []

    def choose(position: int, logits: torch.Tensor) -> torch.Tensor:
        positions.append(position)
        return logits.argmax(1)

    drawn = prior.generate(choose, 2)
    assert positions == list(range(prior.num_draws)) == list(range(2 * 3 + 4 * 6 + 8 * 12))
    assert isinstance(prior.sketch_prior, HierarchicalPrior)
    sketch = None
    for level in (prior.sketch_prior.sketch_prior, prior.sketch_prior, prior):
        network = level.code_prior if isinstance(level, HierarchicalPrior) else level
        known = level.code_context(sketch) if isinstance(level, HierarchicalPrior) and sketch is not None else None
        filled = torch.zeros(2, *network.spatial_size, dtype=torch.long)
        for place in range(filled[0].numel()):
            filled.view(2, -1)[:, place] = network(filled, context=known).flatten(2)[:, :, place].argmax(1)
        sketch = filled
    assert sketch is not None
    assert torch.equal(drawn, sketch)


def test_a_sample_depends_on_seed_and_index_alone() -> None:
    prior = three_levels()
    inferer = VQPriorInferer(tile_size=4)
    whole = inferer.sample(prior, range(6), seed=3)
    assert torch.equal(inferer.sample(prior, [5], seed=3), whole[5:])
    assert not torch.equal(inferer.sample(prior, range(6), seed=4), whole)


def test_what_is_given_settles_whole_blocks_of_each_level() -> None:
    prior = three_levels()
    codes = grids(1)
    mask = torch.zeros(1, 8, 12, dtype=torch.bool)
    mask[:, :4, :6] = True  # 2 x 3 blocks of the sketch, one block of its sketch and half of another
    told, settled = prior.given_draws(codes, mask)
    assert told.shape == settled.shape == (1, prior.num_draws)
    assert settled[0, :6].view(2, 3).tolist() == [[True, False, False], [False, False, False]]
    expected = torch.zeros(4, 6, dtype=torch.bool)
    expected[:2, :3] = True
    assert torch.equal(settled[0, 6:30].view(4, 6), expected)
    assert isinstance(prior.sketch_prior, HierarchicalPrior)
    sketch = prior.sketch(torch.where(mask, codes, 0))
    assert told[0, 0] == prior.sketch_prior.sketch(sketch)[0, 0, 0]
    drawn = VQPriorInferer(tile_size=4).sample(prior, range(3), given=codes[0], mask=mask[0])
    assert torch.equal(drawn[:, mask[0]], codes[mask].expand(3, -1))


def test_the_histogram_of_each_level_is_its_own() -> None:
    prior = three_levels(3)
    start_prior(prior, grids(40), torch.randn(_CODES, 3))
    told, level = grids(40), prior
    while True:
        told, above = level.sketch(told), level.sketch_prior
        network = above.code_prior if isinstance(above, HierarchicalPrior) else above
        with torch.no_grad():
            known = above.code_context(above.sketch(told)) if isinstance(above, HierarchicalPrior) else None
            logits = network(told, context=known)
        counts = F.one_hot(told, _SKETCH_CODES).double().sum(0).movedim(-1, 0)
        overall = (counts.flatten(1).sum(1) + 1) / (counts.sum() + _SKETCH_CODES)
        expected = (counts + 64 * overall.view(-1, 1, 1)) / (40 + 64)
        torch.testing.assert_close(logits[0].softmax(0).double(), expected, atol=1e-3, rtol=5e-3)
        if not isinstance(above, HierarchicalPrior):
            break
        level = above


def test_as_torchscript() -> None:
    prior = three_levels(3, num_values=1)
    codes, values = grids(2), torch.tensor([[0.3], [math.nan]])
    torch.testing.assert_close(torch.jit.script(prior)(codes, None, values), prior(codes, None, values))


# how many grids the codes learn from


def test_codes_learn_from_the_first_grids() -> None:
    codes = grids(6)
    known = {"values": torch.randn(6, 1), "labels": torch.zeros(6, 1).long(), "context": grids(6, seed=3)[:, None]}
    options: dict[str, Any] = {"num_values": 1, "num_classes": [2], "context_names": ("neighbor",)}
    whole, some = (three_levels(code_batch_size=number, **options).train() for number in (None, 2))
    some.load_state_dict(whole.state_dict())
    (logits, besides), (first, same) = whole(codes, **known), some(codes, **known)
    torch.testing.assert_close(first, logits[:2])
    torch.testing.assert_close(same, besides)
    expected = code_bits(logits[:2], codes[:2]).mean() + besides
    torch.testing.assert_close(BitsPerCodeLoss()((first, same), codes), expected)
    some.eval()
    assert some(codes).shape[0] == 6  # all are rated


def test_sketches_alone() -> None:
    prior = three_levels(code_batch_size=0).train()
    codes = grids(4)
    before = {key: value.clone() for key, value in prior.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in prior.parameters() if p.requires_grad], 0.1)
    loss = BitsPerCodeLoss()(prior(codes), codes)
    with torch.no_grad():
        sketch = prior.sketch(codes)
        alone = BitsPerCodeLoss()(prior.sketch_prior(sketch), sketch)
    torch.testing.assert_close(loss, alone * 24 / 96)
    loss.backward()
    optimizer.step()
    changed = {key for key, value in prior.state_dict().items() if not torch.equal(value, before[key])}
    assert changed
    assert all(key.startswith("sketch_prior.") for key in changed)
    learned = {f"sketch_prior.{name}" for name, p in prior.sketch_prior.named_parameters() if p.grad is not None}
    assert changed == learned


# weights


def test_weights_of_another_number_of_sketches() -> None:
    before, now = three_levels(1).state_dict(), three_levels(2).state_dict()
    for weights, like in itertools.permutations((before, now)):
        kept, new = without_sketches(weights, like)
        assert kept.keys() | new.keys() == like.keys()
        assert all(kept[key] is weights[key] for key in kept)
        assert all(new[key] is like[key] for key in new)
        assert not any(key.startswith("sketch_prior.") for key in kept)
    for same in (before, now):
        assert without_sketches(same, same) == (same, {})
    plain = GatedPixelCNN(2, _CODES, 4, 6, 2).state_dict()
    assert without_sketches(plain, now) == (plain, {})
    assert without_sketches(now, plain) == (now, {})


def test_halved_weights_rate_as_before(tmp_path: Path) -> None:
    prior, halved = three_levels(), three_levels()
    torch.save({"model": prior.state_dict()}, tmp_path / "prior.pt")
    halve_weights(tmp_path / "prior.pt", tmp_path / "half.pt")
    assert (tmp_path / "half.pt").stat().st_size < 0.75 * (tmp_path / "prior.pt").stat().st_size
    load_weights(halved, tmp_path / "half.pt")
    codes = grids(20)
    with torch.no_grad():
        assert torch.equal(prior.sketch(codes), halved.sketch(codes))
        before, after = (code_bits(network(codes), codes) for network in (prior, halved))
    torch.testing.assert_close(before, after, atol=0.02, rtol=0)
    assert not torch.equal(before, after)
    changed = [key for key, value in halved.state_dict().items() if not torch.equal(value, prior.state_dict()[key])]
    assert not any("codebook" in key or "vectors" in key for key in changed)


def test_weights_that_half_precision_cannot_hold(tmp_path: Path) -> None:
    torch.save({"head.bias": torch.tensor([1.0, 1e6])}, tmp_path / "prior.pt")
    with pytest.raises(ValueError, match=r"prior\.pt has numbers in 'head\.bias' that half precision cannot hold"):
        halve_weights(tmp_path / "prior.pt", tmp_path / "half.pt")
    assert not (tmp_path / "half.pt").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": 0}, "levels must be at least 1, got 0"),
        ({"levels": 9}, "a sketch of one code has no sketch of its own"),
        ({"code_batch_size": -1}, "code_batch_size must not be negative, got -1"),
    ],
)
def test_bad_argument_is_quoted(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        three_levels(**options)
