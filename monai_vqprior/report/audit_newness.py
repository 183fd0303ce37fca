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

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from monai_vqprior.audit import (
    Matches,
    copy_threshold,
    local_ratios,
    match_images,
    percentiles,
    share_below,
    share_interval,
)
from monai_vqprior.data import SliceDataset
from monai_vqprior.metrics import Interval, nearest_distances

__all__ = ["Newness", "find_copies"]

# Training slices that a distance is compared with, as Carlini et al. do.
_NEAREST = 50


@dataclass(frozen=True)
class Newness:
    """
    How near samples are to training slices, by three measures.

    Attributes:
        summary: what ``audit.json`` says of all samples.
        measures: the figures that the verdict is about.
        of_samples: (N,) arrays by the names of the fields of a sample in ``audit.json``.
        matches: the training slice that each sample resembles most.
        order: the samples, the nearest to a training slice first.
    """

    summary: dict[str, Any]
    measures: dict[str, Interval | None]
    of_samples: dict[str, np.ndarray]
    matches: Matches
    order: np.ndarray


def find_copies(
    samples: torch.Tensor,
    train: torch.Tensor,
    validation: SliceDataset,
    copies: torch.Tensor,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> Newness:
    """
    Measure how near samples are to training slices, beside slices of subjects that were never trained on.

    Args:
        samples: (N, 1, H, W) uint8.
        train: (M, 1, H, W) uint8.
        validation: slices of unseen subjects.
        copies: (C, 1, H, W) uint8, reconstructions of training slices: known copies, which set the threshold.
        seed: seed of the bootstraps.
        device: where to compute.
    """
    ours, unseen = (_nearest(told, images, train, device) for told, images in (
        ("samples", samples), ("validation slices", validation.images)
    ))  # fmt: skip
    matches, unseen_matches, known = (
        _matches(told, images, train, device)
        for told, images in (("samples", samples), ("validation slices", validation.images), ("copies", copies))
    )
    threshold = copy_threshold(known.distance.numpy(), unseen_matches.distance.numpy())
    distance = matches.distance.numpy()
    is_copy = distance < threshold.distance
    measured = {
        "rms": (ours[:, 0], unseen[:, 0]),
        "local_ratio": (local_ratios(ours), local_ratios(unseen)),
        "tolerant_distance": (distance, unseen_matches.distance.numpy()),
    }
    subjects = [item["subject"] for item in validation.data]
    summary: dict[str, Any] = {
        name: _summary(values, reference, subjects, seed) for name, (values, reference) in measured.items()
    }
    found = share_interval(int(is_copy.sum()), len(samples))
    summary["copies"] = found.as_dict()
    summary["copy_threshold"] = {
        "distance": threshold.distance, "found": threshold.found, "false_alarms": threshold.false_alarms
    }  # fmt: skip
    ratio = summary["local_ratio"]["below_1_percent"]
    return Newness(
        summary=summary,
        measures={"copies": found, "local_ratio_below_1_percent": Interval(**ratio)},
        of_samples={
            **{name: values for name, (values, _) in measured.items()},
            "percentile": percentiles(*measured["rms"]),
            "copy": is_copy,
        },
        matches=matches,
        order=np.argsort(distance, kind="stable"),
    )


def _nearest(told: str, images: torch.Tensor, train: torch.Tensor, device: str | torch.device) -> np.ndarray:
    """Distances to the nearest training slices, (N, 50), behind a progress bar."""
    with tqdm(desc=f"comparing {told}", unit=" pairs", total=len(images) * len(train), leave=False) as bar:
        return nearest_distances(
            images, train, _NEAREST, device=device, on_pairs=lambda pairs: bar.update(pairs)
        ).numpy()


def _matches(told: str, images: torch.Tensor, train: torch.Tensor, device: str | torch.device) -> Matches:
    """The training slice that each image resembles most, behind a progress bar."""
    with tqdm(desc=f"matching {told}", unit=" images", total=len(images), leave=False) as bar:
        return match_images(images, train, device=device, on_images=lambda number: bar.update(number))


def _summary(values: np.ndarray, reference: np.ndarray, subjects: Sequence[str], seed: int) -> dict[str, Any]:
    """A distance of the samples beside that of slices of unseen subjects."""
    return {
        "median": float(np.median(values)),
        "minimum": float(values.min()),
        "validation_median": float(np.median(reference)),
        "below_1_percent": share_below(values, reference, subjects, 0.01, seed).as_dict(),
        "below_5_percent": share_below(values, reference, subjects, 0.05, seed).as_dict(),
    }
