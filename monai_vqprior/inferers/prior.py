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
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from monai.inferers import Inferer
from monai.utils.ordering import Ordering

from monai_vqprior.errors import InputError
from monai_vqprior.inferers.likelihood import code_log_likelihood, reading_order
from monai_vqprior.losses import code_bits
from monai_vqprior.sampling.conditioning import Conditioning, Rows, given_as_context
from monai_vqprior.sampling.draws import draw_codes, keep_top_k, keep_top_p
from monai_vqprior.sampling.slice_stacks import StackSampler, columns_of_neighbors
from monai_vqprior.sampling.tiles import Tile, TileSampler, num_draws, tiles_of
from monai_vqprior.sampling.workers import map_in_workers

__all__ = ["VQPriorInferer", "num_draws"]


class VQPriorInferer(Inferer):
    """
    Sample from an autoregressive prior over code grids, and rate grids with it.

    As an :class:`monai.inferers.Inferer` it fits MONAI's engines: called, it returns the logits.

    Sample i is made in tile ``i // tile_size`` at place ``i % tile_size``, and tiles are always computed whole. A
    kernel rounds differently at another batch size, and one rounding error can flip a draw and with it the rest of a
    grid; with whole tiles sample i passes the same operations in every run, so that it depends on
    (seed, i) and on its own conditions and given codes alone, on one machine with one number of threads.

    At each position the logits are guided, divided by the temperature, cut to the top k, and then to the nucleus of
    what is left of their probabilities, in this order. None of it touches :meth:`bits` and :meth:`log_likelihood`,
    which rate by the network's own distribution.

    Args:
        temperature: divides the logits; below 1 the samples become more typical and less diverse.
        top_k: draw from the k most probable codes only; None for all.
        tile_size: samples that are computed together.
        top_p: draw from the nucleus only, the fewest codes whose probability reaches this share, in (0, 1]; see
            :func:`~monai_vqprior.inferers.keep_top_p`. None or 1 for all codes.
        guidance_scale: scale of classifier-free guidance, not negative; see
            :func:`~monai_vqprior.inferers.guide`. Logits with and without them are computed in one batch of two
            tiles. 1 is no guidance, at no cost. Needs a network that has seen grids without conditions.
        num_workers: processes that draw tiles side by side on a CPU, each with one thread; 0 to draw one tile after
            another in this process. The operations are small, so that two processes draw two tiles in less time than
            one process with two threads. The samples are those of one thread, whatever the number of workers.
        sketch_temperature: in the place of ``temperature`` for the sketches that a
            :class:`~monai_vqprior.networks.HierarchicalPrior` draws before the codes; None for the same. Needs
            a prior with sketches.

    Raises:
        ValueError: when an argument is out of its range.

    Example:
        >>> from monai_vqprior.networks import GatedPixelCNN
        >>> prior = GatedPixelCNN(num_embeddings=16, spatial_size=4, channels=8, num_layers=2)
        >>> VQPriorInferer(tile_size=2).sample(prior, range(3), seed=0).shape
        torch.Size([3, 4, 4])
    """

    def __init__(
        self,
        temperature: float = 1.0,
        top_k: int | None = None,
        tile_size: int = 16,
        top_p: float | None = None,
        guidance_scale: float = 1.0,
        num_workers: int = 0,
        sketch_temperature: float | None = None,
    ) -> None:
        super().__init__()
        if not temperature > 0:
            raise InputError(f"temperature must be positive, got {temperature}.")
        if sketch_temperature is not None and not sketch_temperature > 0:
            raise InputError(f"sketch_temperature must be positive, got {sketch_temperature}.")
        if top_k is not None and top_k < 1:
            raise InputError(f"top_k must be at least 1, got {top_k}.")
        if tile_size < 1:
            raise InputError(f"tile_size must be at least 1, got {tile_size}.")
        if top_p is not None and not 0 < top_p <= 1:
            raise InputError(f"top_p must be above 0 and at most 1, got {top_p}.")
        if not 0 <= guidance_scale < math.inf:
            raise InputError(f"guidance_scale must be a number of at least 0, got {guidance_scale}.")
        if not isinstance(num_workers, int) or num_workers < 0:
            raise InputError(f"num_workers must be a whole number of at least 0, got {num_workers!r}.")
        self.temperature = temperature
        self.sketch_temperature = sketch_temperature
        self.top_k = top_k
        self.tile_size = tile_size
        self.top_p = top_p
        self.guidance_scale = guidance_scale
        self.num_workers = num_workers

    def __call__(
        self,
        inputs: torch.Tensor,
        network: Any,
        labels: torch.Tensor | None = None,
        values: torch.Tensor | None = None,
        context: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Logits (B, K, *grid) of code grids (B, *grid), given the conditions and the context of the network."""
        # Only those that there are: networks without conditions take no such arguments.
        conditions = {"labels": labels, "values": values, "context": context}
        return network(inputs, **{name: rows for name, rows in conditions.items() if rows is not None})

    @torch.no_grad()
    def bits(
        self,
        inputs: torch.Tensor,
        network: Any,
        labels: torch.Tensor | None = None,
        values: torch.Tensor | None = None,
        context: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Information content of each code, -log2 p, (B, *grid) float32: the negative log-likelihood in one pass."""
        return code_bits(self(inputs, network, labels, values, context), inputs)

    @torch.no_grad()
    def log_likelihood(
        self,
        inputs: torch.Tensor,
        network: Any,
        labels: torch.Tensor | None = None,
        values: torch.Tensor | None = None,
        orderings: Sequence[Ordering | Sequence[int]] = ((),),
        reduction: str = "none",
        context: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """
        Natural log-likelihood of code grids, one pass of the network for each ordering.

        :func:`~monai_vqprior.inferers.code_map` shows the values of the codes at image size.

        With several orderings each grid is re-ordered, rated, and the values are put back to where the codes are; what
        comes out is the mean of the log-likelihoods. Their sum over a grid is then the mean log-likelihood of the grid,
        a lower bound of that of the mixture of all orderings (Jensen), and a code that one ordering cannot predict
        stays visible. The mean of a code's probabilities would be no probability of anything: each has other codes to
        go by. An ordering means something only as far as the network has learned such grids: flipped left to right,
        perhaps, when it was trained on such grids too; the network of one raster order rates upside-down brains as what
        they are to it, improbable.

        Args:
            inputs: codes, (B, *grid).
            network: prior that turns grids (B, *grid) into logits (B, K, *grid), in evaluation mode.
            labels: as the network takes them, (B, number of labels).
            values: as the network takes them, (B, number of values).
            orderings: each as in :func:`~monai_vqprior.inferers.reading_order`, such as ``[(), (1,)]`` for the grid as
                it is and flipped left to right; by default the grid as it is.
            reduction: "none" for each code, "sum" for each grid.
            context: grids that are known before, (B, number of them, *grid), -1 where a code is missing, as the network
                takes them; they are re-ordered with the grid.

        Returns:
            (B, *grid) float64, or (B,) when summed, in nats; finite for finite logits.

        Raises:
            ValueError: when an ordering does not fit, there is none, or the reduction is another word.
        """
        if reduction not in ("none", "sum"):
            raise InputError(f"reduction must be 'none' or 'sum', got {reduction!r}.")
        if not len(orderings):
            raise InputError("orderings must hold at least one ordering, got none.")
        codes = inputs.flatten(1)  # (B, L)
        total = torch.zeros_like(codes, dtype=torch.float64)
        for ordering in orderings:
            order = reading_order(ordering, inputs.shape[1:]).to(inputs.device)
            read = codes[:, order].view_as(inputs)
            known = None if context is None else context.flatten(2)[..., order].view_as(context)
            total[:, order] += code_log_likelihood(self(read, network, labels, values, known), read).flatten(1)
        total /= len(orderings)
        return total.sum(1) if reduction == "sum" else total.view(inputs.shape)

    @torch.no_grad()
    def sample(
        self,
        network: Any,
        indices: Iterable[int],
        seed: int = 0,
        labels: Rows | None = None,
        values: Rows | None = None,
        spatial_size: Sequence[int] | None = None,
        on_position: Callable[[], object] | None = None,
        given: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
        context: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """
        Draw grids from the prior, code by code in raster order, or complete grids that are partly given.

        A network with a ``generate`` method computes each position once; any other network is run whole for each
        position.

        Conditions and given codes hold for all samples, or there is one of them for each index, in the order of the
        indices. An index may then come several times: the same random numbers under several conditions.

        A network with the context ``given`` (its ``context_names``) completes codes by all that is given, on each side
        of a gap. Any other network completes them in raster order: a drawn code depends on the codes before it, given
        or drawn, and on none after it. So a gap does not depend on given codes below it, and a gap at the lower end
        depends on all others. A :class:`~monai_vqprior.networks.HierarchicalPrior` draws the sketch first, of the
        blocks that are not wholly given, and then the codes given the whole sketch.

        Args:
            network: prior that turns grids (B, *grid) into logits (B, K, *grid); logits at a position must depend on
                the codes before it alone.
            indices: numbers of the samples to draw.
            seed: seed of the run.
            labels: see :class:`~monai_vqprior.sampling.Conditioning`, as ``values``, ``given``, ``mask`` and
                ``context``.
            values: continuous conditions.
            spatial_size: size of the grids, for networks that have none of their own.
            on_position: called after each position of each tile, for a progress bar; of a tile that a worker drew, for
                all of its positions once it is there.
            given: codes to keep.
            mask: where they are kept.
            context: grids that are known before.

        Returns:
            (number of indices, *grid) int64.

        Raises:
            ValueError: when an index or the seed is negative, the size is not the network's own, rows, codes or mask
                have another shape, a code does not exist, there is no condition to guide by, or workers are to draw
                on another device than a CPU.
        """
        wanted = list(indices)
        conditioning = Conditioning(labels, values, given, mask, context)
        tiles = self.sample_tiles(
            network, wanted, seed, conditioning=conditioning, spatial_size=spatial_size, on_position=on_position
        )
        device = next(network.parameters()).device
        samples = torch.zeros(len(wanted), *_grid_size(network, spatial_size), dtype=torch.long, device=device)
        for rows, grids in tiles:
            samples[rows] = grids
        return samples

    def sample_tiles(
        self,
        network: Any,
        indices: Iterable[int],
        seed: int = 0,
        *,
        conditioning: Conditioning | None = None,
        spatial_size: Sequence[int] | None = None,
        on_position: Callable[[], object] | None = None,
        **parts: Any,
    ) -> Iterator[tuple[list[int], torch.Tensor]]:
        """
        Draw the samples of :meth:`sample` tile by tile, so that memory does not grow with their number.

        The arguments and the errors are those of :meth:`sample`; errors are raised before anything is drawn.

        Args:
            network: the prior.
            indices: numbers of the samples to draw.
            seed: seed of the run.
            conditioning: labels, values, given codes and their mask, and context.
            spatial_size: size of the grids, for networks that have none of their own.
            on_position: called after each position.
            **parts: the parts of a ``conditioning``, as :meth:`sample` takes them, in its place.

        Returns:
            an iterator over the tiles. Each is a pair of numbers of rows, those of what :meth:`sample` returns, and the
            grids of these rows, (rows, *grid) int64.
        """
        if conditioning is None:
            conditioning = Conditioning(**parts)
        elif parts:
            raise InputError(f"conditioning must have all of its parts itself, got {', '.join(parts)} beside it.")
        wanted = list(indices)
        sampler = self._sampler(network, wanted, seed, conditioning, spatial_size)
        tiles = tiles_of(wanted, self.tile_size, sampler.rows_differ)
        draws = num_draws(network, sampler.size)
        return self._drawn(sampler, tiles, draws, on_position or (lambda: None))

    def sample_stacks(
        self,
        network: Any,
        indices: Iterable[int],
        conditionings: Sequence[Conditioning],
        seed: int = 0,
        on_position: Callable[[], object] | None = None,
    ) -> Iterator[tuple[list[int], torch.Tensor]]:
        """
        Draw stacks of slices tile by tile: each slice given the one below it, or several of them.

        Args:
            network: a prior with ``neighbor`` among its ``context_names``, and further slices below as
                :func:`monai_vqprior.data.neighbor_names` has them.
            indices: numbers of the stacks to draw; stack i depends on (seed, i) and its conditions alone.
            conditionings: what is asked of each slice, from the lowest on: labels and values, as :meth:`sample` takes
                them for all stacks or for each.
            seed: seed of the run.
            on_position: called after each position of each slice of a tile.

        Returns:
            an iterator over the tiles, as that of :meth:`sample_tiles`, with grids (rows, slices, *grid).

        Raises:
            InputError: as :meth:`sample`, and when the network knows no slice below.
        """
        names = getattr(network, "context_names", ())
        neighbors = columns_of_neighbors(names)
        if not neighbors:
            raise InputError("this prior draws single slices: train one with --neighbor_context true for whole heads.")
        wanted = list(indices)
        samplers = [
            self._sampler(network, wanted, seed, conditioning, part=part)
            for part, conditioning in enumerate(conditionings)
        ]
        stacks = StackSampler(samplers, len(names), neighbors)
        tiles = tiles_of(wanted, self.tile_size, any(sampler.rows_differ for sampler in samplers))
        draws = sum(num_draws(network, sampler.size) for sampler in samplers)
        return self._drawn(stacks, tiles, draws, on_position or (lambda: None))

    def _sampler(
        self,
        network: Any,
        wanted: Sequence[int],
        seed: int,
        conditioning: Conditioning,
        spatial_size: Sequence[int] | None = None,
        part: int = 0,
    ) -> TileSampler:
        """What draws tiles of the samples that are wanted, all of it checked."""
        if seed < 0 or any(index < 0 for index in wanted):
            raise InputError(f"seed and indices must not be negative, got {seed} and {min(wanted, default=0)}.")
        size = _grid_size(network, spatial_size)
        self.check(network, size)
        num_codes = getattr(network, "num_embeddings", None)
        rows = conditioning.rows(len(wanted), size, num_codes, self.guidance_scale != 1, _num_contexts(network))
        rows = given_as_context(rows, getattr(network, "context_names", ()))
        device = next(network.parameters()).device
        if self.num_workers and device.type != "cpu":
            raise InputError(f"num_workers must be 0 on {device.type}, got {self.num_workers}: workers are for a CPU.")
        network.eval()
        return TileSampler(
            network, self.draw, self.draw_sketch, self.guidance_scale, self.tile_size, seed, rows, size, part
        )

    def _drawn(
        self,
        sampler: TileSampler | StackSampler,
        tiles: Sequence[Tile],
        draws: int,
        report: Callable[[], object],
    ) -> Iterator[tuple[list[int], torch.Tensor]]:
        """Tiles drawn in this process or by workers, of which each has a number of draws to report."""
        if not self.num_workers:
            for tile in tiles:
                yield tile.rows, sampler(tile, report)
            return
        for tile, grids in zip(tiles, map_in_workers(sampler, tiles, self.num_workers), strict=True):
            for _ in range(draws):
                report()
            yield tile.rows, grids

    def check(self, network: Any, spatial_size: Sequence[int] | None = None) -> None:
        """
        Whether a network can be sampled as this inferer is set; before anything is drawn or written.

        Args:
            network: a prior.
            spatial_size: as in :meth:`sample`.

        Raises:
            InputError: when ``sketch_temperature`` is set and the network draws no sketches.
        """
        size = _grid_size(network, spatial_size)
        if self.sketch_temperature is not None and num_draws(network, size) == math.prod(size):
            raise InputError(
                f"sketch_temperature is for priors that draw sketches, got {self.sketch_temperature} for one without: "
                "leave it out, or make it None."
            )

    def draw(self, logits: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
        """
        Draw codes by inverting the cumulative distribution, which is summed up in float64.

        Args:
            logits: (B, K).
            uniforms: (B,) float64 in [0, 1).

        Returns:
            (B,) int64.
        """
        return self._draw_at(self.temperature, logits, uniforms)

    def draw_sketch(self, logits: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
        """Draw codes of a sketch: as :meth:`draw`, at the temperature of sketches."""
        if self.sketch_temperature is None:
            return self.draw(logits, uniforms)
        return self._draw_at(self.sketch_temperature, logits, uniforms)

    def _draw_at(self, temperature: float, logits: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
        """Draw codes at a temperature."""
        if temperature != 1:
            logits = logits.double() / temperature
        if self.top_k is not None:
            logits = keep_top_k(logits, self.top_k)
        probabilities = logits.softmax(1, dtype=torch.promote_types(logits.dtype, torch.float32))
        if self.top_p is not None and self.top_p < 1:
            probabilities = keep_top_p(probabilities, self.top_p)
        return draw_codes(probabilities, uniforms)


def _num_contexts(network: Any) -> int | None:
    """Number of grids of a network's context; None for a network that does not tell, or that has another context."""
    names = getattr(network, "context_names", None)
    other = not names and getattr(network, "context_network", None) is not None
    return None if names is None or other else len(names)


def _grid_size(network: Any, spatial_size: Sequence[int] | None) -> tuple[int, ...]:
    """Size of the grids of a network: its own, or what was given for one that has none."""
    own_size = getattr(network, "spatial_size", spatial_size)
    if own_size is None or (spatial_size is not None and tuple(own_size) != tuple(spatial_size)):
        raise ValueError(f"spatial_size must be that of the network, {own_size}, got {spatial_size}.")
    return tuple(own_size)
