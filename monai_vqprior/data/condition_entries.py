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

"""A condition of a prior: what it may be, and its encoding as a number."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from monai_vqprior.data.condition_draws import DISTRIBUTION_KEYS, Quantiles, Shares, read_distribution
from monai_vqprior.data.layout import natural_key
from monai_vqprior.errors import InputError
from monai_vqprior.values import PLAIN_TEXT

__all__ = ["Label", "Value", "fit_condition", "read_entry"]

logger = logging.getLogger(__name__)

#: cells for a missing value, in lower case: an empty one, BIDS' n/a, what R and pandas write.
_MISSING = ("", "n/a", "na", "nan")
_FAR = 5  # standard deviations from the training's mean


@dataclass(frozen=True)
class Label:
    """A condition with classes, which are numbers to the network."""

    name: str
    classes: tuple[str, ...]
    distribution: Shares | Quantiles | None = None
    related: tuple[str, ...] = ()

    def encode(self, cell: str) -> int:
        """Number of a class, -1 for what is missing and for a class that the training has not seen."""
        return self.classes.index(cell) if cell in self.classes else -1

    def parse(self, text: str) -> int:
        if text not in self.classes:
            raise InputError(f"{self.name} has no class {text!r}: the prior knows {', '.join(self.classes)}.")
        return self.encode(text)

    @property
    def settings(self) -> dict[str, Any]:
        return {"name": self.name, "classes": list(self.classes), **_settings_of(self)}

    def decode(self, encoded: float) -> str:
        """The class of a number, empty where it is missing."""
        return self.classes[int(encoded)] if encoded >= 0 else ""

    def standardize(self, numbers: np.ndarray) -> np.ndarray:
        """To the network a class is its number."""
        return numbers

    def known(self, encoded: Sequence[float]) -> np.ndarray:
        """Numbers of classes, NaN where they are missing."""
        return np.array([number if number >= 0 else math.nan for number in encoded])


@dataclass(frozen=True)
class Value:
    """A condition with a number, in standard deviations from the mean to the network."""

    name: str
    mean: float
    std: float
    distribution: Shares | Quantiles | None = None
    related: tuple[str, ...] = ()

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
        return {"name": self.name, "mean": self.mean, "std": self.std, **_settings_of(self)}

    def decode(self, encoded: float) -> str:
        """A number in the units of the table, to a hundred thousandth of its scale; empty where it is missing."""
        if math.isnan(encoded):
            return ""
        number = round(encoded * self.std + self.mean, 5 - math.floor(math.log10(self.std)))
        return f"{number + 0.0:.12g}"  # no -0

    def standardize(self, numbers: np.ndarray) -> np.ndarray:
        """Distances from the mean in standard deviations, of numbers in the units of the table."""
        return (numbers - self.mean) / self.std

    def known(self, encoded: Sequence[float]) -> np.ndarray:
        """Numbers in the units of the table, NaN where they are missing."""
        return np.array(encoded, float) * self.std + self.mean

    def __str__(self) -> str:
        return f"{self.name} (mean {self.mean:g}, standard deviation {self.std:g})"


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


def read_entry(condition: Mapping[str, Any]) -> Label | Value:
    """The condition that an entry describes."""
    try:
        told = dict(condition)
        name = str(told.pop("name"))
        related = _names(told.pop("related", ()))
        distribution = {key: told.pop(key) for key in DISTRIBUTION_KEYS if key in told}
        if set(told) == {"classes"} and told["classes"] and not isinstance(told["classes"], str):
            classes = tuple(map(str, told["classes"]))
            _check_text(name, *classes)
            return Label(name, classes, read_distribution(distribution, len(classes)), related)
        if set(told) == {"mean", "std"} and 0 < float(told["std"]) < math.inf and math.isfinite(float(told["mean"])):
            _check_text(name)
            mean, std = float(told["mean"]), float(told["std"])
            return Value(name, mean, std, read_distribution(distribution, None), related)
    except InputError:
        raise
    except (TypeError, ValueError, KeyError, OverflowError):
        pass
    raise InputError(
        "a known condition has a name and classes, or a name, a mean and a positive std, and at most the shares or "
        f"quantiles of them, got {condition!r}."
    )


def _settings_of(entry: Label | Value) -> dict[str, Any]:
    """How a condition is distributed, as JSON can hold it."""
    told: dict[str, Any] = {} if entry.distribution is None else entry.distribution.settings
    return {**told, "related": list(entry.related)} if entry.related else told


def _names(names: Sequence[str]) -> tuple[str, ...]:
    """Names of conditions, which are text in a list."""
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"names must be a list of text, got {names!r}")
    return tuple(names)


def _number(cell: str) -> float | None:
    """A finite number, or None for any other text."""
    try:
        number = float(cell)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
