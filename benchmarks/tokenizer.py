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
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import torch
from monai.metrics import PSNRMetric, SSIMMetric
from monai.networks.nets import VQVAE
from monai.utils import set_determinism
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.memory import peak_in_new_process, peak_megabytes
from benchmarks.record import add_json_option, finish
from benchmarks.study import STUDY
from benchmarks.timing import medians_of
from benchmarks.training import bundle_parser, run_parser
from monai_vqprior.data import SliceDataset, SliceFolder
from monai_vqprior.inferers import TokenizerInferer
from monai_vqprior.losses import TokenizerLoss
from monai_vqprior.metrics import BRAIN_THRESHOLD, MaskedSSIMMetric, count_codes, perplexity
from monai_vqprior.networks import AutoencoderVQ
from monai_vqprior.runs import keep_freed_memory, mixed_precision
from monai_vqprior.transforms import BytesToUnit, LoadSliced

Row = dict[str, float]
#: the summary of a benchmark, and the rows of its table.
Outcome = tuple[dict[str, Any], list[dict[str, Any]]]

#: MONAI's network as its 2-D VQ-VAE tutorial builds it, with 512 codes.
TUTORIAL = {
    "spatial_dims": 2,
    "in_channels": 1,
    "out_channels": 1,
    "channels": (256, 256),
    "num_res_channels": 256,
    "num_res_layers": 2,
    "downsample_parameters": ((2, 4, 1, 1), (2, 4, 1, 1)),
    "upsample_parameters": ((2, 4, 1, 1, 0), (2, 4, 1, 1, 0)),
    "num_embeddings": 512,
    "embedding_dim": 32,
}


def slices_of(dataset_dir: str, split: str, size: int) -> torch.Tensor:
    """All slices of a split, (N, 1, H, W) uint8."""
    datalist = SliceFolder(dataset_dir).datalist(split)
    return SliceDataset(datalist, LoadSliced(keys="image"), size, progress=False).images


@torch.no_grad()
def evaluate(network: torch.nn.Module, images: torch.Tensor, num_embeddings: int, dtype: torch.dtype | None) -> Row:
    """Metrics of the reconstructions of slices (N, 1, H, W) uint8; SSIM and PSNR are MONAI's own."""
    network.eval()
    metrics = {
        "ssim": SSIMMetric(2),
        "ssim_brain": MaskedSSIMMetric(threshold=BRAIN_THRESHOLD),
        "psnr": PSNRMetric(max_val=1.0),
    }
    counts = torch.zeros(num_embeddings, dtype=torch.long)
    inferer, to_unit = TokenizerInferer(dtype=dtype), BytesToUnit()
    positions = 0
    for batch in images.split(16):
        target = to_unit(batch)
        output = inferer(target, network)
        counts += count_codes(output["codes"], num_embeddings)
        positions = output["codes"][0].numel()
        for metric in metrics.values():
            metric(output["reconstruction"], target)
    row = {name: float(metric.aggregate()) for name, metric in metrics.items()}
    bits = positions * getattr(network, "bits_per_code", math.log2(num_embeddings)) / images[0].numel()
    return row | {"perplexity": perplexity(counts), "codes_used": int((counts > 0).sum()), "bits_per_pixel": bits}


def train_design(dataset_dir: str, size: int, seconds: float, overrides: Mapping[str, Any]) -> Row:
    """Train an autoencoder with the bundle's own train.json and these changes to it, and evaluate it on test slices."""
    with TemporaryDirectory() as folder:
        common = {"dataset_dir": dataset_dir, "output_dir": folder, "spatial_size": size, "max_minutes": seconds / 60}
        parser = bundle_parser(["train.json"], {**common, **overrides})
        run_parser(parser)
        network, trainer = parser.get_parsed_content("network"), parser.get_parsed_content("train#trainer")
        seen = trainer.state.iteration * parser.get_parsed_content("batch_size")
        network.load_state_dict(torch.load(Path(folder) / "models" / "model.pt", weights_only=True))
        dtype = parser.get_parsed_content("autocast")
    row = evaluate(network, slices_of(dataset_dir, "test", size), network.num_embeddings, dtype)
    return row | {"images_per_second": seen / seconds, "parameters": count_parameters(network)}


def train_monai(dataset_dir: str, size: int, seconds: float, fast: bool, batch: int) -> Row:
    """
    Train MONAI's VQVAE with the loss and optimizer of its tutorial, in float32, or fast: in channels_last, and in
    bfloat16 where the processor computes with it.
    """
    set_determinism(0)
    dtype = mixed_precision("cpu", fast)
    network = VQVAE(**TUTORIAL)
    if fast:
        network = network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    images, to_unit = slices_of(dataset_dir, "train", size), BytesToUnit()
    seen, end = 0, time.perf_counter() + seconds
    network.train()
    for indices in shuffled(len(images), batch):
        target = to_unit(images[indices])
        target = target.contiguous(memory_format=torch.channels_last) if fast else target
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
            reconstruction, quantization_loss = network(target)
            loss = torch.nn.functional.l1_loss(reconstruction.float(), target) + quantization_loss
        loss.backward()
        optimizer.step()
        seen += batch
        if time.perf_counter() > end:
            break
    row = evaluate(network, slices_of(dataset_dir, "test", size), network.num_embeddings, dtype)
    return row | {"images_per_second": seen / seconds, "parameters": count_parameters(network)}


def shuffled(number: int, batch: int) -> Iterator[torch.Tensor]:
    """Batches of indices, epoch after epoch, without end."""
    while True:
        yield from torch.randperm(number).split(batch)


def count_parameters(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


NAMES = ("SSIM", "brain", "PSNR", "codes", "perpl.", "bits/px", "images/s", "param.")
HEAD = " " * 36 + " ".join(f"{name:>8}" for name in NAMES)


def line(name: str, row: Row) -> str:
    """A row of the table, under HEAD."""
    figures = (
        f"{row['ssim']:.4f}",
        f"{row['ssim_brain']:.4f}",
        f"{row['psnr']:.2f}",
        f"{row['codes_used']:.0f}",
        f"{row['perplexity']:.0f}",
        f"{row['bits_per_pixel']:.4f}",
        f"{row['images_per_second']:.1f}",
        f"{row['parameters'] / 1e6:.2f}M",
    )
    return f"{name:<36}" + " ".join(f"{figure:>8}" for figure in figures)


def table_row(name: str, row: Row) -> dict[str, Any]:
    """A row of the table of a record."""
    digits = {"ssim": 4, "ssim_brain": 4, "psnr": 2, "codes_used": 0, "perplexity": 0, "bits_per_pixel": 4}
    figures = {key: round(row[key], number) for key, number in digits.items()}
    return {"network": name, **figures, "images/s": round(row["images_per_second"], 1), "parameters": row["parameters"]}


def compare(options: argparse.Namespace) -> Outcome:
    """The default autoencoder beside MONAI's VQVAE, each trained for the same time."""
    size, seconds = options.spatial_size, options.seconds
    print(HEAD, flush=True)
    ours = train_design(options.dataset_dir, size, seconds, {})
    print(line("AutoencoderVQ, train.json", ours), flush=True)
    rows = [table_row("AutoencoderVQ, train.json", ours)]
    result: dict[str, Any] = {name: ours[name] for name in ("ssim", "ssim_brain", "perplexity", "codes_used")}
    if not options.no_peers:
        fastest = f"{name_of(mixed_precision('cpu'))}, channels_last"
        for name, fast, key in (("as in its tutorial", False, "peer_ssim"), (fastest, True, "peer_fast_ssim")):
            row = train_monai(options.dataset_dir, size, seconds, fast, options.peer_batch)
            print(line(f"MONAI VQVAE, {name}", row), flush=True)
            rows.append(table_row(f"MONAI VQVAE, {name}", row))
            result[key] = row["ssim"]
    return result, rows


def study(options: argparse.Namespace) -> Outcome:
    """One design after another, each a change to the default, trained for the same time."""
    if options.one_core:
        torch.set_num_threads(1)
        # The schedule counts the time that this process was given, so that other work on the machine does not matter.
        with mock.patch("time.monotonic", time.process_time):
            return train_designs(options)
    return train_designs(options)


def train_designs(options: argparse.Namespace) -> Outcome:
    """Train and evaluate the designs of the study that were chosen."""
    chosen = {name: change for name, change in STUDY.items() if not options.only or options.only in name}
    if not chosen:
        raise SystemExit(f"no design has {options.only!r} in its name; there are: {'; '.join(STUDY)}.")
    print(HEAD, flush=True)
    result, rows = {}, []
    for name, overrides in chosen.items():
        row = train_design(options.dataset_dir, options.spatial_size, options.seconds, overrides)
        print(line(name, row), flush=True)
        rows.append(table_row(name, row))
        result[name] = round(row["ssim"], 4)
    return result, rows


def training_step(network: torch.nn.Module, device: torch.device) -> Callable[[torch.Tensor], None]:
    """A step of the bundle's training, in channels_last, and in bfloat16 where the device computes with it."""
    dtype = mixed_precision(device)
    network = network.to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    loss_function = TokenizerLoss()

    def step(images: torch.Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            output = network(images.contiguous(memory_format=torch.channels_last))
        loss_function(output, images).backward()
        optimizer.step()

    return step


def name_of(dtype: torch.dtype | None) -> str:
    return "float32" if dtype is None else str(dtype).removeprefix("torch.")


def peak_bytes(call: Callable[[], object], device: torch.device) -> float:
    """Peak memory of a call beyond what is in use before it."""
    if device.type != "cuda":
        return peak_megabytes(call) * 2**20
    call()
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    call()
    return torch.cuda.max_memory_allocated(device) - before


def scaling_step(name: str, size: int, batch: int, device: torch.device) -> Callable[[], None]:
    """A training step of :func:`scaling` by the name of the network, with memory kept as in the bundle's runs."""
    keep_freed_memory()
    torch.manual_seed(0)
    images = torch.rand(batch, 1, size, size, device=device)
    network = AutoencoderVQ() if name == "AutoencoderVQ" else VQVAE(**TUTORIAL)
    return partial(training_step(network, device), images)


def scaling(options: argparse.Namespace) -> Outcome:
    """Time and memory of a training step against image size and batch, beside MONAI's network at the same sizes."""
    device = torch.device(options.device)
    side, dtype = 4096, mixed_precision(device)
    factor = torch.randn(side, side, device=device, dtype=dtype)
    peak = 2 * side**3 / medians_of({"": lambda: factor @ factor}, options.repeats, device)[""]
    print(f"{name_of(dtype)} matrix product of {side} x {side}: {peak / 1e12:.2f} TFLOP/s")
    print(f"{'':>14} {'size':>5} {'batch':>6} {'images/s':>9} {'ns a pixel':>11} {'bytes a pixel':>14} {'of peak':>8}")
    result, rows = {}, []
    for name, shapes in (("AutoencoderVQ", options.shapes), ("MONAI VQVAE", options.peer_shapes)):
        steps, operations = {}, {}
        for size, batch in shapes:
            steps[f"{size}_{batch}"] = scaling_step(name, size, batch, device)
            with FlopCounterMode(display=False) as counter:
                steps[f"{size}_{batch}"]()
            operations[f"{size}_{batch}"] = counter.get_total_flops()
        medians = medians_of(steps, options.repeats, device)
        for (size, batch), (key, step) in zip(shapes, steps.items(), strict=True):
            seconds, pixels = medians[key], batch * size**2
            cost, share = 1e9 * seconds / pixels, operations[key] / seconds / peak
            # What the other shapes have left to the allocator of this process would count, too.
            if device.type == "cpu":
                memory = 2**20 * peak_in_new_process(scaling_step, name, size, batch, device) / pixels
            else:
                memory = peak_bytes(step, device) / pixels
            figures = f"{batch / seconds:>9.1f} {cost:>11.0f} {memory:>14.0f} {share:>8.2f}"
            print(f"{name:>14} {size:>5} {batch:>6} {figures}", flush=True)
            rows.append(
                {
                    "network": name,
                    "size": size,
                    "batch": batch,
                    "images/s": round(batch / seconds, 1),
                    "ns a pixel": round(cost),
                    "bytes a pixel": round(memory),
                    "of peak": round(share, 2),
                }
            )
            result[f"{'' if name == 'AutoencoderVQ' else 'peer_'}ns_per_pixel_{key}"] = round(cost)
    return result, rows


def shape(text: str) -> tuple[int, int]:
    """SIZExBATCH as numbers."""
    size, _, batch = text.partition("x")
    return int(size), int(batch)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tokenizer",
        description="Train the bundle's autoencoder and MONAI's VQVAE for the same time on the same slices, and "
        "compare what they reach on test slices. SSIM: Gaussian window of 11 pixels, data range 1.",
    )
    parser.add_argument("--dataset_dir", help="folder of slices; not needed for --scaling")
    parser.add_argument("--spatial_size", type=int, default=128, help="side of the slices in pixels")
    parser.add_argument("--seconds", type=float, default=240, help="training time of each network")
    parser.add_argument("--peer_batch", type=int, default=2, help="batch of MONAI's network")
    parser.add_argument("--no_peers", action="store_true", help="leave MONAI's network out")
    parser.add_argument("--study", action="store_true", help="train the designs of benchmarks/study.py instead")
    parser.add_argument("--only", help="with --study: designs with this in their name alone")
    parser.add_argument(
        "--one_core", action="store_true", help="with --study: one thread, and --seconds of processor time"
    )
    parser.add_argument("--scaling", action="store_true", help="measure time and memory against size and batch instead")
    parser.add_argument(
        "--shapes", type=shape, nargs="+", metavar="SIZExBATCH", help="with --scaling: image sizes and batches",
        default=[(64, 64), (128, 16), (256, 4), (512, 1), (128, 2), (128, 4), (128, 8)],
    )  # fmt: skip
    parser.add_argument(
        "--peer_shapes", type=shape, nargs="+", metavar="SIZExBATCH", help="the same for MONAI's network",
        default=[(128, 2), (128, 16)],
    )  # fmt: skip
    parser.add_argument("--device", default="cpu", help="with --scaling: where to train")
    parser.add_argument("--repeats", type=int, default=9, help="with --scaling: timed steps; the median counts")
    add_json_option(parser)
    options = parser.parse_args()
    if options.dataset_dir is None and not options.scaling:
        parser.error("--dataset_dir is needed: a folder with keras_png_slices_train and so on.")
    logging.disable(logging.INFO)
    result, rows = scaling(options) if options.scaling else study(options) if options.study else compare(options)
    device = torch.device(options.device if options.scaling else "cpu")
    finish(parser, options, {key: round(value, 4) for key, value in result.items()}, {"networks": rows}, device)


if __name__ == "__main__":
    main()
