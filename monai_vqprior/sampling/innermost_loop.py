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

import torch

from monai_vqprior.sampling.folded_gate import gate_scale, out_matrix, through_gate
from monai_vqprior.sampling.prior_parts import SampledAttention, SampledLayer, kernel_of

__all__ = ["PositionStepper"]


class PositionStepper:
    """
    The innermost loop of sampling: the last stack of all layers, one position after another along the last axis.

    A position of a layer takes four operations, none of which allocates. The inputs of a line lie side by side in one
    buffer, in which the window that a position sees is a view. The weights are laid out once as matrices; the gates are
    those of ``folded_gate.py``.

    Args:
        layers: the layers of a prior; read once, so that later changes of their weights do not count.
        attentions: what comes after each of the layers, or None.
        contexts: :attr:`RowStepper.contexts`, which a line overwrites.
        spatial_size: size of a grid; a line has the positions of its last axis, L.
        keep_gated: whether :attr:`gated` is wanted, for skip connections.
    """

    def __init__(
        self,
        layers: Sequence[SampledLayer],
        attentions: Sequence[SampledAttention | None],
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
            weight, bias = kernel_of(layer, last)
            channels, past = weight.shape[1], weight.shape[-1] - 1
            window = weight.flatten(2).permute(2, 1, 0).flatten(0, 1) * gate_scale(bias)  # (window * C, 2C)
            into_gate.append((window.t() if one else window).contiguous())
            outs.append(out_matrix(layer.outs[last]))

        like = contexts[0][0].new_zeros
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
            through_gate(add_product(gate, left, right), content, control, features)
            torch.addmm(x, gated, out, out=y)
            if i in attentions:
                attention, cache = attentions[i]
                y.copy_(attention.step(y, cache, place))
        return inputs[-1]
