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
from pathlib import Path

import numpy as np
import pytest
import torch
from small import AUTOENCODER, ON_CPU, PRIOR, words

from monai_vqprior.cli import main
from monai_vqprior.data import write_phantom
from monai_vqprior.files import write_png

pytestmark = pytest.mark.integration

# Trainings and figures that could lie: a learning rate far too large, splits without a brain.

SMALL = words({**AUTOENCODER, **PRIOR, **ON_CPU})


def tensors_of(content: object) -> list[torch.Tensor]:
    if isinstance(content, dict):
        return [tensor for value in content.values() for tensor in tensors_of(value)]
    return [content] if isinstance(content, torch.Tensor) else []


def test_a_training_that_diverges(phantom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "--stage", "vqvae", "--dataset_dir", str(phantom), "--output_dir", str(tmp_path), *SMALL]
    assert main([*words, "--max_epochs", "1"]) == 0
    model = (tmp_path / "models" / "model.pt").read_bytes()
    assert main([*words, "--resume", "--max_epochs", "30", "--learning_rate", "1e8"]) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("vqprior: error: ")]
    assert len(error) == 1
    assert "10 steps in a row had a loss or gradient that is not finite" in error[0]
    assert "_slice_" in error[0]
    assert "lower --learning_rate" in error[0]
    for path in (tmp_path / "models").glob("*.pt"):
        tensors = tensors_of(torch.load(path, weights_only=True))
        assert tensors
        assert all(bool(tensor.isfinite().all()) for tensor in tensors), path.name
    assert (tmp_path / "models" / "model.pt").read_bytes() == model


@pytest.mark.parametrize(
    ("grey", "splits"), [(0, ["test"]), (0, ["train", "validate", "test"]), (128, ["train", "validate", "test"])]
)
def test_splits_without_a_brain(
    grey: int, splits: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_phantom(tmp_path / "data", 4, num_slices=2, size=32, progress=False)
    for split in splits:
        for path in (data / f"keras_png_slices_{split}").glob("*.png"):
            write_png(path, np.full((32, 32), grey, np.uint8))
    run = ["--dataset_dir", str(data), "--output_dir", str(tmp_path / "run")]
    assert main(["train", *run, *SMALL, "--max_epochs", "1"]) == 0
    assert ("ssim_brain no value" in capsys.readouterr().out) == (grey == 0 and "validate" in splits)
    for path in (tmp_path / "run" / "models").glob("*.pt"):
        assert all(bool(tensor.isfinite().all()) for tensor in tensors_of(torch.load(path, weights_only=True)))
    assert main(["evaluate", *run, "--device", "cpu"]) == 0
    printed = capsys.readouterr().out

    def refuse(token: str) -> None:
        raise AssertionError(f"{token} is no JSON")

    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text(encoding="utf-8"), parse_constant=refuse)
    assert (metrics["ssim_brain"] is None) == (grey == 0)
    assert (metrics["baselines"]["mean"]["ssim_brain"] is None) == (grey == 0)
    assert ("SSIM over brain windows no value" in " ".join(printed.split())) == (grey == 0)
    assert main(["report", "--output_dir", str(tmp_path / "run")]) == 0
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert ("no value" in page) == (grey == 0)
    assert "nan" not in page.split("<table>")[1].split("</table>")[0].lower()
