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

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from monai_vqprior.errors import InputError
from monai_vqprior.files import write_png
from monai_vqprior.report import write_report

# The page of a folder whose files a stranger has written.

SCRIPT = "<script>alert(1)</script>"
FAR = {"median": 0.25, "quantile_5_percent": 0.125, "minimum": 0.0625}
NEIGHBORS: dict[str, Any] = {
    "summary": {
        "samples": 3,
        "distance": "root-mean-square difference",
        "sample_to_train": FAR,
        "validation_to_train": FAR,
        "sample_to_other_sample": FAR,
        "ratio": 1.0,
    },
    "samples": [{"file": "samples/sample_00000.png", "nearest": "a.png", "rms": 0.1, "other": None}],
}
INTERVAL = {"value": 0.25, "low": 0.125, "high": 0.5}
NEAR = {"below_1_percent": INTERVAL}
AUDIT: dict[str, Any] = {
    "verdict": "pass",
    "reasons": ["look: a reason"],
    "samples": 3,
    "newness": {"copies": INTERVAL, "rms": NEAR, "local_ratio": NEAR, "tolerant_distance": NEAR},
    "membership": INTERVAL,
    "fidelity": [{"label": "a", "samples": 0.5, "real": INTERVAL, "reconstructions": INTERVAL, "word": "b"}],
    "conditions": [{"name": "age", "asked": 60.0, "measured": 61.0, "train": 50.0, "rank_correlation": 0.5}],
}
#: what an evaluation adds to the fixture ``summary``.
BESIDE: dict[str, Any] = {
    "by_subject": {"ssim": {"mean": 0.9, "std": 0.1, "low": 0.8, "high": 0.95}},
    "codecs": {"JPEG": {"setting": 3, "bits_per_pixel": 0.3, "ssim": 0.7, "ssim_brain": 0.6}, "AVIF": None},
}


def replaced(content: Any, value: Any) -> Iterator[Any]:
    """The content with one of its parts, at any depth, replaced by a value, for each of its parts in turn."""
    yield value
    if isinstance(content, (dict, list)):
        for key in content if isinstance(content, dict) else range(len(content)):
            for part in replaced(content[key], value):
                changed = copy.copy(content)
                changed[key] = part
                yield changed


@pytest.fixture
def files(summary: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """JSON files of a run, with their contents."""
    (tmp_path / "metrics.csv").write_text("subject,index,image,ssim\na,0,x.png,0.5\nb,0,y.png,0.75\n")
    contents = {"metrics.json": summary | BESIDE, "neighbors.json": NEIGHBORS, "audit.json": AUDIT}
    for name, content in contents.items():
        (tmp_path / name).write_text(json.dumps(content))
    write_report(tmp_path)
    return contents


@pytest.mark.parametrize("name", ["metrics.json", "neighbors.json", "audit.json"])
@pytest.mark.parametrize(
    "value",
    [
        SCRIPT,
        f'">{SCRIPT}',
        f"</td>{SCRIPT}",
        True,
        -1e300,
        10**400,
        [],
        [SCRIPT],
        {"median": SCRIPT},
        {},
        "a\nb",
        "\ud800",
    ],
    ids=lambda value: json.dumps(value)[:20],
)
def test_each_value_is_escaped_or_refused(files: dict[str, Any], tmp_path: Path, name: str, value: Any) -> None:
    page = tmp_path / "report.html"
    for content in replaced(files[name], value):
        page.unlink(missing_ok=True)
        (tmp_path / name).write_text(json.dumps(content))
        message = str(tmp_path / name)
        try:
            write_report(tmp_path)
        except InputError as error:
            message = str(error)
            assert not page.exists()
        assert len(message.splitlines()) == 1
        assert str(tmp_path / name) in message
        text = page.read_text(encoding="utf-8") if page.exists() else ""
        assert "<script" not in text.lower()
        assert text.count("<td") == text.count("</td>")


@pytest.mark.parametrize("key", ["ssim", "slices", "split", "ssim_definition"])
def test_a_key_that_is_missing_is_named(files: dict[str, Any], tmp_path: Path, key: str) -> None:
    (tmp_path / "metrics.json").write_text(json.dumps({k: v for k, v in files["metrics.json"].items() if k != key}))
    with pytest.raises(
        InputError, match=rf"metrics\.json cannot be read \(it has no '{key}'\): run `vqprior evaluate`"
    ):
        write_report(tmp_path)


def test_what_was_not_measured_is_null(files: dict[str, Any], tmp_path: Path) -> None:
    nothing = dict.fromkeys(key for key, value in files["metrics.json"].items() if isinstance(value, float))
    (tmp_path / "metrics.json").write_text(json.dumps(files["metrics.json"] | nothing))
    _, figures = write_report(tmp_path).read_text(encoding="utf-8").split('<h2 id="training">')  # below the summary
    assert figures.count("no value") == len(nothing) - 1  # no prior yet


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("metrics.csv", ""),
        ("metrics.csv", "a,b\n1,2\n"),
        ("metrics.csv", "subject,index,image,ssim\n"),
        ("metrics.csv", "subject,index,image,ssim\na,0,x,0.5,7\n"),
        ("metrics.csv", f"subject,index,image,ssim\na,0,x,{SCRIPT}\n"),
        ("metrics.csv", "subject,index,image,ssim\na,0,x,1e300\n"),
        ("metrics.csv", 'subject,index,image,ssim\na,0,x,"' + "1" * 200000),
        ("metrics_codes.csv", "code,train\n0,1\n"),
        ("metrics_codes.csv", "code,train,evaluated\n0,0,0\n"),
        ("metrics_codes.csv", "code,train,evaluated\n0,2,2\n1,-1,1\n"),
        ("metrics_bits.csv", ""),
        ("metrics_bits.csv", "1,2\n3\n"),
        ("metrics_bits.csv", "1,nan\n"),
    ],
)
def test_tables_that_are_none(files: dict[str, Any], tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / "report.html").unlink()
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=rf"{name} cannot be read .*: run `vqprior evaluate` again") as error:
        write_report(tmp_path)
    assert len(str(error.value).splitlines()) == 1
    assert not (tmp_path / "report.html").exists()


def test_texts_of_tables_and_settings_are_escaped(files: dict[str, Any], tmp_path: Path) -> None:
    """Names of columns and of settings come from files, too."""
    (tmp_path / "metrics.csv").write_text(f"subject,index,image,{SCRIPT}\n{SCRIPT},0,{SCRIPT},0.5\n")
    writer = SummaryWriter(str(tmp_path / "tensorboard" / "prior"))
    writer.add_scalar(SCRIPT, 0.5, 1)
    writer.add_text("settings", json.dumps({"settings": {SCRIPT: SCRIPT}, "versions": {SCRIPT: SCRIPT}}))
    writer.close()
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert "<script" not in page.lower()
    assert page.count("&lt;script&gt;") >= 6


def test_pictures_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "samples.png"
    rng = np.random.default_rng(0)
    write_png(path, rng.integers(0, 256, (64, 64), dtype=np.uint8))
    whole = path.read_bytes()
    write_report(tmp_path)
    damaged = bytearray(whole)
    damaged[len(damaged) // 2] ^= 1
    Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(tmp_path / "a.jpg")
    wrong = [b"", SCRIPT.encode(), b"<svg onload='alert(1)'/>", bytes(damaged), (tmp_path / "a.jpg").read_bytes()]
    for content in wrong:
        path.write_bytes(content)
        with pytest.raises(
            InputError, match=r"samples\.png cannot be read as a PNG picture \(\w+\): remove it"
        ) as error:
            write_report(tmp_path)
        assert len(str(error.value).splitlines()) == 1


def test_a_folder_whose_name_is_no_text(files: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "\udcff<b>"
    folder.mkdir()
    (tmp_path / "metrics.json").rename(folder / "metrics.json")
    write_report(folder)
    assert "Report of \ufffd&lt;b&gt;" in (folder / "report.html").read_text(encoding="utf-8")
