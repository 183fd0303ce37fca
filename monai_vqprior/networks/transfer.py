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

"""State dictionaries of a prior brought to another grid, other contexts and other conditions, for fine-tuning."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F

__all__ = ["resample_tables", "transfer_conditions", "transfer_contexts", "without_sketches"]

Weights = Mapping[str, torch.Tensor]

# Tensors (1, C, *grid) with something learned for each position, by the last part of their names.
_TABLES = ("position", "position_logits")
# What expands a code of a coarse grid to a block of the fine one: its rows are channels x positions within the block.
_EXPANSION = re.compile(r"(.*context_network\..*\.up\.)(weight|bias)")
# The tensors of a map of contexts: the map, the number of the grid that they are of, if of one, and the rest.
_CONTEXT = re.compile(r"((?:.*\.)?context_network\.)(?:sources\.(\d+)\.)?(.*)")
# The prior of the sketches within a prior, and within this one that of their sketches, and so on.
_SKETCHES = "sketch_prior."
# The tensors of conditions: the network that they are of, and their name there.
_CONDITIONAL = re.compile(r"(.*?)((?:class_embeddings|value_embedding|condition_heads)\..*)")
_MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


def resample_tables(weights: Weights, like: Weights) -> tuple[dict[str, torch.Tensor], dict[str, tuple[int, ...]]]:
    """
    Bring what a prior has learned for each position to another grid.

    Embeddings of positions, logits of positions, and the positions within a block of the sketch are interpolated
    linearly, so that a place of the brain keeps what was learned for it. Everything else is independent of the grid.

    Args:
        weights: the state dictionary of a :class:`~monai_vqprior.networks.GatedPixelCNN` or
            :class:`~monai_vqprior.networks.HierarchicalPrior`, or of any other network.
        like: that of the same network for the other grid.

    Returns:
        the weights, with resampled tables where only the grid differs; and the size before of each table, by its name.
    """
    resampled = dict(weights)
    sizes = {}
    for key, own in like.items():
        table, expansion = weights.get(key), _EXPANSION.fullmatch(key)
        if table is None or table.shape == own.shape or table.dim() != own.dim():
            continue
        if key.rpartition(".")[2] in _TABLES and table.shape[:2] == own.shape[:2]:
            resampled[key] = _interpolate(table, own.shape[2:])
            sizes[key] = tuple(table.shape[2:])
        elif expansion is not None:
            kernel = like[f"{expansion[1]}weight"]  # (C * block, C, 1, ...)
            resampled[key] = _with_blocks_of(own, table, kernel.shape[1], kernel.dim() - 2)
    return resampled, sizes


def _interpolate(table: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """(N, C, *grid) at another size, as a picture is resized: its outer borders stay where they are."""
    mode = _MODES[len(size)]
    return F.interpolate(table.float(), size=tuple(size), mode=mode, align_corners=False).to(table.dtype)


def _with_blocks_of(own: torch.Tensor, table: torch.Tensor, channels: int, dims: int) -> torch.Tensor:
    """Rows (C * block, ...) for the blocks of another tensor; as they are where either has no whole blocks."""
    before, after = (_side(len(rows), channels, dims) for rows in (table, own))
    if before is None or after is None or table.shape[1:] != own.shape[1:]:
        return table
    blocks = table.reshape(channels, *[before] * dims, -1).movedim(-1, 0)  # (C * f * f, I) -> (I, C, f, f)
    return _interpolate(blocks, [after] * dims).movedim(0, -1).reshape(own.shape)


def _side(rows: int, channels: int, dims: int) -> int | None:
    """Side of the block that so many rows are of; None where they are of none."""
    side = round((rows / channels) ** (1 / dims))
    return side if side > 0 and channels * side**dims == rows else None


def without_sketches(weights: Weights, like: Weights) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """
    Separate the prior of the sketches where a prior has another number of sketches than the weights.

    With and without a sketch of its own the prior of the sketches is another network: nothing of it can be kept. The
    codes and the first sketch can.

    Args:
        weights: the state dictionary of a :class:`~monai_vqprior.networks.HierarchicalPrior`, or of any other network.
        like: that of the same network with another number of sketches.

    Returns:
        the weights without the prior of the sketches, and that of ``like``; the same weights and nothing where the
        number of sketches is the same, or either has none.
    """
    before, now = (max([0, *(key.count(_SKETCHES) for key in state)]) for state in (weights, like))
    if before == now or 0 in (before, now):
        return dict(weights), {}
    kept = {key: value for key, value in weights.items() if not key.startswith(_SKETCHES)}
    return kept, {key: value for key, value in like.items() if key.startswith(_SKETCHES)}


def transfer_contexts(
    weights: Weights, like: Weights, before: Sequence[str], now: Sequence[str]
) -> dict[str, torch.Tensor]:
    """
    Bring what a prior has learned of the grids of its context to other grids.

    A grid keeps what was learned of it, wherever it stands now. A grid that is not there any more is left out. A new
    one says nothing at first: a prior without it rates as before.

    Args:
        weights: the state dictionary of a :class:`~monai_vqprior.networks.GatedPixelCNN` or
            :class:`~monai_vqprior.networks.HierarchicalPrior`, with :class:`~monai_vqprior.networks.CodeContext` for
            contexts.
        like: that of the same network with the other grids.
        before: names of the grids of the weights, ``context_names``.
        now: names of the other grids.

    Returns:
        the weights with those of the other grids; the same weights where they are not those of ``before``.
    """
    parts = {key: match.groups() for key in (*weights, *like) if (match := _CONTEXT.fullmatch(key)) is not None}
    prefixes = {prefix for prefix, _, _ in parts.values()}
    found, wanted = ({prefix: _grids_of(prefix, state, parts) for prefix in prefixes} for state in (weights, like))
    leading = {prefix: wanted[prefix] - len(now) for prefix in prefixes}  # a sketch comes before what has a name
    if any(lead < 0 or found[prefix] != lead + len(before) for prefix, lead in leading.items()):
        return dict(weights)
    transferred = {key: value for key, value in weights.items() if key not in parts}
    for key in (key for key in weights if key in parts):
        prefix, number, rest = parts[key]
        if number is None:
            transferred |= {key: weights[key]} if wanted[prefix] else {}
            continue
        place = _place_of(int(number), leading[prefix], before, now)
        transferred |= {} if place is None else {f"{prefix}sources.{place}.{rest}": weights[key]}
    for key in (key for key in like if key in parts):
        prefix, number, rest = parts[key]
        if number is None:
            transferred.setdefault(key, like[key])
        elif _place_of(int(number), leading[prefix], now, before) is None:
            transferred[key] = torch.zeros_like(like[key]) if rest.startswith("up.") else like[key]
    return transferred


def _grids_of(prefix: str, state: Weights, parts: Mapping[str, tuple[Any, ...]]) -> int:
    """How many grids the map of contexts of this name has in a state dictionary."""
    return len({parts[key][1] for key in state if key in parts and parts[key][0] == prefix} - {None})


def _place_of(number: int, leading: int, names: Sequence[str], others: Sequence[str]) -> int | None:
    """Where a grid of a context stands in another context: where its name does, behind the leading grids."""
    if number < leading:
        return number
    name = names[number - leading]
    return leading + list(others).index(name) if name in others else None


def transfer_conditions(
    weights: Weights, like: Weights, before: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]
) -> dict[str, torch.Tensor]:
    """
    Bring what a prior has learned of its conditions to other conditions.

    A class keeps its embedding, wherever it stands now. A value keeps its meaning under another mean and standard
    deviation, exactly. A condition that is not there any more is left out, which is the same as one that is always
    missing. A new class or value begins as a missing one does. Where the weights know no condition at all, what
    conditions do to the gates begins at zero.

    Args:
        weights: the state dictionary of a :class:`~monai_vqprior.networks.GatedPixelCNN` or
            :class:`~monai_vqprior.networks.HierarchicalPrior`.
        like: that of the same network with the other conditions.
        before: the conditions of the weights, as :class:`~monai_vqprior.data.Conditions` has them in its ``settings``.
        now: the other conditions.

    Returns:
        the weights with those of the other conditions; the same weights where they are not those of ``before``.
    """
    matches = {key: _CONDITIONAL.fullmatch(key) for key in (*weights, *like)}
    prefixes = {match[1] for match in matches.values() if match is not None}
    if not all(_fit(weights, like, prefix, before) for prefix in prefixes):
        return dict(weights)
    others = {key: value for key, value in weights.items() if matches[key] is None}
    own = {key: match for key, match in matches.items() if match is not None and key in like}
    return others | {
        key: _transferred(match[2], match[1], weights, like[key], before, now) for key, match in own.items()
    }


def _fit(weights: Weights, like: Weights, prefix: str, before: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the weights of a network are of these conditions, and of as many channels as the other one."""
    position, own = (state.get(f"{prefix}position") for state in (weights, like))
    if position is None or own is None or position.shape[1] != own.shape[1]:
        return False
    labels, values = _kinds(before)
    expected = {
        f"{prefix}class_embeddings.{number}.weight": (len(label["classes"]), own.shape[1])
        for number, label in enumerate(labels)
    }
    if values:
        expected[f"{prefix}value_embedding.weight"] = (own.shape[1], 2 * len(values))
    parts = (f"{prefix}class_embeddings.", f"{prefix}value_embedding.")
    return expected == {key: tuple(value.shape) for key, value in weights.items() if key.startswith(parts)}


def _kinds(conditions: Sequence[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    """The conditions with classes and those with values, each in the order of the network."""
    labels = [condition for condition in conditions if "classes" in condition]
    return labels, [condition for condition in conditions if "classes" not in condition]


def _transferred(
    name: str,
    prefix: str,
    weights: Weights,
    own: torch.Tensor,
    before: Sequence[Mapping[str, Any]],
    now: Sequence[Mapping[str, Any]],
) -> torch.Tensor:
    """A tensor of the conditions of a network, by its name there."""
    part, number = name.split(".")[:2]
    if part == "condition_heads":
        return weights.get(prefix + name, torch.zeros_like(own))
    if not before:  # heads and embeddings both at zero would never learn
        return own
    (labels_before, values_before), (labels, values) = _kinds(before), _kinds(now)
    if part == "class_embeddings":
        tables = [weights[f"{prefix}class_embeddings.{i}.weight"] for i in range(len(labels_before))]
        return _of_classes(own, tables, labels_before, labels[int(number)])
    if not values_before:
        return torch.zeros_like(own)
    return _of_values(own, weights[prefix + name], values_before, values)


def _of_classes(
    own: torch.Tensor, tables: Sequence[torch.Tensor], before: Sequence[Mapping[str, Any]], now: Mapping[str, Any]
) -> torch.Tensor:
    """Embeddings (number of classes, C) of a label."""
    embeddings = torch.zeros_like(own)
    for table, label in zip(tables, before, strict=True):
        if label["name"] == now["name"]:
            for row, known in enumerate(now["classes"]):
                if known in label["classes"]:
                    embeddings[row] = table[label["classes"].index(known)]
    return embeddings


def _of_values(
    own: torch.Tensor, table: torch.Tensor, before: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]
) -> torch.Tensor:
    """Directions (C, 2 * number of values): those of the values, then those of their being known."""
    directions = torch.zeros_like(own)
    numbers = {value["name"]: number for number, value in enumerate(before)}
    for column, value in enumerate(now):
        if value["name"] in numbers:
            number = numbers[value["name"]]
            other, slope, known = before[number], table[:, number], table[:, len(before) + number]
            # (x - m) / s of before, written in (x - m') / s' of now: a scale, and a shift of every known value.
            directions[:, column] = slope * (value["std"] / other["std"])
            directions[:, len(now) + column] = known + slope * ((value["mean"] - other["mean"]) / other["std"])
    return directions
