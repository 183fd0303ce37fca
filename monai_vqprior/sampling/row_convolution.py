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
from typing import Protocol

import torch

from monai_vqprior.sampling.folded_gate import matrix_and_1

__all__ = [
    "DirectRowConvolution",
    "RowConvolution",
    "WinogradRoom",
    "WinogradRowConvolution",
    "row_convolutions",
]

#: Fewer pairs of positions than these, and the products that Winograd's way saves cost no more than its additions.
_FEW_PAIRS = 64


class RowConvolution(Protocol):
    """
    A causal convolution over rows that come one after another, as a sum of matrix products.

    The positions of a row, each of all grids, are the rows of a matrix. What a tap of the kernel sees of a row of
    positions is then a block of consecutive memory, and no product needs a copy or the zeros around the grid.
    """

    #: places in the row of the positions of the matrices, in which they are stored.
    order: list[int]

    def inputs(self, row: int) -> torch.Tensor:
        """Where to put the input of a row before :meth:`step`, (L * B, C); other layers may use the same place."""
        ...

    def step(self, row: int) -> None:
        """
        Convolve a row with those before it, and overwrite the gate.

        Args:
            row: number of the row; the rows before it have been passed. 0 begins another plane.
        """
        ...


def row_convolutions(
    kernels: Sequence[torch.Tensor], biases: Sequence[torch.Tensor], gate: torch.Tensor, batch_size: int
) -> Sequence[RowConvolution]:
    """
    The faster way to convolve rows, for layers that pass a row one after another.

    Args:
        kernels: of each layer, (past + 1, 2 * past + 1, C, D), the present row last.
        biases: of each layer, (D,).
        gate: where the outcome goes, (L * B, D) for rows of L positions.
        batch_size: grids, B.
    """
    first = kernels[0]
    if len(first) != 2 or len(gate) // batch_size % 2 or len(gate) < 2 * _FEW_PAIRS:
        return [DirectRowConvolution(*layer, gate, batch_size) for layer in zip(kernels, biases, strict=True)]
    room = WinogradRoom(first, gate, batch_size)
    return [WinogradRowConvolution(*layer, gate, batch_size, room) for layer in zip(kernels, biases, strict=True)]


class DirectRowConvolution:
    """
    One product for each tap, of all positions that have a neighbor there. A :class:`RowConvolution`.

    Args:
        kernel: (past + 1, 2 * past + 1, C, D), the present row last.
        bias: (D,).
        gate: where the outcome goes, (L * B, D).
        batch_size: grids, B.
    """

    def __init__(self, kernel: torch.Tensor, bias: torch.Tensor, gate: torch.Tensor, batch_size: int) -> None:
        length = len(gate) // batch_size
        self.order = list(range(length))
        self._gate = gate
        past = len(kernel) - 1
        # Positions aside that a tap looks at, the one straight ahead first; none beyond the width of the grid.
        offsets = sorted((o for o in range(-past, past + 1) if abs(o) < length), key=abs)
        # Of each row back in time and each offset, (C, D).
        self._taps = [[row[past + offset].contiguous() for offset in offsets] for row in kernel.unbind(0)[::-1]]
        # A constant 1 behind what lies straight ahead brings in the bias.
        self._ahead_and_bias = torch.cat([self._taps[0].pop(0), bias[None]])  # (C + 1, D)
        # The present row and those before it that it sees, in turn.
        self._rows_and_1 = [matrix_and_1(len(gate), kernel.shape[2], kernel) for _ in range(past + 1)]
        self._rows = [row[:, :-1] for row in self._rows_and_1]
        # For each of these rows and each offset, the part of the gate that has such neighbors, and the neighbors.
        self._windows = [[self._aside(row, offset * batch_size) for offset in offsets] for row in self._rows]

    def _aside(self, row: torch.Tensor, shift: int) -> tuple[torch.Tensor, torch.Tensor]:
        if shift < 0:
            return self._gate[-shift:], row[:shift]
        return self._gate[: len(row) - shift], row[shift:]

    def inputs(self, row: int) -> torch.Tensor:
        return self._rows[row % len(self._rows)]

    def step(self, row: int) -> None:
        number = len(self._rows)
        torch.mm(self._rows_and_1[row % number], self._ahead_and_bias, out=self._gate)
        for (part, window), tap in zip(self._windows[row % number][1:], self._taps[0], strict=True):
            part.addmm_(window, tap)
        for back in range(1, min(row + 1, number)):
            for (part, window), tap in zip(self._windows[(row - back) % number], self._taps[back], strict=True):
                part.addmm_(window, tap)


class WinogradRoom:
    """
    What layers of :class:`WinogradRowConvolution` need for a row while it passes them, and not after: one such room
    for all of them stays in the cache.

    Positions are stored the second ones of the pairs first, with zeros at both ends, so that the inputs a, b, c and d
    of two positions b, c and their neighbors, of all pairs, are blocks of consecutive memory.

    Args:
        kernel: of one of the layers, for its sizes and type.
        gate: where the outcome goes, (L * B, D).
        batch_size: grids, B.
    """

    def __init__(self, kernel: torch.Tensor, gate: torch.Tensor, batch_size: int) -> None:
        pairs, (channels, outputs) = len(gate) // 2, kernel.shape[2:]
        zeros = kernel.new_zeros(2 * (pairs + batch_size), channels)
        self.inputs = zeros[batch_size:-batch_size]
        c, b = self.inputs.split(pairs)
        self.neighbors = zeros[:pairs], b, c, zeros[-pairs:]  # a, b, c and d
        self.total, self.change = kernel.new_zeros(2, pairs, outputs)
        self.of_c, self.of_b = gate.split(pairs)


class WinogradRowConvolution:
    """
    Two rows of three taps, the outputs of two neighbors from four products in the place of six: the minimal filtering
    F(2, 3) of Winograd, as in Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2016),
    https://arxiv.org/abs/1509.09308. A :class:`RowConvolution`.

    Of the inputs a, b, c, d of two positions b, c and their neighbors, the products are those of a - c, b + c, c - b
    and b - d; the first goes to the output of b alone, the last to that of c alone, the others to both. The products
    of the row before are added before they are put together.

    Args:
        kernel: (2, 3, C, D), the present row last.
        bias: (D,).
        gate: where the outcome goes, (L * B, D), L even.
        batch_size: grids, B.
        room: shared with other layers, in which a row that passes them is the input of one after another: the input of
            this layer is overwritten by that of the next. None for a room of its own.

    Raises:
        ValueError: when the kernel is not of two rows of three, or the row has a position without a partner.
    """

    def __init__(
        self,
        kernel: torch.Tensor,
        bias: torch.Tensor,
        gate: torch.Tensor,
        batch_size: int,
        room: WinogradRoom | None = None,
    ) -> None:
        length, pairs = len(gate) // batch_size, len(gate) // 2
        if kernel.shape[:2] != (2, 3) or length % 2:
            raise ValueError(
                f"the kernel must have 2 x 3 taps and the row pairs, got {tuple(kernel.shape[:2])} and {length}."
            )
        self.order = [*range(1, length, 2), *range(0, length, 2)]
        self._room = WinogradRoom(kernel, gate, batch_size) if room is None else room
        # Of the present row and of the row before, what each of the four products is taken with, (C, D).
        self._weights = []
        for left, middle, right in kernel.contiguous().unbind(0)[::-1]:
            both, difference = (left + middle + right) / 2, (left - middle + right) / 2
            self._weights.append([left, both, difference, -right])
        # The sum of b and c goes to both outputs as it is, and a constant 1 behind it brings in the bias.
        self._weights[0][1] = torch.cat([self._weights[0][1], bias[None]])  # (C + 1, D)
        # a - c, b + c, c - b and b - d of the present row and of the row before, in turn; the sums also with their 1.
        channels = kernel.shape[2]
        self._sums_and_1 = [matrix_and_1(pairs, channels, kernel) for _ in range(2)]
        empty = kernel.new_zeros(2, 3, pairs, channels)
        self._parts = [(x[0], sums[:, :-1], x[1], x[2]) for x, sums in zip(empty, self._sums_and_1, strict=True)]

    def inputs(self, row: int) -> torch.Tensor:
        return self._room.inputs

    def step(self, row: int) -> None:
        room = self._room
        a, b, c, d = room.neighbors
        parts, weights = self._parts[row % 2], self._weights[0]
        torch.sub(a, c, out=parts[0])
        torch.add(b, c, out=parts[1])
        torch.sub(c, b, out=parts[2])
        torch.sub(b, d, out=parts[3])
        torch.mm(self._sums_and_1[row % 2], weights[1], out=room.total)
        torch.mm(parts[2], weights[2], out=room.change)
        before, older = self._parts[(row + 1) % 2], self._weights[1]
        if row > 0:
            room.total.addmm_(before[1], older[1])
            room.change.addmm_(before[2], older[2])
        torch.add(room.total, room.change, out=room.of_b).addmm_(parts[0], weights[0])
        torch.sub(room.total, room.change, out=room.of_c).addmm_(parts[3], weights[3])
        if row > 0:
            room.of_b.addmm_(before[0], older[0])
            room.of_c.addmm_(before[3], older[3])
