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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch

from monai_vqprior.cli import main
from monai_vqprior.data import SliceDataset
from monai_vqprior.errors import InputError
from monai_vqprior.report import summarize

SCHEMAS = Path(__file__).resolve().parents[2] / "docs" / "reference" / "schemas"


def _read(item: dict[str, Any]) -> dict[str, Any]:
    if item["image"] == "bad":
        raise InputError("bad cannot be read")
    return {**item, "image": torch.zeros(1, 64, 48, dtype=torch.uint8)}


@pytest.fixture
def dataset() -> SliceDataset:
    """Five slices of two subjects, 64 x 48 pixels; a sixth, of a third subject, cannot be read and is left out."""
    names = [("a", "1"), ("b", "1"), ("bad", "2"), ("c", "3"), ("d", "3"), ("e", "1")]
    data = [{"image": image, "subject": subject} for image, subject in names]
    return SliceDataset(data, _read, (64, 48), skip_bad=True, progress=False)


@pytest.fixture
def measured() -> dict[str, float]:
    """What an evaluating engine may have measured."""
    return {
        "ssim": 0.95421,
        "ssim_brain": 0.92344,
        "ms_ssim": 0.98766,
        "psnr": 29.87654,
        "codes_used": 500,
        "perplexity": 321.654,
        "bits_per_code": 5.4321,
        "mae": 0.01234,
        "bits_per_slice": 1043.4,
        "bits_per_pixel": 0.33965,
    }


@pytest.fixture
def summary(dataset: SliceDataset, measured: dict[str, float]) -> dict[str, Any]:
    """The content of a ``metrics.json``."""
    return summarize(
        "test",
        dataset,
        measured,
        512,
        {"bits_per_code_histogram": 8.0712, "bits_per_code_position_histogram": 5.9134},
        {"black": {"ssim": 0.3219, "ssim_brain": 0.0011}, "mean": {"ssim": 0.5432, "ssim_brain": 0.3456, "psnr": 1.0}},
    )


@pytest.fixture(scope="session")
def evaluated(small_run: Path, phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small run after ``evaluate``, ``sample`` and ``report``; tests copy what they change."""
    folder = shutil.copytree(small_run, tmp_path_factory.mktemp("evaluated") / "run")
    on_cpu = ["--output_dir", str(folder), "--device", "cpu"]
    assert main(["evaluate", "--dataset_dir", str(phantom), *on_cpu]) == 0
    assert main(["sample", "--num_samples", "2", *on_cpu]) == 0
    assert main(["report", "--output_dir", str(folder)]) == 0
    return folder


@pytest.fixture
def schema() -> Callable[[str, Any], None]:
    """Checks a content against the documented schema of its file, such as ``metrics``."""

    def check(name: str, content: Any) -> None:
        text = (SCHEMAS / f"{name}.schema.json").read_text(encoding="utf-8")
        jsonschema.validate(content, json.loads(text), jsonschema.Draft202012Validator)

    return check
