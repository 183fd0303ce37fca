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
import statistics
import time
from collections.abc import Sequence
from unittest import mock

import torch

from benchmarks.sampler import prior
from monai_vqprior.inferers import VQPriorInferer
from monai_vqprior.networks import GatedPixelCNN
from monai_vqprior.sampling.row_convolution import DirectRowConvolution, RowConvolution, row_convolutions


def direct(
    kernels: Sequence[torch.Tensor], biases: Sequence[torch.Tensor], gate: torch.Tensor, batch_size: int
) -> Sequence[RowConvolution]:
    """Every row convolution as one product for each tap."""
    return [DirectRowConvolution(*layer, gate, batch_size) for layer in zip(kernels, biases, strict=True)]


def seconds(network: GatedPixelCNN, batch: int, way: str) -> float:
    """Processor time to draw a tile: the machine may do other things in between."""
    choose = direct if way == "direct" else row_convolutions
    with mock.patch("monai_vqprior.sampling.rows.row_convolutions", choose):
        start = time.process_time()
        VQPriorInferer(tile_size=batch).sample(network, range(batch))
        return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.row_convolution",
        description="What Winograd's row convolutions gain in a whole draw of grids of 32 x 32 codes, one thread: "
        "processor time of direct ones as a multiple, in turns, the median of the pairs.",
    )
    parser.add_argument("--channels", type=int, default=128)
    parser.add_argument("--layers", type=int, default=15)
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--repeats", type=int, default=9, help="pairs at each batch")
    options = parser.parse_args()

    torch.set_num_threads(1)
    network = prior(32, options.channels, options.layers, 3)
    result = {}
    for batch in options.batches:
        ratios = []
        for repeat in range(options.repeats + 1):
            order = ("winograd", "direct") if repeat % 2 else ("direct", "winograd")
            pair = {way: seconds(network, batch, way) for way in order}
            if repeat > 0:  # the first pair warms up
                ratios.append(pair["direct"] / pair["winograd"])
        result[f"b{batch}_direct_vs_winograd"] = round(statistics.median(ratios), 3)
        print(f"{batch:>5} {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})", flush=True)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
