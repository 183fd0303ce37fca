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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.ndimage import binary_dilation
from skimage.restoration import inpaint_biharmonic

from benchmarks.record import Row, add_json_option, finish
from benchmarks.training import bundle_parser
from monai_vqprior.bundles import bundle_root
from monai_vqprior.command_configs import STACKS, resolve
from monai_vqprior.data import SliceDataset, SliceFolder
from monai_vqprior.data.masked_slices import touched_blocks
from monai_vqprior.files import write_png
from monai_vqprior.handlers import contact_sheet, to_pixels
from monai_vqprior.losses import SSIM_WINDOW, ssim_map
from monai_vqprior.sampling.conditioning import given_as_context
from monai_vqprior.transforms import LoadSliced, fill_from_nearest
from monai_vqprior.transforms.unit_range import BRAIN_THRESHOLD

__all__ = ["HOLES", "Measured", "hole", "measure"]

#: holes by their names: upper, lower, left and right edge, in shares of the side of the slice.
HOLES: dict[str, tuple[float, float, float, float]] = {
    "small, center": (7 / 16, 9 / 16, 7 / 16, 9 / 16),
    "medium, center": (3 / 8, 5 / 8, 3 / 8, 5 / 8),
    "large, center": (5 / 16, 11 / 16, 5 / 16, 11 / 16),
    "medium, upper": (3 / 16, 7 / 16, 3 / 8, 5 / 8),
    "medium, lower": (9 / 16, 13 / 16, 3 / 8, 5 / 8),
    "medium, side": (3 / 8, 5 / 8, 3 / 16, 7 / 16),
    "upper half": (0, 1 / 2, 0, 1),
    "lower half": (1 / 2, 1, 0, 1),
    "left half": (0, 1, 0, 1 / 2),
}

#: makes completions (N * completions, 1, H, W) of images (N, 1, H, W) with a hole (H, W).
Method = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Measured:
    """
    What completions of one hole are like.

    Args:
        ssim: brain SSIM of the windows in the hole.
        diversity: standard deviation over the completions of a slice, at the pixels of the brain in the hole.
        jump: mean absolute difference of neighboring pixels across the edge of the hole, where one is brain.
    """

    ssim: float
    diversity: float
    jump: float


def hole(edges: tuple[float, float, float, float], height: int, width: int) -> torch.Tensor:
    """A rectangle, (H, W) bool, of its edges in shares of the side."""
    top, bottom, left, right = edges
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[round(top * height) : round(bottom * height), round(left * width) : round(right * width)] = True
    return mask


def measure(completed: torch.Tensor, truth: torch.Tensor, mask: torch.Tensor) -> Measured:
    """
    Compare completions with what was there.

    Args:
        completed: (N, completions, H, W) in 0..1.
        truth: (N, H, W).
        mask: (H, W) bool, the hole.
    """
    number = completed.shape[1]
    brain = truth > BRAIN_THRESHOLD
    inside = brain & mask
    similarity = ssim_map(completed.flatten(0, 1)[:, None], truth.repeat_interleave(number, 0)[:, None])[:, 0]
    crop = slice(SSIM_WINDOW // 2, -(SSIM_WINDOW // 2))
    counted = inside[:, crop, crop].repeat_interleave(number, 0)
    some = counted.flatten(1).any(1)
    sums = (similarity * counted).flatten(1).sum(1)[some] / counted.flatten(1).sum(1)[some]
    spread = completed.std(1)[inside] if number > 1 else torch.zeros(1)
    jumps = []
    for axis in (1, 2):
        ahead, behind = slice(1, None), slice(None, -1)
        near, far = ((slice(None), part) if axis == 1 else (slice(None), slice(None), part) for part in (ahead, behind))
        edge = (mask[None][near] != mask[None][far]) & (brain[near] | brain[far])
        images = completed.movedim(1, 0)  # (completions, N, H, W)
        jumps += [(image[near] - image[far]).abs()[edge] for image in images]
    return Measured(float(sums.mean()), float(spread.mean()), float(torch.cat(jumps).mean()))


def biharmonic(images: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Holes filled as smoothly as what is around them, by scikit-image."""
    filled = [inpaint_biharmonic(image[0].numpy(), mask.numpy()) for image in images]
    return torch.from_numpy(np.stack(filled)).float()[:, None].clamp(0, 1)


class Completer:
    """
    Completions by a trained prior.

    Args:
        output_dir: output folder of its training.
        overrides: configuration keys to change.
        number: completions of a slice.
        withhold: whether to keep the context of what is given from the prior.
    """

    def __init__(self, output_dir: str, overrides: Mapping[str, Any], number: int, withhold: bool = False) -> None:
        _, files, settings = resolve(STACKS["sample"], bundle_root(), {"output_dir": output_dir, **overrides})
        config = bundle_parser(files, settings)
        self.network = config.get_parsed_content("network").eval()
        self.prior, self.inferer = config.get_parsed_content("prior").eval(), config.get_parsed_content("inferer")
        self.size: int | list[int] = config.get_parsed_content("spatial_size")
        self.number = number
        if withhold:
            self.prior.context_names = ()

    @torch.no_grad()
    def reconstruct(self, images: torch.Tensor) -> torch.Tensor:
        """Images through their codes."""
        return self.network.decode_samples(self.network.index_quantize(images)).clamp(0, 1)

    @torch.no_grad()
    def __call__(self, images: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        hidden = torch.stack([fill_from_nearest(image, mask[None]) for image in images])
        codes = self.network.index_quantize(hidden).repeat_interleave(self.number, 0)
        kept = ~drawn_codes(mask, codes)
        grids = self.inferer.sample(self.prior, range(len(codes)), given=codes, mask=kept)
        decoded = torch.cat([self.network.decode_samples(part) for part in grids.split(16)]).clamp(0, 1)
        return decoded

    @torch.no_grad()
    def bits(self, images: torch.Tensor, mask: torch.Tensor) -> float:
        """Mean bits of a code in the hole, by the codes before it in the whole slice and what else the prior sees."""
        codes = self.network.index_quantize(images)
        drawn = drawn_codes(mask, codes).expand_as(codes)
        known = given_as_context({"given": codes, "mask": ~drawn}, self.prior.context_names).get("context")
        return float(self.inferer.bits(codes, self.prior, context=known)[drawn].mean())


def drawn_codes(mask: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Which codes of grids (N, *grid) a mask (H, W) has drawn, (*grid) bool."""
    return touched_blocks(mask, [side // length for side, length in zip(mask.shape, codes.shape[1:], strict=True)])


@torch.no_grad()
def hidden_codes(network: Any, images: torch.Tensor, holes: Sequence[str]) -> list[Row]:
    """
    How many of the given codes are those of the whole slice when what is in the hole is hidden.

    Args:
        network: the autoencoder.
        images: (N, 1, H, W) in 0..1.
        holes: names of :data:`HOLES`.

    Returns:
        a row for each hole, with shares of the codes beside it and of all that are given, hidden by the nearest pixels
        (as completions are) or by black.
    """
    true = network.index_quantize(images)
    rows: list[Row] = []
    for name in holes:
        mask = hole(HOLES[name], *images.shape[2:])
        drawn = drawn_codes(mask, true)
        beside = torch.from_numpy(binary_dilation(drawn.numpy(), np.ones((3, 3)))) & ~drawn
        row: dict[str, float | str | None] = {"hole": name}
        nearest = torch.stack([fill_from_nearest(image, mask[None]) for image in images])
        for what, hidden in (("nearest", nearest), ("black", images.masked_fill(mask, 0))):
            same = network.index_quantize(hidden) == true
            row[f"{what}, beside"] = round(float(same[:, beside].float().mean()), 3)
            row[f"{what}, all given"] = round(float(same[:, ~drawn].float().mean()), 3)
        print(row, flush=True)
        rows.append(row)
    return rows


def middle_slices(dataset_dir: str, split: str, number: int, size: int | list[int]) -> torch.Tensor:
    """The middle slice of each of some subjects, (N, 1, H, W) in 0..1."""
    subjects: dict[str, list[Mapping[str, Any]]] = {}
    for item in SliceFolder(dataset_dir).datalist(split):
        subjects.setdefault(item["subject"], []).append(item)
    chosen = [items[len(items) // 2] for items in subjects.values()][:number]
    return SliceDataset(chosen, LoadSliced("image"), size, progress=False).images.float() / 255


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.completion",
        description="Fill holes of held-out slices by a prior that sees what is given on all sides, by the same prior "
        "in raster order, by one that was trained without such a context, and by scikit-image, and compare the brain "
        "in the holes with what was there. The reconstruction says how near any codes can come.",
    )
    parser.add_argument("--dataset_dir", required=True, help="folder of slices that the priors were trained on")
    parser.add_argument("--output_dir", required=True, help="output folder of the training with given_context")
    parser.add_argument("--other_dir", help="output folder of the training without")
    parser.add_argument("--split", default="test", help="split of the slices")
    parser.add_argument("--num_slices", type=int, default=20, help="subjects, of each the middle slice")
    parser.add_argument("--num_completions", type=int, default=4, help="completions of each slice")
    parser.add_argument("--holes", nargs="+", choices=HOLES, default=list(HOLES), help="which holes")
    parser.add_argument("--sheets", metavar="DIR", help="write a picture of each hole there")
    parser.add_argument("--set", nargs=2, action="append", metavar=("KEY", "VALUE"), default=[], help="override a key")
    add_json_option(parser)
    options = parser.parse_args()
    logging.disable(logging.INFO)
    overrides = {key: json.loads(value) for key, value in options.set}
    context = Completer(options.output_dir, overrides, options.num_completions)
    methods: dict[str, Method] = {
        "all sides": context,
        "raster order": Completer(options.output_dir, overrides, options.num_completions, withhold=True),
        "biharmonic": biharmonic,
        "reconstruction": lambda images, mask: context.reconstruct(images),
    }
    if options.other_dir:
        methods["raster order, other prior"] = Completer(options.other_dir, overrides, options.num_completions)
    images = middle_slices(options.dataset_dir, options.split, options.num_slices, context.size)
    tables = compare(images, methods, options.holes, options.sheets)
    tables["codes"] = hidden_codes(context.network, images, options.holes)
    summary = {name: round(float(np.mean([float(row[name] or 0) for row in tables["ssim"]])), 4) for name in methods}
    finish(parser, options, summary, tables)


def compare(
    images: torch.Tensor, methods: Mapping[str, Method], holes: Sequence[str], sheets: str | None = None
) -> dict[str, list[Row]]:
    """
    Measure every method on every hole, and print a line for each.

    Args:
        images: (N, 1, H, W) in 0..1.
        methods: by their names.
        holes: names of :data:`HOLES`.
        sheets: folder for pictures; None for none.

    Returns:
        the tables ``ssim``, ``diversity``, ``jump`` and ``bits``, each with a row for each hole.
    """
    tables: dict[str, list[Row]] = {"ssim": [], "diversity": [], "jump": [], "bits": []}
    for name in holes:
        mask = hole(HOLES[name], *images.shape[2:])
        truth = images[:, 0]
        real = measure(truth[:, None], truth, mask)
        found: dict[str, Measured] = {}
        columns = [[to_pixels(torch.where(mask, 0.5, image)), to_pixels(image)] for image in images]
        for method, complete in methods.items():
            drawn = complete(images, mask).unflatten(0, (len(images), -1))[:, :, 0]
            completed = torch.where(mask, drawn, truth[:, None])
            found[method] = measure(completed, truth, mask)
            for column, pictures in zip(columns, completed, strict=True):
                column += [to_pixels(picture[None]) for picture in pictures[:2]]
            print(f"{name:16} {method:28} {found[method]}", flush=True)
        priors = {key: method for key, method in methods.items() if isinstance(method, Completer)}
        bits = {key: round(prior.bits(images, mask), 3) for key, prior in priors.items()}
        print(f"{name:16} bits a code {bits}", flush=True)
        tables["bits"].append({"hole": name, **bits})
        for figure, rows in list(tables.items())[:3]:
            own = {"real": round(real.jump, 4)} if figure == "jump" else {}
            rows.append(
                {"hole": name, **own, **{key: round(getattr(value, figure), 4) for key, value in found.items()}}
            )
        if sheets:
            write_png(f"{sheets}/{name.replace(', ', '_').replace(' ', '_')}.png", contact_sheet(columns[:6]))
    return tables


if __name__ == "__main__":
    main()
