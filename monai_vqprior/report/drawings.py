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
from pathlib import Path
from typing import Any

from markupsafe import Markup

from monai_vqprior.report.columns import COLUMNS
from monai_vqprior.report.curves import TrainingLog
from monai_vqprior.report.slice_tables import code_shares, means_of_subjects, read_columns, read_grid
from monai_vqprior.report.svg import heat_map, line_chart, strip_plot

__all__ = ["code_usage", "distributions", "map_of_bits", "training_curves"]

#: curves of a stage at most: metrics that a configuration has added come last.
_MOST_CURVES = 12
_MOST_POINTS = 150  # of the usage of the codes
_LABELS = {column.key: column.label for column in COLUMNS}
_OF_CODES = {"train": "training split", "evaluated": "evaluated split"}


def training_curves(log: TrainingLog) -> list[tuple[str, Markup]]:
    """
    The curves of a training, each with what it shows.

    Args:
        log: the log of a stage.
    """
    curves = [(name, points, "step") for name, points in log.losses.items()]
    curves += [(name, points, "epoch, on the validation split") for name, points in log.metrics.items()]
    return [
        (
            _LABELS.get(name, name.replace("_", " ")),
            line_chart(
                {name: points},
                f"{name} from {points[0][1]:.4g} at {points[0][0]} to {points[-1][1]:.4g} at {points[-1][0]}",
                along,
            ),
        )
        for name, points, along in curves[:_MOST_CURVES]
    ]


def distributions(path: Path, metrics: Mapping[str, Any] | None) -> list[tuple[str, Markup]]:
    """
    The distribution of each metric over the subjects, with what it is of.

    Args:
        path: ``metrics.csv``; an empty list where there is no such file.
        metrics: the content of ``metrics.json``, checked, which has the intervals; None where there is none.

    Raises:
        InputError: when it cannot be read.
    """
    if not path.is_file():
        return []
    intervals = (metrics or {}).get("by_subject", {})
    drawn = []
    for name, values in means_of_subjects(path).items():
        told = intervals.get(name)
        ends = None if told is None or None in told.values() else (told["low"], told["mean"], told["high"])
        title = f"{_LABELS.get(name, name)} of {len(values)} subjects: {min(values):.4g} to {max(values):.4g}"
        drawn.append((_LABELS.get(name, name), strip_plot(values, title, ends)))
    return drawn


def code_usage(path: Path) -> Markup | None:
    """
    How unevenly the codes are used.

    Args:
        path: ``metrics_codes.csv``; None is returned where there is no such file.

    Raises:
        InputError: when it cannot be read.
    """
    if not path.is_file():
        return None
    columns = read_columns(path, tuple(_OF_CODES))
    shares = {label: code_shares(columns, path, split) for split, label in _OF_CODES.items()}
    points = shares["evaluated split"]
    half = next(number for number, share in points if share >= 0.5)
    title = f"share of the most frequent codes: {half:.0f} of {len(points) - 1} codes make half of all places"
    rows = sorted({*range(0, len(points), 1 + len(points) // _MOST_POINTS), len(points) - 1})
    lines = {label: [share[row] for row in rows] for label, share in shares.items()}
    return line_chart(lines, title, "codes, the most frequent first", "share")


def map_of_bits(path: Path) -> dict[str, Any] | None:
    """
    Where in a slice the bits are.

    Args:
        path: ``metrics_bits.csv``; None is returned where there is no such file.

    Raises:
        InputError: when it cannot be read.
    """
    if not path.is_file():
        return None
    rows = read_grid(path)
    values = [value for row in rows for value in row]
    told = f"{min(values):.3g} to {max(values):.3g} bits a code, {sum(values) / len(values):.3g} on average"
    return {"told": told, "drawing": heat_map(rows, f"map of the bits of a slice: {told}")}
