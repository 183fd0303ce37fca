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
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from monai_vqprior.sampling.conditioning import NOTHING, tile_rows
from monai_vqprior.sampling.draws import guide, sample_uniforms

__all__ = ["Tile", "TileSampler", "num_draws", "tiles_of"]

#: codes to keep in a tile at one position, and where: mask and codes, each (tile,).
Kept = tuple[torch.Tensor, torch.Tensor]
#: makes codes (B,) of logits (B, K) and uniform numbers (B,).
Draw = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Tile:
    """A tile of samples, of which some are asked for."""

    #: its first sample is ``number * tile_size``.
    number: int
    #: of each sample that is asked for, the row of the request.
    rows: list[int]
    #: and its place in the tile.
    places: list[int]


def tiles_of(indices: Sequence[int], tile_size: int, rows_differ: bool) -> list[Tile]:
    """
    The tiles in which samples lie, in the order of their numbers.

    Args:
        indices: numbers of the samples; one may come several times.
        tile_size: samples of a tile.
        rows_differ: whether conditions or given codes may differ from row to row; a sample that comes again is then
            another grid, in another tile of the same number.
    """
    repeats: Counter[int] = Counter()
    tiles: dict[tuple[int, int], Tile] = {}
    for row, index in enumerate(indices):
        number, place = divmod(index, tile_size)
        tile = tiles.setdefault((number, repeats[index]), Tile(number, [], []))
        tile.rows.append(row)
        tile.places.append(place)
        repeats[index] += rows_differ
    return [tiles[key] for key in sorted(tiles)]


def num_draws(network: Any, size: Sequence[int]) -> int:
    """Random numbers that a grid of a network is made from: its own ``num_draws``, or one for each of its codes."""
    return getattr(network, "num_draws", math.prod(size))


@dataclass(frozen=True)
class TileSampler:
    """
    Draws whole tiles of samples, one after another; what stays the same in a run.

    Args:
        network: a prior, in evaluation mode.
        draw: makes the codes of a grid.
        draw_sketch: makes those of the sketches that a network draws before.
        guidance_scale: see :func:`~monai_vqprior.inferers.guide`.
        tile_size: samples of a tile.
        seed: seed of the run.
        rows: conditions and given codes, see :meth:`Conditioning.rows`.
        size: size of the grid.
        part: see :func:`~monai_vqprior.sampling.draws.sample_uniforms`.
    """

    network: Any
    draw: Draw
    draw_sketch: Draw
    guidance_scale: float
    tile_size: int
    seed: int
    rows: Mapping[str, torch.Tensor]
    size: tuple[int, ...]
    part: int = 0

    def __call__(self, tile: Tile, on_position: Callable[[], object] | None = None) -> torch.Tensor:
        """
        Draw a tile.

        Args:
            tile: the tile.
            on_position: called after each position.

        Returns:
            the grids asked for, in the order of ``tile.places``, (places, *grid) int64.
        """
        return self.whole(tile, on_position)[tile.places]

    @torch.no_grad()
    def whole(
        self, tile: Tile, on_position: Callable[[], object] | None = None, context: torch.Tensor | None = None
    ) -> torch.Tensor:
        """
        Draw all grids of a tile.

        Args:
            tile: the tile.
            on_position: called after each position.
            context: of each place, (tile, grids, *grid), in the place of that of the rows.

        Returns:
            (tile, *grid) int64, also of the places that nobody asked for.
        """
        network = self.network
        device = next(network.parameters()).device
        draws = self._draws(tile).to(device).unbind(0)  # of each position, (tile,)
        conditions = {
            name: part.to(device)
            for name, part in tile_rows(
                self.rows, dict(zip(tile.places, tile.rows, strict=True)), self.tile_size
            ).items()
        }
        if context is not None:
            conditions["context"] = context
        of_sketch = len(draws) - math.prod(self.size)  # these come first
        kept = self._kept(conditions.pop("given", None), conditions.pop("mask", None), len(draws))
        guided, number = self.guidance_scale != 1, self.tile_size

        def choose(position: int, logits: torch.Tensor) -> torch.Tensor:
            if on_position is not None:
                on_position()
            draw = self.draw_sketch if position < of_sketch else self.draw
            codes = draw(guide(logits, self.guidance_scale) if guided else logits, draws[position])
            keep = kept[position]
            if keep is not None:
                codes = torch.where(*keep, codes)
            return codes.repeat(2) if guided else codes

        if guided:  # the same samples once more, with no condition, and with the same context
            nothing = {
                name: part if name == "context" else torch.full_like(part, NOTHING[name])
                for name, part in conditions.items()
            }
            conditions = {name: torch.cat([part, nothing[name]]) for name, part in conditions.items()}
            number *= 2
        if hasattr(network, "generate"):
            grids = network.generate(choose, number, **conditions)
        else:
            empty = torch.zeros(number, *self.size, dtype=torch.long, device=device)
            grids = _generate_plainly(network, choose, empty, conditions)
        return grids[: self.tile_size]

    @property
    def rows_differ(self) -> bool:
        """Whether conditions or given codes may differ from row to row."""
        return any(len(part) > 1 for part in self.rows.values())

    def _draws(self, tile: Tile) -> torch.Tensor:
        """The random numbers of a tile, (draws, tile) float64."""
        first, length = tile.number * self.tile_size, num_draws(self.network, self.size)
        indices = range(first, first + self.tile_size)
        return torch.from_numpy(
            np.stack([sample_uniforms(self.seed, index, length, self.part) for index in indices], axis=1)
        )

    def _kept(self, given: torch.Tensor | None, mask: torch.Tensor | None, length: int) -> list[Kept | None]:
        """Of each draw, the codes to keep in the tile; None where there are none. Codes and mask are (tile, *grid)."""
        if given is None or mask is None:
            return [None] * length
        if hasattr(self.network, "given_draws"):
            given, mask = self.network.given_draws(given, mask)
        some = mask.flatten(1).any(0).tolist()
        pairs = zip(mask.flatten(1).t(), given.flatten(1).t(), strict=True)
        return [pair if any_kept else None for pair, any_kept in zip(pairs, some, strict=True)]


def _generate_plainly(
    network: Any,
    choose: Callable[[int, torch.Tensor], torch.Tensor],
    grids: torch.Tensor,
    conditions: dict[str, torch.Tensor],
) -> torch.Tensor:
    """Fill grids (B, *grid) in raster order, running the whole network for each position: slow, and right for any."""
    flat = grids.view(len(grids), -1)
    for position in range(flat.shape[1]):
        logits = network(grids, **conditions).flatten(2)[:, :, position]
        flat[:, position] = choose(position, logits)
    return grids
