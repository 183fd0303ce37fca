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

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from monai_vqprior.audit import (
    THRESHOLDS,
    VERDICTS,
    WORDS,
    DescribedSlices,
    Figure,
    compare_sets,
    describe_slices,
    judge_newness,
    pair_similarities,
)
from monai_vqprior.data import Conditions, ConditionTable, SliceDataset
from monai_vqprior.errors import InputError
from monai_vqprior.files import read_json, tell, write_text
from monai_vqprior.inferers import decode_grids, grids_of_rows, pooled_encodings
from monai_vqprior.report.audit_conditions import followed_conditions
from monai_vqprior.report.audit_membership import rate_membership
from monai_vqprior.report.audit_newness import Newness, find_copies
from monai_vqprior.report.audit_text import audit_lines
from monai_vqprior.report.neighbors import relative_to, write_pairs
from monai_vqprior.runs import fingerprint

__all__ = ["audit_status", "write_audit"]

#: exit status of a command whose verdict is ``fail``: 1 is Python's for a bug, 2 is for wrong input.
FAILED = 3

# Slices of a split that are compared at most, drawn at random from all of its subjects.
_MOST_SLICES = 640
_MOST_BYTES = 2**28


def write_audit(
    path: str | os.PathLike[str],
    dataset_dir: str | os.PathLike[str],
    samples: SliceDataset,
    train: SliceDataset,
    validation: SliceDataset,
    test: SliceDataset,
    autoencoder: Any,
    prior: Any = None,
    conditions: Conditions | None = None,
    table: ConditionTable | None = None,
    num_pictures: int = 10,
    seed: int = 0,
    device: str | torch.device = "cpu",
    folder: str | os.PathLike[str] | None = None,
) -> dict[str, Any]:
    """
    Audit samples: are they as good as reconstructions, are they new, and do they follow their conditions?

    Args:
        path: ``audit.json``; ``audit.png``, with the samples that are nearest to training slices, goes beside it.
        dataset_dir: folder that the names of training slices are relative to.
        samples: what :func:`~monai_vqprior.report.read_samples` returns.
        train: slices of the training split, of the same size.
        validation: slices of the validation split, of the same size: how near unseen subjects come to the training.
        test: slices of the test split, of the same size. Where they are of one subject, each counts as its own.
        autoencoder: the one that decoded the samples.
        prior: the prior that they are of; None to leave the membership of training slices out.
        conditions: the conditions of the prior.
        table: the conditions of the slices; needed where the prior has some.
        num_pictures: samples on the picture.
        seed: seed of all draws.
        device: where networks and distances are computed.
        folder: where ``vqprior evaluate`` keeps codes and bits of slices; None to compute all of them.

    Returns:
        the content of ``audit.json``.

    Raises:
        InputError: when there are too few samples or slices.
    """
    if len(samples) < 2 or len(train) < 4:
        raise InputError(
            f"an audit needs at least 2 samples and 4 training slices, got {len(samples)} and {len(train)}: draw more "
            "by `vqprior sample --resume`."
        )
    path = Path(path)
    rng = np.random.default_rng(seed)
    pool = _some(train, 2 * len(samples), rng)  # as many again as are drawn at a time
    copies = decode_grids(autoencoder, grids_of_rows(autoencoder, train, pool, folder, device), device)
    figures = _fidelity(samples, test, train, pool, copies, autoencoder, seed, device)
    newness = find_copies(samples.images, train.images, validation, copies[::2], seed, device)
    known = Conditions() if conditions is None else conditions
    member = None
    if prior is not None:
        member = rate_membership(autoencoder, prior, train, test, validation, known, table, seed, device, folder)
    measures = {**newness.measures, "recognized": None if member is None else member.recognized}
    verdict = judge_newness(measures, newness.summary["copy_threshold"]["found"], len(samples))
    record = path.parent / "samples.json"
    settings = read_json(record, "draw the samples again", _MOST_BYTES) if record.is_file() else {}
    content: dict[str, Any] = {
        "verdict": verdict.word,
        "reasons": verdict.reasons,
        "thresholds": {name: dict(zip(VERDICTS[1:], values, strict=True)) for name, values in THRESHOLDS.items()},
        "samples": len(samples),
        **_sizes(train=train, validation=validation, test=test),
        "spatial_size": list(samples.spatial_size),
        "seed": seed,
        "autoencoder_weights": fingerprint(autoencoder),
        "prior_weights": None if prior is None else fingerprint(prior),
        "told_apart_by": [figure.name for figure in figures if figure.word == WORDS[2]],
        "fidelity": [figure.as_dict() for figure in figures],
        "newness": newness.summary,
        "membership": None if member is None else member.as_dict(),
        "conditions": followed_conditions(samples, settings, known, table, train),
        "nearest": _listed(samples, train, newness, path.parent, dataset_dir),
    }
    picture = path.with_suffix(".png")
    _write_closest(picture, samples, train, newness, num_pictures)
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")
    tell("\n".join([*audit_lines(content), f"  written to {path} and {picture}"]))
    return content


def audit_status(output_dir: str | os.PathLike[str]) -> int:
    """The exit status that the verdict in ``audit.json`` asks for: 0, or 3 for ``fail``."""
    content = read_json(Path(output_dir) / "audit.json", "run `vqprior audit` again", _MOST_BYTES)
    return FAILED if content.get("verdict") == VERDICTS[2] else 0


def _some(dataset: SliceDataset, most: int, rng: np.random.Generator) -> np.ndarray:
    """Rows of slices drawn at random, in their order."""
    return np.sort(rng.choice(len(dataset), min(len(dataset), most, 2 * _MOST_SLICES), replace=False))


def _fidelity(
    samples: SliceDataset,
    test: SliceDataset,
    train: SliceDataset,
    pool: np.ndarray,
    copies: torch.Tensor,
    autoencoder: Any,
    seed: int,
    device: str | torch.device,
) -> list[Figure]:
    """The samples beside the test split, and beside real slices and reconstructions in their place."""
    rng = np.random.default_rng(seed)
    ours, held = _some(samples, _MOST_SLICES, rng), _some(test, _MOST_SLICES, rng)
    subjects = _subjects(train, pool)

    def described(images: torch.Tensor, names: Sequence[str] | None) -> DescribedSlices:
        return describe_slices(images, pooled_encodings(autoencoder, images, device), names)

    pairs = (
        pair_similarities(samples.images[ours], seed=seed),
        pair_similarities(train.images[pool], subjects, seed=seed),
        pair_similarities(copies, subjects, seed=seed),
    )
    return compare_sets(
        described(samples.images[ours], None),
        described(test.images[held], _subjects(test, held)),
        described(train.images[pool], subjects),
        described(copies, subjects),
        pairs if all(len(values) for values in pairs) else None,
        seed,
    )


def _sizes(**splits: SliceDataset) -> dict[str, int]:
    """Slices and subjects of each split."""
    sizes: dict[str, int] = {}
    for name, dataset in splits.items():
        sizes |= {f"{name}_slices": len(dataset), f"{name}_subjects": dataset.num_subjects}
    return sizes


def _write_closest(path: Path, samples: SliceDataset, train: SliceDataset, newness: Newness, number: int) -> None:
    """The samples that are nearest to training slices, each above its slice, with their distance."""
    closest = newness.order[:number]
    below = newness.summary["copy_threshold"]["distance"]
    captions = [f"{distance:.2f} (copy < {below:.2f})" for distance in newness.matches.distance[closest].tolist()]
    write_pairs(path, samples.images[closest], train.images[newness.matches.index[closest]], captions)


def _subjects(dataset: SliceDataset, rows: np.ndarray) -> list[str] | None:
    """The subject of each slice; None, each slice its own, where there is only one: then nothing is of another."""
    names = [dataset.data[row]["subject"] for row in rows]
    return names if len(set(names)) > 1 else None


def _listed(
    samples: SliceDataset,
    train: SliceDataset,
    newness: Newness,
    output: Path,
    dataset_dir: str | os.PathLike[str],
) -> list[dict[str, Any]]:
    """An entry for each sample, the nearest to a training slice first."""
    return [
        {
            "file": relative_to(samples.data[row]["image"], output),
            "nearest": relative_to(train.data[int(newness.matches.index[row])]["image"], dataset_dir),
            **{name: values[row].item() for name, values in newness.of_samples.items()},
        }
        for row in newness.order
    ]
