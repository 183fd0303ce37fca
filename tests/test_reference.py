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

"""The pages of docs/reference list what the code has: keys, values and defaults; commands; files and their fields."""

from __future__ import annotations

import argparse
import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from monai_vqprior.cli import main
from monai_vqprior.cli.options import command_parser
from monai_vqprior.data import Conditions, SliceDataset, SliceFolder
from monai_vqprior.data.cases import OWN_COLUMNS
from monai_vqprior.data.condition_draws import DISTRIBUTION_KEYS
from monai_vqprior.data.prepare import HEAD_COLUMNS, SLICE_COLUMNS
from monai_vqprior.inferers import VQPriorInferer
from monai_vqprior.networks import (
    AutoencoderVQ,
    CodeContext,
    CodeSketch,
    EMACodebook,
    GatedPixelCNN,
    HierarchicalPrior,
)
from monai_vqprior.prepare_arguments import Preparation
from monai_vqprior.report import code_baselines, summarize, write_samples
from monai_vqprior.report.reconstructed_volumes import COLUMNS
from monai_vqprior.runs import REFERENCE
from monai_vqprior.transforms import LoadSliced
from monai_vqprior.values import SETTINGS, is_expression

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = {
    path.stem: json.loads(path.read_text(encoding="utf-8"))
    for path in (ROOT / "bundle" / "configs").glob("*.json")
    if path.stem != "metadata"
}


def sections(page: str) -> dict[str, list[list[str]]]:
    """The rows of the tables of a page of the reference, cells as text, by the heading above them."""
    rows: dict[str, list[list[str]]] = {}
    heading = ""
    for line in (ROOT / "docs" / "reference" / f"{page}.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        elif line.startswith("| `"):
            rows.setdefault(heading, []).append([cell.strip() for cell in line.strip("|").split(" | ")])
    return rows


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def fields(heading: str) -> set[str]:
    """The fields or columns that the page of output files has below a heading."""
    return {name for row in sections("output-files")[heading] for name in names(row[0])}


def settings() -> dict[str, list[str]]:
    rows = [row for heading, rows in sections("configuration").items() if heading != "Components" for row in rows]
    return {names(row[0])[0]: row[1:] for row in rows}


def json_file(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def columns(path: Path) -> set[str]:
    with path.open(encoding="utf-8") as file:
        return set(next(csv.reader(file)))


# configuration keys


def test_every_setting_has_one_row() -> None:
    assert list(settings()) == list(SETTINGS)


@pytest.mark.parametrize("key", SETTINGS)
def test_values_and_defaults_of_a_setting(key: str) -> None:
    kind, default, meaning = settings()[key]
    assert kind.replace("`", "") == SETTINGS[key].description
    assert meaning
    for name, config in CONFIGS.items():
        if key in config and not is_expression(config[key]):
            value = "None" if config[key] is None else config[key]
            text = value if isinstance(value, str) else json.dumps(value)
            given = re.findall(r"`([^`]+)`(?: \(([\w, ]+)\))?", default)
            assert any(text == found and (not where or name in where.split(", ")) for found, where in given), name
        elif key in config:
            assert default


def test_every_component_has_a_row_with_its_configurations() -> None:
    expected: dict[str, set[str]] = {}
    for name, config in CONFIGS.items():
        for key in {key.lstrip("+").split("#")[0] for key in config} - set(SETTINGS):
            expected.setdefault(key, set()).add(name)
    found = {names(row[0])[0]: set(row[1].split(", ")) for row in sections("configuration")["Components"]}
    assert found == expected


# commands


def test_every_option_of_every_command_has_a_row() -> None:
    parser = command_parser()
    commands = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction)).choices
    tables = sections("commands")
    for name, command in commands.items():
        options = {word for action in command._actions for word in action.option_strings} - {"-h", "--help"}
        found = {option for row in tables.get(f"vqprior {name}", []) for option in names(row[0])}
        shared = {
            option for row in tables["Options of several commands"] if name in names(row[1]) for option in names(row[0])
        }
        assert found | shared == options, name
        assert not found & shared, name


# output files


def test_fields_of_settings() -> None:
    expected = {key for name in ("train", "train_prior") for key in CONFIGS[name]["settings"]}
    # Written when there are weights, and no setting of a configuration.
    assert fields("settings.json and prior_settings.json") == expected | {REFERENCE}
    assert fields("conditions") == set(DISTRIBUTION_KEYS)


def test_fields_of_splits(phantom: Path, tmp_path: Path) -> None:
    SliceFolder(phantom).write_splits(tmp_path / "splits.csv")
    assert fields("splits.csv") == columns(tmp_path / "splits.csv")
    assert fields("splits.json") == set(json_file(tmp_path / "splits.json"))


def test_fields_of_a_data_set(phantom: Path) -> None:
    assert fields("slices.csv") == columns(phantom / "slices.csv") | set(SLICE_COLUMNS)
    assert fields("volumes.csv") == set(COLUMNS)
    assert fields("heads.csv") == set(HEAD_COLUMNS)
    assert fields("prepare.json") == set(Preparation().cutting)
    assert fields("phantom.json") == set(json_file(phantom / "phantom.json"))
    oasis = {"age", "sex", "cdr", "dementia"}
    assert fields("subjects.csv") == columns(phantom / "subjects.csv") | set(OWN_COLUMNS) | oasis


def test_fields_of_metrics(phantom: Path) -> None:
    slices = SliceDataset(SliceFolder(phantom).datalist("test"), LoadSliced("image"), 32, progress=False)
    measured = dict.fromkeys(("ssim", "ssim_brain", "ms_ssim", "psnr", "codes_used", "perplexity"), 1.0)
    grids = torch.zeros(2, 4, 4).long()
    summary = summarize(
        "test", slices, measured, 4, code_baselines(grids, grids, 4), {"black": measured, "mean": measured}
    )
    assert fields("metrics.json") == set(summary)


def test_fields_of_samples(tmp_path: Path) -> None:
    network = AutoencoderVQ(channels=(8,), codebook=EMACodebook(num_embeddings=4, embedding_dim=2))
    sizes: dict[str, Any] = {"num_embeddings": 4, "channels": 4, "num_layers": 1, "num_classes": [2], "num_values": 1}
    prior = HierarchicalPrior(
        CodeSketch(num_embeddings=4, embedding_dim=2, spatial_size=2, block=2, num_sketch_codes=4),
        GatedPixelCNN(spatial_size=1, **sizes),
        GatedPixelCNN(spatial_size=2, context_network=CodeContext(4, 2, 4, 2), **sizes),
    )
    inferer = VQPriorInferer(tile_size=1, top_k=3, top_p=0.9, sketch_temperature=0.9)
    sex, age = {"name": "sex", "classes": ["F", "M"], "shares": [0.5, 0.5]}, {"name": "age", "mean": 50, "std": 20}
    write_samples(
        tmp_path, network, prior, inferer, num_samples=1, values=[[0.5]], conditions=Conditions([sex, age]),
        draw_conditions=True,
    )  # fmt: skip
    assert fields("samples.json") == set(json_file(tmp_path / "samples.json"))
    told = fields("sample_conditions.csv and volume_conditions.csv")
    assert columns(tmp_path / "sample_conditions.csv") == told - {"volume"} | {"sex", "age"}


def test_fields_of_neighbors(phantom: Path, tmp_path: Path) -> None:
    slices = sorted(phantom.rglob("*_slice_0.nii.png"))[:2]
    (tmp_path / "samples").mkdir()
    for number, path in enumerate(slices):
        (tmp_path / "samples" / f"sample_{number:05d}.png").write_bytes(path.read_bytes())
    words = ["neighbors", "--dataset_dir", str(phantom), "--output_dir", str(tmp_path), "--device", "cpu"]
    assert main(words) == 0
    content = json_file(tmp_path / "neighbors.json")
    assert fields("neighbors.json") == set(content["summary"]) | set(content["samples"][0])
    assert {path.name for path in tmp_path.iterdir()} - {"samples"} <= fields("Overview")
