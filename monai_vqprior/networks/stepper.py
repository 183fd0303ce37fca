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
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn as nn
import torch.nn.functional as F

from monai_vqprior.networks.attention import CausalAttention
from monai_vqprior.networks.causal import CausalConv, GatedLayer
from monai_vqprior.networks.row_convolution import matrix_and_1, row_convolutions

__all__ = ["HeadStepper", "PositionStepper", "RowStepper"]


class RowStepper:
    """
    The last but one stack of all layers, one row after another along its axis, and its link to the last stack.

    All positions of a row are computed at once, by the products of a :class:`RowConvolution`. As in
    :class:`PositionStepper`, one sigmoid serves both nonlinearities, and a constant 1 behind the features brings in the
    bias.

    Args:
        layers: the layers of a prior; read once, so that later changes of their weights do not count.
        conditions: what to add to the gates of each layer, (B, 2C, 1, ...), or None.
        batch_size: number of grids, B.
        spatial_size: size of a grid; a row has the positions of its last axis, L.
    """

    def __init__(
        self,
        layers: Sequence[GatedLayer],
        conditions: Sequence[torch.Tensor | None],
        batch_size: int,
        spatial_size: Sequence[int],
    ) -> None:
        last = len(layers[0].convs) - 1
        own = last - 1
        length = spatial_size[-1]
        self._shape = length, batch_size
        self._scale = _gate_scale(_weights(cast(CausalConv, layers[0].convs[own]).conv)[1])
        channels = len(self._scale) // 2
        self._gate_and_1 = matrix_and_1(length * batch_size, 2 * channels, self._scale)
        self._gate = self._gate_and_1[:, :-1]
        self._content, self._control = self._gate.split(channels, 1)
        self._gated = matrix_and_1(length * batch_size, channels, self._scale)
        self._features = self._gated[:, :-1]
        kernels, biases = [], []
        self._link: list[torch.Tensor] = []  # (2C + 1, 2C)
        self._out: list[torch.Tensor] = []  # (C + 1, C), of all layers but the last
        self._conditions: list[torch.Tensor | None] = []  # (B, 2C)
        for layer, condition in zip(layers, conditions, strict=True):
            weight, bias = _weights(cast(CausalConv, layer.convs[own]).conv)
            link, link_bias = _weights(layer.links[own])
            next_bias = _weights(cast(CausalConv, layer.convs[last]).conv)[1]
            # Of size 1 along all axes before these two: (2C, C, past + 1, width) -> (past + 1, width, C, 2C).
            kernel = weight.view(2 * channels, channels, *weight.shape[-2:]).permute(2, 3, 1, 0) * self._scale
            kernels.append(kernel)
            biases.append(bias * self._scale)
            # The gate comes in with doubled content, and the last stack wants its own so.
            weights = link.flatten(1).t() / self._scale[:, None]
            self._link.append(torch.cat([weights, (link_bias + next_bias)[None]]) * self._scale)
            self._conditions.append(None if condition is None else condition.flatten(1) * self._scale)
        self._convs = row_convolutions(kernels, biases, self._gate, batch_size)
        for layer in layers[:-1]:
            out, out_bias = _weights(layer.outs[own])
            self._out.append(torch.cat([-out.flatten(1).t(), out_bias[None]]))

        self._contexts = [self._scale.new_zeros(*self._shape, 2 * channels) for _ in layers]
        order = self._convs[0].order
        self._order = torch.tensor(order, device=self._scale.device)
        places = sorted(range(length), key=order.__getitem__)
        #: the link from a row to each layer of the last stack at each of its positions, (B, 2C): bias and condition of
        #: the gate there are in it.
        self.contexts = [[context[place] for place in places] for context in self._contexts]

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
        self._convs[0].inputs(row).view(*self._shape, -1).copy_(x[self._order])
        for i, (conv, link, condition) in enumerate(zip(self._convs, links, self._conditions, strict=True)):
            conv.step(row)
            if condition is not None:
                gate.view(*self._shape, -1).add_(condition)
            if link is not None:
                gate.view(*self._shape, -1).addcmul_(link.flatten(2).permute(2, 0, 1)[self._order], self._scale)
            context = self._contexts[i]
            torch.mm(self._gate_and_1, self._link[i], out=context.flatten(0, 1))
            if condition is not None:
                context.add_(condition)
            if i < len(self._out):
                gate.sigmoid_()
                torch.addcmul(self._control, self._content, self._control, value=-2, out=self._features)
                torch.addmm(conv.inputs(row), self._gated, self._out[i], out=self._convs[i + 1].inputs(row))


class PositionStepper:
    """
    The innermost loop of sampling: the last stack of all layers, one position after another along the last axis.

    A position of a layer takes four operations, none of which allocates. The inputs of a line lie side by side in one
    buffer, in which the window that a position sees is a view. The weights are laid out once as matrices, and carry
    what else there is to do: tanh(x) = 2 sigmoid(2x) - 1 makes of both nonlinearities one sigmoid, which a CPU computes
    faster than a tanh; its factors and signs are folded into the matrices around it. A constant 1 beside the features
    brings in the bias.

    Args:
        layers: the layers of a prior; read once, so that later changes of their weights do not count.
        attentions: what comes after each of the layers, or None.
        contexts: :attr:`RowStepper.contexts`, which a line overwrites.
        spatial_size: size of a grid; a line has the positions of its last axis, L.
        keep_gated: whether :attr:`gated` is wanted, for skip connections.
    """

    def __init__(
        self,
        layers: Sequence[GatedLayer],
        attentions: Sequence[CausalAttention | None],
        contexts: Sequence[Sequence[torch.Tensor]],
        spatial_size: Sequence[int],
        keep_gated: bool,
    ) -> None:
        length, batch_size = len(contexts[0]), len(contexts[0][0])
        last = len(layers[0].convs) - 1
        # A single grid makes vectors of matrices; the product with a vector runs along the rows of a matrix.
        one = batch_size == 1
        self._add_product = torch.Tensor.addmv_ if one else torch.Tensor.addmm_
        into_gate: list[torch.Tensor] = []  # (window * C, 2C), or (2C, window * C) for a single grid
        outs: list[torch.Tensor] = []  # (C + 1, C)
        for layer in layers:
            weight, bias = _weights(cast(CausalConv, layer.convs[last]).conv)
            out, out_bias = _weights(layer.outs[last])
            channels = weight.shape[1]
            window = weight.flatten(2).permute(2, 1, 0).flatten(0, 1) * _gate_scale(bias)  # (window * C, 2C)
            into_gate.append((window.t() if one else window).contiguous())
            outs.append(torch.cat([-out.flatten(1).t(), out_bias[None]]))

        like = contexts[0][0].new_zeros
        past = cast(CausalConv, layers[0].convs[last]).past
        # Layer i reads buffer i and writes buffer i + 1; the first entries are the zeros before a line.
        buffers = [like(batch_size, past + length, channels) for _ in range(len(layers) + 1)]
        width = (past + 1) * channels
        # What passed the gates, and behind each the constant 1; side by side, or all layers in the same place.
        layers_kept = len(layers) if keep_gated else 1
        #: the negative of what passed the gate of each layer at the present position, (B, layers * (C + 1)), with a 1
        #: behind each.
        self.gated = like(batch_size, layers_kept * (channels + 1))
        gated = self.gated.split(channels + 1, 1) * (len(layers) // layers_kept)
        for place in gated:
            place[:, channels] = 1
        self._inputs = list(zip(*(x[:, past:].unbind(1) for x in buffers), strict=True))

        def tensors(i: int, position: int) -> tuple[torch.Tensor, ...]:
            """The gate of a layer, the two factors added to it, what it is read as, and where it goes."""
            gate, (x, y) = contexts[i][position], self._inputs[position][i : i + 2]
            window = buffers[i].as_strided((batch_size, width), (buffers[i].stride(0), 1), position * channels)
            product = (gate[0], into_gate[i], window[0]) if one else (gate, window, into_gate[i])
            return (*product, *gate.split(channels, 1), gated[i][:, :channels], x, gated[i], outs[i], y)

        # For each position and layer.
        self._steps = [[tensors(i, position) for i in range(len(layers))] for position in range(length)]
        # Of the layers that have one, the attention after them with its keys and values.
        size = math.prod(spatial_size)
        self._attentions = {i: (a, a.start(batch_size, size)) for i, a in enumerate(attentions) if a is not None}

    def step(self, position: int, place: int, x: torch.Tensor) -> torch.Tensor:
        """
        Pass one position through all layers.

        Args:
            position: its place in the line; the places before it have been passed.
            place: its place in the raster order of the grid.
            x: its input, (B, C).

        Returns:
            features of the last layer, (B, C), valid until the next step.
        """
        add_product, attentions = self._add_product, self._attentions
        inputs = self._inputs[position]
        inputs[0].copy_(x)
        for i, step in enumerate(self._steps[position]):
            gate, left, right, content, control, features, x, gated, out, y = step
            add_product(gate, left, right).sigmoid_()
            torch.addcmul(control, content, control, value=-2, out=features)
            torch.addmm(x, gated, out, out=y)
            if i in attentions:
                attention, cache = attentions[i]
                y.copy_(attention.step(y, cache, place))
        return inputs[-1]


class HeadStepper:
    """
    Logits of a position from its features.

    Args:
        head: the head of a prior, with convolutions at 1 and 3.
        skip: the convolution of its skip connections, or None.
        position_logits: what is added to the logits of each position, (1, K, *spatial), or None.
    """

    def __init__(self, head: nn.Sequential, skip: nn.Module | None, position_logits: torch.Tensor | None) -> None:
        (first, self._first_bias), (second, bias) = _weights(head[1]), _weights(head[3])
        self._first = first.flatten(1).t()  # (C, C)
        self._second = second.flatten(1).t()  # (C, K)
        added = bias[None] if position_logits is None else bias + position_logits[0].flatten(1).t()
        self._bias = added.contiguous()  # (positions or 1, K)
        self._skip: torch.Tensor | None = None
        if skip is not None:
            weight, skip_bias = _weights(skip)
            channels = len(weight)
            parts = weight.flatten(1).t().unflatten(0, (-1, channels))  # (layers, C, C)
            # The gated features of a layer are negative, and the 1 behind them brings in the bias.
            biases = torch.zeros_like(parts[:, :1])
            biases[0] = skip_bias
            self._skip = torch.cat([-parts, biases], 1).flatten(0, 1)  # (layers * (C + 1), C)

    def step(self, position: int, features: torch.Tensor, gated: torch.Tensor) -> torch.Tensor:
        """
        Logits of a position.

        Args:
            position: its place in raster order.
            features: of the last layer, (B, C).
            gated: :attr:`PositionStepper.gated`.

        Returns:
            (B, K).
        """
        x = features if self._skip is None else torch.addmm(features, gated, self._skip)
        x = F.silu(torch.addmm(self._first_bias, F.silu(x), self._first))
        return torch.addmm(self._bias[position if len(self._bias) > 1 else 0], x, self._second)


def _weights(conv: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of a convolution of any dimensions."""
    return cast(torch.Tensor, conv.weight), cast(torch.Tensor, conv.bias)


def _gate_scale(bias: torch.Tensor) -> torch.Tensor:
    """2 for the content, whose sigmoid then makes a tanh, and 1 for the control: (2C,) like the bias of a gate."""
    scale = torch.ones_like(bias)
    scale[: len(bias) // 2] = 2
    return scale
