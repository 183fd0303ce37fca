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
import math
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from .conftest import NESTED, SMALL_PRIOR, config_files

pytestmark = pytest.mark.integration

# What a training and an evaluation leave with MLflow and TensorBoard. MLflow's tables are read by plain SQL.

METRICS = ("ssim", "ssim_brain", "codes_used", "perplexity")


def query(output: Path, text: str) -> list[Any]:
    with closing(sqlite3.connect(output / "mlruns.db")) as connection:
        return connection.execute(text).fetchall()


def board(run: Path) -> EventAccumulator:
    return EventAccumulator(str(run / "tensorboard" / "vqvae")).Reload()


def test_mlflow_has_the_metrics_of_a_training(run: Path) -> None:
    assert query(run, "SELECT status FROM runs") == [("FINISHED",)]
    experiments = "SELECT experiments.name FROM experiments JOIN runs ON experiments.experiment_id = runs.experiment_id"
    assert query(run, experiments) == [("phantom",)]
    parameters = dict(query(run, "SELECT key, value FROM params"))
    steps = 2 * int(parameters["epoch_length"])
    assert parameters["max_epochs"] == "2"
    for name in ("train_loss", "lr_group_0"):
        rows = query(run, f"SELECT step, value FROM metrics WHERE key = '{name}' ORDER BY step")
        assert [step for step, _ in rows] == list(range(1, steps + 1)), name
        assert all(math.isfinite(value) and value > 0 for _, value in rows)
    for name in METRICS:
        assert query(run, f"SELECT step FROM metrics WHERE key = '{name}' ORDER BY step") == [(1,), (2,)]


def test_mlflow_has_the_configuration(run: Path, phantom: Path) -> None:
    (folder,) = {path.parent for path in (run / "mlruns").rglob("config_*.json")}
    (path,) = folder.iterdir()
    config = json.loads(path.read_text(encoding="utf-8"))
    assert (config["dataset_dir"], config["max_epochs"]) == (str(phantom), 2)
    assert config["train"]["loss"]["ssim_weight"] == NESTED["train#loss#ssim_weight"]


def test_tensorboard_has_the_same(run: Path) -> None:
    events = board(run)
    assert set(events.Tags()["scalars"]) == {"train_loss", *METRICS}
    for name in ("train_loss", *METRICS):
        found = [(event.step, event.value) for event in events.Scalars(name)]
        rows = query(run, f"SELECT step, value FROM metrics WHERE key = '{name}' ORDER BY step")
        assert [step for step, _ in found] == [step for step, _ in rows]
        assert [value for _, value in found] == pytest.approx([value for _, value in rows], rel=1e-5), name
    images = events.Tags()["images"]
    assert images
    assert all((image.width, image.height) == (32, 32) for tag in images for image in events.Images(tag))


def test_mlflow_has_the_metrics_of_an_evaluation(
    bundle: Path, run: Path, phantom: Path, monai_run: Callable[..., str], tmp_path: Path
) -> None:
    files = config_files(bundle, "train", "train_prior", "evaluate")
    monai_run(
        tmp_path,
        files,
        dataset_dir=phantom,
        models_dir=run / "models",
        tracking="mlflow",
        run_name="eval",
        **SMALL_PRIOR,
    )
    output = tmp_path / "output"
    assert query(output, "SELECT name, status FROM runs") == [("eval", "FINISHED")]
    tracked = dict(query(output, "SELECT key, value FROM metrics"))
    metrics = json.loads((output / "metrics.json").read_text(encoding="utf-8"))
    for name in (*METRICS, "ms_ssim", "psnr", "bits_per_code"):
        assert tracked[name] == pytest.approx(metrics[name]), name
