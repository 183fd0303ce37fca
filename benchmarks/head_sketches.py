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

import argparse
import json
import logging
import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

from benchmarks.heads import Run, jumps, measures, read_heads
from benchmarks.record import Row, add_json_option, finish
from monai_vqprior.data import SliceFolder
from monai_vqprior.inferers import sample_uniforms
from monai_vqprior.metrics import position_log_probabilities
from monai_vqprior.networks import CodeContext, GatedPixelCNN
from monai_vqprior.report.drawn_heads import slice_conditions
from monai_vqprior.sampling.slice_stacks import columns_of_neighbors

#: numbers of slices below that a slice is predicted from.
LAGS = (1, 2, 3)
_BRAIN = 0.15  # brighter pixels are brain
_SLICES_A_STEP = 16  # of the training of a prior of single sketches


def predicted_share(heads: np.ndarray, number: int) -> float:
    """
    Share of the variance of pixels that the best linear prediction from the same pixel of slices below explains.

    Args:
        heads: (N, slices, H, W) in 0..1.
        number: how many slices below; all predictions are of the same slices.
    """
    slices = range(max(LAGS), heads.shape[1])
    target = heads[:, slices]
    brain = np.maximum(target, heads[:, [i - 1 for i in slices]]) > _BRAIN
    below = [heads[:, [i - lag for i in slices]][brain] for lag in range(1, number + 1)]
    columns = np.stack([*below, np.ones(int(brain.sum()))], 1)
    found = np.linalg.lstsq(columns, target[brain], rcond=None)[0]
    return 1 - float(np.var(target[brain] - columns @ found) / np.var(target[brain]))


class Parts:
    """The two priors of a run, drawn from one at a time."""

    def __init__(self, run: Run) -> None:
        self.run, self.prior = run, run.prior
        self.columns = columns_of_neighbors(self.prior.context_names)

    @torch.no_grad()
    def codes(self, heads: np.ndarray) -> torch.Tensor:
        """Codes (N, slices, *grid) of heads (N, slices, H, W) in 0..1."""
        images = torch.from_numpy(heads).flatten(0, 1)[:, None]
        grids = torch.cat([self.run.network.index_quantize(part) for part in images.split(16)])
        return grids.unflatten(0, heads.shape[:2])

    @torch.no_grad()
    def decoded(self, grids: torch.Tensor) -> np.ndarray:
        """Heads in 0..1 of grids (N, slices, *grid)."""
        images = torch.cat([self.run.network.decode_samples(part) for part in grids.flatten(0, 1).split(16)])
        return images[:, 0].clamp(0, 1).unflatten(0, grids.shape[:2]).numpy()

    @torch.no_grad()
    def sketches(self, grids: torch.Tensor) -> torch.Tensor:
        """Sketches (N, slices, *sketch) of grids (N, slices, *grid)."""
        found = torch.cat([self.prior.sketch(part) for part in grids.flatten(0, 1).split(64)])
        return found.unflatten(0, grids.shape[:2])

    def _below(self, drawn: list[torch.Tensor], empty: torch.Tensor) -> torch.Tensor:
        """The context by the slices below: grids or sketches, (N, contexts, ...)."""
        context = torch.full((len(empty), len(self.prior.context_names), *empty.shape[1:]), -1)
        for column, part in zip(self.columns, reversed(drawn), strict=False):
            context[:, column] = part
        return context

    def _choose(self, numbers: torch.Tensor) -> Callable[[int, torch.Tensor], torch.Tensor]:
        """Draws codes by random numbers (positions, N)."""
        return lambda position, logits: self.run.inferer.draw(logits, numbers[position])

    @torch.no_grad()
    def draw(self, number: int, height: int, seed: int, sketches: torch.Tensor | None = None) -> torch.Tensor:
        """
        Draw codes of heads given their sketches, and those below.

        Args:
            number: how many heads, N.
            height: slices of a head.
            seed: of the random numbers.
            sketches: (N, slices, *sketch); None to draw the sketches of a whole head first, each given those below.

        Returns:
            (N, slices, *grid).
        """
        prior, first = self.prior, math.prod(self.prior.sketch.spatial_size)
        asked = slice_conditions(self.run.conditions, {}, np.linspace(0, 1, height).tolist())
        values = [part["values"].expand(number, -1) for part in asked]
        draws = [
            torch.from_numpy(np.stack([sample_uniforms(seed, i, prior.num_draws, part) for i in range(number)], 1))
            for part in range(height)
        ]  # of each slice (draws, N)
        empty = torch.zeros(number, *prior.sketch.spatial_size, dtype=torch.long)
        plans: list[torch.Tensor] = []
        for part in range(height):
            if sketches is not None:
                plans.append(sketches[:number, part])
                continue
            choose, known = self._choose(draws[part]), self._below(plans, empty)
            plans.append(prior.sketch_prior.generate(choose, number, values=values[part], context=known))
        drawn: list[torch.Tensor] = []
        blank = torch.zeros(number, *prior.spatial_size, dtype=torch.long)
        for part in range(height):
            choose = self._choose(draws[part][first:])
            known = torch.cat([prior.sketch.spread(plans[part]), self._below(drawn, blank)], 1)
            drawn.append(prior.code_prior.generate(choose, number, values=values[part], context=known))
        return torch.stack(drawn, 1)


class HeadSketches(nn.Module):
    """p(sketches of a head), by one prior in three dimensions."""

    def __init__(self, size: tuple[int, ...], number: int) -> None:
        super().__init__()
        self.prior = GatedPixelCNN(3, number, size, 64, 5, dropout=0.1, position_logits=True)

    def forward(self, heads: torch.Tensor) -> torch.Tensor:
        """Nats of each sketch code of heads (B, slices, *sketch)."""
        return F.cross_entropy(self.prior(heads).float(), heads, reduction="none")


class SliceSketches(nn.Module):
    """p(sketch of a slice | the sketch below, its place), as the default prior has it."""

    def __init__(self, size: tuple[int, ...], number: int) -> None:
        super().__init__()
        context = CodeContext(number, size[1:], 96, 1, 1)
        self.prior = GatedPixelCNN(
            2, number, size[1:], 96, 4, dropout=0.1, attention_every=1, position_logits=True, num_values=1,
            context_network=context, context_names=["neighbor"],
        )  # fmt: skip

    def forward(self, heads: torch.Tensor, chosen: torch.Tensor | None = None) -> torch.Tensor:
        """Nats of each sketch code of the slices chosen (B, n) of heads (B, slices, *sketch), by default all."""
        below = torch.cat([torch.full_like(heads[:, :1], -1), heads[:, :-1]], 1)
        places = torch.linspace(-1.7, 1.7, heads.shape[1]).expand(heads.shape[:2])
        if chosen is not None:
            rows = torch.arange(len(heads))[:, None]
            heads, below, places = heads[rows, chosen], below[rows, chosen], places[rows, chosen]
        grids, below, values = heads.flatten(0, 1), below.flatten(0, 1)[:, None], places.reshape(-1, 1)
        return F.cross_entropy(self.prior(grids, values=values, context=below).float(), grids, reduction="none")


def bits_of_sketches(
    model: HeadSketches | SliceSketches, train: torch.Tensor, held_out: torch.Tensor, vectors: torch.Tensor, steps: int
) -> float:
    """
    Train a prior of sketches and rate held-out heads.

    Args:
        model: the prior.
        train: sketches (N, slices, *sketch) to train on.
        held_out: sketches of other heads.
        vectors: descriptions of the sketch codes.
        steps: training steps of one head, or of 16 slices of different heads.

    Returns:
        bits a sketch code.
    """
    torch.manual_seed(0)
    single = isinstance(model, SliceSketches)
    model.prior.start_at_codes(vectors)
    model.prior.start_from(position_log_probabilities(train.flatten(0, 1) if single else train, len(vectors)))
    if isinstance(model.prior.context_network, CodeContext):
        model.prior.context_network.start_at_codes(vectors, 0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.002, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.002, total_steps=steps, pct_start=0.2)
    model.train()
    for _ in range(steps):
        heads = train[torch.randint(len(train), (_SLICES_A_STEP if single else 1,))]
        rated = (heads, torch.randint(heads.shape[1], (len(heads), 1))) if single else (heads,)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(*rated).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    model.eval()
    with torch.no_grad():
        return float(torch.stack([model(head[None]).mean() for head in held_out]).mean()) / math.log(2)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.head_sketches",
        description="Would heads be better if the sketches of all of their slices were drawn first? Codes are drawn "
        "given the sketches of real heads, which no drawn ones could better, and given sketches that were drawn "
        "first. Beside them real heads through the autoencoder, and how well slices below predict a slice. With "
        "--steps also the bits of a prior of the sketches of a head in three dimensions.",
    )
    parser.add_argument("--dataset_dir", required=True, help="folder of slices that the prior was trained on")
    parser.add_argument("--output_dir", required=True, help="output folder of a training with neighbor_context")
    parser.add_argument("--num_volumes", type=int, default=6, help="heads to draw of each")
    parser.add_argument("--steps", type=int, default=0, help="training steps of a 3-D prior of sketches; 0 for none")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--spatial_size", type=int, default=128, help="side of the slices in pixels")
    parser.add_argument("--no_heads", action="store_true", help="draw none")
    add_json_option(parser)
    options = parser.parse_args()
    logging.disable(logging.INFO)
    slices = SliceFolder(options.dataset_dir)
    real = read_heads(slices, "validate", options.spatial_size)
    changes, height = jumps(real), real.shape[1]
    shares = {f"variance explained by {number} below": round(predicted_share(real, number), 3) for number in LAGS}
    print(json.dumps(shares), flush=True)
    parts = Parts(Run(options.output_dir, {"temperature": 1.0}))
    codes = parts.codes(real)
    sketches = parts.sketches(codes)
    rows: list[Row] = []
    ways = {"given the sketches of real heads": sketches, "sketches of a head first": None}
    for name, given in {"real heads, decoded": codes, **ways}.items():
        if name in ways and options.no_heads:
            continue
        grids = parts.draw(options.num_volumes, height, options.seed, given) if name in ways else codes
        rows.append(measures(name, parts.decoded(grids), changes))
        print(json.dumps(rows[-1]), flush=True)
    bits = {}
    if options.steps:
        train = parts.sketches(parts.codes(read_heads(slices, "train", options.spatial_size)))
        sizes = (height, *parts.prior.sketch.spatial_size), parts.prior.sketch.num_sketch_codes
        vectors = parts.prior.sketch.codebook.embedding
        per_slice = options.steps * height // _SLICES_A_STEP  # as many slices
        for kind, steps in ((HeadSketches, options.steps), (SliceSketches, per_slice)):
            torch.manual_seed(0)
            bits[kind.__name__] = round(bits_of_sketches(kind(*sizes), train, sketches, vectors, steps), 3)
            print(json.dumps(bits), flush=True)
    finish(parser, options, {**shares, **bits}, {"heads": rows})


if __name__ == "__main__":
    main()
