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
from collections.abc import Callable

import torch
from monai.networks.layers.vector_quantizer import EMAQuantizer

from benchmarks.memory import peak_megabytes
from benchmarks.record import Row, add_json_option, finish
from benchmarks.timing import medians_of
from monai_vqprior.networks import CosineCodebook, EMACodebook, FSQCodebook, RotationTrick

try:
    from vector_quantize_pytorch import VectorQuantize
except ImportError as error:
    raise SystemExit("vector_quantize_pytorch is missing: pip install vector-quantize-pytorch") from error

Step = Callable[[], object]

DIMENSION = 64
PEERS = {
    "MONAI EMAQuantizer": lambda k: EMAQuantizer(2, k, DIMENSION),
    "vector-quantize-pytorch": lambda k: VectorQuantize(DIMENSION, k, decay=0.99, accept_image_fmap=True),
}
OURS = {
    "EMACodebook": lambda k: EMACodebook(k, DIMENSION),
    "EMACodebook, rotation": lambda k: EMACodebook(k, DIMENSION, gradient=RotationTrick()),
    "CosineCodebook": lambda k: CosineCodebook(k, DIMENSION),
}


def training_step(quantizer: torch.nn.Module, z: torch.Tensor) -> Step:
    """Forward and backward of a quantizer in training mode, whatever the order of what it returns."""
    quantizer.train()

    def step() -> None:
        outputs = quantizer(z)
        total = torch.zeros(())
        for output in outputs:
            if output.is_floating_point():  # the quantized vectors and the loss, not the indices
                total = total + output.sum()
        z.grad = None
        total.backward()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.codebook",
        description="One training step (forward and backward) of our codebooks and of MONAI's and "
        "vector-quantize-pytorch's, on 8 x 64 x 64 vectors of 64 numbers: time and peak memory.",
    )
    parser.add_argument("--codes", type=int, nargs="+", default=[512, 8192], help="sizes of the codebook")
    parser.add_argument("--batch", type=int, default=8, help="grids of 64 x 64 vectors")
    parser.add_argument("--repeats", type=int, default=9, help="timed steps of each; the median counts")
    add_json_option(parser)
    options = parser.parse_args()

    z = torch.randn(options.batch, DIMENSION, 64, 64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    result: dict[str, float] = {}
    rows: list[Row] = []
    print(f"{'codes':>6} {'':>24} {'ms a step':>10} {'times ours':>11} {'peak, MB':>9} {'times ours':>11}")
    for k in options.codes:
        torch.manual_seed(0)
        steps = {name: training_step(make(k), z) for name, make in {**OURS, **PEERS}.items()}
        seconds = medians_of(steps, options.repeats)
        memory = {name: peak_megabytes(step) for name, step in steps.items()}
        ours = "EMACodebook"
        for name in steps:
            slower, larger = seconds[name] / seconds[ours], memory[name] / memory[ours]
            print(
                f"{k:>6} {name:>24} {1000 * seconds[name]:>10.1f} {slower:>11.2f} {memory[name]:>9.0f} {larger:>11.2f}"
            )
            rows.append(
                {
                    "quantizer": name,
                    "codes": k,
                    "ms a step": round(1000 * seconds[name], 1),
                    "times ours": round(slower, 2),
                    "peak, MB": round(memory[name]),
                }
            )
        result[f"k{k}_vs_monai"] = round(seconds["MONAI EMAQuantizer"] / seconds[ours], 2)
        result[f"k{k}_vs_vqpytorch"] = round(seconds["vector-quantize-pytorch"] / seconds[ours], 2)
        result[f"k{k}_memory_vs_monai"] = round(memory[ours] / memory["MONAI EMAQuantizer"], 4)
    scalars = torch.randn(options.batch, 3, 64, 64, requires_grad=True)
    once = medians_of({"FSQ": training_step(FSQCodebook((8, 8, 8)), scalars)}, options.repeats)["FSQ"]
    print(f"{512:>6} {'FSQCodebook (8, 8, 8)':>24} {1000 * once:>10.1f}    (3 numbers a vector)")
    rows.append(
        {"quantizer": "FSQCodebook (8, 8, 8), 3 numbers a vector", "codes": 512, "ms a step": round(1000 * once, 1)}
    )
    finish(parser, options, result, {"steps": rows})


if __name__ == "__main__":
    main()
