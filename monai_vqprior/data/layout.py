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

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from monai_vqprior.errors import InputError, counted

__all__ = ["SPLITS", "natural_key", "slice_name", "split_folder", "split_subjects"]

#: the splits of a data set, in the order in which they are reported.
SPLITS = ("train", "validate", "test")


def split_folder(dataset_dir: str | Path, split: str) -> Path:
    """Folder of one split in the layout of the preprocessed OASIS slices, ``keras_png_slices_{split}``."""
    if split not in SPLITS:
        raise InputError(f"split must be one of {', '.join(SPLITS)}, got {split!r}.")
    return Path(dataset_dir) / f"keras_png_slices_{split}"


def slice_name(case: str, index: int) -> str:
    """File name of a slice in the layout of the preprocessed OASIS slices: ``case_441_slice_0.nii.png``."""
    return f"case_{case}_slice_{index}.nii.png"


def natural_key(name: str) -> list[tuple[int, int | str]]:
    """Sort key that puts ``slice_10`` after ``slice_9``: runs of digits compare as numbers."""
    parts = [part for part in re.split(r"(\d+)", name) if part]
    # The name itself comes last, so that names as alike as a1, A1 and a01 have one order too.
    return [(0, int(part)) if part.isdecimal() else (1, part.lower()) for part in parts] + [(-1, name)]


def split_subjects(
    subjects: Sequence[str], fractions: Mapping[str, float] | None = None, seed: int = 0, hint: str = ""
) -> dict[str, list[str]]:
    """
    Deal subjects to splits at random, so that no subject is in two of them.

    Args:
        subjects: subject names; duplicates count once, and their order does not matter.
        fractions: share of the subjects for each split of :data:`SPLITS`, which sum to 1; 0.8, 0.1, 0.1 by default.
        seed: the same seed splits the same subjects in the same way.
        hint: what else to say where there are too few subjects.

    Returns:
        the subjects of each split, in natural order. With enough subjects no split with a share is empty.

    Raises:
        InputError: when the fractions do not sum to 1 or there are fewer subjects than splits to fill.
    """
    shares = dict(fractions) if fractions is not None else {"train": 0.8, "validate": 0.1, "test": 0.1}
    if (
        set(shares) - set(SPLITS)
        or any(not share >= 0 for share in shares.values())
        or abs(sum(shares.values()) - 1) > 1e-6
    ):
        raise InputError(f"fractions must name {', '.join(SPLITS)} and sum to 1, got {shares}.")
    wanted = [split for split in SPLITS if shares.get(split, 0) > 0]
    names = sorted(set(subjects), key=natural_key)
    if len(names) < len(wanted):
        advice = f"add subjects ({hint})." if hint else "add subjects."
        raise InputError(f"{counted(len(names), 'subject')} cannot fill the splits {', '.join(wanted)}: {advice}")

    # Each wanted split gets one subject first; the rest are dealt by largest remainder.
    targets = np.array([shares[split] * len(names) for split in wanted])
    counts = np.maximum(1, np.floor(targets).astype(int))
    while counts.sum() > len(names):
        counts[np.argmax(counts)] -= 1
    while counts.sum() < len(names):
        counts[np.argmax(targets - counts)] += 1

    shuffled = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
    dealt: dict[str, list[str]] = {split: [] for split in SPLITS}
    start = 0
    for split, count in zip(wanted, counts, strict=True):
        dealt[split] = sorted(shuffled[start : start + count], key=natural_key)
        start += count
    return dealt
