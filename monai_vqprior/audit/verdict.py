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

from scipy import stats

from monai_vqprior.metrics import Interval

__all__ = ["THRESHOLDS", "VERDICTS", "Verdict", "judge_newness", "share_interval"]

#: The verdicts, the best first.
VERDICTS = ("pass", "look", "fail")

# Of known copies at least this share must be found, for the absence of copies to mean something.
_LEAST_FOUND = 0.9

# With no copy among fewer samples, more than 0.1 of all samples may be copies: the end of the exact 95 % interval.
_LEAST_SAMPLES = 36

#: For each measure of newness, above what value the lower end of its interval means ``look``, and ``fail``. Training
#: slices fail when they are recognized as surely as known copies must be; above a half, most of them are recognized.
THRESHOLDS: Mapping[str, tuple[float, float]] = {
    "copies": (0.0, 0.01),
    "local_ratio_below_1_percent": (0.02, 0.1),
    "recognized": (0.5, _LEAST_FOUND),
}

_MEANING = {
    "copies": "share of the samples that are copies of training slices",
    "local_ratio_below_1_percent": "share of the samples that are nearer to one training slice than to the others",
    "recognized": "share of the training slices that whoever has the weights recognizes, at 1 % false alarms",
}


@dataclass(frozen=True)
class Verdict:
    """
    May the samples be shared, as far as the audit can tell?

    Attributes:
        word: one of ``VERDICTS``.
        reasons: a line for each measure that is above a threshold.
    """

    word: str
    reasons: list[str]


def share_interval(count: int, total: int) -> Interval:
    """A share with its exact 95 % interval, after Clopper and Pearson (1934)."""
    found = stats.binomtest(count, total).proportion_ci(0.95, "exact")
    return Interval(count / total, float(found.low), float(found.high))


def judge_newness(
    measures: Mapping[str, Interval | None], found: float = 1.0, samples: int = _LEAST_SAMPLES
) -> Verdict:
    """
    The verdict on measures of newness.

    Args:
        measures: by the names in ``THRESHOLDS``, None for one that could not be measured. A larger value is worse.
        found: share of known copies that are found to be copies.
        samples: how many samples were compared.

    Returns:
        ``fail`` where the lower end of an interval is above the second threshold, else ``look`` where one is above the
        first, or less than 0.9 of known copies are found, or there are fewer than 36 samples, else ``pass``.
    """
    word, reasons = 0, list[str]()
    for name, interval in measures.items():
        level = _level(interval, THRESHOLDS[name])
        if level and interval is not None:
            reasons.append(
                f"{VERDICTS[level]}: {_MEANING[name]}: {interval.value:.3f} (95 % interval {interval.low:.3f} to "
                f"{interval.high:.3f}), above {THRESHOLDS[name][level - 1]:g}"
            )
        word = max(word, level)
    if found < _LEAST_FOUND:
        word = max(word, 1)
        reasons.append(
            f"{VERDICTS[1]}: of reconstructions of training slices only {found:.3f} are found to be copies, less than "
            f"{_LEAST_FOUND:g}: train the autoencoder longer, or look for copies among the samples yourself"
        )
    if samples < _LEAST_SAMPLES:
        word = max(word, 1)
        reasons.append(
            f"{VERDICTS[1]}: {samples} samples are few: with no copy among them up to "
            f"{share_interval(0, samples).high:.3f} of all may be copies, and only large differences from real slices "
            f"show: `vqprior sample --resume --num_samples {_LEAST_SAMPLES}` draws enough"
        )
    return Verdict(VERDICTS[word], reasons)


def _level(interval: Interval | None, thresholds: Sequence[float]) -> int:
    """How many of the thresholds an interval is above with its lower end."""
    return 0 if interval is None else sum(interval.low > threshold for threshold in thresholds)
