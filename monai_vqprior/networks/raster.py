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

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F

from monai_vqprior.networks.attention import CausalAttention
from monai_vqprior.networks.causal import CausalConv, GatedLayer
from monai_vqprior.networks.stepper import HeadStepper, PositionStepper, RowStepper

if TYPE_CHECKING:
    from monai_vqprior.networks.pixelcnn import GatedPixelCNN

__all__ = ["RasterRun"]


class RasterRun:
    """One call of :meth:`GatedPixelCNN.generate`: what stays the same from its first position to its last."""

    def __init__(
        self,
        network: GatedPixelCNN,
        choose: Callable[[int, torch.Tensor], torch.Tensor],
        conditions: list[torch.Tensor | None],
        batch_size: int,
    ) -> None:
        self.layers = [cast(GatedLayer, layer) for layer in network.layers]
        self.embedding = network.embedding.weight
        self.head = HeadStepper(network.head, network.skip, network.position_logits)
        self.spatial_dims = network.spatial_dims
        self.choose = choose
        self.conditions = conditions
        attentions = [after if isinstance(after, CausalAttention) else None for after in network.attentions]
        self.rows = RowStepper(self.layers, conditions, batch_size, network.spatial_size)
        self.stepper = PositionStepper(
            self.layers, attentions, self.rows.contexts, network.spatial_size, network.skip is not None
        )

    def advance(
        self,
        axis: int,
        codes: torch.Tensor,
        position: torch.Tensor,
        links: Sequence[torch.Tensor | None],
        first: int,
    ) -> None:
        """
        Run stack ``axis`` slice by slice, and inside each slice the stacks of the axes after it.

        Args:
            axis: the stack to run.
            codes: the part of the grids that this run fills, (B, *spatial) with size 1 along the axes before ``axis``.
            position: what is added to the codes of that part, (1 or B, C, *spatial): the position embedding, and the
                map of the context where there is one.
            links: what the stack before says to each layer, (B, 2C, *spatial), or None for the first stack.
            first: position in raster order of the first code of the part.
        """
        if axis == self.spatial_dims - 2:
            self.fill_rows(codes, position, links, first)
            return
        length = codes.shape[axis + 1]
        stride = codes[0].numel() // length  # positions in one slice
        caches: list[torch.Tensor | None] = [None] * len(self.layers)
        for i in range(length):
            x = position.narrow(axis + 2, i, 1)
            if i > 0:
                x = F.embedding(codes.narrow(axis + 1, i - 1, 1), self.embedding).movedim(-1, 1) + x
            x = x.expand(len(codes), *x.shape[1:])
            inner: list[torch.Tensor | None] = []
            for index, layer in enumerate(self.layers):
                link = links[index]
                conv = cast(CausalConv, layer.convs[axis])
                cache = caches[index]
                gate, caches[index] = conv.step(x, conv.start(x) if cache is None else cache)
                link = None if link is None else link.narrow(axis + 2, i, 1)
                gate = layer.add_context(gate, link, self.conditions[index])
                inner.append(layer.links[axis](gate))
                x = x + layer.outs[axis](layer.through_gate(gate))
            part, place = codes.narrow(axis + 1, i, 1), position.narrow(axis + 2, i, 1)
            self.advance(axis + 1, part, place, inner, first + i * stride)

    def fill_rows(
        self, codes: torch.Tensor, position: torch.Tensor, links: Sequence[torch.Tensor | None], first: int
    ) -> None:
        """Run the last two stacks, row by row and in each row position by position; arguments as in :meth:`advance`."""
        lines = codes.flatten(1, -2)  # (B, rows, L), a view
        places = position.flatten(2, -2).permute(2, 3, 0, 1).contiguous()  # (rows, L, 1 or B, C)
        length = lines.shape[2]
        for i in range(lines.shape[1]):
            x = places[i].expand(-1, len(codes), -1)
            if i > 0:
                x = F.embedding(lines[:, i - 1].t(), self.embedding) + x
            self.rows.step(i, x, [None if link is None else link.narrow(-2, i, 1) for link in links])
            self.fill_line(lines[:, i], places[i], first + i * length)

    def fill_line(self, line: torch.Tensor, places: torch.Tensor, first: int) -> None:
        """
        Run the last stack along a line, position by position.

        Args:
            line: the codes to fill, (B, L).
            places: what is added to the codes at each position of the line, (L, 1 or B, C).
            first: position in raster order of its first code.
        """
        columns = line.unbind(1)
        x = places[0].expand(len(line), -1)
        for j, (column, place) in enumerate(zip(columns, places.unbind(0), strict=True)):
            if j > 0:
                x = self.embedding.index_select(0, columns[j - 1]).add_(place)
            features = self.stepper.step(j, first + j, x)
            logits = self.head.step(first + j, features, self.stepper.gated)
            column.copy_(self.choose(first + j, logits))
