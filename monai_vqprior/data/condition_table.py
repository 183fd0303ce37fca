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

import difflib
import logging
import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from functools import cached_property
from typing import Any

from monai_vqprior.data.conditions import Conditions, fit_condition
from monai_vqprior.data.slices import SliceFolder
from monai_vqprior.data.tables import ID_COLUMNS, read_table
from monai_vqprior.errors import InputError

__all__ = ["POSITION", "ConditionTable"]

logger = logging.getLogger(__name__)

#: the condition that every data set has: where a slice lies among the slices of its scan, from 0 to 1.
POSITION = "slice"
_ID_COLUMNS = ("case", *ID_COLUMNS)
#: columns that say which slice it is, not what it shows; and what a batch has under names of its own.
_NO_CONDITIONS = (*_ID_COLUMNS, "session", "split", "file", "index", "image", "path", "codes", POSITION)


class ConditionTable:
    """
    The conditions of the slices of a data set, for a prior.

    Two tables in the data set's folder say it, either or both of them: ``subjects.csv``, a row a subject, and
    ``slices.csv``, a row a slice, which goes first where both say something::

        case,split,dementia,age        case,index,ventricle_size
        441,train,Mild_Demented,72     441,0,0.31
        442,train,,68                  441,1,0.33

    ``case`` is ``441`` or ``case_441`` for ``case_441_slice_0.nii.png``; for slices of other names it is their subject
    (``sub-01``), and the column may be called ``subject``, ``participant_id`` or ``ID``. Besides, ``slice`` exists for
    every slice: its place among those of its scan, 0 for the first and 1 for the last.

    A column with text is a class label, one with numbers alone a continuous value. What has no row, or an empty cell,
    is missing; so is a class that the training split has not.

    Args:
        slices: the data set. Its tables are read at the first use of a condition.

    Example:
        >>> table = ConditionTable(SliceFolder("oasis"))  # doctest: +SKIP
        >>> conditions = table.fit(["dementia", "slice"])  # doctest: +SKIP
        >>> table.join(table.slices.datalist("test"), conditions)[0]  # doctest: +SKIP
        {'image': 'oasis/…/case_441_slice_0.nii.png', 'subject': 'case_441', 'index': 0, 'dementia': 2, 'slice': -1.68}
    """

    def __init__(self, slices: SliceFolder) -> None:
        self.slices = slices

    @property
    def names(self) -> list[str]:
        """The conditions that the data set has."""
        columns = dict.fromkeys((*self._subjects[0], *self._slices[0]))
        return [POSITION, *(column for column in columns if column and column not in _NO_CONDITIONS)]

    def fit(self, conditions: str | Sequence[str | Mapping[str, Any]], also: Sequence[str] = ()) -> Conditions:
        """
        Look in the training split what classes a condition has, or at what mean and scale its values lie.

        Args:
            conditions: names of conditions; also as text, ``[dementia,slice]``. An entry as :class:`Conditions` takes
                it is left as it is: the prior of another data set brings its own, and numbers can be made classes by
                ``{"name": "cdr", "classes": ["0", "0.5", "1"]}``.
            also: names of conditions that are needed besides, such as ``slice`` for whole heads; those that are named
                already are not added.

        Returns:
            the conditions.

        Raises:
            InputError: when the data set has no such condition, or has it for no slice of the training split, and when
                these are no names.
        """
        if isinstance(conditions, str):
            conditions = [name.strip() for name in conditions.strip("[]()").split(",") if name.strip()]
        if not isinstance(conditions, Sequence):
            raise InputError(f"conditions must be a list of names, such as [dementia,slice], got {conditions!r}.")
        named = {entry.get("name") if isinstance(entry, Mapping) else str(entry) for entry in conditions}
        needed = [name for name in also if name not in named]
        return Conditions([self._entry(condition) for condition in (*conditions, *needed)])

    def with_distributions(self, conditions: Conditions) -> Conditions:
        """
        The same conditions, with their distributions in the training split, which samples are drawn by.

        Args:
            conditions: what :meth:`fit` returns.
        """
        return conditions.with_distributions(self.join(self.slices.datalist("train"), conditions))

    def join(self, items: Sequence[Mapping[str, Any]], conditions: Conditions) -> list[dict[str, Any]]:
        """
        Join conditions to slices.

        Args:
            items: slices as :meth:`SliceFolder.datalist` describes them.
            conditions: what to join.

        Returns:
            the items, each with a class number or a standardized value for each condition, under its name.
        """
        return [{**item, **conditions.encode(self._cells(item, conditions.names))} for item in items]

    def describe(self, conditions: Conditions) -> str:
        """The training split in one line: slices of each class, where values lie, and how many slices miss them."""
        items = self.join(self.slices.datalist("train"), conditions)
        parts = []
        for condition in conditions.settings:
            codes = [item[condition["name"]] for item in items]
            if "classes" in condition:
                counts = Counter(codes)
                missing = counts[-1]
                said = ", ".join(f"{text} {counts[number]}" for number, text in enumerate(condition["classes"]))
            else:
                missing = sum(map(math.isnan, codes))
                said = f"mean {condition['mean']:g}, standard deviation {condition['std']:g}"
            parts.append(f"{condition['name']} ({said}{f'; missing {missing}' if missing else ''})")
        return ", ".join(parts)

    def _entry(self, condition: str | Mapping[str, Any]) -> Mapping[str, Any]:
        """An entry of :class:`Conditions` for a condition that the data set has."""
        if isinstance(condition, Mapping):
            if condition.get("name") not in self.names:
                logger.warning("%s does not tell %s: it is missing", self.slices.dataset_dir, condition.get("name"))
            return condition
        name = str(condition)
        if name not in self.names:
            close = difflib.get_close_matches(name, self.names, n=1)
            hint = f"did you mean {close[0]}? " if close else ""
            raise InputError(
                f"there is no condition {name!r}: {hint}subjects.csv and slices.csv in {self.slices.dataset_dir} have "
                f"{', '.join(self.names[1:]) or 'none'}, and {POSITION} is always there."
            )
        return fit_condition(name, [self._cells(item, [name])[name] for item in self.slices.datalist("train")])

    def _cells(self, item: Mapping[str, Any], names: Sequence[str]) -> dict[str, str]:
        """What is said of a slice, as text; empty where nothing is."""
        if not names:
            return {}
        subject = _subject_key(item["subject"])
        of_subject = self._subjects[1].get(subject, {})
        of_slice = self._slices[1].get((subject, item["index"]), {})
        cells = {name: of_slice.get(name) or of_subject.get(name, "") for name in names}
        if POSITION in cells:
            first, last = self._extent[self.slices.scan_of(item["image"])]
            cells[POSITION] = str((item["index"] - first) / (last - first) if last > first else 0.5)
        return cells

    @cached_property
    def _subjects(self) -> tuple[list[str], dict[Hashable, dict[str, str]]]:
        """``subjects.csv``: columns, and rows by subject."""
        return self._read("subjects.csv", by_slice=False)

    @cached_property
    def _slices(self) -> tuple[list[str], dict[Hashable, dict[str, str]]]:
        """``slices.csv``: columns, and rows by subject and index."""
        return self._read("slices.csv", by_slice=True)

    @cached_property
    def _extent(self) -> dict[str, tuple[int, int]]:
        """First and last index of each scan's slices."""
        extent: dict[str, tuple[int, int]] = {}
        for item in self.slices.datalist("all"):
            scan = self.slices.scan_of(item["image"])
            first, last = extent.get(scan, (item["index"], item["index"]))
            extent[scan] = min(first, item["index"]), max(last, item["index"])
        return extent

    def _read(self, name: str, by_slice: bool) -> tuple[list[str], dict[Hashable, dict[str, str]]]:
        places = [folder / name for folder in (self.slices.dataset_dir, self.slices.root)]
        path = next((path for path in places if path.is_file()), None)
        if path is None:
            return [], {}
        return read_table(path, _ID_COLUMNS, _slice_key if by_slice else lambda subject, row: _subject_key(subject))


def _subject_key(subject: str) -> str:
    """What ``41``, ``041`` (spreadsheets drop the zero) and ``case_041`` have in common; other names as they are."""
    number = subject.removeprefix("case_")
    return str(int(number)) if number.isdecimal() else subject


def _slice_key(subject: str, row: Mapping[str, str]) -> tuple[str, int]:
    """Subject and index of a row of ``slices.csv``."""
    index = row.get("index", "")
    if not index.isdecimal():
        raise ValueError(f"the column index must be a whole number, got {index!r}")
    return _subject_key(subject), int(index)
