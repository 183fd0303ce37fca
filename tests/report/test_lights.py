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

from typing import Any

import pytest

from monai_vqprior.report.curves import TrainingLog
from monai_vqprior.report.lights import Light, audit_lights, metrics_lights, training_light

INTERVAL = {"value": 0.25, "low": 0.125, "high": 0.5}


def words(lights: list[Light]) -> dict[str, str]:
    return {light.title: light.word for light in lights}


def log(**metrics: list[float]) -> TrainingLog:
    return TrainingLog({}, {name: list(enumerate(values, 1)) for name, values in metrics.items()}, {}, {})


def codec(ssim: float | None, bits: float) -> dict[str, Any]:
    return {"setting": 1, "ssim": ssim, "ssim_brain": ssim, "bits_per_pixel": bits}


@pytest.mark.parametrize(
    ("changes", "title", "word"),
    [
        ({}, "Reconstructions", "good"),
        ({"ssim": 0.54}, "Reconstructions", "bad"),  # the mean image has 0.5432
        ({"codecs": {"JPEG": codec(0.99, 0.33), "AVIF": None}}, "Reconstructions", "look"),
        ({"codecs": {"JPEG": codec(0.99, 0.4)}}, "Reconstructions", "good"),  # it has more bits
        ({"codecs": {"JPEG": codec(None, 0.3)}}, "Reconstructions", "good"),
        ({}, "Codebook", "good"),
        ({"codes_used": 200}, "Codebook", "look"),
        ({}, "Prior", "good"),
        ({"bits_per_code": 6.0}, "Prior", "bad"),  # the histogram of each position needs 5.9134
        ({"bits_per_code": None}, "Prior", "missing"),
    ],
)
def test_lights_of_an_evaluation(summary: dict[str, Any], changes: dict[str, Any], title: str, word: str) -> None:
    lights = metrics_lights(summary | changes)
    assert words(lights)[title] == word
    assert {light.section for light in lights} == {"reconstructions", "codebook", "bits"}


@pytest.mark.parametrize(("told", "word"), [(0, "good"), (2, "good"), (3, "look"), (10, "look"), (11, "bad")])
def test_fidelity_by_the_number_of_figures(told: int, word: str) -> None:
    figures = [{"word": "can be told apart" if row < told else "as good as real slices"} for row in range(20)]
    audit = {"fidelity": figures, "verdict": "pass", "newness": {"copies": INTERVAL}}
    (light,) = [light for light in audit_lights(audit) if light.title == "Fidelity"]
    assert light.word == word
    assert light.text.startswith(f"{told} of 20 figures")


@pytest.mark.parametrize(("verdict", "word"), [("pass", "good"), ("look", "look"), ("fail", "bad"), ("other", "look")])
def test_newness_by_the_verdict(verdict: str, word: str) -> None:
    lights = audit_lights({"fidelity": [], "verdict": verdict, "newness": {"copies": INTERVAL}})
    assert words(lights) == {"Fidelity": "good", "Newness": word}
    assert "copies 0.250" in lights[1].text


def test_conditions_by_their_rank_correlations() -> None:
    def conditions(*correlations: float | None) -> str | None:
        entries = [{"name": "age", "rank_correlation": correlation} for correlation in correlations]
        audit = {"fidelity": [], "verdict": "pass", "newness": {"copies": INTERVAL}, "conditions": entries}
        return words(audit_lights(audit)).get("Conditions")

    assert conditions(0.9, None) == "good"
    assert conditions(0.9, 0.2) == "look"
    assert conditions(None) is None  # all samples were asked the same


@pytest.mark.parametrize(
    ("stage", "values", "word"),
    [
        ("vqvae", [0.5, 0.75, 0.9], "good"),
        ("vqvae", [0.5, 0.9, 0.75, 0.7], "look"),
        ("vqvae", [0.5], "good"),
        ("prior", [5.0, 4.0, 3.5], "good"),
        ("prior", [3.5, 4.0, 5.0], "look"),
    ],
)
def test_training_by_where_its_best_validation_is(stage: str, values: list[float], word: str) -> None:
    name = {"vqvae": "ssim", "prior": "bits_per_code"}[stage]
    light = training_light(stage, log(**{name: values}))
    assert (light.section, light.word) == ("training", word)
    best = max(values) if stage == "vqvae" else min(values)
    assert f"{name} {best:g}, best of validation {values.index(best) + 1} of {len(values)}" in light.text


def test_what_was_not_run_names_its_command() -> None:
    lights = [training_light("prior", None), training_light("vqvae", log()), *metrics_lights(None), *audit_lights(None)]
    assert {light.word for light in lights} == {"missing"}
    commands = " ".join(light.text for light in lights)
    assert all(f"vqprior {name}" in commands for name in ("train --stage prior", "evaluate", "audit"))
