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

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from random_networks import random_networks

from monai_vqprior.data import Conditions, without_distributions
from monai_vqprior.errors import InputError
from monai_vqprior.inferers import VQPriorInferer
from monai_vqprior.networks import AutoencoderVQ, CodeContext, GatedPixelCNN
from monai_vqprior.report import write_samples
from monai_vqprior.report.drawn_heads import write_volumes

# Conditions that nobody asked for, from their distributions to the files of a run.

SEX = {"name": "sex", "classes": ["F", "M"], "shares": [0.5, 0.5]}
AGE = {"name": "age", "mean": 50.0, "std": 20.0, "quantiles": [20.0, 50.0, 90.0]}
SLICE = {"name": "slice", "mean": 0.5, "std": 0.3, "numbers": [0.0, 0.5, 1.0], "shares": [0.4, 0.3, 0.3]}
CONDITIONS = Conditions([AGE, SEX, SLICE])
NUMBER = 7


def networks(**options: Any) -> tuple[AutoencoderVQ, GatedPixelCNN]:
    return random_networks(num_classes=[2], num_values=2, **options)


def sample(folder: Path, number: int = NUMBER, tile_size: int = 3, **options: Any) -> dict[str, bytes]:
    """The samples of a run, by the names of their files."""
    options = {"conditions": CONDITIONS, "draw_conditions": True, "seed": 2, **options}
    inferer = VQPriorInferer(tile_size=tile_size, guidance_scale=options.pop("guidance_scale", 1))
    write_samples(folder, *networks(), inferer, num_samples=number, **options)
    return {path.name: path.read_bytes() for path in sorted((folder / "samples").iterdir())}


def record(folder: Path, kind: str = "samples") -> dict[str, Any]:
    return dict(json.loads((folder / f"{kind}.json").read_text()))


def table(folder: Path, kind: str = "sample") -> list[dict[str, str]]:
    return list(csv.DictReader((folder / f"{kind}_conditions.csv").read_text().splitlines()))


def test_each_sample_is_drawn_for_its_own_row(tmp_path: Path) -> None:
    drawn = sample(tmp_path / "drawn")
    rows = CONDITIONS.draw({}, range(NUMBER), seed=2)
    told = record(tmp_path / "drawn")
    assert told["drawn_conditions"] == ["age", "sex", "slice"]
    assert told["labels"] == rows["labels"].tolist()
    np.testing.assert_allclose(told["values"], rows["values"], atol=1e-6)
    assert sample(tmp_path / "asked", **rows) == drawn  # rows that are given are left as they are
    assert "drawn_conditions" not in record(tmp_path / "asked")
    cells = table(tmp_path / "drawn")
    assert table(tmp_path / "asked") == cells
    assert [row["sample"] for row in cells] == sorted(drawn)
    assert ["FM".index(row["sex"]) for row in cells] == rows["labels"][:, 0].tolist()
    np.testing.assert_allclose([float(row["age"]) for row in cells], rows["values"][:, 0] * 20 + 50, rtol=1e-5)
    assert {float(row["slice"]) for row in cells} <= {0, 0.5, 1}


def test_more_samples_tiles_and_a_resumed_run(tmp_path: Path) -> None:
    drawn = sample(tmp_path / "all")
    sample(tmp_path / "first", 1)
    assert sample(tmp_path / "first", resume=True) == drawn
    assert (tmp_path / "first" / "sample_conditions.csv").read_bytes() == (
        tmp_path / "all" / "sample_conditions.csv"
    ).read_bytes()
    sample(tmp_path / "tiles", tile_size=5)
    assert record(tmp_path / "tiles")["values"] == record(tmp_path / "all")["values"]
    sample(tmp_path / "given", **CONDITIONS.draw({}, range(NUMBER), seed=2))
    with pytest.raises(InputError, match="was drawn with drawn_conditions null, not"):
        sample(tmp_path / "given", resume=True)


@pytest.mark.parametrize("asked", [{}, {"labels": [1], "values": [np.nan, 0.0]}])
def test_left_missing(tmp_path: Path, asked: dict[str, Any]) -> None:
    """Where it is not wanted, and of a prior that does not know the distributions, as before there were any."""
    before = sample(tmp_path / "before", conditions=None, draw_conditions=False, **asked)
    assert not (tmp_path / "before" / "sample_conditions.csv").exists()
    old = Conditions(without_distributions(CONDITIONS.settings))
    for name, options in (("false", {"draw_conditions": False}), ("old", {"conditions": old})):
        assert sample(tmp_path / name, **options, **asked) == before
        assert record(tmp_path / name) == record(tmp_path / "before")
        assert (tmp_path / name / "sample_conditions.csv").exists() == bool(asked)
    assert sample(tmp_path / "drawn", **asked) != before


def test_what_was_asked_stays(tmp_path: Path) -> None:
    sample(tmp_path, **CONDITIONS.parse("sex=M,slice=0.25"))
    assert record(tmp_path)["drawn_conditions"] == ["age"]
    cells = table(tmp_path)
    assert {(row["sex"], row["slice"]) for row in cells} == {("M", "0.25")}
    assert len({row["age"] for row in cells}) == NUMBER
    assert sample(tmp_path, conditions=None, draw_conditions=False, overwrite=True)
    assert not (tmp_path / "sample_conditions.csv").exists()


def test_guidance_stresses_what_was_asked(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="guidance_scale stresses a condition, got none"):
        sample(tmp_path / "none", guidance_scale=2)
    assert not (tmp_path / "none").exists()
    assert sample(tmp_path, guidance_scale=2, **CONDITIONS.parse("sex=M"))


def test_a_head_has_one_age(tmp_path: Path) -> None:
    context = CodeContext(num_embeddings=12, spatial_size=(3, 4), channels=8, strides=1, num_blocks=1)
    autoencoder, prior = networks(context_network=context, context_names=["neighbor"])

    def volumes(folder: Path, number: int = 3, **options: Any) -> list[bytes]:
        inferer = VQPriorInferer(tile_size=2)
        write_volumes(
            folder, autoencoder, prior, inferer, CONDITIONS, number, head_slices=2, seed=2,
            draw_conditions=True, **options,
        )  # fmt: skip
        return [path.read_bytes() for path in sorted((folder / "volumes").iterdir())]

    drawn = volumes(tmp_path / "all")
    rows = CONDITIONS.draw({}, range(3), seed=2, leave=["slice"])
    told = record(tmp_path / "all", "volumes")
    assert told["drawn_conditions"] == ["age", "sex"]
    assert told["labels"] == rows["labels"].tolist()
    assert [row[1] for row in told["values"]] == [None] * 3
    assert [row["sex"] for row in table(tmp_path / "all", "volume")] == ["FM"[label] for (label,) in rows["labels"]]
    assert "slice" not in table(tmp_path / "all", "volume")[0]
    assert volumes(tmp_path / "asked", **rows) == drawn
    volumes(tmp_path / "first", 1)
    assert volumes(tmp_path / "first", resume=True) == drawn
