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

import torch

from monai_vqprior.sampling.folded_gate import gate_scale, matrix_and_1, out_matrix, through_gate, weights_of
from monai_vqprior.sampling.prior_parts import SampledLayer, kernel_of
from monai_vqprior.sampling.row_convolution import RowConvolution

__all__ = ["RowStepper"]


class RowStepper:
    """
    The last but one stack of all layers, one row after another along its axis, and its link to the last stack.

    All positions of a row are computed at once, by the products of a
    :class:`~monai_vqprior.sampling.row_convolution.RowConvolution`; the gates are those of ``folded_gate.py``.

    Args:
        layers: the layers of a prior; read once, so that later changes of their weights do not count.
        conditions: what to add to the gates of each layer, (B, 2C, 1, ...), or None.
        batch_size: number of grids, B.
        spatial_size: size of a grid; a row has the positions of its last axis, L.
    """

    def __init__(
        self,
        layers: Sequence[SampledLayer],
        conditions: Sequence[torch.Tensor | None],
        batch_size: int,
        spatial_size: Sequence[int],
    ) -> None:
        last = len(layers[0].convs) - 1
        own = last - 1
        length = spatial_size[-1]
        self._shape = length, batch_size
        self._scale = gate_scale(kernel_of(layers[0], own)[1])
        channels = len(self._scale) // 2
        self._gate_and_1 = matrix_and_1(length * batch_size, 2 * channels, self._scale)
        self._gate = self._gate_and_1[:, :-1]
        self._content, self._control = self._gate.split(channels, 1)
        self._gated = matrix_and_1(length * batch_size, channels, self._scale)
        self._features = self._gated[:, :-1]
        self._convs: list[RowConvolution] = []
        self._link: list[torch.Tensor] = []  # (2C + 1, 2C)
        self._conditions: list[torch.Tensor | None] = []  # (B, 2C)
        for layer, condition in zip(layers, conditions, strict=True):
            weight, bias = kernel_of(layer, own)
            link, link_bias = weights_of(layer.links[own])
            next_bias = kernel_of(layer, last)[1]
            # Of size 1 along all axes before these two: (2C, C, past + 1, width) -> (past + 1, width, C, 2C).
            kernel = weight.view(2 * channels, channels, *weight.shape[-2:]).permute(2, 3, 1, 0) * self._scale
            self._convs.append(RowConvolution(kernel, bias * self._scale, self._gate, batch_size))
            # The gate comes in with doubled content, and the last stack wants its own so.
            weights = link.flatten(1).t() / self._scale[:, None]
            self._link.append(torch.cat([weights, (link_bias + next_bias)[None]]) * self._scale)
            self._conditions.append(None if condition is None else condition.flatten(1) * self._scale)
        self._out = [out_matrix(layer.outs[own]) for layer in layers[:-1]]  # (C + 1, C)
        self._contexts = [self._scale.new_zeros(*self._shape, 2 * channels) for _ in layers]
        #: the link from a row to each layer of the last stack at each of its positions, (B, 2C): bias and condition of
        #: the gate there are in it.
        self.contexts = [list(context) for context in self._contexts]

    def step(self, row: int, x: torch.Tensor, links: Sequence[torch.Tensor | None]) -> None:
        """
        Pass one row through all layers, and write :attr:`contexts`.

        Args:
            row: its place; the rows before it have been passed. 0 begins another plane.
            x: its input, (L, B, C).
            links: what the stack before says to each layer at this row, (B, 2C, 1, ..., L), or None for the first
                stack.
        """
        gate = self._gate
        self._convs[0].inputs(row).view(*self._shape, -1).copy_(x)
        for i, (conv, link, condition) in enumerate(zip(self._convs, links, self._conditions, strict=True)):
            conv.step(row)
            if condition is not None:
                gate.view(*self._shape, -1).add_(condition)
            if link is not None:
                gate.view(*self._shape, -1).addcmul_(link.flatten(2).permute(2, 0, 1), self._scale)
            context = self._contexts[i]
            torch.mm(self._gate_and_1, self._link[i], out=context.flatten(0, 1))
            if condition is not None:
                context.add_(condition)
            if i < len(self._out):
                through_gate(gate, self._content, self._control, self._features)
                torch.addmm(conv.inputs(row), self._gated, self._out[i], out=self._convs[i + 1].inputs(row))
