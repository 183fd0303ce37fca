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

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from monai_vqprior.audit import membership, recognized, recognized_by_chance, subject_means
from monai_vqprior.data import Conditions, ConditionTable, SliceDataset
from monai_vqprior.inferers import cached_bits, encode_images, grids_of_rows, rate_grids
from monai_vqprior.metrics import Interval, position_histogram_bits_of, subject_rows

__all__ = ["Membership", "rate_membership"]

# Slices of a split that are rated, about, and those of each subject.
_MOST_SLICES = 512
_SLICES_A_SUBJECT = 16


@dataclass(frozen=True)
class Membership:
    """
    Do the weights of a prior tell what it was trained on?

    Attributes:
        auc: probability that a training slice has fewer bits than an unseen slice, 0.5 by chance.
        recognized: share of the training slices that are recognized where 1 % of unseen slices are taken for some.
        by_chance: the same figure of unseen subjects in the place of those of the training; None with one subject.
        subjects: the probability of ``auc`` for the means of the slices of each subject.
    """

    auc: Interval
    recognized: Interval
    by_chance: Interval | None
    subjects: Interval

    def as_dict(self) -> dict[str, Any]:
        """The figures for JSON, those of ``auc`` at the first level."""
        return {
            **self.auc.as_dict(),
            "recognized": self.recognized.as_dict(),
            "by_chance": None if self.by_chance is None else self.by_chance.as_dict(),
            "subjects": self.subjects.as_dict(),
        }


def rate_membership(
    autoencoder: Any,
    prior: Any,
    train: SliceDataset,
    test: SliceDataset,
    validation: SliceDataset,
    conditions: Conditions,
    table: ConditionTable | None,
    seed: int = 0,
    device: str | torch.device = "cpu",
    folder: str | os.PathLike[str] | None = None,
) -> Membership:
    """
    Can training slices be told from unseen ones by their bits per code? See :func:`~monai_vqprior.audit.membership`.

    Counted are the bits less those that a histogram of each position needs, fitted to the validation split: a slice
    with few bits may simply be an easy one (Watson et al., "On the Importance of Difficulty Calibration in Membership
    Inference Attacks", 2022, https://arxiv.org/abs/2111.08440). Rated are at most 16 slices of each subject, and about
    512 of a split.

    Args:
        autoencoder: makes the codes of slices.
        prior: the prior.
        train: training slices.
        test: slices of unseen subjects.
        validation: slices of other unseen subjects, for the histogram.
        conditions: the conditions of the prior.
        table: the conditions of the slices; needed where the prior has some.
        seed: draws slices and subjects.
        device: where to compute.
        folder: where codes and bits of slices are kept; None to compute all of them.
    """
    easy = encode_images(autoencoder, validation.images, device)
    rng = np.random.default_rng(seed)

    def rated(dataset: SliceDataset) -> tuple[np.ndarray, list[str]]:
        rows = _some_of_each_subject(dataset, rng)
        grids = grids_of_rows(autoencoder, dataset, rows, folder, device)
        items = [dataset.data[row] for row in rows]
        joined = items if table is None else table.join(items, conditions)
        keys = conditions.label_names, conditions.value_names
        if folder is None:
            bits = rate_grids(prior, grids, joined, *keys, device)
        else:
            bits = cached_bits(prior, grids, joined, folder, *keys, device)
        needed = position_histogram_bits_of(easy, grids, autoencoder.num_embeddings)
        return (bits - needed).numpy(), [item["subject"] for item in items]

    known, unseen = rated(train), rated(test)
    means = [(subject_means(*values), range(len(set(values[1])))) for values in (known, unseen)]
    return Membership(
        auc=membership(*known, *unseen),
        recognized=recognized(*known, *unseen),
        by_chance=recognized_by_chance(*unseen, seed=seed),
        subjects=membership(*means[0], *means[1]),
    )


def _some_of_each_subject(dataset: SliceDataset, rng: np.random.Generator) -> np.ndarray:
    """Rows of slices drawn at random, in their order: some of a subject, and of as many subjects as are needed."""
    rows = subject_rows([item["subject"] for item in dataset.data])
    chosen = np.empty(0, int)
    for subject in rng.permutation(len(rows)):
        if len(chosen) >= _MOST_SLICES:
            break
        number = min(len(rows[subject]), _SLICES_A_SUBJECT)
        chosen = np.concatenate([chosen, rng.choice(rows[subject], number, replace=False)])
    return np.sort(chosen)
