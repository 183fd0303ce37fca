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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from monai.networks.nets import VQVAE, DecoderOnlyTransformer
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.prior import Transformer
from benchmarks.record import Row, add_json_option, finish
from benchmarks.sampler import CODES, sampling, sketched, transformer_seconds
from benchmarks.timing import medians_of
from benchmarks.tokenizer import TUTORIAL, name_of, peak_bytes, training_step
from monai_vqprior.losses import BitsPerCodeLoss
from monai_vqprior.networks import AutoencoderVQ
from monai_vqprior.runs import mixed_precision

#: channels, layers and kernel of the bundle's prior.
PRIOR = (64, 12, 3)


@dataclass(frozen=True)
class Sizes:
    """
    What is measured.

    Args:
        image: side of the images in pixels.
        grid: side of the code grids.
        matrix: side of the matrices whose product is the peak.
        training: batches of the steps of the autoencoder and of the prior.
        sampling: batches of the sampler, and of each the rows of the grid that MONAI's sampler draws. Its time is
            scaled by the positions that pass through its network, which is right where arithmetic takes the time.
        repeats: timed calls of each; the median counts.
    """

    image: int = 128
    grid: int = 32
    matrix: int = 8192
    training: Sequence[int] = (16, 64, 256)
    sampling: Sequence[tuple[int, int]] = ((1, 32), (64, 32), (512, 8))
    repeats: int = 5


QUICK = Sizes(image=32, grid=8, matrix=256, training=(2,), sampling=((1, 8), (3, 4)), repeats=1)


def peak_rate(side: int, dtype: torch.dtype | None, repeats: int, device: torch.device) -> float:
    """Operations a second of a large matrix product."""
    factor = torch.randn(side, side, device=device, dtype=dtype)
    return 2 * side**3 / medians_of({"": lambda: factor @ factor}, repeats, device)[""]


def operations_of(step: Callable[[], object]) -> int:
    """Operations of the products and convolutions of a step, forward and backward."""
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def prior_step(network: torch.nn.Module, codes: torch.Tensor) -> Callable[[], None]:
    """A step of the bundle's training of the prior, in bfloat16 where the device computes with it."""
    dtype = mixed_precision(codes.device)
    network.train()
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    loss_function = BitsPerCodeLoss()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(codes.device.type, dtype=dtype, enabled=dtype is not None):
            output = network(codes)
        loss_function(output, codes).backward()
        optimizer.step()

    return step


def transformer_step(transformer: Transformer, codes: torch.Tensor) -> Callable[[], None]:
    """A step of MONAI's tutorial for the transformer, but in the precision of :func:`prior_step`."""
    dtype = mixed_precision(codes.device)
    transformer.network.to(codes.device).train()
    optimizer = torch.optim.Adam(transformer.network.parameters(), lr=5e-4)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(codes.device.type, dtype=dtype, enabled=dtype is not None):
            bits = transformer.bits(codes)
        bits.mean().backward()
        optimizer.step()

    return step


def autoencoders(sizes: Sizes, device: torch.device, peak: float) -> list[Row]:
    """Training steps of the autoencoder beside MONAI's."""
    rows: list[Row] = []
    makers = {"AutoencoderVQ": AutoencoderVQ, "MONAI VQVAE": lambda: VQVAE(**TUTORIAL)}
    for batch in sizes.training:
        images = torch.rand(batch, 1, sizes.image, sizes.image, device=device)
        for name, make in makers.items():
            torch.manual_seed(0)
            step = partial(training_step(make(), device), images)
            rows.append(_row(name, "images/s", batch, batch, step, sizes, device, peak))
    return rows


def priors(sizes: Sizes, device: torch.device, peak: float) -> list[Row]:
    """Training steps of the prior beside MONAI's transformer."""
    rows: list[Row] = []
    for batch in sizes.training:
        codes = torch.randint(CODES, (batch, sizes.grid, sizes.grid), device=device)
        torch.manual_seed(0)
        steps = {
            "HierarchicalPrior": prior_step(sketched(sizes.grid, *PRIOR).to(device), codes),
            "MONAI DecoderOnlyTransformer": transformer_step(Transformer(CODES, sizes.grid**2), codes),
        }
        for name, step in steps.items():
            rows.append(_row(name, "codes/s", batch, codes.numel(), step, sizes, device, peak))
    return rows


def _row(
    name: str,
    unit: str,
    batch: int,
    number: int,
    step: Callable[[], object],
    sizes: Sizes,
    device: torch.device,
    peak: float,
) -> Row:
    """A row of a table of training steps, each of a number of images or codes; printed, too."""
    operations = operations_of(step)
    seconds = medians_of({name: step}, sizes.repeats, device)[name]
    row = {
        "network": name,
        "batch": batch,
        unit: round(number / seconds, 1),
        "of peak": round(operations / seconds / peak, 3),
        "memory, MB": round(peak_bytes(step, device) / 2**20),
    }
    print(", ".join(f"{title} {value}" for title, value in row.items()), flush=True)
    return row


def samplers(sizes: Sizes, device: torch.device) -> list[Row]:
    """Samples a second of the prior beside MONAI's sampler with a transformer of its tutorial."""
    rows: list[Row] = []
    network = sketched(sizes.grid, *PRIOR).to(device)
    transformer = DecoderOnlyTransformer(CODES + 1, sizes.grid**2, 96, 12, 8).eval().to(device)
    transformer_seconds(transformer, sizes.grid, 1, 1, device)  # what is set up once
    for batch, peer_rows in sizes.sampling:
        ours = medians_of({"": sampling(network, batch)}, sizes.repeats, device)[""]
        peer = transformer_seconds(transformer, sizes.grid, peer_rows, batch, device)
        row = {"batch": batch, "samples/s": round(batch / ours, 3), "MONAI's, samples/s": round(batch / peer, 4)}
        print(", ".join(f"{title} {value}" for title, value in row.items()), flush=True)
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description="Training steps of the autoencoder and of the prior, and sampling, on a GPU, beside MONAI's VQVAE, "
        "transformer and sampler: images, codes and samples a second, and the share of the speed of a matrix product.",
    )
    parser.add_argument("--device", default="cuda", help="where to measure")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to try the program")
    add_json_option(parser)
    options = parser.parse_args()
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit(f"torch {torch.__version__} finds no CUDA device, which python -m benchmarks.gpu measures.")
    sizes = QUICK if options.quick else Sizes()
    dtype = mixed_precision(device)
    peak = peak_rate(sizes.matrix, dtype, sizes.repeats, device)
    print(f"{name_of(dtype)} matrix product of {sizes.matrix} x {sizes.matrix}: {peak / 1e12:.2f} TFLOP/s", flush=True)
    tables = {
        "autoencoders": autoencoders(sizes, device, peak),
        "priors": priors(sizes, device, peak),
        "samplers": samplers(sizes, device),
    }
    finish(parser, options, {"precision": name_of(dtype), "peak_tflops": round(peak / 1e12, 3)}, tables, device)


if __name__ == "__main__":
    main()
