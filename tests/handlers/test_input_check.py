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

import functools
import json
import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from ignite.engine import Engine

from monai_vqprior.data import phantom_slice
from monai_vqprior.handlers import InputCheck, ValidationReference
from monai_vqprior.losses import ssim_map
from monai_vqprior.metrics import position_log_probabilities
from monai_vqprior.runs import find_prior_settings, read_settings

# Known answers with phantoms, under the simplest autoencoder that there is: the mean of each block of pixels, in steps.
SIZE, BLOCK, CODES = 32, 4, 16


TRAIN, VALIDATE, TEST = range(10), range(10, 16), range(16, 20)


@functools.cache
def images(subjects: range) -> torch.Tensor:
    """(N, 1, H, W) in 0..1, two slices of each phantom."""
    slices = [phantom_slice(subject, index, 2, SIZE).image for subject in subjects for index in range(2)]
    return torch.from_numpy(np.stack(slices))[:, None].float() / 255


def encoded(x: torch.Tensor) -> torch.Tensor:
    return (F.avg_pool2d(x, BLOCK)[:, 0] * CODES).long().clamp_max(CODES - 1)


def measured(x: torch.Tensor) -> dict[str, torch.Tensor]:
    """SSIM of each slice and its reconstruction."""
    rebuilt = F.interpolate((encoded(x)[:, None] + 0.5) / CODES, scale_factor=BLOCK, mode="bilinear")
    return {"ssim": ssim_map(rebuilt, x).flatten(1).mean(1, keepdim=True), "ms_ssim": torch.zeros(len(x), 1)}


def engine(metrics: dict[str, float], details: dict[str, torch.Tensor], x: torch.Tensor) -> Engine:
    """An evaluator that has nothing left to compute."""

    def step(engine: Engine, batch: torch.Tensor) -> dict[str, Any]:
        return {"codes": encoded(batch)}

    made = Engine(step)
    made.state.metrics = metrics
    made.state.metric_details = details
    made.batches = x.split(8)
    return made


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of both networks with what validation phantoms come to beside them."""
    models = tmp_path_factory.mktemp("models")
    train, validate = images(TRAIN), images(VALIDATE)
    table = position_log_probabilities(encoded(train), CODES, pseudo_count=4)[None]
    prior = torch.nn.Module()
    prior.register_buffer("position_logits", table.half())
    torch.save({}, models / "model.pt")
    torch.save(prior.state_dict(), models / "prior.pt")
    best: Any = SimpleNamespace(metric="ssim", best=0.5)
    of_prior = {"prior": prior, "grids": encoded(validate)}
    for name, more in {"settings.json": {}, "prior_settings.json": of_prior}.items():
        made = engine({"ssim": 0.5}, {} if more else measured(validate), validate)
        ValidationReference(models / name, best, **more).attach(made)
        made.run(made.batches)
    return models


def warnings_of(models: Path, x: torch.Tensor, caplog: pytest.LogCaptureFixture, **more: Any) -> list[str]:
    made = engine({}, measured(x), x)
    InputCheck(models / "model.pt", **more).attach(made)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        made.run(made.batches)
    return [record.getMessage() for record in caplog.records]


def test_what_is_written(models: Path) -> None:
    x = images(VALIDATE)
    written = json.loads((models / "settings.json").read_text())["reference"]
    expected = np.quantile(measured(x)["ssim"].numpy().astype(np.float64), [0.01, 0.5, 0.99])
    assert list(written) == ["ssim"]
    np.testing.assert_allclose(written["ssim"], expected, rtol=1e-4)
    counts = np.stack([encoded(images(TRAIN)).numpy() == code for code in range(CODES)]).sum(1)  # (K, 8, 8)
    overall = counts.sum((1, 2)) + 1.0
    shares = (counts + 4 * (overall / overall.sum())[:, None, None]) / (20 + 4)
    bits = -np.log2(np.take_along_axis(shares[None], encoded(x).numpy()[:, None], 1)).mean((1, 2, 3))
    (found,) = json.loads((models / "prior_settings.json").read_text())["reference"].values()
    np.testing.assert_allclose(found, np.quantile(bits, [0.01, 0.5, 0.99]), rtol=2e-3)
    assert read_settings(models / "settings.json", keys=())  # which commands read among the settings
    assert find_prior_settings(models, models)["conditions"] == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda x: x, []),
        (lambda x: x.rot90(1, (2, 3)), ["bits a code by position"]),
        (lambda x: 1 - x, ["bits a code by position"]),  # whose reconstructions are inverted, too
        (torch.rand_like, ["SSIM", "bits a code by position"]),
    ],
    ids=["held out", "rotated", "inverted", "noise"],
)
def test_known_answers(
    change: Callable[[torch.Tensor], torch.Tensor], told: list[str], models: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = warnings_of(models, change(images(TEST)), caplog)
    assert len(lines) == bool(told)
    for line in lines:
        assert line.startswith("these slices are unlike those of the training: median ")
        assert "\n" not in line
        assert [label for label in ("SSIM", "bits a code by position") if f"{label} " in line] == told


def test_bits_of_the_prior_itself(models: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A run with a prior has its bits, and does without the histogram; grids of another size are not rated by it."""
    (tmp_path / "model.pt").touch()
    (tmp_path / "prior.pt").write_bytes(b"is not read")
    reference = {"bits_per_code": [1.0, 2.0, 3.0], "bits_per_code_by_position": [1.0, 2.0, 3.0]}
    (tmp_path / "prior_settings.json").write_text(json.dumps({"reference": reference}))
    x = images(TEST)
    for bits, told in ((2.9, ""), (3.1, "median bits a code 3.10, 1.00 to 3.00 there."), (0.5, ""), (np.nan, "")):
        made = engine({}, {"bits_per_code": torch.full((8, 1), bits)}, x)
        InputCheck(tmp_path / "model.pt", tmp_path / "prior.pt").attach(made)
        caplog.clear()
        made.run(made.batches)
        assert len(caplog.records) == bool(told)
        assert told in caplog.text
    larger = F.interpolate(x.rot90(1, (2, 3)), scale_factor=2)
    assert warnings_of(models, larger, caplog) == []


def test_weights_that_say_nothing(models: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("model.pt", "prior.pt"):
        (tmp_path / name).write_bytes((models / name).read_bytes())
    assert warnings_of(tmp_path, 1 - images(TEST), caplog) == []
    (tmp_path / "settings.json").write_text(json.dumps({"spatial_size": 32}))
    assert warnings_of(tmp_path, 1 - images(TEST), caplog) == []


def test_only_the_best_weights_are_described(tmp_path: Path) -> None:
    x = images(TEST)
    made = engine({"ssim": 0.4}, measured(x), x)
    best: Any = SimpleNamespace(metric="ssim", best=0.5)
    ValidationReference(tmp_path / "settings.json", best).attach(made)
    made.run(made.batches)
    assert not (tmp_path / "settings.json").exists()
