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
import math
from collections.abc import Callable

import torch
from monai.inferers import VQVAETransformerInferer
from monai.networks.nets import DecoderOnlyTransformer
from monai.utils.ordering import Ordering

from benchmarks.record import Row, add_json_option, finish
from benchmarks.timing import medians_of, seconds_of
from monai_vqprior.inferers import VQPriorInferer
from monai_vqprior.networks import (
    AutoencoderVQ,
    CodeContext,
    CodeSketch,
    EMACodebook,
    GatedPixelCNN,
    HierarchicalPrior,
)

CODES = 512


def prior(size: int, channels: int, layers: int, kernel_size: int) -> GatedPixelCNN:
    """An untrained prior: what it costs to sample does not depend on its weights."""
    torch.manual_seed(0)
    return GatedPixelCNN(2, CODES, size, channels, layers, kernel_size).eval()


def sketched(size: int, channels: int, layers: int, kernel_size: int) -> HierarchicalPrior:
    """The same prior behind a sketch of 8 x 8 at most, as the bundle's configurations make it."""
    torch.manual_seed(0)
    sketch = CodeSketch(CODES, spatial_size=size, block=2 * math.ceil(size / 16))
    coarse = GatedPixelCNN(2, sketch.num_sketch_codes, sketch.spatial_size, 96, 4, attention_every=1)
    context = CodeContext(sketch.num_sketch_codes, size, channels, sketch.block)
    fine = GatedPixelCNN(2, CODES, size, channels, layers, kernel_size, context_network=context)
    return HierarchicalPrior(sketch, coarse, fine).eval()


def sampling(network: GatedPixelCNN | HierarchicalPrior, batch: int, num_workers: int = 0) -> Callable[[], object]:
    """Draw a batch of grids: as one tile, or as one tile for each of some workers, whose start counts too."""
    inferer = VQPriorInferer(tile_size=math.ceil(batch / max(1, num_workers)), num_workers=num_workers)
    return lambda: inferer.sample(network, range(batch))


def forward(network: GatedPixelCNN, batch: int) -> Callable[[], object]:
    """One dense pass over a batch of known grids."""
    codes = torch.randint(CODES, (batch, *network.spatial_size))
    return torch.no_grad()(lambda: network(codes))


def transformer_seconds(
    transformer: torch.nn.Module, size: int, rows: int, batch: int, device: torch.device | None = None
) -> float:
    """MONAI's sampler on the first rows of a grid, scaled by counted positions to the whole grid."""
    tokenizer = AutoencoderVQ(channels=(16,), codebook=EMACodebook(CODES, 4)).eval().to(device)
    ordering = Ordering("raster_scan", 2, (1, rows, size))
    start = torch.full((batch, 1), CODES, device=device)
    inferer = VQVAETransformerInferer()
    seconds = seconds_of(
        lambda: inferer.sample((rows, size), start, tokenizer, transformer, ordering, verbose=False),  # type: ignore
        device,
    )
    # Step t passes t positions through the transformer.
    timed, whole = (sum(range(1, n + 1)) for n in (rows * size, size * size))
    return seconds * whole / timed


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sampler",
        description="Time to draw code grids: our sampler, the whole network for each position, and MONAI's "
        "VQVAETransformerInferer with a transformer of about as many parameters; and what a sketch adds.",
    )
    parser.add_argument("--size", type=int, default=32, help="side of the grid")
    parser.add_argument("--channels", type=int, default=128)
    parser.add_argument("--layers", type=int, default=15)
    parser.add_argument("--kernel_size", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=5, help="timed calls of each; the median counts")
    parser.add_argument("--peer_rows", type=int, default=8, help="rows that MONAI's sampler draws at batch 16")
    add_json_option(parser)
    options = parser.parse_args()

    size, positions = options.size, options.size**2
    network = prior(size, options.channels, options.layers, options.kernel_size)
    torch.manual_seed(0)
    width = 2 * options.channels
    count = sum(parameter.numel() for parameter in network.parameters())
    depth = max(1, round((count - (CODES + 1 + positions) * width) / (12 * width**2)))
    transformer = DecoderOnlyTransformer(CODES + 1, positions, width, depth, 8).eval()
    peer_count = sum(parameter.numel() for parameter in transformer.parameters())
    print(f"prior: {count / 1e6:.2f} M parameters; MONAI's transformer: {peer_count / 1e6:.2f} M")
    print(f"one {size} x {size} grid of {CODES} codes takes {positions} positions; seconds a batch:")
    print(f"{'batch':>5} {'ours':>8} {'forward':>8} {'naive':>9} {'MONAI':>9} {'naive/ours':>11} {'MONAI/ours':>11}")
    result = {}
    times: list[Row] = []
    for batch, rows in ((1, size), (16, options.peer_rows)):
        calls = {"ours": sampling(network, batch), "forward": forward(network, batch)}
        ours, dense = medians_of(calls, options.repeats).values()
        # The whole network for each position costs one pass a position, whichever it is.
        naive = positions * dense
        peer = transformer_seconds(transformer, size, rows, batch)
        result[f"b{batch}_vs_naive"], result[f"b{batch}_vs_monai"] = naive / ours, peer / ours
        times.append(_row(str(batch), ours, dense, naive, peer))
        print(
            f"{batch:>5} {ours:>8.2f} {dense:>8.2f} {naive:>9.1f} {peer:>9.1f} {naive / ours:>11.0f} "
            f"{peer / ours:>11.0f}",
            flush=True,
        )
    print(
        f"naive: one pass timed, times {positions} positions. MONAI: at batch 1 the whole grid, at batch 16 the first"
    )
    print(f"{options.peer_rows} rows, scaled by the positions that pass through the transformer.")
    workers = torch.get_num_threads()
    ways = {"b64_one_process_vs_forward": 0, "b64_vs_forward": workers}
    calls = {name: sampling(network, 64, processes) for name, processes in ways.items()}
    medians = medians_of({"forward": forward(network, 64), **calls}, options.repeats)
    for name, processes in ways.items():
        ours, dense = medians[name], medians["forward"]
        result[name] = ours / dense
        times.append(_row(f"64, {processes} workers" if processes else "64", ours, dense))
        how = f"{processes} workers" if processes else f"one process, {workers} threads"
        print(f"{64:>5} {ours:>8.2f} {dense:>8.2f}   {ours / dense:.2f} of a forward pass ({how})", flush=True)
    sketches: list[Row] = []
    with_sketch = sketched(size, options.channels, options.layers, options.kernel_size)
    for batch in (1, 16, 64):
        calls = {"without": sampling(network, batch), "with": sampling(with_sketch, batch)}
        without, whole = medians_of(calls, options.repeats).values()
        result[f"b{batch}_with_sketch_vs_without"] = whole / without
        sketches.append({"batch": batch, "with a sketch, s": round(whole, 2), "without, s": round(without, 2)})
        print(f"{batch:>5} {whole:>8.2f} with a sketch, {whole / without:.2f} of {without:.2f} without", flush=True)
    print("microseconds a position at batch 1, by side of the grid:")
    sides = {f"us_per_position_{side}": side for side in (16, 32, 64)}
    calls = {
        name: sampling(prior(side, options.channels, options.layers, options.kernel_size), 1)
        for name, side in sides.items()
    }
    positions_of: list[Row] = []
    for name, seconds in medians_of(calls, options.repeats).items():
        result[name] = 1e6 * seconds / sides[name] ** 2
        positions_of.append({"side of the grid": sides[name], "microseconds a position": round(result[name])})
        print(f"{sides[name]:>5} {result[name]:>8.0f}", flush=True)
    summary = {name: round(value, 3) for name, value in result.items()}
    finish(parser, options, summary, {"times": times, "sketches": sketches, "positions": positions_of})


def _row(batch: str, ours: float, dense: float, naive: float | None = None, peer: float | None = None) -> Row:
    """A row of the table of times, in seconds a batch."""
    return {
        "batch": batch,
        "sampler, s": round(ours, 2),
        "one pass, s": round(dense, 2),
        "one pass a position, s": None if naive is None else round(naive, 1),
        "times ours": None if naive is None else round(naive / ours),
        "MONAI's, s": None if peer is None else round(peer, 1),
        "MONAI's, times ours": None if peer is None else round(peer / ours),
    }


if __name__ == "__main__":
    main()
