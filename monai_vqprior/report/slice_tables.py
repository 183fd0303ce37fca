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

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from monai_vqprior.errors import InputError, reason_of

__all__ = ["code_shares", "means_of_subjects", "read_columns", "read_grid"]

_MOST_BYTES = 2**28
# Columns of metrics.csv that say which slice a row is of.
_NAMES = ("subject", "index", "image")


def means_of_subjects(path: Path) -> dict[str, list[float]]:
    """
    The mean of each metric over the slices of each subject.

    Args:
        path: ``metrics.csv``, see :func:`~monai_vqprior.report.write_slice_table`.

    Returns:
        for each metric a value for each subject that has one.

    Raises:
        InputError: when it cannot be read.
    """
    columns = read_columns(path, _NAMES)
    subjects = columns.pop("subject")
    means = {}
    for name, cells in columns.items():
        if name in _NAMES:
            continue
        of_subjects: dict[str, list[float]] = {}
        for subject, cell in zip(subjects, cells, strict=True):
            if cell:
                of_subjects.setdefault(subject, []).append(_number(path, cell))
        means[name] = [sum(values) / len(values) for values in of_subjects.values()]
    return {name: values for name, values in means.items() if values}


def read_columns(path: Path, needed: Sequence[str]) -> dict[str, list[str]]:
    """
    The cells of a CSV file that ``vqprior evaluate`` has written, by the names of their columns.

    Args:
        path: the file, with a first row of names.
        needed: columns that there must be.

    Raises:
        InputError: when it cannot be read.
    """
    heads, *rows = _rows(path) or [[]]
    if not set(needed) <= set(heads) or not rows or any(len(row) != len(heads) for row in rows):
        raise _unreadable(path, f"no table with the columns {', '.join(needed)}")
    return {head: [row[column] for row in rows] for column, head in enumerate(heads)}


def read_grid(path: Path) -> list[list[float]]:
    """
    The numbers of a CSV file without names, row by row, all of one length.

    Args:
        path: the file.

    Raises:
        InputError: when it cannot be read.
    """
    rows = [[_number(path, cell) for cell in row] for row in _rows(path)]
    if not rows or not rows[0] or len({len(row) for row in rows}) > 1:
        raise _unreadable(path, "no grid of numbers")
    return rows


def code_shares(columns: Mapping[str, Sequence[str]], path: Path, split: str) -> list[tuple[float, float]]:
    """
    Which share of all places the most frequent codes have.

    Args:
        columns: those of ``metrics_codes.csv``.
        path: the file, for messages.
        split: the column with the counts.

    Returns:
        for 0, 1, 2 and so on codes, the most frequent ones, the number and their share.
    """
    counts = sorted((_number(path, cell) for cell in columns[split]), reverse=True)
    total = sum(counts)
    if total <= 0 or counts[-1] < 0:
        raise _unreadable(path, "no counts")
    points, found = [(0.0, 0.0)], 0.0
    for number, count in enumerate(counts, start=1):
        found += count
        points.append((float(number), found / total))
    return points


def _rows(path: Path) -> list[list[str]]:
    try:
        size = path.stat().st_size
        if size > _MOST_BYTES:
            raise ValueError(f"{size} bytes, more than {_MOST_BYTES}")
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.reader(file))
    except (OSError, ValueError, csv.Error) as error:
        raise _unreadable(path, reason_of(error)) from error


def _number(path: Path, text: str) -> float:
    """A finite number."""
    try:
        value = float(text)
    except ValueError as error:
        raise _unreadable(path, f"{text[:20]!r} is no number") from error
    if not math.isfinite(value) or abs(value) > 1e12:
        raise _unreadable(path, f"{text[:20]!r} is no number that was measured")
    return value


def _unreadable(path: Path, reason: str) -> InputError:
    return InputError(f"{path} cannot be read ({reason.rstrip('.')}): run `vqprior evaluate` again.")
