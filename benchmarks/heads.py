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
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.ndimage import binary_fill_holes
from scipy.stats import ks_2samp

from benchmarks.conditions import fluid_share, read_images
from benchmarks.record import Row, add_json_option, finish
from benchmarks.training import bundle_parser
from monai_vqprior.bundles import bundle_root
from monai_vqprior.command_configs import STACKS, resolve
from monai_vqprior.data import SliceFolder, neighbor_names, scan_numbers, stack_height
from monai_vqprior.data.layout import slice_name
from monai_vqprior.files import write_png
from monai_vqprior.inferers import VQPriorInferer
from monai_vqprior.losses import BitsPerCodeLoss
from monai_vqprior.networks import CodeContext, CodeSketch, GatedPixelCNN, HierarchicalPrior
from monai_vqprior.report.drawn_heads import slice_conditions
from monai_vqprior.sampling import Conditioning
from monai_vqprior.sampling.slice_stacks import columns_of_neighbors

#: distances of slices whose correlation is measured.
DISTANCES = (1, 4, 8)
_BRAIN = 0.15  # brighter pixels are brain


def read_heads(slices: SliceFolder, split: str, size: int | list[int]) -> np.ndarray:
    """Heads of a split that have all of their slices, (N, slices, H, W) in 0..1."""
    items = slices.datalist(split)
    height, numbers = stack_height(slices, items), np.array(scan_numbers(slices, items))
    order = sorted(range(len(items)), key=lambda i: (numbers[i], items[i]["index"]))
    whole = [i for i in order if np.sum(numbers == numbers[i]) == height]
    images = read_images([items[i] for i in whole], size)
    return images[:, 0].unflatten(0, (-1, height)).numpy()


def correlations(heads: np.ndarray, distance: int) -> np.ndarray:
    """Correlation of slices at a distance, of the pixels that are brain in one of them."""
    found = []
    for head in heads:
        for low, high in zip(head, head[distance:], strict=False):
            brain = np.maximum(low, high) > _BRAIN
            if low[brain].std() > 0 and high[brain].std() > 0:
                found.append(np.corrcoef(low[brain], high[brain])[0, 1])
    return np.array(found)


def jumps(heads: np.ndarray) -> dict[str, np.ndarray]:
    """Changes from slice to slice of the area of the brain, as a share of the slice, and of the fluid in it."""
    number, height = heads.shape[:2]
    slices = heads.reshape(number * height, *heads.shape[2:])
    area = np.array([binary_fill_holes(image > _BRAIN).mean() for image in slices])
    fluid = fluid_share(torch.from_numpy(slices)[:, None])
    parts = {"area": area, "fluid": fluid}
    changes = {name: np.diff(part.reshape(number, height), axis=1).ravel() for name, part in parts.items()}
    return {name: part[np.isfinite(part)] for name, part in changes.items()}


def measures(name: str, heads: np.ndarray, real: Mapping[str, np.ndarray]) -> dict[str, float | str]:
    """A row of the table."""
    row: dict[str, float | str] = {"heads": name}
    for distance in DISTANCES:
        row[f"correlation at {distance}"] = round(float(np.median(correlations(heads, distance))), 3)
    for part, changes in jumps(heads).items():
        row[f"KS of jumps, {part}"] = round(float(ks_2samp(changes, real[part]).statistic), 3)
    return row


class Run:
    """A trained prior with its autoencoder, as ``vqprior sample`` finds them in an output folder."""

    def __init__(self, output_dir: str, overrides: Mapping[str, Any]) -> None:
        given = {"output_dir": output_dir, **overrides}
        _, files, settings = resolve(STACKS["sample_volumes"], bundle_root(), given)
        config = bundle_parser(files, settings)
        parts = ("network", "prior", "inferer", "known_conditions", "spatial_size", "head_slices", "neighbor_context")
        found = {name: config.get_parsed_content(name) for name in parts}
        self.network, self.prior = found["network"].eval(), found["prior"].eval()
        self.inferer: VQPriorInferer = found["inferer"]
        self.conditions, self.size = found["known_conditions"], found["spatial_size"]
        self.knows_neighbors: bool = found["neighbor_context"]

    def draw(self, number: int, height: int, seed: int, alone: bool) -> np.ndarray:
        """Heads (number, height, H, W) in 0..1, each slice given those below, or ``alone`` given its place."""
        places = np.linspace(0, 1, height).tolist()
        asked = [Conditioning(**part) for part in slice_conditions(self.conditions, {}, places)]
        grids = torch.zeros(number, height, *self.prior.spatial_size, dtype=torch.long)
        if alone:
            for i, conditioning in enumerate(asked):
                tiles = self.inferer.sample_tiles(self.prior, range(number), seed + i + 1, conditioning=conditioning)
                for rows, drawn in tiles:
                    grids[rows, i] = drawn
        else:
            for rows, drawn in self.inferer.sample_stacks(self.prior, range(number), asked, seed):
                grids[rows] = drawn
        with torch.no_grad():
            parts = [self.network.decode_samples(part) for part in grids.flatten(0, 1).split(16)]
        return torch.cat(parts)[:, 0].clamp(0, 1).unflatten(0, (number, height)).cpu().numpy()

    @torch.no_grad()
    def bits(self, heads: np.ndarray) -> dict[str, float]:
        """Bits a code of real heads (N, slices, H, W), of each slice alone, and given those below if it can be."""
        places = np.linspace(0, 1, heads.shape[1]).tolist()
        values = torch.cat([part["values"] for part in slice_conditions(self.conditions, {}, places)])
        rated: dict[str, list[float]] = {}
        for head in heads:
            codes = torch.cat([self.network.index_quantize(part) for part in torch.from_numpy(head)[:, None].split(16)])
            contexts: dict[str, torch.Tensor | None] = {"bits alone": None}
            if self.knows_neighbors:
                names = self.prior.context_names
                known = torch.full((len(codes), len(names), *codes.shape[1:]), -1)
                for below, column in enumerate(columns_of_neighbors(names), 1):
                    known[below:, column] = codes[:-below]
                contexts["bits given below"] = known
            for name, context in contexts.items():
                found = self.inferer.bits(codes, self.prior, values=values, context=context)
                rated.setdefault(name, []).append(float(found.mean()))
        return {name: round(float(np.mean(part)), 3) for name, part in rated.items()}


def save(folder: Path, heads: np.ndarray) -> None:
    """Write all slices as PNG, for other tools."""
    for i, head in enumerate(heads):
        for j, image in enumerate(head):
            write_png(folder / slice_name(f"{i:03d}", j), np.rint(image * 255).astype(np.uint8))


def default_prior(names: Sequence[str]) -> HierarchicalPrior:
    """The prior of a grid of 32 x 32 codes with the defaults of ``train_prior.json``."""
    number = len(names)
    coarse = CodeContext([512] * number, 8, 96, [1] * number, 1) if number else None
    fine = CodeContext([512] * (1 + number), 32, 64, [4] + [1] * number, [3] + [1] * number)
    shared: dict[str, Any] = {"num_embeddings": 512, "position_logits": True, "num_values": 1, "context_names": names}
    return HierarchicalPrior(
        CodeSketch(512, 8, 32, 4, 512),
        GatedPixelCNN(spatial_size=8, channels=96, num_layers=4, attention_every=1, context_network=coarse, **shared),
        GatedPixelCNN(spatial_size=32, channels=64, num_layers=12, context_network=fine, **shared),
    )


def step_cost(pairs: int = 11, warm_up: int = 2) -> dict[str, float]:
    """Processor time of a training step of two grids in bfloat16, in seconds: medians, and that of the ratios."""
    torch.manual_seed(0)
    codes, below, values = torch.randint(512, (2, 32, 32)), torch.randint(512, (2, 2, 32, 32)), torch.zeros(2, 1)
    priors = {names: default_prior(names).train() for names in ((), tuple(neighbor_names(2)))}
    optimizers = {names: torch.optim.AdamW(prior.parameters(), fused=True) for names, prior in priors.items()}
    times: dict[tuple[str, ...], list[float]] = {names: [] for names in priors}
    for number in range(pairs + warm_up):
        for names in list(priors) if number % 2 else reversed(priors):
            start = time.process_time()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                logits, besides = priors[names](codes, values=values, context=below if names else None)
            BitsPerCodeLoss()((logits.float(), besides.float()), codes).backward()
            optimizers[names].step()
            optimizers[names].zero_grad()
            times[names].append(time.process_time() - start)
    without, with_below = (np.array(part[warm_up:]) for part in times.values())
    medians = {"without": np.median(without), "with": np.median(with_below), "ratio": np.median(with_below / without)}
    return {name: round(float(value), 3) for name, value in medians.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.heads",
        description="Draw whole heads from trained priors, slice by slice, and measure whether their slices fit "
        "together: correlation of slices at a distance (median), and the Kolmogorov-Smirnov distance of changes from "
        "slice to slice to those of real heads of a split, and bits a code of such heads. Heads of another split "
        "say what these figures are worth.",
    )
    task = parser.add_mutually_exclusive_group(required=True)
    task.add_argument("--dataset_dir", help="folder of slices that the priors were trained on")
    task.add_argument("--cost", action="store_true", help="only time a training step with and without the slices below")
    parser.add_argument("--runs", nargs="*", default=[], metavar="DIR", help="output folders of trainings with slice")
    parser.add_argument("--num_volumes", type=int, default=16, help="heads to draw of each")
    parser.add_argument("--rated_heads", type=int, default=4, help="real heads to rate in bits a code")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--spatial_size", type=int, default=128, help="side of the slices in pixels")
    parser.add_argument("--split", default="validate", help="split to compare with")
    parser.add_argument("--other_split", default="train", help="split of as many real heads to say what figures mean")
    parser.add_argument("--save", metavar="DIR", help="write the slices that were drawn as PNG to folders in DIR")
    parser.add_argument("--set", nargs=2, action="append", metavar=("KEY", "VALUE"), default=[], help="override a key")
    add_json_option(parser)
    options = parser.parse_args()
    logging.disable(logging.INFO)
    if options.cost:
        finish(parser, options, step_cost(), {})
        return
    slices = SliceFolder(options.dataset_dir)
    real = read_heads(slices, options.split, options.spatial_size)
    other = read_heads(slices, options.other_split, options.spatial_size)[: len(real)]
    changes = jumps(real)
    rows: list[Row] = []
    rates: list[Row] = []

    def tell(name: str, heads: np.ndarray) -> None:
        rows.append(measures(name, heads, changes))
        print(json.dumps(rows[-1]), flush=True)

    tell(f"real, {options.split}", real)
    tell(f"real, {options.other_split}", other)
    overrides = {key: json.loads(value) for key, value in options.set}
    for folder in options.runs:
        run = Run(folder, overrides)
        rates.append({"prior": Path(folder).name, **run.bits(real[: options.rated_heads])})
        print(json.dumps(rates[-1]), flush=True)
        for alone in _ways(run.knows_neighbors):
            name = f"{Path(folder).name}, {'each slice alone' if alone else 'given the slices below'}"
            heads = run.draw(options.num_volumes, real.shape[1], options.seed, alone)
            tell(name, heads)
            if options.save:
                save(Path(options.save) / name.replace(", ", "_").replace(" ", "_"), heads)
    finish(parser, options, {"heads": len(rows)}, {"heads": rows, "bits": rates})


def _ways(knows_neighbors: bool) -> Sequence[bool]:
    """Whether slices are drawn alone: a prior that knows neighbors draws in both ways."""
    return (False, True) if knows_neighbors else (True,)


if __name__ == "__main__":
    main()
