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

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from monai.inferers import Inferer

from monai_vqprior.errors import InputError
from monai_vqprior.losses import code_bits

__all__ = ["VQPriorInferer", "sample_uniforms"]


def sample_uniforms(seed: int, index: int, length: int) -> np.ndarray:
    """
    The random numbers that sample ``index`` is made from: they depend on ``(seed, index)`` alone.

    Args:
        seed: seed of the run, not negative.
        index: number of the sample, not negative.
        length: how many numbers, one for each code of the grid.

    Returns:
        (length,) float64 in [0, 1).
    """
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, index]))).random(length)


class VQPriorInferer(Inferer):
    """
    Sample from an autoregressive prior over code grids, and rate grids with it.

    As an :class:`monai.inferers.Inferer` it fits MONAI's engines: called, it returns the logits.

    Sample i is made in tile ``i // tile_size`` at place ``i % tile_size``, and tiles are always computed whole. A
    kernel rounds differently at another batch size, and one rounding error can flip a draw and with it the rest of a
    grid; with whole tiles sample i goes through the very same operations whoever asks for it, so that it depends on
    (seed, i) alone, on one machine with one number of threads.

    Args:
        temperature: divides the logits; below 1 the samples become more typical and less diverse.
        top_k: draw from the k most probable codes only; None for all.
        tile_size: samples that are computed together.

    Raises:
        ValueError: when an argument is out of its range.

    Example:
        >>> from monai_vqprior.networks import GatedPixelCNN
        >>> prior = GatedPixelCNN(num_embeddings=16, spatial_size=4, channels=8, num_layers=2)
        >>> VQPriorInferer(tile_size=2).sample(prior, range(3), seed=0).shape
        torch.Size([3, 4, 4])
    """

    def __init__(self, temperature: float = 1.0, top_k: int | None = None, tile_size: int = 16) -> None:
        super().__init__()
        if not temperature > 0:
            raise InputError(f"temperature must be positive, got {temperature}.")
        if top_k is not None and top_k < 1:
            raise InputError(f"top_k must be at least 1, got {top_k}.")
        if tile_size < 1:
            raise InputError(f"tile_size must be at least 1, got {tile_size}.")
        self.temperature = temperature
        self.top_k = top_k
        self.tile_size = tile_size

    def __call__(
        self,
        inputs: torch.Tensor,
        network: Any,
        labels: torch.Tensor | None = None,
        values: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Logits (B, K, *grid) of code grids (B, *grid), given the conditions of the network."""
        return network(inputs, **_conditions(labels, values))

    @torch.no_grad()
    def bits(
        self,
        inputs: torch.Tensor,
        network: Any,
        labels: torch.Tensor | None = None,
        values: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Information content of each code, -log2 p, (B, *grid) float32: the negative log-likelihood in one pass."""
        return code_bits(self(inputs, network, labels, values), inputs)

    @torch.no_grad()
    def sample(
        self,
        network: Any,
        indices: Iterable[int],
        seed: int = 0,
        labels: Sequence[int] | None = None,
        values: Sequence[float] | None = None,
        spatial_size: Sequence[int] | None = None,
        on_position: Callable[[], object] | None = None,
    ) -> torch.Tensor:
        """
        Draw grids from the prior, code by code in raster order.

        A network with a ``generate`` method computes each position once; any other network is run whole for each
        position.

        Args:
            network: prior that turns grids (B, *grid) into logits (B, K, *grid); logits at a position must depend on
                the codes before it alone.
            indices: numbers of the samples to draw.
            seed: seed of the run.
            labels: a class for each label of the network, for all samples; None where it has none or none is known.
            values: a number for each continuous condition, for all samples.
            spatial_size: size of the grids, for networks that have none of their own.
            on_position: called after each position of each tile, for a progress bar.

        Returns:
            (number of indices, *grid) int64.

        Raises:
            ValueError: when an index or the seed is negative, or the size is not the network's own.
        """
        wanted = list(indices)
        if seed < 0 or any(index < 0 for index in wanted):
            raise ValueError(f"seed and indices must not be negative, got {seed} and {min(wanted, default=0)}.")
        own_size = getattr(network, "spatial_size", spatial_size)
        if own_size is None or (spatial_size is not None and tuple(own_size) != tuple(spatial_size)):
            raise ValueError(f"spatial_size must be that of the network, {own_size}, got {spatial_size}.")
        size = tuple(own_size)
        network.eval()
        tiles = {
            tile: self._sample_tile(network, tile, seed, labels, values, size, on_position)
            for tile in sorted({index // self.tile_size for index in wanted})
        }
        grids = [tiles[index // self.tile_size][index % self.tile_size] for index in wanted]
        return torch.stack(grids) if grids else torch.zeros(0, *size, dtype=torch.long)

    def _sample_tile(
        self,
        network: Any,
        tile: int,
        seed: int,
        labels: Sequence[int] | None,
        values: Sequence[float] | None,
        size: tuple[int, ...],
        on_position: Callable[[], object] | None,
    ) -> torch.Tensor:
        """All grids of a tile, (tile_size, *grid)."""
        device = next(network.parameters()).device
        number = self.tile_size
        length = int(np.prod(size))
        members = range(tile * number, (tile + 1) * number)
        uniforms = np.stack([sample_uniforms(seed, index, length) for index in members], axis=1)
        draws = torch.from_numpy(uniforms).to(device)  # (positions, tile)

        def choose(position: int, logits: torch.Tensor) -> torch.Tensor:
            if on_position is not None:
                on_position()
            return self.draw(logits, draws[position])

        conditions = _conditions(
            None if labels is None else torch.tensor([list(labels)] * number, device=device),
            None if values is None else torch.tensor([list(values)] * number, dtype=torch.float32, device=device),
        )
        if hasattr(network, "generate"):
            return network.generate(choose, number, **conditions)
        return _generate_plainly(
            network, choose, torch.zeros(number, *size, dtype=torch.long, device=device), conditions
        )

    def draw(self, logits: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
        """
        Draw codes by inverting the cumulative distribution, in float64.

        Args:
            logits: (B, K).
            uniforms: (B,) float64 in [0, 1).

        Returns:
            (B,) int64.
        """
        logits = logits.double() / self.temperature
        if self.top_k is not None and self.top_k < logits.shape[1]:
            kept = logits.topk(self.top_k, dim=1)
            logits = torch.full_like(logits, -torch.inf).scatter(1, kept.indices, kept.values)
        cumulative = logits.softmax(1).cumsum(1)
        # Scaled by the last entry, a draw can never fall behind it, however the sum was rounded.
        targets = uniforms[:, None] * cumulative[:, -1:]
        return torch.searchsorted(cumulative, targets, right=True).squeeze(1).clamp_max(logits.shape[1] - 1)


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


def _conditions(labels: torch.Tensor | None, values: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """Only the conditions that there are: networks without conditions take no such arguments."""
    return {name: given for name, given in (("labels", labels), ("values", values)) if given is not None}
