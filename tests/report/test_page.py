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

import base64
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monai_vqprior.errors import InputError
from monai_vqprior.files import write_png
from monai_vqprior.report import write_report


class Page(HTMLParser):
    """What a browser makes of a page: the text, the rows of its table, the pictures, and every tag."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.words: list[str] = []
        self.rows: list[list[str]] = []
        self.pictures: dict[str, bytes] = {}
        self.tags: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.text = " ".join(self.words)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag == "img":
            known = dict(attrs)
            kind, data = known["src"].split(",")
            assert kind == "data:image/png;base64"
            self.pictures[known["alt"]] = base64.b64decode(data)

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if data.strip() and self.tags[-1] in ("td", "th"):
            self.rows[-1][-1] += data


@pytest.fixture
def folder(tmp_path: Path, summary: dict[str, Any]) -> Path:
    """A run that has left everything."""
    (tmp_path / "metrics.json").write_text(json.dumps(summary))
    rng = np.random.default_rng(0)
    for name in ("reconstructions.png", "samples.png", "volumes.png", "neighbors.png"):
        write_png(tmp_path / name, rng.integers(0, 256, (8, 8), dtype=np.uint8))
    return tmp_path


def test_figures_of_the_neighbors(folder: Path) -> None:
    far = {"median": 0.25, "quantile_5_percent": 0.125, "minimum": 0.0625}
    summary = {"samples": 3, "distance": "a <b", "sample_to_train": far, "sample_to_other_sample": None, "ratio": 0.5}
    summary["validation_to_train"] = {name: 2 * value for name, value in far.items()}
    (folder / "neighbors.json").write_text(json.dumps({"summary": summary, "samples": []}))
    page = Page(write_report(folder))
    assert ["sample to nearest training slice", "0.2500", "0.1250", "0.0625"] in page.rows
    assert ["validation slice to the same", "0.5000", "0.2500", "0.1250"] in page.rows
    assert ["sample to nearest other sample", "", "", ""] in page.rows
    assert "3 samples; distance: a <b." in page.text
    assert "samples to validation slices: 0.500." in page.text
    (folder / "neighbors.json").write_text("{}")
    with pytest.raises(InputError, match=r"neighbors.json cannot be read .*run `vqprior neighbors` again"):
        write_report(folder)


def test_verdict_and_figures_of_an_audit(folder: Path) -> None:
    interval = {"value": 0.125, "low": 0.0625, "high": 0.25}
    near = {"below_1_percent": interval}
    told = {"label": "recall <1", "samples": 0.5, "real": interval, "reconstructions": interval, "word": "told apart"}
    content = {"verdict": "look", "reasons": ["look: 1 < 2"], "samples": 3, "fidelity": [told], "membership": None}
    content["newness"] = {"copies": interval, "rms": near, "local_ratio": near, "tolerant_distance": near}
    (folder / "audit.json").write_text(json.dumps(content))
    page = Page(write_report(folder))
    assert ["recall <1", "0.500", "0.125", "0.125", "told apart"] in page.rows
    assert ["copies of training slices", "0.125", "0.062", "0.250"] in page.rows
    assert ["below the 1 % quantile of unseen slices, local ratio", "0.125", "0.062", "0.250"] in page.rows
    assert "Audit: look" in page.text
    assert "look: 1 < 2" in page.text
    assert "by their bits" not in page.text
    (folder / "audit.json").write_text(
        json.dumps({**content, "membership": {**interval, "value": 0.75, "recognized": interval}})
    )
    rows = Page(write_report(folder)).rows
    assert ["training slices told from unseen ones by their bits, AUC", "0.750", "0.062", "0.250"] in rows
    assert ["training slices recognized at 1 % false alarms", "0.125", "0.062", "0.250"] in rows


def test_all_of_a_run_on_one_page(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_report(folder)
    assert path == folder / "report.html"
    assert str(path) in capsys.readouterr().out
    page = Page(path)
    assert "Split “test”: 5 slices of 2 subjects." in page.text
    assert {alt.partition(",")[0]: data for alt, data in page.pictures.items()} == {
        "From top to bottom: slices drawn at random": (folder / "reconstructions.png").read_bytes(),
        "Samples": (folder / "samples.png").read_bytes(),
        "Heads": (folder / "volumes.png").read_bytes(),
        "From top to bottom: samples": (folder / "neighbors.png").read_bytes(),
    }
    assert "11 x 11 pixels" in page.text


def test_table_shows_the_metrics_beside_the_baselines(folder: Path) -> None:
    header, *rows = Page(write_report(folder)).rows
    assert header == ["", "reconstructions", "black image", "mean training image"]
    assert [row[1:] for row in rows[:13]] == [
        ["0.9542", "0.3219", "0.5432"],
        ["0.9234", "0.0011", "0.3456"],
        ["0.9877", "", ""],
        ["29.88", "", ""],
        ["0.0123", "", ""],
        ["500", "", ""],
        ["512", "", ""],
        ["321.7", "", ""],
        ["5.432", "", ""],
        ["1043", "", ""],
        ["0.3397", "", ""],
        ["8.071", "", ""],
        ["5.913", "", ""],
    ]


def test_without_a_prior(folder: Path, summary: dict[str, Any]) -> None:
    (folder / "metrics.json").write_text(json.dumps(summary | {"bits_per_code": None}))
    assert ["bits a code under the prior", "no prior yet", "", ""] in Page(write_report(folder)).rows


@pytest.mark.parametrize("left", ["metrics.json", "samples.png", "volumes.png", "neighbors.png"])
def test_page_of_what_there_is(folder: Path, left: str) -> None:
    for path in folder.iterdir():
        if path.name != left:
            path.unlink()
    page = Page(write_report(folder))
    assert ("codes used" in {row[0] for row in page.rows}) == (left == "metrics.json")
    assert [alt.split()[0] for alt in page.pictures] == {
        "samples.png": ["Samples,"], "volumes.png": ["Heads,"], "neighbors.png": ["From"]
    }.get(left, [])  # fmt: skip
    # What is missing is named with the command that makes it.
    for picture, command in {
        "samples.png": "vqprior sample --num_samples",
        "neighbors.png": "vqprior neighbors",
    }.items():
        assert (f"none here. {command}" in " ".join(page.text.split())) == (left != picture)


@pytest.mark.parametrize("folder_exists", [True, False])
def test_nothing_to_report(tmp_path: Path, folder_exists: bool) -> None:
    folder = tmp_path if folder_exists else tmp_path / "missing"
    with pytest.raises(InputError, match="holds no results: run `vqprior evaluate`, `reconstruct` or `sample` first"):
        write_report(folder)
    assert not list(tmp_path.iterdir())


def test_names_are_escaped(folder: Path, summary: dict[str, Any]) -> None:
    renamed = folder.with_name('<script>alert("1")</script> & co'.replace("/", ""))
    folder.rename(renamed)
    evil = {"split": '<b>test</b> & "more"', "ssim_definition": "a <i> b"}
    (renamed / "metrics.json").write_text(json.dumps(summary | evil))
    page = Page(write_report(renamed))
    assert not {"script", "b", "i"} & set(page.tags)
    assert page.text.count(renamed.name) == 2
    assert 'Split “<b>test</b> & "more"”' in page.text
    assert "a <i> b" in page.text


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "{}",
        "[]",
        "null",
        "3",
        '{"ssim": 0.5}',
        b"\xff\xfe\x00",
        {"ssim": "high"},
        {"split": None},
        {"baselines": {}},
    ],
    ids=str,
)
def test_broken_metrics(folder: Path, summary: dict[str, Any], content: str | bytes | dict[str, Any]) -> None:
    if isinstance(content, dict):
        content = json.dumps(summary | content)
    (folder / "metrics.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=r"metrics\.json cannot be read .*run `vqprior evaluate` again"):
        write_report(folder)
    assert not (folder / "report.html").exists()


def test_another_report_replaces_the_first(folder: Path) -> None:
    write_report(folder)
    (folder / "samples.png").unlink()
    assert not any("Samples" in alt for alt in Page(write_report(folder)).pictures)
