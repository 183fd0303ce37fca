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

from collections.abc import Mapping
from typing import Any

__all__ = ["audit_lines"]

_SHARES = {"rms": "distance", "local_ratio": "local ratio", "tolerant_distance": "tolerant distance"}


def audit_lines(content: Mapping[str, Any]) -> list[str]:
    """
    What the terminal says of an audit.

    Args:
        content: that of ``audit.json``.
    """
    return [
        f"{content['samples']} samples, {content['test_slices']} test slices of {content['test_subjects']} subjects",
        *_of_fidelity(content),
        *_of_newness(content["newness"]),
        *_of_membership(content["membership"]),
        *_of_conditions(content["conditions"]),
        *(f"  {reason}" for reason in content["reasons"]),
        f"  verdict: {content['verdict']}",
    ]


def _of_fidelity(content: Mapping[str, Any]) -> list[str]:
    """A row for each figure, and what the samples can be told apart by."""
    figures = content["fidelity"]
    width = max(len(figure["label"]) for figure in figures)
    told = [figure["label"] for figure in figures if figure["name"] in content["told_apart_by"]]
    return [
        "  Are they as good as reconstructions? Real slices and reconstructions in their place, medians of 39 draws:",
        f"    {'':<{width}}{'better':>8}{'samples':>10}{'real':>10}{'reconstr.':>11}",
        *(
            f"    {figure['label']:<{width}}{figure['better']:>8}{figure['samples']:>10.3f}"
            f"{figure['real']['value']:>10.3f}{figure['reconstructions']['value']:>11.3f}  {figure['word']}"
            for figure in figures
        ),
        f"    can be told apart by: {'; '.join(told) or 'nothing'}",
    ]


def _of_newness(newness: Mapping[str, Any]) -> list[str]:
    """Copies, and the shares of the samples that are nearer to training slices than unseen slices are."""
    threshold = newness["copy_threshold"]
    shares = ", ".join(f"{label} {_interval(newness[name]['below_1_percent'])}" for name, label in _SHARES.items())
    return [
        "  Are they new?",
        f"    copies of training slices: {_interval(newness['copies'])} of the samples (of known copies "
        f"{threshold['found']:.3f} are found, of unseen slices {threshold['false_alarms']:.3f} are taken for copies)",
        f"    nearer to training slices than 99 % of validation slices, 0.010 is expected: {shares}",
    ]


def _of_membership(told: Mapping[str, Any] | None) -> list[str]:
    """What the weights say of the slices that they were trained on."""
    if told is None:
        return []
    chance = "" if told["by_chance"] is None else f", by chance {_interval(told['by_chance'])}"
    return [
        "  Do the weights of the prior tell what it was trained on?",
        f"    training slices recognized by their bits, at 1 % false alarms: {_interval(told['recognized'])}{chance}",
        f"    area under the curve, 0.500 by chance: of slices {_interval(told)}, of the means of subjects "
        f"{_interval(told['subjects'])}",
    ]


def _of_conditions(conditions: list[Mapping[str, Any]]) -> list[str]:
    """How what came out follows what was asked."""
    correlations = {entry["name"]: entry["rank_correlation"] for entry in conditions}
    return [
        f"  {name}: rank correlation of asked and measured {'no value' if value is None else f'{value:.2f}'}"
        for name, value in correlations.items()
    ]


def _interval(told: Mapping[str, float]) -> str:
    """A figure with its 95 % interval."""
    return f"{told['value']:.3f} ({told['low']:.3f} to {told['high']:.3f})"
