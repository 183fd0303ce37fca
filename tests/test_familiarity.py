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
import shutil
from pathlib import Path
from typing import Any

import pytest

from monai_vqprior.cli import main

pytestmark = pytest.mark.integration

# What training leaves beside the weights about its validation split, through the commands that use it.

FILES = ("settings.json", "prior_settings.json")


def read(models: Path, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((models / name).read_text(encoding="utf-8"))
    return content


def test_reference_of_weights_and_the_warning(
    small_run: Path, phantom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(small_run, tmp_path / "run")
    written = {name: read(run / "models", name) for name in FILES}
    for name in FILES:  # as weights of before
        content = {key: value for key, value in written[name].items() if key != "reference"}
        (run / "models" / name).write_text(json.dumps(content), encoding="utf-8")
    words = ["--dataset_dir", str(phantom), "--output_dir", str(run), "--device", "cpu", "--overwrite"]
    assert main(["evaluate", *words, "--split", "validate", "--write_reference", "true"]) == 0
    assert "unlike those of the training" not in capsys.readouterr().err
    for name in FILES:
        found = read(run / "models", name)
        assert set(found) == set(written[name])
        for metric, values in written[name]["reference"].items():
            assert found["reference"][metric] == pytest.approx(values, rel=1e-2), metric
        narrow = {metric: [1000.0, 1000.0, 1000.0] if metric == "ssim" else [0.0] * 3 for metric in found["reference"]}
        (run / "models" / name).write_text(json.dumps({**found, "reference": narrow}), encoding="utf-8")
    for command, bits in (("reconstruct", "bits a code by position"), ("evaluate", "bits a code")):
        assert main([command, *words]) == 0
        (line,) = [line for line in capsys.readouterr().err.splitlines() if "unlike those of the training" in line]
        assert "median SSIM 0." in line
        assert f"; {bits} " in line
