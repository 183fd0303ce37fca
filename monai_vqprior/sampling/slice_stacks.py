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
from dataclasses import dataclass

import torch

from monai_vqprior.data.stacks import NEIGHBOR, neighbor_names
from monai_vqprior.sampling.conditioning import NOTHING
from monai_vqprior.sampling.tiles import Tile, TileSampler

__all__ = ["NEIGHBOR", "StackSampler", "columns_of_neighbors"]


def columns_of_neighbors(names: Sequence[str]) -> list[int]:
    """
    Where the slices below are in the context of a network.

    Args:
        names: of the grids of its context.

    Returns:
        the place of the slice below, of the one below that, and so on; empty for a network of single slices.
    """
    return [names.index(name) for name in neighbor_names(len(names)) if name in names]


@dataclass(frozen=True)
class StackSampler:
    """
    Draws whole tiles of stacks: the slices of a head one after another, each given those below it that the network
    knows.

    Args:
        samplers: of each slice, from the lowest on, with random numbers of its own (``part``).
        num_contexts: grids of the network's context.
        neighbors: which of them is the slice below, the one below that, and so on.
    """

    samplers: Sequence[TileSampler]
    num_contexts: int
    neighbors: Sequence[int]

    def __call__(self, tile: Tile, on_position: Callable[[], object] | None = None) -> torch.Tensor:
        """
        Draw all stacks of a tile.

        Args:
            tile: the tile.
            on_position: called after each position of each slice.

        Returns:
            the stacks asked for, in the order of ``tile.places``, (places, slices, *grid) int64.
        """
        drawn: list[torch.Tensor] = []
        for sampler in self.samplers:
            drawn.append(sampler.whole(tile, on_position, self._context(drawn)))
        return torch.stack(drawn, 1)[tile.places]

    def _context(self, drawn: Sequence[torch.Tensor]) -> torch.Tensor | None:
        """What is known of the next slice, (tile, grids, *grid), by those below it, each (tile, *grid)."""
        if not drawn:
            return None
        below = drawn[-1]
        context = below.new_full((len(below), self.num_contexts, *below.shape[1:]), int(NOTHING["context"]))
        for column, grids in zip(self.neighbors, reversed(drawn), strict=False):
            context[:, column] = grids
        return context
