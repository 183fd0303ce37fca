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

from benchmarks.memory import peak_in_new_process
from benchmarks.record import Row, add_json_option, finish
from benchmarks.timing import medians_of
from monai_vqprior.networks import CosineCodebook, EMACodebook, FSQCodebook, RotationTrick

try:
    from vector_quantize_pytorch import VectorQuantize
except ImportError as error:
    raise SystemExit("vector_quantize_pytorch is missing: pip install vector-quantize-pytorch") from error

Step = Callable[[], object]

DIMENSION = 64
OURS = {
    "EMACodebook": lambda k: EMACodebook(k, DIMENSION),
    "EMACodebook, rotation": lambda k: EMACodebook(k, DIMENSION, gradient=RotationTrick()),
    "CosineCodebook": lambda k: CosineCodebook(k, DIMENSION),
}
MONAI, VQ_PYTORCH = "MONAI EMAQuantizer", "vector-quantize-pytorch"
PEERS = {
    MONAI: lambda k: EMAQuantizer(2, k, DIMENSION),
    VQ_PYTORCH: lambda k: VectorQuantize(DIMENSION, k, decay=0.99, accept_image_fmap=True),
}
#: The quantizer that the others are compared with.
REFERENCE = "EMACodebook"
SCALARS = "FSQCodebook (8, 8, 8), 3 numbers a vector"


def training_step(name: str, codes: int, batch: int) -> Step:
    """
    Forward and backward of a quantizer in training mode, whatever the order of what it returns.

    Args:
        name: of ``OURS`` or ``PEERS``, or ``SCALARS``.
        codes: size of the codebook.
        batch: grids of 64 x 64 vectors.
    """
    torch.manual_seed(0)
    scalars = name == SCALARS
    quantizer = FSQCodebook((8, 8, 8)) if scalars else {**OURS, **PEERS}[name](codes)
    z = torch.randn(batch, 3 if scalars else DIMENSION, 64, 64, requires_grad=True)
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


def compare(codes: int, batch: int, repeats: int) -> tuple[dict[str, float], list[Row]]:
    """Summary and rows of all quantizers with one number of codes; what is timed runs in turns."""
    names = [*OURS, *PEERS]
    seconds = medians_of({name: training_step(name, codes, batch) for name in names}, repeats)
    memory = {name: peak_in_new_process(training_step, name, codes, batch) for name in names}
    rows: list[Row] = []
    for name in names:
        slower, larger = seconds[name] / seconds[REFERENCE], memory[name] / memory[REFERENCE]
        rows.append(
            {
                "quantizer": name,
                "codes": codes,
                "ms a step": round(1000 * seconds[name], 1),
                "times ours": round(slower, 2),
                "peak, MB": round(memory[name]),
            }
        )
        figures = f"{1000 * seconds[name]:>10.1f} {slower:>11.2f} {memory[name]:>9.0f} {larger:>11.2f}"
        print(f"{codes:>6} {name:>24} {figures}", flush=True)
    return {
        f"k{codes}_vs_monai": round(seconds[MONAI] / seconds[REFERENCE], 2),
        f"k{codes}_vs_vqpytorch": round(seconds[VQ_PYTORCH] / seconds[REFERENCE], 2),
        f"k{codes}_memory_vs_monai": round(memory[REFERENCE] / memory[MONAI], 4),
    }, rows


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.codebook",
        description="One training step (forward and backward) of our codebooks and of MONAI's and "
        "vector-quantize-pytorch's, on 8 x 64 x 64 vectors of 64 numbers: time, and peak memory in a new process.",
    )
    parser.add_argument("--codes", type=int, nargs="+", default=[512, 8192], help="sizes of the codebook")
    parser.add_argument("--batch", type=int, default=8, help="grids of 64 x 64 vectors")
    parser.add_argument("--repeats", type=int, default=9, help="timed steps of each; the median counts")
    add_json_option(parser)
    options = parser.parse_args()

    result: dict[str, float] = {}
    rows: list[Row] = []
    print(f"{'codes':>6} {'':>24} {'ms a step':>10} {'times ours':>11} {'peak, MB':>9} {'times ours':>11}")
    for codes in options.codes:
        summary, compared = compare(codes, options.batch, options.repeats)
        result |= summary
        rows += compared
    step = training_step(SCALARS, 512, options.batch)
    once = 1000 * medians_of({SCALARS: step}, options.repeats)[SCALARS]
    print(f"{512:>6} {SCALARS} {once:.1f}")
    rows.append({"quantizer": SCALARS, "codes": 512, "ms a step": round(once, 1)})
    finish(parser, options, result, {"steps": rows})


if __name__ == "__main__":
    main()
