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

import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from monai_vqprior.audit import THRESHOLDS, WORDS
from monai_vqprior.cli import main
from monai_vqprior.data import write_phantom
from monai_vqprior.files import write_png
from monai_vqprior.inferers import VQPriorInferer
from monai_vqprior.networks import AutoencoderVQ

# The command as a user types it, on samples that are made by hand, with networks that were trained for an epoch.

SIZE = 32
REFERENCE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "output-files.md"


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def documented() -> set[str]:
    """The fields that the reference has of audit.json."""
    text = REFERENCE.read_text(encoding="utf-8").split("\n## audit.json\n")[1].split("\n## ")[0]
    return {name for row in re.findall(r"^\| (`[^|]*) \|", text, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}


def keys(content: Any) -> set[str]:
    """All keys of a file, at any depth, but those of an interval, which the page explains once."""
    if isinstance(content, dict):
        if set(content) == {"value", "low", "high"}:
            return set()
        return set(content) | {key for value in content.values() for key in keys(value)}
    return {key for item in content for key in keys(item)} if isinstance(content, list) else set()


def audit(run: Path, phantom: Path, samples: Sequence[np.ndarray], output: Path, *more: str) -> tuple[int, Any]:
    """The exit status, and what audit.json says of some samples of a run."""
    if not output.exists():
        shutil.copytree(run / "models", output / "models")
        for number, image in enumerate(samples):
            write_png(output / "samples" / f"sample_{number:05d}.png", image)
    words = ["audit", "--dataset_dir", str(phantom), "--output_dir", str(output), "--device", "cpu", *more]
    status = main(words)
    path = output / "audit.json"
    return status, json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def planted(phantom: Path) -> list[np.ndarray]:
    """Training slices that were moved, brightened and flipped."""
    slices = [read(path) for path in sorted((phantom / "keras_png_slices_train").iterdir())[::2]]
    changed = [np.roll(image, (2, -1), (0, 1)) for image in slices]
    brighter = [np.clip(1.2 * image + 6, 0, 255).astype(np.uint8) for image in changed]
    return [image[:, ::-1].copy() if number % 2 else image for number, image in enumerate(brighter)]


def test_planted_copies_fail(
    small_run: Path,
    phantom: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    schema: Callable[[str, Any], None],
) -> None:
    samples = planted(phantom)
    status, content = audit(small_run, phantom, samples, tmp_path / "run", "--num_pictures", "3")
    printed = capsys.readouterr().out
    assert status == 3
    assert content["verdict"] == "fail"
    assert content["newness"]["copies"]["value"] == 1
    assert "verdict: fail" in printed
    assert any("copies of training slices: 1.000" in reason for reason in content["reasons"])
    sources = [f"keras_png_slices_train/{path.name}" for path in sorted((phantom / "keras_png_slices_train").iterdir())]
    for entry in content["nearest"]:
        assert entry["nearest"] == sources[2 * int(entry["file"][-9:-4])]
        assert entry["copy"]
    distances = [entry["tolerant_distance"] for entry in content["nearest"]]
    assert distances == sorted(distances)
    sheet = read(tmp_path / "run" / "audit.png")
    assert sheet.shape == (4 + 3 * (18 + SIZE + 4), 4 + 3 * (SIZE + 4))

    # The schema, and what is said of each figure.
    schema("audit", content)
    explained_once = {*THRESHOLDS, "look", "fail", "asked", "measured", "train", "rank_correlation"}
    assert keys(content) - explained_once == documented() - explained_once
    assert {name: list(levels.values()) for name, levels in content["thresholds"].items()} == {
        name: list(levels) for name, levels in THRESHOLDS.items()
    }
    assert {figure["word"] for figure in content["fidelity"]} <= set(WORDS)
    told = [figure["name"] for figure in content["fidelity"] if figure["word"] == WORDS[2]]
    assert content["told_apart_by"] == told
    member = content["membership"]
    assert member["by_chance"] is None  # of one test subject there are no halves
    for interval in (member, member["recognized"], member["subjects"]):
        assert 0 <= interval["low"] <= interval["value"] <= interval["high"] <= 1
    for said in ("Are they as good as reconstructions?", "Are they new?", "at 1 % false alarms", "told apart by: "):
        assert said in printed

    # Results are not replaced unless asked.
    assert audit(small_run, phantom, samples, tmp_path / "run")[0] == 2
    assert "audit.json exists: pass --overwrite" in capsys.readouterr().err


def test_slices_of_other_heads_pass(small_run: Path, phantom: Path, tmp_path: Path) -> None:
    others = write_phantom(tmp_path / "others", 3, num_slices=4, size=SIZE, seed=7, progress=False)
    samples = [read(path) for path in sorted(others.rglob("case_*.png"))]
    (tmp_path / "run" / "models").mkdir(parents=True)
    for number, image in enumerate(samples):
        write_png(tmp_path / "run" / "samples" / f"sample_{number:05d}.png", image)
    shutil.copytree(small_run / "models", tmp_path / "run" / "models", dirs_exist_ok=True)
    status, content = audit(small_run, phantom, samples, tmp_path / "run")
    assert (status, content["verdict"]) == (0, "look")
    assert content["newness"]["copies"]["value"] == 0
    # An epoch makes no tokenizer whose reconstructions can be recognized.
    assert [reason for reason in content["reasons"] if "are found to be copies" in reason]


def test_what_was_rated_is_not_rated_again(
    evaluated: Path, phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The audit rates what ``evaluate`` has not, and has the same bits for a slice that it rates, too."""
    rated, encoded = [0], [0]
    bits, encode = VQPriorInferer.bits, AutoencoderVQ.index_quantize

    def count_bits(inferer: VQPriorInferer, inputs: torch.Tensor, *words: Any, **more: Any) -> torch.Tensor:
        rated[0] += len(inputs)
        return bits(inferer, inputs, *words, **more)

    def count_codes(network: AutoencoderVQ, images: torch.Tensor) -> torch.Tensor:
        encoded[0] += len(images)
        return encode(network, images)

    monkeypatch.setattr(VQPriorInferer, "bits", count_bits)
    monkeypatch.setattr(AutoencoderVQ, "index_quantize", count_codes)
    run = shutil.copytree(evaluated, tmp_path / "run")
    number = {
        split: len(list((phantom / f"keras_png_slices_{split}").iterdir())) for split in ("train", "validate", "test")
    }
    (file,) = (run / "codes").glob("*.json")
    kept = json.loads(file.read_text(encoding="utf-8"))
    assert len(kept) == number["test"]
    name, expected = kept.popitem()
    file.write_text(json.dumps(kept), encoding="utf-8")
    assert audit(run, phantom, [], run)[0] in (0, 3)
    assert rated == [number["train"] + 1]
    assert encoded == [number["validate"]]
    again = json.loads(file.read_text(encoding="utf-8"))
    assert len(again) == number["train"] + number["test"]
    assert again[name] == pytest.approx(expected, rel=1e-5)


def test_samples_of_another_prior(
    small_run: Path, phantom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(small_run / "models", run / "models")
    for number, image in enumerate(planted(phantom)):
        write_png(run / "samples" / f"sample_{number:05d}.png", image)
    (run / "samples.json").write_text(json.dumps({"prior_weights": "0123456789abcdef"}), encoding="utf-8")
    assert audit(small_run, phantom, [], run) == (2, None)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("vqprior: ")]
    assert "samples are of another prior than this one: name its weights with --ckpt_prior" in line


def test_too_few_samples(small_run: Path, phantom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, content = audit(small_run, phantom, planted(phantom)[:1], tmp_path / "run")
    assert (status, content) == (2, None)
    assert "at least 2 samples" in capsys.readouterr().err
    status, content = audit(small_run, phantom, [], tmp_path / "run", "--metrics_file", "x.json")
    assert (status, content) == (2, None)
