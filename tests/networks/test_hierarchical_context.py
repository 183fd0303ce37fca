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
"""A hierarchical prior with grids of codes as its context, such as that of the slice below."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from monai_vqprior.losses import BitsPerCodeLoss
from monai_vqprior.networks import CodeContext, CodeSketch, GatedPixelCNN, HierarchicalPrior
from monai_vqprior.runs import start_prior

SIZES: dict[str, dict[str, Any]] = {
    "2-D": {"spatial_size": (4, 6), "block": 2},
    "2-D, blocks cut off": {"spatial_size": (5, 3), "block": 2},
    "3-D": {"spatial_dims": 3, "spatial_size": (2, 4, 2), "block": 2},
}
each_size = pytest.mark.parametrize("options", SIZES.values(), ids=SIZES.keys())
NAMES = ("neighbor", "given")
CODES, SKETCH_CODES = 5, 4


def hierarchical(options: dict[str, Any], **more: Any) -> HierarchicalPrior:
    """A small prior in evaluation mode, of which no part is without effect."""
    torch.manual_seed(0)
    dims, number = options.get("spatial_dims", 2), len(NAMES)
    sketch = CodeSketch(CODES, 3, num_sketch_codes=SKETCH_CODES, **options)
    coarse = CodeContext([SKETCH_CODES] * number, sketch.spatial_size, 6, [1] * number, 1, spatial_dims=dims)
    strides = [options["block"], *[1] * number]
    fine = CodeContext([SKETCH_CODES, *[CODES] * number], sketch.grid_size, 6, strides, [2, 1, 1], spatial_dims=dims)
    small = {"spatial_dims": dims, "channels": 6, "num_layers": 2, "context_names": NAMES, **more}
    prior = HierarchicalPrior(
        sketch,
        GatedPixelCNN(num_embeddings=SKETCH_CODES, spatial_size=sketch.spatial_size, context_network=coarse, **small),
        GatedPixelCNN(num_embeddings=CODES, spatial_size=sketch.grid_size, context_network=fine, **small),
    )
    start_prior(prior, codes_of(prior, 50), torch.randn(CODES, 3))
    with torch.no_grad():
        for tensor in prior.parameters():
            if not tensor.any():
                tensor.normal_(0, 0.3)
    return prior.eval()


def codes_of(prior: HierarchicalPrior, batch: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(1).integers(0, CODES, (batch, *prior.spatial_size)))


def context_of(prior: HierarchicalPrior, batch: int, missing: float = 0.1) -> torch.Tensor:
    """A context (B, 2, *spatial); some of its codes are missing, and all of the second grid."""
    rng = np.random.default_rng(2)
    codes = rng.integers(0, CODES, (batch, len(NAMES), *prior.spatial_size))
    codes[rng.random(codes.shape) < missing] = -1
    codes[1:2] = -1
    return torch.from_numpy(codes)


def sketch_by_hand(prior: HierarchicalPrior, grid: torch.Tensor) -> torch.Tensor:
    """The sketch of a grid (*spatial) of which codes may be missing, block by block."""
    sketch = prior.sketch(grid.clamp_min(0)[None])[0].clone()
    for place in np.ndindex(*sketch.shape):
        block = grid[tuple(slice(prior.sketch.block * i, prior.sketch.block * (i + 1)) for i in place)]
        if (block < 0).any():
            sketch[place] = -1
    return sketch


def dense(prior: HierarchicalPrior, codes: torch.Tensor, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits of sketch and codes, of two passes of the two networks."""
    sketch = prior.sketch(codes)
    sketches = torch.stack([torch.stack([sketch_by_hand(prior, grid) for grid in grids]) for grids in context])
    known = torch.cat([prior.sketch.spread(sketch), context], 1)
    return prior.sketch_prior(sketch, context=sketches), prior.code_prior(codes, context=known)


@each_size
def test_likelihood_is_that_of_sketch_and_codes_given_the_context(options: dict[str, Any]) -> None:
    prior = hierarchical(options)
    codes, context = codes_of(prior, 4), context_of(prior, 4)
    with torch.no_grad():
        sketch_logits, code_logits = dense(prior, codes, context)
        rated = -F.cross_entropy(prior(codes, context=context), codes, reduction="none").flatten(1).sum(1)
        other = -F.cross_entropy(prior(codes), codes, reduction="none").flatten(1).sum(1)
    expected = -F.cross_entropy(sketch_logits, prior.sketch(codes), reduction="none").flatten(1).sum(1)
    expected -= F.cross_entropy(code_logits, codes, reduction="none").flatten(1).sum(1)
    torch.testing.assert_close(rated, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(rated[1], other[1], rtol=1e-4, atol=1e-4)  # whose context is missing
    assert not torch.allclose(rated[[0, 2, 3]], other[[0, 2, 3]])


@each_size
@pytest.mark.parametrize("batch", [1, 3])
def test_generate_visits_the_logits_of_forward(options: dict[str, Any], batch: int) -> None:
    prior = hierarchical(options, attention_every=1, num_heads=2, position_logits=True)
    codes, context = codes_of(prior, batch), context_of(prior, batch)
    told = torch.cat([prior.sketch(codes).flatten(1), codes.flatten(1)], 1)
    visited: list[torch.Tensor] = []

    def choose(position: int, logits: torch.Tensor) -> torch.Tensor:
        visited.append(logits.clone())
        return told[:, position]

    assert torch.equal(prior.generate(choose, batch, context=context), codes)
    first = math.prod(prior.sketch.spatial_size)
    with torch.no_grad():
        expected = dense(prior, codes, context)
    for part, logits in zip((visited[:first], visited[first:]), expected, strict=True):
        torch.testing.assert_close(torch.stack(part, -1), logits.flatten(2), atol=1e-5, rtol=1e-4)


@each_size
def test_first_logits_know_the_end_of_each_grid_of_the_context(options: dict[str, Any]) -> None:
    prior = hierarchical(options).double()
    codes, context = codes_of(prior, 1), context_of(prior, 1, missing=0)
    with torch.no_grad():
        before = dense(prior, codes, context)
        for grid in range(len(NAMES)):
            other = context.clone()
            end = tuple(slice(-(size % 2 or 2), None) for size in prior.spatial_size)  # the last block
            other[0, grid][end] = -1
            for logits, changed in zip(before, dense(prior, codes, other), strict=True):
                assert (changed - logits).abs().amax(1).flatten()[0] > 1e-9


@each_size
def test_no_context_is_one_of_missing_codes(options: dict[str, Any]) -> None:
    prior = hierarchical(options)
    codes = codes_of(prior, 2)
    missing = torch.full((2, len(NAMES), *prior.spatial_size), -1)
    with torch.no_grad():
        torch.testing.assert_close(prior(codes), prior(codes, context=missing))

    def first(position: int, logits: torch.Tensor) -> torch.Tensor:
        return logits.argmax(1)

    assert torch.equal(prior.generate(first, 2), prior.generate(first, 2, context=missing))


def test_gradient_reaches_all_of_both_priors() -> None:
    prior = hierarchical(SIZES["2-D"]).train()
    codes = codes_of(prior, 4)
    BitsPerCodeLoss()(prior(codes, context=context_of(prior, 4)), codes).backward()
    assert not [name for name, p in prior.named_parameters() if p.grad is None or not p.grad.any()]


def test_codes_that_look_alike_begin_alike_in_the_context() -> None:
    torch.manual_seed(0)
    context = CodeContext([4, 6], 4, 8, [2, 1])
    vectors = torch.randn(6, 3)
    vectors[4] = vectors[1]
    before = context.sources[0].embedding.weight.clone()
    context.start_at_codes(vectors, 1)
    weight = context.sources[1].embedding.weight
    torch.testing.assert_close(weight[4], weight[1])
    assert not torch.allclose(weight[0], weight[1])
    assert torch.equal(context.sources[0].embedding.weight, before)


def test_as_torchscript() -> None:
    prior = hierarchical(SIZES["2-D"])
    codes, context = codes_of(prior, 3), context_of(prior, 3)
    scripted = torch.jit.script(prior)
    torch.testing.assert_close(scripted(codes, None, None, context), prior(codes, context=context))
    torch.testing.assert_close(scripted(codes), prior(codes))


def test_contexts_that_do_not_fit() -> None:
    prior = hierarchical(SIZES["2-D"])
    single = GatedPixelCNN(num_embeddings=SKETCH_CODES, spatial_size=(2, 3), channels=6, num_layers=1)
    with pytest.raises(ValueError, match=r"same context_names, got \(\) and \('neighbor', 'given'\)"):
        HierarchicalPrior(prior.sketch, single, prior.code_prior)
    with pytest.raises(ValueError, match=r"context_names need a context_network, got \['neighbor'\] and none"):
        GatedPixelCNN(context_names=["neighbor"])
    with pytest.raises(ValueError, match=r"num_blocks must have one number for each grid, got \[1, 2\] for 1 grids"):
        CodeContext(num_blocks=[1, 2])
