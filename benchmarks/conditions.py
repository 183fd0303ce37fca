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
from typing import Any

import numpy as np
import torch

from benchmarks.record import Row, add_json_option, finish
from benchmarks.training import bundle_parser
from monai_vqprior.audit import fluid_share, rank_correlation, value_of_neighbors
from monai_vqprior.bundles import bundle_root
from monai_vqprior.command_configs import STACKS, resolve
from monai_vqprior.data import ConditionTable, SliceDataset, SliceFolder
from monai_vqprior.files import write_text
from monai_vqprior.transforms import LoadSliced

#: quantiles of the training split at which a value is asked for.
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def write_fluid_table(path: str, slices: SliceFolder, size: int) -> None:
    """Write the share of fluid of all slices as a ``slices.csv``, for a prior to be trained on."""
    rows = ["case,index,fluid"]
    for split in ("train", "validate", "test"):
        items = slices.datalist(split)
        shares = fluid_share(read_images(items, size))
        rows += [f"{item['subject']},{item['index']},{share:.5f}" for item, share in zip(items, shares, strict=True)]
    write_text(path, "\n".join(rows) + "\n")


def read_images(items: Sequence[Mapping[str, Any]], size: int | list[int]) -> torch.Tensor:
    """Images of slices, (N, 1, H, W) in 0..1."""
    dataset = SliceDataset(items, LoadSliced("image"), spatial_size=size)
    images = torch.stack([torch.as_tensor(dataset[i]["image"]) for i in range(len(dataset))])
    return images.float() / 255 if images.dtype == torch.uint8 else images.float()


def read_split(
    slices: SliceFolder, table: ConditionTable, name: str, split: str, size: int | list[int]
) -> tuple[torch.Tensor, np.ndarray]:
    """Images (N, 1, H, W) of a split and its values of a condition, in the units of the table."""
    conditions = table.fit([name])
    items = table.join(slices.datalist(split), conditions)
    scale = conditions.settings[0]
    values = np.array([item[name] for item in items]) * scale["std"] + scale["mean"]
    known = np.isfinite(values)
    return read_images([items[i] for i in np.flatnonzero(known)], size), values[known]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.conditions",
        description="Draw samples under low to high values of each continuous condition of a trained prior, and "
        "measure what was asked for: by the value of the nearest training slices, and by the share of fluid in the "
        "inner brain. The same measures on validation slices, whose values are known, say what they are worth.",
    )
    parser.add_argument("--dataset_dir", required=True, help="folder of slices that the prior was trained on")
    task = parser.add_mutually_exclusive_group(required=True)
    task.add_argument("--output_dir", help="output folder of its training")
    task.add_argument(
        "--table",
        metavar="FILE",
        help="only measure the share of fluid of each slice, and write it as a slices.csv to train a prior with",
    )
    parser.add_argument("--spatial_size", type=int, default=128, help="side of the slices in pixels, for --table")
    parser.add_argument("--num_samples", type=int, default=32, help="samples of each value")
    parser.add_argument("--set", nargs=2, action="append", metavar=("KEY", "VALUE"), default=[], help="override a key")
    add_json_option(parser)
    options = parser.parse_args()
    logging.disable(logging.INFO)
    slices = SliceFolder(options.dataset_dir)
    if options.table:
        write_fluid_table(options.table, slices, options.spatial_size)
        return
    overrides = {key: json.loads(value) for key, value in options.set}
    _, files, settings = resolve(STACKS["sample"], bundle_root(), {"output_dir": options.output_dir, **overrides})
    config = bundle_parser(files, settings)
    network, prior = config.get_parsed_content("network").eval(), config.get_parsed_content("prior")
    inferer, known = config.get_parsed_content("inferer"), config.get_parsed_content("known_conditions")
    table = ConditionTable(slices)
    result = {}
    rows: list[Row] = []
    for name in known.value_names:
        train, values = read_split(slices, table, name, "train", settings["spatial_size"])
        measures: dict[str, Callable[[torch.Tensor], np.ndarray]] = {
            "neighbors": lambda images, train=train, values=values: value_of_neighbors(images, train, values),
            "fluid": fluid_share,
        }
        images, truth = read_split(slices, table, name, "validate", settings["spatial_size"])
        asked, drawn = [], []
        for value in np.quantile(values, QUANTILES):
            asked_for = known.parse(f"{name}={value}")
            grids = inferer.sample(prior, range(options.num_samples), **asked_for)
            with torch.no_grad():
                drawn.append(torch.cat([network.decode_samples(part) for part in grids.split(16)]).clamp(0, 1).cpu())
            asked += [value] * options.num_samples
        for measure, function in measures.items():
            real, made = function(images), function(torch.cat(drawn))
            found = (rank_correlation(truth, real), rank_correlation(np.array(asked), made))
            worth, follows = (np.nan if value is None else value for value in found)
            means = [float(np.nanmean(part)) for part in made.reshape(len(QUANTILES), -1)]
            print(f"{name} by {measure}: rank correlation {worth:.2f} on validation slices, {follows:.2f} on samples")
            for value, mean in zip(np.quantile(values, QUANTILES), means, strict=True):
                print(f"  asked {value:8.3f}   measured {mean:8.4f}", flush=True)
                rows.append(
                    {"condition": name, "requested": round(float(value), 3), "by": measure, "mean": round(mean, 4)}
                )
            result[f"{name}_{measure}_validation"], result[f"{name}_{measure}_samples"] = worth, follows
    finish(parser, options, {key: round(float(value), 3) for key, value in result.items()}, {"means": rows})


if __name__ == "__main__":
    main()
