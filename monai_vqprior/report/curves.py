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

import math
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai_vqprior.errors import InputError, reason_of
from monai_vqprior.files import parse_json

__all__ = ["TrainingLog", "read_log"]

#: tag of the text that :func:`monai_vqprior.runs.log_settings` writes.
_SETTINGS = "settings/text_summary"
# How many of each kind of event are kept; 0 is all.
_KEPT = {"scalars": 0, "tensors": 10, "images": 1, "histograms": 1, "compressedHistograms": 1, "audio": 1, "graph": 1}

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class TrainingLog:
    """
    What TensorBoard's log of a stage says.

    Attributes:
        losses: (step, value) of what was logged at each step, by its name.
        metrics: (epoch, value) of what was measured by a validation, by its name.
        settings: the settings of the last training, empty in a log of an earlier version.
        versions: the packages that it ran with, likewise.
    """

    losses: Mapping[str, Points]
    metrics: Mapping[str, Points]
    settings: Mapping[str, Any]
    versions: Mapping[str, Any]


def read_log(folder: Path) -> TrainingLog | None:
    """
    Read the log of a stage.

    Args:
        folder: such as ``output/tensorboard/prior``.

    Returns:
        the log; None where there is no folder, or nothing in it.

    Raises:
        InputError: when it cannot be read.
    """
    files = sorted(folder.glob("*tfevents*")) if folder.is_dir() else []
    if not files:
        return None
    # Imported here: it takes longer than all else of a page without curves.
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    advice = f"move {folder} away"
    try:
        # TensorBoard reads no folder whose name is not UTF-8, or looks like an address.
        with tempfile.TemporaryDirectory() as plain:
            for number, path in enumerate(files):
                shutil.copyfile(path, Path(plain) / f"events.out.tfevents.{number:06d}")
            events = EventAccumulator(plain, _KEPT).Reload()
        scalars = {
            tag: _of_last_run([(event.step, event.value) for event in events.Scalars(tag)])
            for tag in events.Tags()["scalars"]
        }
        texts = [event.tensor_proto.string_val for event in _tensors(events)]
        text = texts[-1][0].decode("utf-8") if texts and len(texts[-1]) else "{}"
    except Exception as error:  # TensorBoard and its readers raise nearly anything about a damaged file
        raise InputError(f"{folder} cannot be read as a log of TensorBoard ({reason_of(error)}): {advice}.") from error
    content = parse_json(text, str(folder), advice)
    settings, versions = (content.get(key, {}) for key in ("settings", "versions"))
    if not isinstance(settings, dict) or not isinstance(versions, dict):
        raise InputError(f"{folder} cannot be read (its settings are no object): {advice}.")
    return TrainingLog(
        losses={tag: points for tag, points in scalars.items() if points and "loss" in tag},
        metrics={tag: points for tag, points in scalars.items() if points and "loss" not in tag},
        settings=settings,
        versions=versions,
    )


def _tensors(events: Any) -> list[Any]:
    """The texts with settings, of each training that was begun or resumed."""
    return events.Tensors(_SETTINGS) if _SETTINGS in events.Tags()["tensors"] else []


def _of_last_run(points: Points) -> Points:
    """
    The points of the training that is there now.

    A folder keeps the logs of all trainings in it. One that was resumed goes on where its state was written, one that
    was replaced begins anew: what was logged of a step before counts no more, nor does what came after.
    """
    kept: Points = []
    for step, value in points:
        while kept and kept[-1][0] >= step:
            kept.pop()
        kept.append((step, value))
    return [point for point in kept if math.isfinite(point[1])]
