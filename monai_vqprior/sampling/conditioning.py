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

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from monai_vqprior.errors import InputError, reason_of

__all__ = [
    "NOTHING",
    "Conditioning",
    "Rows",
    "condition_rows",
    "context_rows",
    "given_as_context",
    "given_rows",
    "tile_rows",
]

#: One number for each label or value of a network, for all samples, or such a row for each sample.
Rows = Sequence[float] | Sequence[Sequence[float]] | np.ndarray | torch.Tensor

#: a missing label, a missing value, a code that is not kept, and a missing code of a context.
NOTHING = {"labels": -1, "values": math.nan, "given": 0, "mask": False, "context": -1}


@dataclass(frozen=True)
class Conditioning:
    """
    What is asked of samples: each part for all of them, or one row for each, in their order.

    Args:
        labels: a class for each label of the network, -1 where it is missing; None where the network has no labels or
            all are missing.
        values: a number for each continuous condition, NaN where it is missing; None likewise.
        given: codes to keep, (*grid) or (number of samples, *grid); of any value where they are not kept.
        mask: bool, True where the given code is kept, False where one is drawn, likewise.
        context: grids of codes that are known before the first code is drawn, in the order of the network's
            ``context_names``, (grids, *grid) or (number of samples, grids, *grid), -1 where a code is missing.
    """

    labels: Rows | None = None
    values: Rows | None = None
    given: torch.Tensor | None = None
    mask: torch.Tensor | None = None
    context: torch.Tensor | None = None

    def rows(
        self,
        number: int,
        size: tuple[int, ...],
        num_codes: int | None,
        condition_needed: bool,
        num_contexts: int | None = None,
    ) -> dict[str, torch.Tensor]:
        """
        The parts that are asked for, checked.

        Args:
            number: number of samples.
            size: size of the grid.
            num_codes: number of codes, K; None if unknown.
            condition_needed: whether some condition must be given.
            num_contexts: number of grids of a context; None if unknown.

        Returns:
            ``labels`` int64, ``values`` float32, ``given`` int64, ``mask`` bool and ``context`` int64, those that there
            are, each (1 or number, ...).

        Raises:
            InputError: when a part has another shape or type, a code does not exist, one of ``given`` and ``mask`` is
                missing, or no condition is given although one is needed.
        """
        conditions = condition_rows(self.labels, self.values, number, condition_needed)
        given = given_rows(self.given, self.mask, number, size, num_codes)
        return conditions | given | context_rows(self.context, number, size, num_codes, num_contexts)


def condition_rows(labels: Rows | None, values: Rows | None, number: int, needed: bool) -> dict[str, torch.Tensor]:
    """
    The conditions that there are.

    Args:
        labels: a row for all samples or a row for each, -1 for a missing label; None for no labels.
        values: likewise, NaN for a missing value.
        number: number of samples.
        needed: whether some condition must be given.

    Returns:
        ``labels`` int64 and ``values`` float32, those that are given, each (1 or number, labels or values).

    Raises:
        InputError: when they are of another shape, and when no condition is given although one is needed.
    """
    rows, known = {}, False
    for name, told, dtype in (("labels", labels, torch.long), ("values", values, torch.float32)):
        if told is None:
            continue
        try:
            part = torch.as_tensor(told, dtype=dtype, device="cpu")
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(
                f"{name} must be a row of numbers or such a row for each sample ({reason_of(error)})."
            ) from error
        # Some of several rows may be empty; their samples are drawn without guidance.
        known |= part.dim() > 1 or bool((~part.isnan() if name == "values" else part >= 0).any())
        rows[name] = part[None] if part.dim() == 1 else part
        if part.dim() not in (1, 2) or len(rows[name]) not in (1, number):
            raise InputError(f"{name} must be a row or {number} rows, one for each sample, got {tuple(part.shape)}.")
    if needed and not known:
        raise InputError("guidance_scale stresses a condition, got none: ask for one (--condition), or leave it 1.")
    return rows


def given_rows(
    given: torch.Tensor | None, mask: torch.Tensor | None, number: int, size: tuple[int, ...], num_codes: int | None
) -> dict[str, torch.Tensor]:
    """
    The codes that are to be kept.

    Args:
        given: (*grid) for all samples or (number, *grid); None for none.
        mask: bool, True where they are kept, likewise.
        number: number of samples.
        size: size of the grid.
        num_codes: number of codes, K; None if unknown.

    Returns:
        ``given`` int64 and ``mask`` bool, each (1 or number, *grid); empty when nothing is given.

    Raises:
        InputError: when one of them is missing, a shape or type is another, or a code is not one of the network's.
    """
    if given is None and mask is None:
        return {}
    if given is None or mask is None:
        raise InputError("given codes and mask come together, got only one of them.")
    codes, kept = torch.as_tensor(given, device="cpu"), torch.as_tensor(mask, device="cpu")
    for name, part in (("given codes", codes), ("mask", kept)):
        if tuple(part.shape) not in (size, (number, *size)):
            raise InputError(f"{name} must be {size} or {(number, *size)}, got {tuple(part.shape)}.")
    if kept.dtype != torch.bool or codes.is_floating_point():
        raise InputError(f"given codes must be whole numbers and the mask bool, got {codes.dtype} and {kept.dtype}.")
    for code in codes.expand(number, *size)[kept.expand(number, *size)].unique().tolist():
        if code < 0 or (num_codes is not None and code >= num_codes):
            raise InputError(f"given codes must be codes of the network where the mask is True, got {code}.")
    return {"given": codes.long().view(-1, *size), "mask": kept.view(-1, *size)}


def context_rows(
    context: torch.Tensor | None, number: int, size: tuple[int, ...], num_codes: int | None, num_contexts: int | None
) -> dict[str, torch.Tensor]:
    """
    The grids that are known before.

    Args:
        context: (grids, *grid) for all samples or (number, grids, *grid), -1 where a code is missing; None for none.
        number: number of samples.
        size: size of the grid.
        num_codes: number of codes, K; None if unknown.
        num_contexts: number of grids of a context; None if unknown.

    Returns:
        ``context`` int64 (1 or number, grids, *grid); empty when there is none.

    Raises:
        InputError: when the shape or type is another, or a code is not one of the network's.
    """
    if context is None:
        return {}
    if num_contexts == 0:
        raise InputError("context must be None for a prior that takes none: train one with --neighbor_context true.")
    codes = torch.as_tensor(context, device="cpu")
    grids = codes.shape[-len(size) - 1] if codes.dim() > len(size) else 0
    if grids == 0 or grids != (num_contexts or grids):
        raise InputError(f"context must have {num_contexts or 'some'} grids, as the network takes, got {grids}.")
    if tuple(codes.shape) not in ((grids, *size), (number, grids, *size)):
        expected = (number, grids, *size)
        raise InputError(f"context must be {expected[1:]} or {expected}, got {tuple(codes.shape)}.")
    if codes.is_floating_point():
        raise InputError(f"context must be of whole numbers, got {codes.dtype}.")
    if int(codes.min()) < -1 or (num_codes is not None and int(codes.max()) >= num_codes):
        raise InputError(f"context must be codes of the network or -1, got {int(codes.min())} to {int(codes.max())}.")
    return {"context": codes.long().view(-1, grids, *size)}


def given_as_context(rows: Mapping[str, torch.Tensor], names: Sequence[str]) -> dict[str, torch.Tensor]:
    """
    Put the given codes into the context of a network that sees them on all sides of a hole.

    Args:
        rows: as :meth:`Conditioning.rows` returns them.
        names: of the grids of the network's context; one of them may be ``given``.

    Returns:
        the rows, with the given codes in ``context`` (1 or number, grids, *grid) where the network takes them, -1 where
        a code is missing. A grid ``given`` of the context that was asked for is replaced.
    """
    if "given" not in names or "given" not in rows:
        return dict(rows)
    known = torch.where(rows["mask"], rows["given"], NOTHING["context"])  # (1 or number, *grid)
    context = rows.get("context", known.new_full((1, len(names), *known.shape[1:]), NOTHING["context"]))
    context = context.repeat(max(len(known), len(context)) // len(context), *[1] * (context.dim() - 1))
    context[:, names.index("given")] = known
    return {**rows, "context": context}


def tile_rows(rows: Mapping[str, torch.Tensor], row_of: Mapping[int, int], tile_size: int) -> dict[str, torch.Tensor]:
    """
    Put rows into the places of a tile.

    Args:
        rows: (n, ...), or (1, ...) for all samples, by name.
        row_of: number of the row for each requested place.
        tile_size: places of a tile.

    Returns:
        (tile_size, ...) by name, with :data:`NOTHING` in the other places.
    """
    places, numbers = list(row_of), list(row_of.values())
    tile = {}
    for name, part in rows.items():
        tile[name] = part.new_full((tile_size, *part.shape[1:]), NOTHING[name])
        tile[name][places] = part[numbers] if len(part) > 1 else part
    return tile
