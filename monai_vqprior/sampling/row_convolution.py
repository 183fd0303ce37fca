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

import torch

from monai_vqprior.sampling.folded_gate import matrix_and_1

__all__ = ["RowConvolution"]


class RowConvolution:
    """
    A causal convolution over rows that come one after another, as a sum of matrix products.

    The positions of a row, each of all grids, are the rows of a matrix. What a tap of the kernel sees of a row of
    positions is then a block of consecutive memory, and no product needs a copy or the zeros around the grid: there is
    one product for each tap, of all positions that have a neighbor there.

    Args:
        kernel: (past + 1, 2 * past + 1, C, D), the present row last.
        bias: (D,).
        gate: where the outcome goes, (L * B, D).
        batch_size: grids, B.
    """

    def __init__(self, kernel: torch.Tensor, bias: torch.Tensor, gate: torch.Tensor, batch_size: int) -> None:
        length = len(gate) // batch_size
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
        """Where to put the input of a row before :meth:`step`, (L * B, C)."""
        return self._rows[row % len(self._rows)]

    def step(self, row: int) -> None:
        """
        Convolve a row with those before it, and overwrite the gate.

        Args:
            row: number of the row; the rows before it have been passed. 0 begins another plane.
        """
        number = len(self._rows)
        torch.mm(self._rows_and_1[row % number], self._ahead_and_bias, out=self._gate)
        for (part, window), tap in zip(self._windows[row % number][1:], self._taps[0], strict=True):
            part.addmm_(window, tap)
        for back in range(1, min(row + 1, number)):
            for (part, window), tap in zip(self._windows[(row - back) % number], self._taps[back], strict=True):
                part.addmm_(window, tap)
