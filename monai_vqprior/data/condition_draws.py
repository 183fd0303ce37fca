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

"""How a condition is distributed in a training split, and how it is drawn for samples of which nobody asked for it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import contingency

__all__ = [
    "DISTRIBUTION_KEYS",
    "Quantiles",
    "Shares",
    "condition_uniforms",
    "cramers_v",
    "fit_distribution",
    "read_distribution",
]

_QUANTILES = 21
#: Words of the entry of a condition that say how it is distributed; the network knows nothing of them.
DISTRIBUTION_KEYS = ("numbers", "shares", "quantiles", "related")
# Apart from all other random numbers of a sample, which are those of its codes (sampling.draws.sample_uniforms).
_STREAM = 1
_GROUPS = 3


@dataclass(frozen=True)
class Shares:
    """
    A few numbers, each with its share.

    Args:
        shares: not negative, not all 0; need not sum to 1.
        numbers: as many; None for 0, 1, ..., the numbers of classes.
    """

    shares: tuple[float, ...]
    numbers: tuple[float, ...] | None = None

    def at(self, uniforms: np.ndarray) -> np.ndarray:
        """The numbers at places in [0, 1) of the distribution, (n,) each."""
        cumulative = np.cumsum(self.shares)
        indices = np.searchsorted(cumulative, uniforms * cumulative[-1], side="right")
        return indices if self.numbers is None else np.asarray(self.numbers)[indices]

    @property
    def settings(self) -> dict[str, list[float]]:
        """As JSON can hold it."""
        numbers = {} if self.numbers is None else {"numbers": list(self.numbers)}
        return {**numbers, "shares": list(self.shares)}


@dataclass(frozen=True)
class Quantiles:
    """
    A distribution by its quantiles, at equal steps from the least to the largest number, and linear between them.

    Args:
        quantiles: in ascending order, at least two.
    """

    quantiles: tuple[float, ...]

    def at(self, uniforms: np.ndarray) -> np.ndarray:
        """The numbers at places in [0, 1) of the distribution, (n,) each."""
        return np.interp(uniforms, np.linspace(0, 1, len(self.quantiles)), self.quantiles)

    @property
    def settings(self) -> dict[str, list[float]]:
        """As JSON can hold it."""
        return {"quantiles": list(self.quantiles)}


def fit_distribution(known: np.ndarray, num_classes: int | None) -> Shares | Quantiles:
    """
    The distribution of a condition.

    Numbers of few different values, such as grades, keep them: between two grades there is none.

    Args:
        known: what is known of a training split, (N,): numbers of classes, or values in the units of the table.
        num_classes: number of classes; None for values.

    Returns:
        the shares of classes, or of at most 21 different values; 21 quantiles of more of them. All have six digits.
    """
    if num_classes is not None:
        counts = np.bincount(known.astype(int), minlength=num_classes)
        return Shares(_rounded(counts / len(known)))
    numbers, counts = np.unique(known, return_counts=True)
    if len(numbers) <= _QUANTILES:
        return Shares(_rounded(counts / len(known)), _rounded(numbers))
    return Quantiles(_rounded(np.quantile(known, np.linspace(0, 1, _QUANTILES))))


def read_distribution(told: Mapping[str, Any], num_classes: int | None) -> Shares | Quantiles | None:
    """
    A distribution of its settings.

    Args:
        told: the settings, such as ``{"shares": [0.4, 0.6]}``.
        num_classes: number of classes; None for values.

    Returns:
        the distribution, None where there are no settings.

    Raises:
        TypeError, ValueError: when they are not those of a distribution.
    """
    lists = {key: tuple(map(float, value)) for key, value in told.items()}
    numbers = [number for some in lists.values() for number in some]
    if not all(map(math.isfinite, numbers)):
        raise ValueError("a number is not finite")
    if not lists:
        return None
    if set(lists) == {"quantiles"} and num_classes is None:
        quantiles = lists["quantiles"]
        if len(quantiles) < 2 or list(quantiles) != sorted(quantiles):
            raise ValueError("quantiles do not ascend")
        return Quantiles(quantiles)
    expected = {"shares"} if num_classes is not None else {"numbers", "shares"}
    if set(lists) != expected:
        raise ValueError("these are not the words of a distribution")
    shares = lists["shares"]
    if len(shares) != (num_classes or len(lists.get("numbers", ()))) or min(shares) < 0 or not sum(shares) > 0:
        raise ValueError("shares do not fit")
    return Shares(shares, lists.get("numbers"))


def cramers_v(one: np.ndarray, other: np.ndarray, classes: Sequence[bool]) -> float:
    """
    How much two conditions have to do with one another: Cramér's V, 0 for nothing and 1 for all.

    Values count in three groups of equal size, which finds relations that neither rise nor fall too. What is missing
    is a group of its own: a condition that is known of the old alone has to do with age.

    Args:
        one: of each slice, (N,), NaN where it is missing.
        other: likewise.
        classes: whether each of the two has classes.
    """
    groups = [_groups(values, own) for values, own in zip((one, other), classes, strict=True)]
    table = contingency.crosstab(*groups).count
    return 0.0 if min(table.shape) < 2 else float(contingency.association(table, method="cramer"))


def condition_uniforms(seed: int, index: int, number: int) -> np.ndarray:
    """
    The random numbers that the conditions of sample ``index`` are drawn by; they depend on ``(seed, index)`` alone.

    Args:
        seed: seed of the run, not negative.
        index: number of the sample, not negative.
        number: how many.

    Returns:
        (number,) float64 in [0, 1), others than those that its codes are drawn by.
    """
    sequence = np.random.SeedSequence([seed, index], spawn_key=(_STREAM,))
    return np.random.Generator(np.random.Philox(sequence)).random(number)


def _groups(values: np.ndarray, has_classes: bool) -> np.ndarray:
    """A whole number for each value: its class, or its third of those that are known; -1 where it is missing."""
    known = ~np.isnan(values)
    groups = np.full(len(values), -1)
    if has_classes or not known.any():
        groups[known] = values[known]
        return groups
    limits = np.quantile(values[known], np.arange(1, _GROUPS) / _GROUPS)
    groups[known] = np.searchsorted(limits, values[known])
    return groups


def _rounded(numbers: np.ndarray) -> tuple[float, ...]:
    return tuple(float(f"{number:.6g}") for number in numbers)
