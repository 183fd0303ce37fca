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

__all__ = ["HeadStepper", "PositionStepper"]


class PositionStepper:
    """
    The innermost loop of sampling: the last stack of all layers, one position after another along the last axis.

    A position of a layer takes four operations, none of which allocates or copies. The inputs of a line lie side by
    side in one buffer, in which the window that a position sees is a view. The weights are laid out once as matrices,
    and carry what else there is to do: sigmoid(x) = (1 + tanh(x / 2)) / 2 makes of both nonlinearities one tanh, with
    both halves folded into the matrices around it; and a constant 1 beside the features brings in the bias.

    Args:
        layers: the layers of a prior; read once, so that later changes of their weights do not count.
        attentions: what comes after each of the layers, or None.
        batch_size: number of grids, B.
        spatial_size: size of a grid; a line has the positions of its last axis, L.
        keep_gated: whether :attr:`gated` is wanted, for skip connections.
    """

    def __init__(
        self,
        layers: Sequence[GatedLayer],
        attentions: Sequence[CausalAttention | None],
        batch_size: int,
        spatial_size: Sequence[int],
        keep_gated: bool,
    ) -> None:
        length = spatial_size[-1]
        self._attentions = attentions
        self._attended = [None if a is None else a.start(batch_size, math.prod(spatial_size)) for a in attentions]
        self._first = 0
        last = len(layers[0].convs) - 1
        # Gates: the second half, the control, enters a sigmoid.
        self._into_gate: list[torch.Tensor] = []  # (window * C, 2C)
        self._gate_bias: list[torch.Tensor] = []  # (2C,)
        self._out: list[torch.Tensor] = []  # (C + 1, C)
        self._halves: torch.Tensor
        for layer in layers:
            weight, bias = _weights(cast(CausalConv, layer.convs[last]).conv)
            out, out_bias = _weights(layer.outs[last])
            channels = weight.shape[1]
            halves = torch.ones_like(bias)
            halves[channels:] = 0.5
            window = weight.flatten(2).permute(2, 1, 0).flatten(0, 1)  # (window * C, 2C)
            self._into_gate.append((window * halves).contiguous())
            self._gate_bias.append(bias * halves)
            self._out.append(torch.cat([0.5 * out.flatten(1).t(), out_bias[None]]))
            self._halves = halves

        like = self._into_gate[0].new_zeros
        past = cast(CausalConv, layers[0].convs[last]).past
        # Layer i reads buffer i and writes buffer i + 1; the first entries are the zeros before a line.
        buffers = [like(batch_size, past + length, channels) for _ in range(len(layers) + 1)]
        width = (past + 1) * channels
        self._windows: list[list[torch.Tensor]] = [
            [x.as_strided((batch_size, width), (x.stride(0), 1), j * channels) for x in buffers[:-1]]
            for j in range(length)
        ]
        self._inputs: list[list[torch.Tensor]] = [[x[:, past + j] for x in buffers] for j in range(length)]
        self._gate = like(batch_size, 2 * channels)
        self._content, self._control = self._gate.split(channels, 1)
        # What passed the gates, and behind each the constant 1; side by side, or all layers in the same place.
        layers_kept = len(layers) if keep_gated else 1
        #: what passed the gate of each layer at the present position, (B, layers * (C + 1)), with a 1 behind each.
        self.gated = like(batch_size, layers_kept * (channels + 1))
        places = self.gated.split(channels + 1, 1) * (len(layers) // layers_kept)
        for place in places:
            place[:, channels] = 1
        self._gated = places
        self._features = [place[:, :channels] for place in places]
        self._context: list[tuple[torch.Tensor, ...]] = []

    def start(
        self, first: int, links: Sequence[torch.Tensor | None], conditions: Sequence[torch.Tensor | None]
    ) -> None:
        """
        Begin a line.

        Args:
            first: place of its first position in the raster order of the grid.
            links: what the stack before says to each layer, (B, 2C, 1, ..., L).
            conditions: (B, 2C, 1, ...) or None, for each layer.
        """
        self._first = first
        context = []
        for link, condition, bias in zip(links, conditions, self._gate_bias, strict=True):
            total = cast(torch.Tensor, link)
            total = total if condition is None else total + condition
            lines = total.flatten(2).permute(2, 0, 1)  # (L, B, 2C)
            context.append(torch.addcmul(bias, lines, self._halves).contiguous())
        self._context = list(zip(*(lines.unbind(0) for lines in context), strict=True))

    def step(self, position: int, x: torch.Tensor) -> torch.Tensor:
        """
        Pass one position through all layers.

        Args:
            position: its place in the line; the places before it have been passed.
            x: its input, (B, C).

        Returns:
            features of the last layer, (B, C), valid until the next step.
        """
        inputs, gate = self._inputs[position], self._gate
        inputs[0].copy_(x)
        contexts, windows = self._context[position], self._windows[position]
        for i, (context, window) in enumerate(zip(contexts, windows, strict=True)):
            torch.addmm(context, window, self._into_gate[i], out=gate)
            gate.tanh_()
            torch.addcmul(self._content, self._content, self._control, out=self._features[i])
            torch.addmm(inputs[i], self._gated[i], self._out[i], out=inputs[i + 1])
            attention, attended = self._attentions[i], self._attended[i]
            if attention is not None and attended is not None:
                inputs[i + 1].copy_(attention.step(inputs[i + 1], attended, self._first + position))
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
            # The gated features of a layer are half of what they should be, and the 1 behind them brings in the bias.
            biases = torch.zeros_like(parts[:, :1])
            biases[0] = skip_bias
            self._skip = torch.cat([0.5 * parts, biases], 1).flatten(0, 1)  # (layers * (C + 1), C)

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
