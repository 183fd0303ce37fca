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
from collections.abc import Mapping
from email.message import Message
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any, cast

from monai_vqprior.files import read_json
from monai_vqprior.report.curves import TrainingLog
from monai_vqprior.runs import AUTOENCODER_SETTINGS, PRIOR_SETTINGS, package_versions, read_settings

__all__ = ["licenses", "seeds_of", "settings_of"]

Rows = list[tuple[str, list[str]]]

# What this package runs on, by the names of the distributions.
_PACKAGES = (
    "monai", "torch", "numpy", "scipy", "pytorch-ignite", "pillow", "nibabel", "scikit-image", "Jinja2", "tensorboard",
)  # fmt: skip
_MOST_BYTES = 2**28
_LICENSE_LENGTH = 40  # what is longer is the text of a license, not its name
_SEEDS = ("seed", "split_seed")
#: files with the settings of draws, and what was drawn.
_DRAWN = {"samples.json": "samples", "volumes.json": "heads", "completions.json": "completions", "audit.json": "audit"}


def settings_of(folder: Path, logs: Mapping[str, TrainingLog | None]) -> dict[str, Rows]:
    """
    The settings of both networks, as their trainings have written them down.

    Args:
        folder: the folder of the run.
        logs: the log of each stage.

    Returns:
        for each stage that was trained there, names and values; what lies beside the weights counts before the log.

    Raises:
        InputError: when a file cannot be read.
    """
    tables: dict[str, Rows] = {}
    for stage, name in (("vqvae", AUTOENCODER_SETTINGS), ("prior", PRIOR_SETTINGS)):
        log, path = logs.get(stage), folder / "models" / name
        beside = read_settings(path, codebooks=None) if path.is_file() else {}
        logged = dict(log.settings) if log is not None else {}
        if beside or logged:
            tables[stage] = [(key, [_shown(value)]) for key, value in sorted({**logged, **beside}.items())]
    return tables


def seeds_of(folder: Path, logs: Mapping[str, TrainingLog | None]) -> Rows:
    """
    The seeds of trainings and draws, as far as they are known.

    Args:
        folder: the folder of the run.
        logs: the log of each stage.

    Raises:
        InputError: when a file cannot be read.
    """
    rows: Rows = []
    for stage, log in logs.items():
        if log is not None:
            rows += [
                (f"{key} of the training {stage}", [_shown(log.settings[key])]) for key in _SEEDS if key in log.settings
            ]
    for name, what in _DRAWN.items():
        if (folder / name).is_file():
            content = read_json(folder / name, "remove it", _MOST_BYTES)
            rows += [(f"seed of the {what}", [_shown(content["seed"])])] if "seed" in content else []
    return rows


@functools.cache
def licenses() -> tuple[tuple[str, list[str]], ...]:
    """The packages that are installed here, with version and license."""
    rows = [("monai-vqprior", [package_versions()["monai-vqprior"], "Apache-2.0"])]
    for name in _PACKAGES:
        try:
            told = cast(Message, metadata(name))
        except PackageNotFoundError:  # a build of another name, such as a nightly one
            continue
        classified = [
            line.rpartition(" :: ")[2] for line in told.get_all("Classifier", []) if line.startswith("License ::")
        ]
        words = (told.get("License") or "").strip().splitlines()
        named = words[:1] if len(words) == 1 and len(words[0]) <= _LICENSE_LENGTH else []
        license = told.get("License-Expression") or ", ".join(classified or named) or "see its files"
        rows.append((name, [told["Version"], license]))
    return tuple(rows)


def _shown(value: Any) -> str:
    """A value of a setting in one line."""
    return value if isinstance(value, str) else json.dumps(value)
