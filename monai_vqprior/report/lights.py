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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from monai_vqprior.audit import VERDICTS, WORDS
from monai_vqprior.report.columns import figure, text_of, worse_than
from monai_vqprior.report.curves import TrainingLog

__all__ = ["Light", "audit_lights", "metrics_lights", "training_light"]

#: shares of the codes that should be in use, and of figures that may tell samples from real slices.
_USED, _BY_CHANCE, _MANY = 0.5, 0.1, 0.5
#: the least rank correlation of what was asked for and what came out.
_FOLLOWED = 0.3
#: how many bits a codec may have more than the codes and still be compared with them.
_AS_MANY = 1.02
#: the metric of each stage that its best weights are chosen by, and whether less of it is better.
_KEY_METRICS = {"vqvae": ("ssim", False), "prior": ("bits_per_code", True)}
_OF_STAGE = {"vqvae": "Training of the autoencoder", "prior": "Training of the prior"}


@dataclass(frozen=True)
class Light:
    """
    One question about a run, answered.

    Attributes:
        section: the part of the page that has the figures.
        title: what it is about.
        word: the answer.
        text: the figures that it is due to, or the command that would answer.
    """

    section: str
    title: str
    word: Literal["good", "look", "bad", "missing"]
    text: str


def audit_lights(audit: Mapping[str, Any] | None) -> list[Light]:
    """
    What an audit says of the samples, at a glance.

    Args:
        audit: the content of ``audit.json``; None where there is none.

    Raises:
        KeyError: and TypeError, AttributeError or InputError, when the content is not what it should be.
    """
    if audit is None:
        text = "draw 100 samples or more, and run vqprior audit"
        return [Light(name, name.capitalize(), "missing", text) for name in ("fidelity", "newness")]
    return [_fidelity(audit["fidelity"]), _newness(audit), *_conditions(audit.get("conditions", []))]


def metrics_lights(metrics: Mapping[str, Any] | None) -> list[Light]:
    """
    What an evaluation says of both networks, at a glance.

    Args:
        metrics: the content of ``metrics.json``; None where there is none.

    Raises:
        KeyError: and TypeError, AttributeError or InputError, when the content is not what it should be.
    """
    if metrics is None:
        titles = {"reconstructions": "Reconstructions", "codebook": "Codebook", "bits": "Prior"}
        return [Light(name, title, "missing", "run vqprior evaluate") for name, title in titles.items()]
    return [_reconstructions(metrics), _codebook(metrics), _prior(metrics)]


def training_light(stage: str, log: TrainingLog | None) -> Light:
    """
    Did the validation of a stage improve until late in its training?

    Args:
        stage: ``vqvae`` or ``prior``.
        log: its log; None where there is none.
    """
    key, smaller = _KEY_METRICS[stage]
    if log is None or key not in log.metrics:
        return Light("training", _OF_STAGE[stage], "missing", f"run vqprior train --stage {stage}")
    values = [(-value if smaller else value) for _, value in log.metrics[key]]
    best = values.index(max(values)) + 1
    text = f"{key} {abs(max(values)):.4g}, best of validation {best} of {len(values)}"
    return Light("training", _OF_STAGE[stage], "good" if 2 * best > len(values) else "look", text)


def _reconstructions(metrics: Mapping[str, Any]) -> Light:
    worse = [other for column, other in worse_than(metrics) if column.images]
    text = f"SSIM {figure(metrics, 'ssim', '.3f', 'no value')}"
    if worse:
        return Light("reconstructions", "Reconstructions", "bad", f"{text}, no better than {worse[0]}")
    better = [name for name, told in metrics.get("codecs", {}).items() if told is not None and _beats(told, metrics)]
    if better:
        return Light(
            "reconstructions", "Reconstructions", "look", f"{text}; better at as many bits: {', '.join(better)}"
        )
    return Light("reconstructions", "Reconstructions", "good", f"{text}, above the constant images and all codecs")


def _beats(codec: Mapping[str, Any], metrics: Mapping[str, Any]) -> bool:
    """Whether a codec has a higher SSIM at as many bits."""
    for values, key in ((codec, "ssim"), (codec, "bits_per_pixel"), (metrics, "ssim"), (metrics, "bits_per_pixel")):
        figure(values, key, "g")  # a number, or null
    ours, bits = metrics["ssim"], metrics["bits_per_pixel"]
    if None in (ours, bits, codec["ssim"], codec["bits_per_pixel"]):
        return False
    return bool(codec["ssim"] > ours and codec["bits_per_pixel"] <= _AS_MANY * bits)


def _codebook(metrics: Mapping[str, Any]) -> Light:
    text = f"{figure(metrics, 'codes_used', '.0f')} of {figure(metrics, 'num_embeddings', '.0f')} codes occur"
    used, number = metrics["codes_used"], metrics["num_embeddings"]
    enough = used is None or number is None or used >= _USED * number
    return Light("codebook", "Codebook", "good" if enough else "look", text)


def _prior(metrics: Mapping[str, Any]) -> Light:
    if metrics["bits_per_code"] is None:
        return Light("bits", "Prior", "missing", "run vqprior train --stage prior")
    other = figure(metrics, "bits_per_code_position_histogram", ".3f", "no value")
    text = f"{figure(metrics, 'bits_per_code', '.3f')} bits a code, {other} by the histogram of each position"
    bad = any(column.key == "bits_per_code" for column, _ in worse_than(metrics))
    return Light("bits", "Prior", "bad" if bad else "good", text)


def _fidelity(figures: Sequence[Mapping[str, Any]]) -> Light:
    told = sum(text_of(entry, "word") == WORDS[2] for entry in figures)
    text = f"{told} of {len(figures)} figures tell samples from real slices and from reconstructions"
    word: Literal["good", "look", "bad"] = (
        "good" if told <= _BY_CHANCE * len(figures) else "look" if told <= _MANY * len(figures) else "bad"
    )
    return Light("fidelity", "Fidelity", word, text)


def _newness(audit: Mapping[str, Any]) -> Light:
    verdict = text_of(audit, "verdict")
    words: dict[str, Literal["good", "look", "bad"]] = dict(zip(VERDICTS, ("good", "look", "bad"), strict=True))
    text = f"verdict {verdict}; copies {figure(audit['newness']['copies'], 'value', '.3f')}"
    return Light("newness", "Newness", words.get(verdict, "look"), text)


def _conditions(entries: Sequence[Mapping[str, Any]]) -> list[Light]:
    """A light where samples were asked for different values of a condition."""
    known = [entry for entry in entries if entry["rank_correlation"] is not None]
    if not known:
        return []
    told = ", ".join(f"{text_of(entry, 'name')} {figure(entry, 'rank_correlation', '.2f')}" for entry in known)
    low = any(entry["rank_correlation"] < _FOLLOWED for entry in known)
    text = f"rank correlation of asked and measured: {told}"
    return [Light("conditions", "Conditions", "look" if low else "good", text)]
