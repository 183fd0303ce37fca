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

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from monai_vqprior.audit import rank_correlation, value_of_neighbors
from monai_vqprior.data import Conditions, ConditionTable, SliceDataset
from monai_vqprior.errors import InputError
from monai_vqprior.transforms import BytesToUnit

__all__ = ["followed_conditions"]


def followed_conditions(
    samples: SliceDataset,
    settings: Mapping[str, Any],
    conditions: Conditions,
    table: ConditionTable | None,
    train: SliceDataset,
) -> list[dict[str, Any]]:
    """
    What was asked of samples beside what came out, for each condition that was asked for; not for those drawn besides.

    What came out is the mean value of the training slices that are nearest to a sample; of a class, the share of these
    slices that are of the class.

    Args:
        samples: the samples.
        settings: the content of ``samples.json``.
        conditions: the conditions of the prior.
        table: the conditions of the slices; nothing is measured without one.
        train: the training slices.

    Returns:
        for each condition its ``name``; the means ``asked``, ``measured`` and that of the training split, ``train``,
        in the units of the table, of a class the shares; and the ``rank_correlation``, null where all samples were
        asked the same, and for a class.

    Raises:
        InputError: when the settings do not belong to these samples and conditions.
    """
    if table is None:
        return []
    items = table.join(train.data, conditions)
    unit, drawn = BytesToUnit(), settings.get("drawn_conditions", [])
    entries = []
    for kind, names in (("values", conditions.value_names), ("labels", conditions.label_names)):
        if kind not in settings:
            continue
        rows = _rows(settings[kind], len(samples), len(names))
        for column, name in enumerate(names):
            asked = rows[:, column]
            known = np.isfinite(asked) if kind == "values" else asked >= 0
            if name in drawn or not known.any():
                continue
            of_train = np.array([item[name] for item in items], float)
            told = np.isfinite(of_train) if kind == "values" else of_train >= 0
            images = unit(samples.images[torch.as_tensor(known)])
            entry = _followed(
                name, conditions, asked[known], of_train[told], images, unit(train.images[torch.as_tensor(told)])
            )
            entries.append(entry)
    return entries


def _followed(
    name: str,
    conditions: Conditions,
    asked: np.ndarray,
    of_train: np.ndarray,
    images: torch.Tensor,
    train_images: torch.Tensor,
) -> dict[str, Any]:
    """The entry of a condition."""
    scale = next(entry for entry in conditions.settings if entry["name"] == name)
    if "classes" in scale:
        shares, base = np.empty(len(asked)), np.empty(len(asked))
        for label in np.unique(asked):
            rows, members = asked == label, (of_train == label).astype(float)
            shares[rows] = value_of_neighbors(images[torch.as_tensor(rows)], train_images, members)
            base[rows] = members.mean()
        means = {"asked": 1.0, "measured": float(shares.mean()), "train": float(base.mean())}
        return {"name": name, **means, "rank_correlation": None}
    asked, of_train = (values * scale["std"] + scale["mean"] for values in (asked, of_train))
    measured = value_of_neighbors(images, train_images, of_train)
    return {
        "name": name,
        "asked": float(asked.mean()),
        "measured": float(measured.mean()),
        "train": float(of_train.mean()),
        "rank_correlation": rank_correlation(asked, measured),
    }


def _rows(told: Any, samples: int, width: int) -> np.ndarray:
    """The conditions of all samples, (N, width), NaN for what is missing, of a row for all or one for each."""
    try:
        rows = np.array([[np.nan if x is None else float(x) for x in row] for row in told])
        return np.broadcast_to(rows, (samples, width)) if len(rows) == 1 else rows[:samples].reshape(samples, width)
    except (TypeError, ValueError) as error:
        raise InputError(
            "samples.json does not belong to these samples: draw them again by `vqprior sample --overwrite`."
        ) from error
