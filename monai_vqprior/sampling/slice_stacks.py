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

from monai_vqprior.sampling.conditioning import NOTHING
from monai_vqprior.sampling.tiles import Tile, TileSampler

__all__ = ["NEIGHBOR", "StackSampler"]

#: the grid of a context that is the slice below.
NEIGHBOR = "neighbor"


@dataclass(frozen=True)
class StackSampler:
    """
    Draws whole tiles of stacks: the slices of a head one after another, each given the one below it.

    Args:
        samplers: of each slice, from the lowest on, with random numbers of its own (``part``).
        num_contexts: grids of the network's context.
        neighbor: which of them is the slice below.
    """

    samplers: Sequence[TileSampler]
    num_contexts: int
    neighbor: int

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
            context = None
            if drawn:
                below = drawn[-1]  # (tile, *grid)
                context = below.new_full((len(below), self.num_contexts, *below.shape[1:]), int(NOTHING["context"]))
                context[:, self.neighbor] = below
            drawn.append(sampler.whole(tile, on_position, context))
        return torch.stack(drawn, 1)[tile.places]
