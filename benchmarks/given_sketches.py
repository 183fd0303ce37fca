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
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.record import Row, add_json_option, finish
from benchmarks.training import bundle_parser
from monai_vqprior.bundles import bundle_root
from monai_vqprior.command_configs import STACKS, resolve
from monai_vqprior.data import SliceDataset
from monai_vqprior.files import write_png
from monai_vqprior.inferers import encode_grids
from monai_vqprior.networks import HierarchicalPrior
from monai_vqprior.transforms import UnitToBytes

_BATCH = 16


class Run:
    """A trained prior with its autoencoder, as ``vqprior evaluate`` finds them in an output folder."""

    def __init__(self, output_dir: str, overrides: Mapping[str, Any]) -> None:
        _, files, settings = resolve(STACKS["evaluate"], bundle_root(), {"output_dir": output_dir, **overrides})
        config = bundle_parser(files, settings)
        parts = ("autoencoder", "prior", "slices", "preprocessing", "spatial_size")
        found = {name: config.get_parsed_content(name) for name in parts}
        if not isinstance(found["prior"], HierarchicalPrior):
            raise SystemExit(f"{output_dir} has no prior with a sketch.")
        self.autoencoder, self.prior = found["autoencoder"].eval(), found["prior"].eval()
        self.slices, self.preprocessing, self.size = found["slices"], found["preprocessing"], found["spatial_size"]

    def grids(self, split: str, number: int) -> torch.Tensor:
        """Codes (number, *grid) of slices of a split, chosen at random."""
        data = self.slices.datalist(split)
        chosen = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))[:number].tolist()
        dataset = SliceDataset([data[i] for i in chosen], self.preprocessing, spatial_size=self.size)
        return encode_grids(self.autoencoder, dataset, torch.device("cpu"), progress=False).long()


@torch.no_grad()
def bits_of_levels(prior: HierarchicalPrior, grids: torch.Tensor) -> dict[str, float]:
    """Bits of each code of the sketches of grids (N, *grid), and of each code of the grids given the sketch."""
    nats = dict.fromkeys(("sketch", "codes"), 0.0)
    for part in grids.split(_BATCH):
        sketch = prior.sketch(part)
        logits = prior.code_prior(part, context=prior.code_context(sketch))
        nats["sketch"] += float(F.cross_entropy(prior.sketch_prior(sketch).float(), sketch, reduction="sum"))
        nats["codes"] += float(F.cross_entropy(logits.float(), part, reduction="sum"))
    numbers = {"sketch": math.prod(prior.sketch.spatial_size), "codes": math.prod(prior.spatial_size)}
    return {name: total / math.log(2) / len(grids) / numbers[name] for name, total in nats.items()}


@torch.no_grad()
def draw_given_sketches(prior: HierarchicalPrior, grids: torch.Tensor, temperature: float, seed: int) -> torch.Tensor:
    """Codes (N, *grid) that are drawn given the sketches of other grids (N, *grid)."""
    generator = torch.Generator().manual_seed(seed)

    def choose(_: int, logits: torch.Tensor) -> torch.Tensor:
        shares = (logits.float() / temperature).softmax(1)
        return torch.multinomial(shares, 1, generator=generator)[:, 0]

    drawn = []
    for part in grids.split(_BATCH):
        context = prior.code_context(prior.sketch(part))
        drawn.append(prior.code_prior.generate(choose, len(part), context=context))
    return torch.cat(drawn)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.given_sketches",
        description="Which level of a prior makes its samples implausible? Rate the sketches and the codes of real "
        "slices on their own, and draw slices given the sketches of real ones: what is wrong with these is not due to "
        "the prior of the sketches.",
    )
    parser.add_argument("--dataset_dir", required=True, help="folder of slices that the prior was trained on")
    parser.add_argument("--output_dir", default="output", help="output folder of the training")
    parser.add_argument("--split", default="test", help="split whose sketches are taken")
    parser.add_argument("--num_slices", type=int, default=128, help="slices of each split")
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", required=True, metavar="DIR", help="new folder for the slices that are drawn, as PNG")
    add_json_option(parser)
    options = parser.parse_args()
    logging.disable(logging.INFO)
    folder = Path(options.save)
    folder.mkdir(parents=True)
    run = Run(options.output_dir, {"dataset_dir": options.dataset_dir})
    rates: list[Row] = []
    for split in ("train", "validate", "test"):
        found = bits_of_levels(run.prior, run.grids(split, options.num_slices))
        rates.append({"split": split, **{f"bits a code, {name}": round(value, 3) for name, value in found.items()}})
        print(json.dumps(rates[-1]), flush=True)
    real = run.grids(options.split, options.num_slices)
    drawn = draw_given_sketches(run.prior, real, options.temperature, options.seed)
    for number, codes in enumerate(drawn):
        with torch.no_grad():
            image = UnitToBytes()(run.autoencoder.decode_samples(codes[None]))[0, 0]
        write_png(folder / f"given_sketch_{number:04d}.png", image.numpy())
    finish(parser, options, {"slices": len(drawn)}, {"bits": rates})


if __name__ == "__main__":
    main()
