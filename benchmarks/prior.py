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
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from ignite.engine import Engine, Events
from monai.networks.nets import DecoderOnlyTransformer
from monai.utils import set_determinism

from benchmarks.record import Row, add_json_option, finish
from benchmarks.training import bundle_parser, run_parser
from monai_vqprior.bundles import bundle_root, load_configs
from monai_vqprior.runs import read_settings

PRIOR = ["train.json", "train_prior.json"]
#: a point of a curve: seconds of training, grids seen, validation bits a code.
Point = tuple[float, int, float]


def train_prior(common: dict[str, Any], seconds: float, overrides: dict[str, Any]) -> tuple[list[Point], Any]:
    """Train the bundle's prior by its own configuration; its validations, and the configuration with its data."""
    parser = bundle_parser(PRIOR, {**common, "max_minutes": seconds / 60, **overrides})
    trainer = parser.get_parsed_content("train#trainer")
    evaluator = parser.get_parsed_content("validate#evaluator")
    batch_size = parser.get_parsed_content("batch_size")
    curve: list[Point] = []
    start = time.perf_counter()

    def note(engine: Engine) -> None:
        seen = trainer.state.iteration * batch_size
        curve.append((time.perf_counter() - start, seen, engine.state.metrics["bits_per_code"]))

    evaluator.add_event_handler(Events.COMPLETED, note)
    run_parser(parser)
    return curve, parser


class Transformer:
    """
    MONAI's transformer on sequences of codes, trained as its VQ-VAE transformer tutorial does
    (https://github.com/Project-MONAI/tutorials/tree/main/generation/2d_vqvae_transformer): Adam, learning rate 5e-4,
    cross-entropy, float32. The tutorial's network is 96 wide and 12 layers deep, its batch 16.

    Args:
        num_embeddings: number of codes; one more token begins a sequence.
        positions: length of a sequence.
        width: features of a position.
        depth: layers.
        batch_size: sequences a step.
    """

    def __init__(
        self, num_embeddings: int, positions: int, width: int = 96, depth: int = 12, batch_size: int = 16
    ) -> None:
        self.begin = num_embeddings
        self.network = DecoderOnlyTransformer(num_embeddings + 1, positions, width, depth, 8)
        self.batch_size = batch_size
        self.parameters = sum(parameter.numel() for parameter in self.network.parameters())

    @classmethod
    def wide(cls, num_embeddings: int, positions: int, parameters: int) -> Transformer:
        """
        Another one of about so many parameters that gets further in minutes: few layers, 256 wide, in batches of 4.
        """
        width = 256
        depth = max(1, round((parameters - (2 * num_embeddings + positions) * width) / (12 * width**2)))
        return cls(num_embeddings, positions, width, depth, batch_size=4)

    def bits(self, grids: torch.Tensor) -> torch.Tensor:
        """Bits of each code, (B, positions), of grids (B, *grid)."""
        codes = grids.flatten(1).long()
        begun = F.pad(codes[:, :-1], (1, 0), value=self.begin)
        logits = self.network(begun).movedim(-1, 1)  # (B, K + 1, positions)
        return F.cross_entropy(logits, codes, reduction="none") / math.log(2)

    def train(self, grids: torch.Tensor, validation: torch.Tensor, seconds: float, every: float) -> list[Point]:
        """Train for some seconds, those of the validations left out, and validate after each ``every`` seconds."""
        optimizer = torch.optim.Adam(self.network.parameters(), lr=5e-4)
        curve: list[Point] = []
        spent, seen, due = 0.0, 0, every
        for indices in batches(len(grids), self.batch_size):
            start = time.perf_counter()
            self.network.train()
            optimizer.zero_grad(set_to_none=True)
            self.bits(grids[indices]).mean().backward()
            optimizer.step()
            seen += self.batch_size
            spent += time.perf_counter() - start
            if spent >= min(due, seconds):
                due += every
                curve.append((spent, seen, self.validate(validation)))
            if spent >= seconds:
                return curve
        return curve

    @torch.no_grad()
    def validate(self, grids: torch.Tensor) -> float:
        """Mean bits a code."""
        self.network.eval()
        return float(torch.cat([self.bits(batch).mean(1) for batch in grids.split(8)]).mean())


def batches(number: int, batch_size: int) -> Iterator[torch.Tensor]:
    """Batches of indices, epoch after epoch, without end."""
    while True:
        yield from torch.randperm(number).split(batch_size)


def print_curve(name: str, curve: list[Point]) -> list[Row]:
    """Print the validations of a prior, and return them as rows of a table."""
    for seconds, seen, bits in curve:
        print(f"{name:<30} {seconds:>8.0f} {seen:>8} {bits:>8.3f}", flush=True)
    return [
        {"prior": name, "seconds": round(seconds), "grids seen": seen, "bits a code": round(bits, 3)}
        for seconds, seen, bits in curve
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.prior",
        description="Train the bundle's prior and MONAI's DecoderOnlyTransformer, as in MONAI's tutorial and with "
        "fewer and wider layers, for the same time on the same codes, and compare the bits a code that they need for "
        "validation slices.",
    )
    parser.add_argument("--dataset_dir", required=True, help="folder of slices")
    parser.add_argument("--spatial_size", type=int, default=128, help="side of the slices in pixels")
    parser.add_argument(
        "--tokenizer_dir", help="output folder of a trained autoencoder, for slices of its size; else one is trained"
    )
    parser.add_argument("--tokenizer_seconds", type=float, default=240, help="training time of the autoencoder")
    parser.add_argument("--seconds", type=float, default=600, help="training time of each prior")
    parser.add_argument("--validate_every", type=float, default=150, help="seconds between two validations of a peer")
    parser.add_argument("--no_peers", action="store_true", help="leave MONAI's transformer out")
    parser.add_argument("--set", nargs=2, action="append", metavar=("KEY", "VALUE"), default=[], help="override a key")
    add_json_option(parser)
    options = parser.parse_args()
    logging.disable(logging.INFO)
    with TemporaryDirectory() as folder:
        common = {"dataset_dir": options.dataset_dir, "spatial_size": options.spatial_size, "output_dir": folder}
        if options.tokenizer_dir:
            models = Path(options.tokenizer_dir) / "models"
            settings = read_settings(models / "settings.json")  # also of a prior, where one was trained there
            known = load_configs(bundle_root(), PRIOR[:1])["settings"]
            common |= {key: value for key, value in settings.items() if key in known}
            common["ckpt"] = str(models / "model.pt")
        else:
            run_parser(bundle_parser(PRIOR[:1], {**common, "max_minutes": options.tokenizer_seconds / 60}))
        overrides = {key: json.loads(value) for key, value in options.set}
        curve, config = train_prior(common, options.seconds, overrides)
        network, baselines = config.get_parsed_content("network"), config.get_parsed_content("validate#baselines")
        train, validation = (config.get_parsed_content(f"{split}#grids") for split in ("train", "validate"))
    count = sum(parameter.numel() for parameter in network.parameters())
    print(f"{'':<30} {'seconds':>8} {'grids':>8} {'bits':>8}")
    rows = print_curve(f"GatedPixelCNN, {count / 1e6:.2f} M", curve)
    best = min(bits for _, _, bits in curve)
    histogram = baselines["bits_per_code_position_histogram"]
    result = {"bits_per_code": best, "position_histogram_bits": histogram, "vs_position_histogram": best / histogram}
    if not options.no_peers:
        codes, positions = network.num_embeddings, train[0].numel()
        for name, title, make in (
            ("peer", "MONAI's, its tutorial's", lambda: Transformer(codes, positions)),
            ("wide_peer", "MONAI's, wide", lambda: Transformer.wide(codes, positions, count)),
        ):
            set_determinism(0)
            peer = make()
            curve = peer.train(train, validation, options.seconds, options.validate_every)
            rows += print_curve(f"{title}, {peer.parameters / 1e6:.2f} M", curve)
            peer_best = min(bits for _, _, bits in curve)
            result |= {f"{name}_bits_per_code": peer_best, f"vs_{name}": best / peer_best}
    print(f"{'histogram of each position':<30} {'':>8} {'':>8} {histogram:>8.3f}")
    rows.append({"prior": "histogram of each position", "bits a code": round(histogram, 3)})
    finish(parser, options, {name: round(value, 4) for name, value in result.items()}, {"bits": rows})


if __name__ == "__main__":
    main()
