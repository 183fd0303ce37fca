# Copyright (c) monai_vqprior contributors
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and

from __future__ import annotations

import json
import logging
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser
from small import AUTOENCODER, ON_CPU, PRIOR
from warm_python import run_python

# A copy of the bundle as a user has it, networks so small that they train in a second, and one run by MONAI's command.

BUNDLE = Path(__file__).resolve().parent.parent.parent / "bundle"
SMALL = {**AUTOENCODER, **ON_CPU}
SMALL_PRIOR = PRIOR
#: nested keys and what they are changed to on the command line; in the bundle, no key has its value here
NESTED: dict[str, Any] = {
    "train#loss#ssim_weight": 0.5,
    "train#optimizer#betas#1": 0.9,
    "train#handlers#1#warmup_steps": 3,
    "train#augmentation#transforms#1#rotate_range": 0.2,
    "codebook#decay": 0.95,
    "validate#dataloader#batch_size": 3,
    "validate::key_metric::ssim::data_range": 2.0,
}
#: an overlay of one's own, with which a run writes down what it has made of those
TOLD = {
    "+run": [
        "$torch.save([@train#loss.ssim_weight, @train#optimizer.param_groups[0]['betas'][1], "
        "@train#schedule.warmup_steps, "
        "@train#augmentation.transforms[1].rand_affine.rand_affine_grid.rotate_range[0], @module.codebook.decay, "
        "@validate#dataloader.batch_size, @validate#key_metric['ssim'].metric_fn.data_range], "
        "os.path.join(@output_dir, 'told.pt'))"
    ]
}


def config_files(bundle: Path, *names: str) -> list[str]:
    return [str(bundle / "configs" / f"{name}.json") for name in names]


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the bundle in a folder of bundles, with small random networks as its weights."""
    bundle = shutil.copytree(BUNDLE, tmp_path_factory.mktemp("bundles") / "vqprior")
    shutil.rmtree(bundle / "models")
    (bundle / "models").mkdir()
    torch.manual_seed(0)
    for name, network in {"model": "network_def", "prior": "prior_def"}.items():
        parser = ConfigParser()
        parser.read_config(config_files(bundle, "inference", "sample"))
        parser.update({**SMALL, **SMALL_PRIOR})
        torch.save(parser.get_parsed_content(network).state_dict(), bundle / "models" / f"{name}.pt")
    return bundle


@pytest.fixture(scope="session")
def monai_run(bundle: Path) -> Callable[..., str]:
    """``python -m monai.bundle run`` as a user types it, from a folder of their own; returns what it printed."""

    def run(cwd: Path, files: list[str], **overrides: Any) -> str:
        words: list[object] = ["-m", "monai.bundle", "run", "--config_file", files]
        for key, value in {"bundle_root": bundle, **SMALL, **overrides}.items():
            words += [f"--{key}", value]
        done = run_python(words, cwd)
        assert done.returncode == 0, done.stderr[-3000:]
        return str(done.stdout)

    return run


@pytest.fixture(scope="session")
def run(bundle: Path, monai_run: Callable[..., str], phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """
    Stage 1, two epochs long, with MLflow and with nested keys changed; the folder of the run, which has a random prior.
    """
    cwd = tmp_path_factory.mktemp("elsewhere")
    (cwd / "told.json").write_text(json.dumps(TOLD), encoding="utf-8")
    files = [*config_files(bundle, "train"), "told.json"]
    monai_run(cwd, files, dataset_dir=phantom, max_epochs=2, tracking="mlflow", experiment_name="phantom", **NESTED)
    shutil.copy(bundle / "models" / "prior.pt", cwd / "output" / "models")
    return cwd / "output"


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """MONAI adds the bundle to the places that Python imports from, and its logging.conf gives handlers to the root."""
    monkeypatch.setattr(sys, "path", sys.path[:])
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
