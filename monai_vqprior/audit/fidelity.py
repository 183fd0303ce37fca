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

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import torch

from monai_vqprior.audit.descriptors import ANATOMY, DESCRIPTORS, coarse_pictures, describe
from monai_vqprior.audit.real_features import RealFeatures
from monai_vqprior.audit.two_samples import classifier_auc, frechet_distance, ks_distance
from monai_vqprior.metrics import FittingMSSSIMMetric, Interval
from monai_vqprior.transforms import BytesToUnit

__all__ = ["WORDS", "DescribedSlices", "Figure", "compare_sets", "describe_slices", "pair_similarities"]

_BATCH = 16

#: What is said of a figure.
WORDS = ("as good as real slices", "as good as reconstructions", "can be told apart")

_LABELS = {
    "density": "density",
    "coverage": "coverage",
    "precision": "precision",
    "recall": "recall",
    "frechet": "Fréchet distance",
    "mmd": "MMD",
    "classifier": "AUC of a classifier",
}
_HIGHER = ("density", "coverage", "precision", "recall")
_SPACES = {"anatomy": "descriptors of anatomy", "encodings": "encodings"}
_INTENSITIES = {"mean": "mean intensity", "std": "spread of intensities"}


@dataclass(frozen=True)
class DescribedSlices:
    """
    A set of slices by its features.

    Attributes:
        descriptors: what :func:`~monai_vqprior.audit.describe` returns.
        coarse: what :func:`~monai_vqprior.audit.coarse_pictures` returns.
        encodings: (N, D), features of a network.
        subjects: subject of each slice; None where each is of its own, as samples are.
    """

    descriptors: Mapping[str, np.ndarray]
    coarse: np.ndarray
    encodings: np.ndarray
    subjects: Sequence[Hashable] | None = None

    def __len__(self) -> int:
        return len(self.coarse)

    def take(self, rows: np.ndarray) -> DescribedSlices:
        """Some of the slices."""
        return replace(
            self,
            descriptors={name: values[rows] for name, values in self.descriptors.items()},
            coarse=self.coarse[rows],
            encodings=self.encodings[rows],
            subjects=None if self.subjects is None else [self.subjects[row] for row in rows],
        )


@dataclass(frozen=True)
class Figure:
    """
    A figure of samples, beside what it is for real slices and for reconstructions in their place.

    Attributes:
        name: key of the figure.
        label: what a reader sees.
        better: which values are better.
        samples: the figure of the samples.
        real: median and 95 % range of the figure for as many real slices of other subjects.
        reconstructions: the same for their reconstructions.
        p_value: share of draws of real slices that are at least as bad, the samples counted as one of them.
        word: one of ``WORDS``.
    """

    name: str
    label: str
    better: Literal["lower", "higher"]
    samples: float
    real: Interval
    reconstructions: Interval
    p_value: float
    word: str

    def as_dict(self) -> dict[str, Any]:
        """The figure for JSON."""
        return asdict(self)


def describe_slices(
    images: torch.Tensor, encodings: torch.Tensor, subjects: Sequence[Hashable] | None = None
) -> DescribedSlices:
    """
    The features that sets of slices are compared by.

    Args:
        images: (N, 1, H, W) uint8.
        encodings: (N, D), features of a network.
        subjects: subject of each slice; None where each is of its own.
    """
    features = encodings.double().cpu().numpy()
    return DescribedSlices(describe(images), coarse_pictures(images), features, subjects)


def pair_similarities(
    images: torch.Tensor, subjects: Sequence[Hashable] | None = None, pairs: int = 256, seed: int = 0
) -> np.ndarray:
    """
    Multi-scale SSIM of pairs of slices drawn at random: high when samples repeat one another.

    Args:
        images: (N, 1, H, W) uint8, at least two.
        subjects: subject of each slice, which are of two in each pair; None where each is of its own.
        pairs: how many to draw.
        seed: draws the pairs.

    Returns:
        (pairs,) float64; fewer where few of the pairs drawn are of two subjects.
    """
    rng = np.random.default_rng(seed)
    first = rng.integers(len(images), size=4 * pairs)
    second = (first + rng.integers(1, len(images), size=4 * pairs)) % len(images)
    names = np.arange(len(images)) if subjects is None else np.unique(np.asarray(subjects), return_inverse=True)[1]
    differ = np.flatnonzero(names[first] != names[second])[:pairs]
    if not len(differ):
        return np.empty(0)
    metric, unit = FittingMSSSIMMetric(2), BytesToUnit()
    values = [
        torch.as_tensor(metric(unit(images[first[rows]]), unit(images[second[rows]]))).flatten()
        for rows in np.split(differ, range(_BATCH, len(differ), _BATCH))
    ]
    return torch.cat(values).double().numpy()


def compare_sets(
    samples: DescribedSlices,
    test: DescribedSlices,
    real: DescribedSlices,
    reconstructions: DescribedSlices,
    pairs: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None,
    seed: int = 0,
    num_draws: int = 39,
) -> list[Figure]:
    """
    Compare samples with test slices, and say how good each figure is.

    The measure is what the same figure is for slices of other subjects: as many real ones, drawn again and again, are
    put in the place of the samples, and so are their reconstructions, which no prior can be better than.

    Args:
        samples: the samples.
        test: slices of subjects that nothing was trained on.
        real: slices of other subjects than those of ``test``, at least two.
        reconstructions: the same slices after the autoencoder.
        pairs: what :func:`pair_similarities` returns of samples, real slices and reconstructions; None to leave that
            figure out.
        seed: seed of all draws.
        num_draws: how often real slices are drawn. The smallest and the largest of 39 are the ends of a 95 % range.

    Returns:
        the figures.

    Raises:
        ValueError: when there are fewer than two samples, or four real slices.
    """
    number = min(len(samples), len(real) // 2)
    if number < 2:
        raise ValueError(f"two samples and four real slices are needed, got {len(samples)} and {len(real)}.")
    rng = np.random.default_rng(seed)
    draws = [rng.choice(len(real), number, replace=False) for _ in range(num_draws)]
    figures_of = _Test(test).figures_of
    own = figures_of(samples.take(rng.choice(len(samples), number, replace=False)))
    of_real = [figures_of(real.take(rows)) for rows in draws]
    of_reconstructions = [figures_of(reconstructions.take(rows)) for rows in draws]
    figures = [
        _judge(name, value, [drawn[name] for drawn in of_real], [drawn[name] for drawn in of_reconstructions])
        for name, value in own.items()
    ]
    if pairs is not None:
        value, *others = pairs
        drawn = [[float(rng.choice(x, len(value)).mean()) for _ in range(num_draws)] for x in others]
        figures.append(_judge("pair_similarity", float(value.mean()), *drawn))
    return figures


class _Test:
    """The test slices, standardized once for all sets that are compared with them."""

    def __init__(self, slices: DescribedSlices) -> None:
        self.slices = slices
        self.spaces = {space: _Space(_features(slices, space), slices.subjects) for space in _SPACES}

    def figures_of(self, generated: DescribedSlices) -> dict[str, float]:
        """All figures of a set in the place of the samples."""
        real = self.slices
        figures = {
            f"ks_{name}": ks_distance(generated.descriptors[name], real.descriptors[name]) for name in DESCRIPTORS
        }
        for name, space in self.spaces.items():
            figures |= {f"{key}_{name}": value for key, value in space.figures_of(_features(generated, name)).items()}
        for name, names in (("anatomy", ANATOMY), ("texture", tuple(DESCRIPTORS))):
            ours, theirs = _seen(generated, names), _seen(real, names)
            figures[f"classifier_{name}"] = classifier_auc(ours, theirs, real.subjects)
        return figures


class _Space:
    """Features (M, D) of the test slices, in their own standard deviations."""

    def __init__(self, features: np.ndarray, subjects: Sequence[Hashable] | None) -> None:
        self.center, self.scale = features.mean(0), features.std(0)
        self.scale[self.scale == 0] = 1
        self.real = RealFeatures(self._standardized(features), subjects)

    def figures_of(self, features: np.ndarray) -> dict[str, float]:
        """The figures of features (N, D) in the place of those of the samples."""
        generated = self._standardized(features)
        overlap, discrepancy = self.real.compare(generated)
        return {**asdict(overlap), "frechet": frechet_distance(generated, self.real.features), "mmd": discrepancy}

    def _standardized(self, features: np.ndarray) -> np.ndarray:
        return (features - self.center) / self.scale


def _seen(slices: DescribedSlices, names: Sequence[str]) -> np.ndarray:
    """What a classifier sees of slices: coarse pictures and some descriptors."""
    return np.column_stack([slices.coarse, *(slices.descriptors[name] for name in names)])


def _features(slices: DescribedSlices, space: str) -> np.ndarray:
    """Features (N, D) of a space."""
    if space == "encodings":
        return slices.encodings
    return np.column_stack([slices.descriptors[name] for name in ANATOMY])


def _judge(name: str, value: float, real: Sequence[float], reconstructions: Sequence[float]) -> Figure:
    """A figure with its word."""
    higher = name.split("_")[0] in _HIGHER
    sign = -1 if higher else 1
    word = WORDS[2]
    for said, drawn in ((WORDS[1], reconstructions), (WORDS[0], real)):
        if sign * value <= max(sign * x for x in drawn):
            word = said
    worse = sum(sign * x >= sign * value for x in real)
    return Figure(
        name,
        _label(name),
        "higher" if higher else "lower",
        value,
        _range(real),
        _range(reconstructions),
        (1 + worse) / (1 + len(real)),
        word,
    )


def _range(values: Sequence[float]) -> Interval:
    """Median, smallest and largest of the draws."""
    return Interval(float(np.median(values)), min(values), max(values))


def _label(name: str) -> str:
    """What a reader sees of a figure."""
    if name == "pair_similarity":
        return "multi-scale SSIM between two samples"
    kind, _, of = name.partition("_")
    if kind == "ks":
        return f"KS distance, {_INTENSITIES.get(of, of.replace('_', ' '))}"
    if kind == "classifier":
        return f"{_LABELS[kind]}, {of if of == 'anatomy' else 'anatomy and texture'}"
    return f"{_LABELS[kind]}, {_SPACES[of]}"
