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

import torch
import torch.nn.functional as F

from monai_vqprior.sampling.head import HeadStepper
from monai_vqprior.sampling.innermost_loop import PositionStepper
from monai_vqprior.sampling.planes import PlaneStepper
from monai_vqprior.sampling.prior_parts import SampledPrior, attentions_of, layers_of, mirror_of
from monai_vqprior.sampling.rows import RowStepper

__all__ = ["GridSampler"]

Choose = Callable[[int, torch.Tensor], torch.Tensor]


class GridSampler:
    """
    The cached twin of a prior: fills grids in raster order and computes each feature of the prior once.

    The stack of an axis advances one slice at a time along it: the first one of three dimensions a plane at a time
    (``planes.py``), the last but one a row at a time (``rows.py``), and the last one a position at a time
    (``innermost_loop.py``). Each reads the link from the stack before it and a cache of its own last inputs.

    Args:
        prior: the weights of its last two stacks and of its head are read once, so that later changes do not count.
        conditions: what to add to the gates of each layer, (B, 2C, 1, ...), or None.
        places: what is added to the codes at each position, (1 or B, C, *spatial): the position embedding, and the map
            of a context where there is one.
        batch_size: number of grids, B.
    """

    def __init__(
        self,
        prior: SampledPrior,
        conditions: Sequence[torch.Tensor | None],
        places: torch.Tensor,
        batch_size: int,
    ) -> None:
        layers, size = layers_of(prior), prior.spatial_size
        self._shape = batch_size, *size
        self._embedding = prior.embedding.weight
        self._mirror = mirror_of(prior)
        self._places = places
        self._planes = PlaneStepper(layers, conditions) if prior.spatial_dims == 3 else None
        self._rows = RowStepper(layers, conditions, batch_size, size)
        keep_gated = prior.skip is not None
        self._positions = PositionStepper(layers, attentions_of(prior), self._rows.contexts, size, keep_gated)
        self._head = HeadStepper(prior.head, prior.skip, prior.position_logits)
        self._no_links = [None] * len(layers)

    def fill(self, choose: Choose) -> torch.Tensor:
        """
        Fill the grids.

        Args:
            choose: given the position (0 for the first of the grid) and its logits (B, K), the codes (B,) to put there.

        Returns:
            codes, (B, *spatial) int64.
        """
        codes = torch.zeros(self._shape, dtype=torch.long, device=self._embedding.device)
        if self._planes is None:
            self._fill_plane(codes, self._places, self._no_links, 0, choose)
            return codes
        area = codes[0, 0].numel()
        for i in range(codes.shape[1]):
            x = self._places.narrow(2, i, 1)
            if i > 0:
                x = F.embedding(codes.narrow(1, i - 1, 1), self._embedding).movedim(-1, 1) + x
            links = self._planes.step(x.expand(len(codes), *x.shape[1:]))
            self._fill_plane(codes[:, i], self._places[:, :, i], links, i * area, choose)
        return codes

    def _fill_plane(
        self,
        codes: torch.Tensor,
        places: torch.Tensor,
        links: Sequence[torch.Tensor | None],
        first: int,
        choose: Choose,
    ) -> None:
        """
        Run the last two stacks, row by row and in each row position by position.

        Args:
            codes: the part of the grids to fill, (B, rows, L).
            places: what is added to the codes there, (1 or B, C, rows, L).
            links: what the stack before says to each layer, (B, 2C, ..., rows, L), or None without such a stack.
            first: position in raster order of the first code.
            choose: as in :meth:`fill`.
        """
        length = codes.shape[2]
        rows = places.permute(2, 3, 0, 1).contiguous()  # (rows, L, 1 or B, C)
        for i, row in enumerate(rows):
            x = row.expand(-1, len(codes), -1)
            if i > 0:
                x = F.embedding(codes[:, i - 1].t(), self._embedding) + x
            self._rows.step(i, x, [None if link is None else link.narrow(-2, i, 1) for link in links])
            if self._mirror is not None:
                row = row + self._mirror.start_row(codes[:, i - 1] if i > 0 else None, codes[:, i])
            self._fill_row(codes[:, i], row, first + i * length, choose)

    def _fill_row(self, codes: torch.Tensor, places: torch.Tensor, first: int, choose: Choose) -> None:
        """Run the last stack along a row (B, L) with its places (L, 1 or B, C), position by position."""
        columns = codes.unbind(1)
        x = places[0].expand(len(codes), -1)
        for j, (column, place) in enumerate(zip(columns, places.unbind(0), strict=True)):
            if j > 0:
                x = self._embedding.index_select(0, columns[j - 1]).add_(place)
            if self._mirror is not None:
                x = x + self._mirror.step(j, codes)
            features = self._positions.step(j, first + j, x)
            logits = self._head.step(first + j, features, self._positions.gated)
            column.copy_(choose(first + j, logits))
