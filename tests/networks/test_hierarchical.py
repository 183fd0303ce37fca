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
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from benchmarks.given_sketches import bits_of_levels, draw_given_sketches
from monai_vqprior.errors import InputError
from monai_vqprior.inferers import VQPriorInferer, sample_uniforms
from monai_vqprior.losses import BitsPerCodeLoss, code_bits
from monai_vqprior.networks import CodeContext, CodeSketch, GatedPixelCNN, HierarchicalPrior
from monai_vqprior.runs import start_prior

#: grid and block; the last one ends within a block.
SIZES: dict[str, dict[str, Any]] = {
    "2-D": {"spatial_size": (4, 6), "block": 2},
    "2-D, one block": {"spatial_size": (4, 4), "block": 4},
    "2-D, blocks cut off": {"spatial_size": (5, 3), "block": 2},
    "3-D": {"spatial_dims": 3, "spatial_size": (2, 4, 2), "block": 2},
}
each_size = pytest.mark.parametrize("options", SIZES.values(), ids=SIZES.keys())


def hierarchical(options: dict[str, Any], num_embeddings: int = 5, **more: Any) -> HierarchicalPrior:
    """A small prior in evaluation mode, fitted to random grids, of which no part is without effect."""
    torch.manual_seed(0)
    dims, block = options.get("spatial_dims", 2), options["block"]
    sketch = CodeSketch(num_embeddings, 3, num_sketch_codes=4, **options)
    context = CodeContext(4, sketch.grid_size, 6, block, num_blocks=1, spatial_dims=dims)
    small = {"spatial_dims": dims, "channels": 6, "num_layers": 2, **more}
    prior = HierarchicalPrior(
        sketch,
        GatedPixelCNN(num_embeddings=4, spatial_size=sketch.spatial_size, attention_every=1, num_heads=2, **small),
        GatedPixelCNN(num_embeddings=num_embeddings, spatial_size=sketch.grid_size, context_network=context, **small),
    )
    with torch.no_grad():
        for tensor in prior.parameters():
            if not tensor.any():
                tensor.normal_(0, 0.3)
    sketch.fit(grids(prior, 50), torch.randn(num_embeddings, 3))
    return prior.eval()


def grids(prior: HierarchicalPrior, batch: int, seed: int = 1) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(0, prior.num_embeddings, (batch, *prior.spatial_size)))


# sketches


@each_size
def test_a_block_is_described_by_the_means_of_its_cells(options: dict[str, Any]) -> None:
    sketch = hierarchical(options).sketch
    (codes,) = grids(hierarchical(options), 1)
    block, cell = options["block"], options["block"] // 2
    described = sketch.describe(codes[None])[0]
    for place in np.ndindex(*sketch.spatial_size):
        cells = []
        for corner in itertools.product([0, cell], repeat=codes.dim()):
            starts = [block * i + c for i, c in zip(place, corner, strict=True)]
            # Beyond the end of the grid the last code is repeated.
            inside = [
                np.minimum(np.arange(start, start + cell), size - 1)
                for start, size in zip(starts, codes.shape, strict=True)
            ]
            cells.append(sketch.vectors[codes[np.ix_(*inside)].flatten()].mean(0))
        by_hand = torch.stack(
            cells, 1
        ).flatten()  # channels of a cell lie beside those of the others, as fold puts them
        torch.testing.assert_close(described[(slice(None), *place)], by_hand)


@each_size
def test_a_sketch_code_is_the_nearest_description(options: dict[str, Any]) -> None:
    prior = hierarchical(options)
    codes = grids(prior, 6)
    described = prior.sketch.describe(codes).movedim(1, -1)
    nearest = torch.cdist(described.flatten(0, -2), prior.sketch.codebook.embedding).argmin(1)
    assert torch.equal(prior.sketch(codes).flatten(), nearest)
    assert len(prior.sketch(grids(prior, 50)).unique()) > 2


@each_size
def test_a_sketch_is_spread_over_its_blocks(options: dict[str, Any]) -> None:
    sketch = hierarchical(options).sketch
    coarse = torch.arange(math.prod(sketch.spatial_size)).view(1, *sketch.spatial_size)
    spread = sketch.spread(coarse)
    assert spread.shape == (1, 1, *sketch.grid_size)
    counts = torch.zeros_like(coarse[0])
    for place in np.ndindex(*sketch.grid_size):
        block = tuple(i // options["block"] for i in place)
        assert spread[(0, 0, *place)] == coarse[(0, *block)]
        counts[block] += 1
    assert torch.equal(sketch.block_sizes[0], counts.float())


def test_fit_is_no_worse_than_scipy() -> None:
    from scipy.cluster.vq import kmeans2

    prior = hierarchical(SIZES["2-D"], num_embeddings=16)
    codes = grids(prior, 100)
    sketch = CodeSketch(16, 3, (4, 6), 2, num_sketch_codes=8)
    before = torch.random.get_rng_state()
    sketch.fit(codes, torch.randn(16, 3, generator=torch.manual_seed(1)))
    torch.random.set_rng_state(before)
    described = sketch.describe(codes).movedim(1, -1).flatten(0, -2)
    centers, _ = kmeans2(described.double().numpy(), 8, iter=50, minit="++", seed=0)
    ours, scipys = (
        torch.cdist(described.double(), torch.as_tensor(c).double()).amin(1).square().mean()
        for c in (sketch.codebook.embedding, centers)
    )
    assert ours < 1.05 * scipys


def test_fit_depends_on_its_seed_alone() -> None:
    prior = hierarchical(SIZES["2-D"])
    codes, vectors = grids(prior, 50), torch.randn(5, 3)
    books = []
    for seed, state in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(state)
        sketch = CodeSketch(5, 3, (4, 6), 2, num_sketch_codes=4)
        after = torch.random.get_rng_state()
        sketch.fit(codes, vectors, seed)
        assert torch.equal(torch.random.get_rng_state(), after)
        books.append(sketch.codebook.embedding)
    assert torch.equal(books[0], books[1])
    assert not torch.equal(books[0], books[2])


# likelihood


@each_size
def test_bits_are_those_of_the_sketch_and_of_the_codes(options: dict[str, Any]) -> None:
    prior = hierarchical(options)
    codes = grids(prior, 3)
    sketch = prior.sketch(codes)
    with torch.no_grad():
        coarse = F.cross_entropy(prior.sketch_prior(sketch), sketch, reduction="none").flatten(1).sum(1)
        logits = prior.code_prior(codes, context=prior.sketch.spread(sketch))
        fine = F.cross_entropy(logits, codes, reduction="none")
        evaluated = prior(codes)
    assert evaluated.shape == (3, 6, *prior.spatial_size)
    torch.testing.assert_close(evaluated.exp().sum(1), torch.ones_like(fine))  # a distribution
    bits = code_bits(evaluated, codes)
    torch.testing.assert_close(bits.flatten(1).sum(1) * math.log(2), coarse + fine.flatten(1).sum(1))
    # Each code of a block bears an equal share of the block's code.
    shares = bits * math.log(2) - fine
    for block in range(int(sketch[0].numel())):
        places = prior.sketch.spread(torch.arange(sketch[0].numel()).view(1, *sketch.shape[1:]))[0, 0] == block
        assert shares[:, places].std(1, correction=0).max() < 1e-5
    torch.testing.assert_close(VQPriorInferer().bits(codes, prior), bits)
    torch.testing.assert_close(
        VQPriorInferer().log_likelihood(codes, prior, reduction="sum").float(), -(coarse + fine.flatten(1).sum(1))
    )
    # Training says the same.
    prior.train()
    loss = BitsPerCodeLoss()(prior(codes), codes)
    torch.testing.assert_close(loss, bits.mean())


def test_probabilities_of_all_grids_with_all_sketches_sum_to_one() -> None:
    prior = hierarchical({"spatial_size": (2, 2), "block": 2}, num_embeddings=2)
    prior.sketch_prior.double()
    prior.code_prior.double()
    codes = torch.tensor(list(itertools.product([0, 1], repeat=4))).view(-1, 2, 2)
    sketches = torch.arange(4).view(4, 1, 1)
    with torch.no_grad():
        of_sketch = -F.cross_entropy(prior.sketch_prior(sketches), sketches, reduction="none").flatten()
        total = torch.zeros((), dtype=torch.float64)
        for sketch, log_probability in zip(sketches, of_sketch, strict=True):
            context = prior.sketch.spread(sketch[None].expand(16, 1, 1))
            logits = prior.code_prior(codes, context=context)
            nats = F.cross_entropy(logits, codes, reduction="none").flatten(1).sum(1)
            total += (log_probability - nats).exp().sum()
        rated = -code_bits(prior(codes), codes).double().flatten(1).sum(1) * math.log(2)
    assert total.item() == pytest.approx(1, abs=1e-10)
    assert 0 < rated.exp().sum().item() < 1  # a grid is rated by its own sketch, which has a part of its probability


def test_a_sketch_that_is_certain_costs_nothing() -> None:
    prior = hierarchical(SIZES["2-D, one block"])
    codes = grids(prior, 1)
    with torch.no_grad():
        prior.sketch_prior.head[-1].bias[prior.sketch(codes)[0, 0, 0]] = 1e4
    logits = prior(codes)
    assert logits.isfinite().all()
    logits.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in prior.parameters())


# drawing


@each_size
def test_generate_is_the_sketch_then_the_codes(options: dict[str, Any]) -> None:
    """Greedily: each draw is the most probable code of the whole networks, position by position."""
    prior = hierarchical(options)
    positions: list[int] = []

    def choose(position: int, logits: torch.Tensor) -> torch.Tensor:
        positions.append(position)
        return logits.argmax(1)

    drawn = prior.generate(choose, 2)
    assert positions == list(range(prior.num_draws))
    sketch = torch.zeros(2, *prior.sketch.spatial_size, dtype=torch.long)
    for place in range(sketch[0].numel()):
        sketch.view(2, -1)[:, place] = prior.sketch_prior(sketch).flatten(2)[:, :, place].argmax(1)
    codes = torch.zeros(2, *prior.spatial_size, dtype=torch.long)
    for place in range(codes[0].numel()):
        logits = prior.code_prior(codes, context=prior.sketch.spread(sketch))
        codes.view(2, -1)[:, place] = logits.flatten(2)[:, :, place].argmax(1)
    assert torch.equal(drawn, codes)


def test_a_sample_depends_on_seed_and_index_alone() -> None:
    prior = hierarchical(SIZES["2-D"], num_classes=[3], condition_dropout=0.1)
    inferer = VQPriorInferer(tile_size=4, guidance_scale=1.5, temperature=0.9)
    labels = [[index % 3] for index in range(6)]
    whole = inferer.sample(prior, range(6), seed=3, labels=labels)
    torch.testing.assert_close(inferer.sample(prior, [5], seed=3, labels=[[2]]), whole[5:])
    assert not torch.equal(inferer.sample(prior, range(6), seed=4, labels=labels), whole)
    # A draw for each code of the sketch and of the grid, of one stream.
    visited = []
    original = VQPriorInferer.draw

    class Watched(VQPriorInferer):
        def draw(self, logits: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
            visited.append(uniforms[1].item())
            return original(self, logits, uniforms)

    Watched(tile_size=4).sample(prior, [1], seed=3)
    assert visited == sample_uniforms(3, 1, prior.num_draws).tolist()


def test_sketches_have_a_temperature_of_their_own() -> None:
    """Both levels by hand, of the same random numbers: two inferers, each with one temperature."""
    prior = hierarchical(SIZES["2-D"])
    sampled = VQPriorInferer(temperature=0.5, sketch_temperature=3, tile_size=8).sample(prior, range(8), seed=3)
    draws = torch.from_numpy(np.stack([sample_uniforms(3, i, prior.num_draws) for i in range(8)], 1))
    coarse, fine = VQPriorInferer(temperature=3), VQPriorInferer(temperature=0.5)
    sketch = prior.sketch_prior.generate(lambda i, logits: coarse.draw(logits, draws[i]), 8)
    first = prior.sketch_prior.num_draws
    context = prior.code_context(sketch)
    codes = prior.code_prior.generate(lambda i, logits: fine.draw(logits, draws[first + i]), 8, context=context)
    assert torch.equal(sampled, codes)
    one = VQPriorInferer(temperature=0.5, tile_size=8).sample(prior, range(8), seed=3)
    assert not torch.equal(sampled, one)
    assert torch.equal(VQPriorInferer(0.5, tile_size=8, sketch_temperature=0.5).sample(prior, range(8), seed=3), one)
    with pytest.raises(InputError, match=r"sketch_temperature .* got 0\.5 for one without"):
        VQPriorInferer(sketch_temperature=0.5).sample(prior.code_prior, [0])


def test_what_is_given_settles_the_sketch_of_whole_blocks() -> None:
    prior = hierarchical(SIZES["2-D"])
    (codes,) = grids(prior, 1)
    mask = torch.zeros(4, 6, dtype=torch.bool)
    mask[:2, :3] = True  # one whole block and a half
    told, settled = prior.given_draws(codes[None], mask[None])
    number = prior.sketch.block_sizes.numel()
    assert settled[0, :number].tolist() == [True, False, False, False, False, False]
    assert told[0, 0] == prior.sketch(codes[None])[0, 0, 0]
    assert torch.equal(settled[0, number:].view(4, 6), mask)
    drawn = VQPriorInferer(tile_size=4).sample(prior, range(5), given=codes, mask=mask)
    assert torch.equal(drawn[:, mask], codes[mask].expand(5, -1))
    assert (drawn[:, ~mask] != codes[~mask]).any()
    all_kept = VQPriorInferer(tile_size=4).sample(prior, [0], given=codes, mask=torch.ones_like(mask))
    assert torch.equal(all_kept[0], codes)


# training


@each_size
def test_start_knows_both_histograms(options: dict[str, Any]) -> None:
    prior = hierarchical(options, position_logits=True)
    codes = grids(prior, 30)
    start_prior(prior, codes, torch.randn(5, 3))
    sketches = prior.sketch(codes)
    for network, told in ((prior.sketch_prior, sketches), (prior.code_prior, codes)):
        with torch.no_grad():
            logits = network(told[:1])
        counts = F.one_hot(told, network.num_embeddings).movedim(-1, 1).double().sum(0) + 0.0
        overall = (counts.flatten(1).sum(1) + 1) / (counts.sum() + network.num_embeddings)
        expected = (counts + 64 * overall.view(-1, *[1] * (told.dim() - 1))) / (30 + 64)
        torch.testing.assert_close(logits[0].softmax(0).double(), expected, atol=1e-3, rtol=5e-3)


def test_gradient_reaches_both_priors() -> None:
    prior = hierarchical(SIZES["2-D"], num_values=1).train()
    codes = grids(prior, 2)
    BitsPerCodeLoss()(prior(codes, values=torch.ones(2, 1)), codes).backward()
    assert not [name for name, p in prior.named_parameters() if p.grad is None or not p.grad.any()]


def test_as_torchscript() -> None:
    prior = hierarchical(SIZES["2-D"], num_classes=[2])
    scripted = torch.jit.script(prior)
    codes, labels = grids(prior, 3), torch.tensor([[0], [1], [-1]])
    torch.testing.assert_close(scripted(codes, labels), prior(codes, labels))


# errors


def test_parts_that_do_not_fit() -> None:
    good = hierarchical(SIZES["2-D"])
    context = CodeContext(4, (4, 6), 6, 2)
    other = GatedPixelCNN(num_embeddings=5, spatial_size=(2, 3), channels=6, num_layers=1)
    with pytest.raises(ValueError, match=r"sketch_prior must be of \(2, 3\) codes of 4, got \(2, 3\) of 5"):
        HierarchicalPrior(good.sketch, other, good.code_prior)
    without = GatedPixelCNN(num_embeddings=5, spatial_size=(4, 6), channels=6, num_layers=1)
    with pytest.raises(ValueError, match=r"have a context_network, got .* None"):
        HierarchicalPrior(good.sketch, good.sketch_prior, without)
    wider = GatedPixelCNN(num_embeddings=5, spatial_size=(4, 8), channels=6, num_layers=1, context_network=context)
    with pytest.raises(ValueError, match=r"code_prior must be of \(4, 6\) codes"):
        HierarchicalPrior(good.sketch, good.sketch_prior, wider)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block": 3}, "block must be an even number of at least 2, got 3"),
        ({"block": 0}, "block must be an even number of at least 2, got 0"),
        ({"spatial_dims": 1}, "spatial_dims must be 2 or 3, got 1"),
        ({"num_sketch_codes": 1}, "num_embeddings must be at least 2, got 1"),
    ],
)
def test_bad_argument_is_quoted(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CodeSketch(**options)


def test_grids_and_vectors_of_another_shape() -> None:
    sketch = CodeSketch(5, 3, 4, 2, 4)
    with pytest.raises(ValueError, match=r"vectors must be \(5, 3\), got \(5, 2\)"):
        sketch.fit(torch.zeros(2, 4, 4, dtype=torch.long), torch.zeros(5, 2))
    with pytest.raises(ValueError, match=r"grids must be \(N, 4, 4\), got \(2, 4, 5\)"):
        sketch.fit(torch.zeros(2, 4, 5, dtype=torch.long), torch.zeros(5, 3))


@each_size
def test_each_level_on_its_own(options: dict[str, Any]) -> None:
    """The bits of both levels are those of the grid, and codes are drawn given the sketches that are passed."""
    prior = hierarchical(options)
    some = grids(prior, 20)
    bits = bits_of_levels(prior, some)
    total = bits["sketch"] * math.prod(prior.sketch.spatial_size) + bits["codes"] * some[0].numel()
    assert total == pytest.approx(float(VQPriorInferer().bits(some, prior).flatten(1).sum(1).mean()), rel=1e-4)

    # At a temperature near 0 each code is the most probable one given the codes before and that sketch.
    drawn = draw_given_sketches(prior, some, 1e-4, seed=0)
    with torch.no_grad():
        logits = prior.code_prior(drawn, context=prior.code_context(prior.sketch(some)))
    assert torch.equal(logits.argmax(1), drawn)
