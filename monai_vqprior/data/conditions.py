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
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from monai_vqprior.data.layout import natural_key
from monai_vqprior.errors import InputError
from monai_vqprior.values import PLAIN_TEXT

__all__ = ["Conditions", "fit_condition"]

logger = logging.getLogger(__name__)

#: cells for a missing value, in lower case: an empty one, BIDS' n/a, what R and pandas write.
_MISSING = ("", "n/a", "na", "nan")
_FAR = 5  # standard deviations from the training's mean


@dataclass(frozen=True)
class _Label:
    """A condition with classes, which are numbers to the network."""

    name: str
    classes: tuple[str, ...]

    def encode(self, cell: str) -> int:
        """Number of a class, -1 for what is missing and for a class that the training has not seen."""
        return self.classes.index(cell) if cell in self.classes else -1

    def parse(self, text: str) -> int:
        if text not in self.classes:
            raise InputError(f"{self.name} has no class {text!r}: the prior knows {', '.join(self.classes)}.")
        return self.encode(text)

    @property
    def settings(self) -> dict[str, Any]:
        return {"name": self.name, "classes": list(self.classes)}


@dataclass(frozen=True)
class _Value:
    """A condition with a number, in standard deviations from the mean to the network."""

    name: str
    mean: float
    std: float

    def encode(self, cell: str) -> float:
        """Standardized number, NaN for what is missing or no number."""
        number = _number(cell)
        return math.nan if number is None else (number - self.mean) / self.std

    def parse(self, text: str) -> float:
        encoded = self.encode(text)
        if math.isnan(encoded):
            raise InputError(f"{self.name} must be a number, got {text!r}: the prior knows {self}.")
        if abs(encoded) > _FAR:
            logger.warning("%s=%s is far from all that the prior has seen: %s", self.name, text, self)
        return encoded

    @property
    def settings(self) -> dict[str, Any]:
        return {"name": self.name, "mean": self.mean, "std": self.std}

    def __str__(self) -> str:
        return f"{self.name} (mean {self.mean:g}, standard deviation {self.std:g})"


class Conditions:
    """
    The conditions of a prior, and their encoding as numbers.

    A class becomes its number, -1 where it is missing; a value becomes its distance from the mean of the training in
    standard deviations, NaN where it is missing. :class:`~monai_vqprior.data.ConditionTable` fits them to a training
    split.

    Args:
        conditions: for each condition its ``name``, and either its ``classes`` in order or the ``mean`` and ``std`` of
            its values. Empty for a prior without conditions.

    Raises:
        InputError: when an entry has another form, or two have one name.

    Example:
        >>> age_and_sex = Conditions([{"name": "age", "mean": 50, "std": 20}, {"name": "sex", "classes": ["F", "M"]}])
        >>> age_and_sex.encode({"age": "72", "sex": ""})
        {'age': 1.1, 'sex': -1}
        >>> age_and_sex.parse("sex=M")
        {'labels': [1], 'values': [nan]}
    """

    def __init__(self, conditions: Sequence[Mapping[str, Any]] = ()) -> None:
        if isinstance(conditions, str):
            raise InputError(
                f"conditions must be those of a trained prior, got {conditions!r}; --condition asks for one."
            )
        entries = [_entry(condition) for condition in conditions]
        names = [entry.name for entry in entries]
        if len(set(names)) < len(names):
            raise InputError(f"conditions must be named once each, got {', '.join(names)}.")
        self._labels = [entry for entry in entries if isinstance(entry, _Label)]
        self._values = [entry for entry in entries if isinstance(entry, _Value)]
        self._entries = {entry.name: entry for entry in entries}

    @property
    def names(self) -> list[str]:
        """All conditions, in the order in which they were named."""
        return list(self._entries)

    @property
    def label_names(self) -> list[str]:
        """The conditions with classes, in the order of the network's ``labels``."""
        return [label.name for label in self._labels]

    @property
    def value_names(self) -> list[str]:
        """The conditions with values, in the order of the network's ``values``."""
        return [value.name for value in self._values]

    @property
    def num_classes(self) -> list[int]:
        """Number of classes of each label, as :class:`~monai_vqprior.networks.GatedPixelCNN` wants it."""
        return [len(label.classes) for label in self._labels]

    @property
    def num_values(self) -> int:
        """Number of values."""
        return len(self._values)

    @property
    def settings(self) -> list[dict[str, Any]]:
        """The arguments of the same conditions, as JSON can hold them."""
        return [entry.settings for entry in self._entries.values()]

    def encode(self, cells: Mapping[str, str]) -> dict[str, int | float]:
        """
        Encode a row of a table for the network.

        Args:
            cells: text by the name of the condition; what is not there is missing.

        Returns:
            a class number or a standardized value by the name of the condition.
        """
        return {name: entry.encode(cells.get(name, "")) for name, entry in self._entries.items()}

    def parse(self, condition: str | None) -> dict[str, list[int | float]]:
        """
        Encode a requested condition for the network.

        Args:
            condition: such as ``dementia=Mild_Demented,slice=0.5``, values in the units of the table; conditions that
                are not named are missing. A class with a comma in it is put in double quotes with its name. None for
                nothing asked.

        Returns:
            ``labels`` and ``values``, those of them that there are, for
            :meth:`monai_vqprior.inferers.VQPriorInferer.sample`; nothing where nothing was asked.

        Raises:
            InputError: when the text has another form, or a name, class or number is unknown.
        """
        if condition is None:
            return {}
        told: dict[str, int | float] = {}
        for pair in next(csv.reader([str(condition)], skipinitialspace=True), []):
            name, equals, text = (part.strip() for part in pair.partition("="))
            if not equals:
                raise InputError(f"condition must look like name=value,name=value, got {condition!r}.")
            if name not in self._entries:
                known = f"knows {', '.join(self._entries)}" if self._entries else "was trained without --conditions"
                raise InputError(f"there is no condition {name!r}: the prior {known}.")
            if name in told:
                raise InputError(f"condition must name {name} once, got {condition!r}.")
            told[name] = self._entries[name].parse(text)
        if not told:
            raise InputError("condition must look like name=value,name=value, got ''.")
        encoded = {**self.encode({}), **told}
        kinds = {"labels": self.label_names, "values": self.value_names}
        return {kind: [encoded[name] for name in names] for kind, names in kinds.items() if names}


def fit_condition(name: str, cells: Sequence[str]) -> dict[str, Any]:
    """
    What a column of a table is: classes in natural order when a cell is no number, else values and their scale.

    Args:
        name: name of the column.
        cells: what it says of each slice of the training split; empty cells, n/a, NA and nan are missing.

    Returns:
        an entry for :class:`Conditions`. Mean and standard deviation have six digits, so that settings stay readable.

    Raises:
        InputError: when no slice has a value, or a class cannot be written into a configuration.
    """
    known = [cell for cell in cells if cell.lower() not in _MISSING]
    if not known:
        raise InputError(f"the condition {name!r} is missing for all {len(cells)} slices of the training split.")
    if len(set(known)) == 1:
        logger.warning("the condition %s is %s for all slices of the training split", name, known[0])
    numbers = [number for number in map(_number, known) if number is not None]
    classes = sorted(set(known), key=natural_key) if len(numbers) < len(known) else []
    _check_text(name, *classes)
    if classes:
        return {"name": name, "classes": classes}
    try:
        mean = math.fsum(numbers) / len(numbers)
        std = math.sqrt(math.fsum((number - mean) ** 2 for number in numbers) / len(numbers))
    except OverflowError as error:
        raise InputError(f"the condition {name!r} has numbers that are too large, such as {max(numbers)}.") from error
    # Values that are all the same have no scale; 1 leaves them at zero.
    return {"name": name, "mean": float(f"{mean:.6g}"), "std": float(f"{std:.6g}") or 1.0}


def _check_text(*texts: str) -> None:
    """Refuse names and classes that a configuration, which they are written into, would not leave as they are."""
    for text in texts:
        if not PLAIN_TEXT.accepts(text):
            raise InputError(
                f"{text!r} cannot be written into a configuration, where $, @, % and # mean more and each text is one "
                "line: rename it."
            )


def _entry(condition: Mapping[str, Any]) -> _Label | _Value:
    """The condition that an entry describes."""
    try:
        told = dict(condition)
        name = str(told.pop("name"))
        if set(told) == {"classes"} and told["classes"] and not isinstance(told["classes"], str):
            classes = tuple(map(str, told["classes"]))
            _check_text(name, *classes)
            return _Label(name, classes)
        if set(told) == {"mean", "std"} and 0 < float(told["std"]) < math.inf and math.isfinite(float(told["mean"])):
            _check_text(name)
            return _Value(name, float(told["mean"]), float(told["std"]))
    except InputError:
        raise
    except (TypeError, ValueError, KeyError, OverflowError):
        pass
    raise InputError(
        f"a known condition has a name and classes, or a name, a mean and a positive std, got {condition!r}."
    )


def _number(cell: str) -> float | None:
    """A finite number, or None for any other text."""
    try:
        number = float(cell)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
