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

"""What slices of the validation split come to under trained networks, and whether others come to the like."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch

from monai_vqprior.metrics import bits_at_positions
from monai_vqprior.runs.settings import REFERENCE, read_settings, settings_beside, write_settings
from monai_vqprior.runs.weights import read_weights

__all__ = ["POSITION_BITS", "position_bits", "position_table", "read_reference", "unlike", "write_reference"]

Weights = str | os.PathLike[str] | Mapping[str, torch.Tensor]

#: name of the bits a code by the histogram of each position that is part of a prior.
POSITION_BITS = "bits_per_code_by_position"
# The share of the slices of the validation split that are worse than the worst, and better than the best, of a range.
_TAIL = 0.01
# Metrics of a slice that tell known slices from others: how they are called, how they are shown, whether more is worse.
_TOLD = {
    "ssim": ("SSIM", ".3f", False),
    "bits_per_code": ("bits a code", ".2f", True),
    POSITION_BITS: ("bits a code by position", ".2f", True),
}


def write_reference(settings_file: str | os.PathLike[str], values: Mapping[str, torch.Tensor]) -> None:
    """
    Write down what the slices of the validation split come to, beside the weights.

    Args:
        settings_file: the settings of the network.
        values: the value of each slice, (N,) or (N, 1), by the name of the metric; those without any number, and
            metrics that tell nothing of the kind of slices, are left out.
    """
    known = {name: tensor.double().flatten() for name, tensor in values.items() if name in _TOLD}
    known = {name: tensor[tensor.isfinite()] for name, tensor in known.items()}
    points = torch.tensor([_TAIL, 0.5, 1 - _TAIL], dtype=torch.float64)
    reference = {
        name: [float(f"{value:.5g}") for value in tensor.cpu().quantile(points).tolist()]
        for name, tensor in known.items()
        if len(tensor) > 0
    }
    before = read_settings(settings_file, codebooks=None) if Path(settings_file).is_file() else {}
    write_settings(settings_file, {REFERENCE: {**before.get(REFERENCE, {}), **reference}})


def position_bits(table: torch.Tensor | None, grids: torch.Tensor) -> dict[str, torch.Tensor]:
    """
    Bits a code of grids by the histogram of each position that is part of a prior.

    Args:
        table: what :func:`position_table` returns.
        grids: code grids (N, *grid).

    Returns:
        (N,) under ``POSITION_BITS``; nothing without a histogram, or with one of grids of another size.
    """
    if table is None or table.shape[1:] != grids.shape[1:] or int(grids.max()) >= len(table):
        return {}
    return {POSITION_BITS: bits_at_positions(table.to(grids.device), grids)}


def read_reference(weights: str | os.PathLike[str], name: str) -> dict[str, list[float]]:
    """
    What the slices of the validation split came to, by the settings beside weights.

    Args:
        weights: the weights of a network.
        name: name of its file of settings.

    Returns:
        a low, a middle and a high value by the name of the metric; nothing of weights that say nothing of it.

    Raises:
        InputError: when the settings cannot be read.
    """
    path = settings_beside(Path(weights).parent, name)
    return {} if path is None else read_settings(path, codebooks=None).get(REFERENCE, {})


def position_table(weights: Weights) -> torch.Tensor | None:
    """
    The histogram of the codes at each position that is part of a prior.

    Args:
        weights: the weights of a prior, or the file with them.

    Returns:
        natural logarithms of probabilities, (K, *grid); None for a prior without.
    """
    state = weights if isinstance(weights, Mapping) else read_weights(weights)
    keys = ("position_logits", "code_prior.position_logits")
    table = next((state[key] for key in keys if key in state), None)
    return None if table is None else table[0].float().log_softmax(0)


def unlike(values: Mapping[str, torch.Tensor], reference: Mapping[str, list[float]]) -> list[str]:
    """
    How slices differ from those of the validation split: the metrics by which more than half of them are worse than
    all but a few of those.

    Args:
        values: the value of each slice, (N,) or (N, 1), by the name of the metric.
        reference: what :func:`read_reference` returns.

    Returns:
        for each such metric its median and the range there, in words.
    """
    told = []
    for name, (low, _, high) in reference.items():
        label, form, more_is_worse = _TOLD[name]
        known = values[name].double().flatten() if name in values else torch.zeros(0)
        known = known[known.isfinite()]
        if len(known) == 0:
            continue
        median = float(known.median())
        if median > high if more_is_worse else median < low:
            told.append(f"{label} {median:{form}}, {low:{form}} to {high:{form}} there")
    return told
