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

from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

__all__ = ["Interval", "bootstrap_interval", "subject_rows"]


@dataclass(frozen=True)
class Interval:
    """
    A figure with its 95 % interval.

    Attributes:
        value: the figure.
        low: lower end of the interval.
        high: upper end of the interval.
    """

    value: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        """The three numbers by name, for JSON."""
        return asdict(self)


def subject_rows(subjects: Sequence[Hashable]) -> list[np.ndarray]:
    """The rows of each subject, in the order in which subjects first occur, of a list with the subject of each row."""
    rows: dict[Hashable, list[int]] = {}
    for row, subject in enumerate(subjects):
        rows.setdefault(subject, []).append(row)
    return [np.array(found) for found in rows.values()]


def bootstrap_interval(
    statistic: Callable[..., float],
    *groups: tuple[np.ndarray, Sequence[Hashable] | None],
    rounds: int = 1000,
    seed: int = 0,
) -> Interval:
    """
    The 95 % percentile interval of a statistic, by drawing subjects with replacement.

    Slices of one subject resemble one another, so subjects are drawn, each with all of its slices: Efron and
    Tibshirani, "An Introduction to the Bootstrap" (1993), chapters 8 and 13. ``scipy.stats.bootstrap`` draws single
    observations.

    Args:
        statistic: takes an array for each of ``groups`` and returns a number.
        groups: pairs of values (N, ...) and the subject of each of them; None where each value is of its own subject.
            Each pair is drawn from independently.
        rounds: how often to draw.
        seed: seed of the draws.

    Returns:
        the statistic of the values as they are, and its interval.

    Raises:
        ValueError: when there is nothing to draw from.

    Example:
        >>> bootstrap_interval(np.mean, (np.array([1.0, 1.0, 3.0, 3.0]), ["a", "a", "b", "b"]))
        Interval(value=2.0, low=1.0, high=3.0)
    """
    if not groups or any(len(values) == 0 for values, _ in groups):
        raise ValueError("a bootstrap needs at least one value in each group.")
    rng = np.random.default_rng(seed)
    members = [None if subjects is None else subject_rows(subjects) for _, subjects in groups]
    drawn = np.empty(rounds)
    for i in range(rounds):
        parts = [
            values[_draw(rng, len(values), rows)] for (values, _), rows in zip(groups, members, strict=True)
        ]  # fmt: skip
        drawn[i] = statistic(*parts)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Interval(float(statistic(*(values for values, _ in groups))), float(low), float(high))


def _draw(rng: np.random.Generator, number: int, rows: list[np.ndarray] | None) -> np.ndarray:
    """Rows of subjects drawn with replacement, as many subjects as there are."""
    if rows is None:
        return rng.integers(number, size=number)
    return np.concatenate([rows[i] for i in rng.integers(len(rows), size=len(rows))])
