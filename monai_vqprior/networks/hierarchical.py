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
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F

from monai_vqprior.errors import InputError
from monai_vqprior.networks.context import CodeContext
from monai_vqprior.networks.pixelcnn import GatedPixelCNN
from monai_vqprior.networks.sketch import CodeSketch

__all__ = ["HierarchicalPrior", "make_prior", "make_sketch_prior"]

# Codes along each side of a block of the sketch of a sketch, and residual blocks of a sketch as a context.
_BLOCK = 2
_CONTEXT_BLOCKS = 3


class HierarchicalPrior(nn.Module):
    """
    Prior of a grid by way of its sketch: p(sketch) p(codes | sketch), two :class:`GatedPixelCNN`, or more of them.

    What is large in a slice, such as the size of the ventricles on both sides, is decided by the sketch before the
    first code is drawn; a prior in raster order alone decides the upper half of a brain before the lower one. The
    sketch is a function of the codes, so the bits of both add up to an exact code length.

    The sketch has few positions, so that its prior can have attention; the prior of the codes takes the sketch as its
    spatial context. The prior of a sketch may itself be a :class:`HierarchicalPrior`, by way of a sketch of the sketch:
    levels are drawn from the coarsest to the finest, as those of Razavi et al., "Generating Diverse High-Fidelity
    Images with VQ-VAE-2" (2019), https://arxiv.org/abs/1906.00446.

    Conditions go to all levels. So do other contexts (``context_names`` of both networks): grids of the same codes that
    are known before, such as that of the neighboring slice. The prior of the codes takes them behind the sketch, the
    prior of the sketches takes their sketches.

    In training mode a call returns (logits, bits of the sketch), as the autoencoder returns (reconstruction, loss); in
    evaluation mode one tensor of logits, of K + 1 codes. The last one stands for all grids with another sketch: a code
    has its probability given the sketch and the codes before it, times its share of the probability of the sketch's
    code, p(sketch code) ** (1 / codes in the block). So whatever turns logits into bits or likelihoods takes the sketch
    into account, exactly over a block, and no code K ever occurs.

    Args:
        sketch: makes the sketch of a grid.
        sketch_prior: prior of the sketches, of the sketch's size and number of codes.
        code_prior: prior of the grids, with a context network that takes the sketch and the grids in its
            ``context_names``, such as :class:`~monai_vqprior.networks.CodeContext`.
        code_batch_size: how many grids of a batch ``code_prior`` learns from, the first ones: a step of it costs much
            more than one of the prior of the sketches, which learns from all. 0 trains the prior of the sketches alone
            and freezes ``code_prior``; None lets both learn from all.

    Raises:
        ValueError: when sizes, numbers of codes or contexts do not fit together, or ``code_batch_size`` is negative.

    Example:
        >>> from monai_vqprior.networks import CodeContext
        >>> sketch = CodeSketch(num_embeddings=16, embedding_dim=4, spatial_size=8, block=4, num_sketch_codes=8)
        >>> coarse = GatedPixelCNN(num_embeddings=8, spatial_size=2, channels=8, num_layers=2, attention_every=1)
        >>> context = CodeContext(num_embeddings=8, spatial_size=8, channels=8, strides=4)
        >>> fine = GatedPixelCNN(num_embeddings=16, spatial_size=8, channels=8, num_layers=2, context_network=context)
        >>> prior = HierarchicalPrior(sketch, coarse, fine).eval()
        >>> prior(torch.randint(16, (2, 8, 8))).shape
        torch.Size([2, 17, 8, 8])
    """

    def __init__(
        self,
        sketch: CodeSketch,
        sketch_prior: GatedPixelCNN | HierarchicalPrior,
        code_prior: GatedPixelCNN,
        code_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        if code_batch_size is not None and code_batch_size < 0:
            raise InputError(f"code_batch_size must not be negative, got {code_batch_size}.")
        if sketch_prior.spatial_size != sketch.spatial_size or sketch_prior.num_embeddings != sketch.num_sketch_codes:
            raise ValueError(
                f"sketch_prior must be of {sketch.spatial_size} codes of {sketch.num_sketch_codes}, got "
                f"{sketch_prior.spatial_size} of {sketch_prior.num_embeddings}."
            )
        if code_prior.spatial_size != sketch.grid_size or code_prior.context_network is None:
            raise ValueError(
                f"code_prior must be of {sketch.grid_size} codes and have a context_network, got "
                f"{code_prior.spatial_size} and {code_prior.context_network}."
            )
        if sketch_prior.context_names != code_prior.context_names:
            raise ValueError(
                f"sketch_prior and code_prior must have the same context_names, got {sketch_prior.context_names} and "
                f"{code_prior.context_names}."
            )
        self.sketch = sketch
        self.sketch_prior = sketch_prior
        self.code_prior = code_prior
        self.spatial_dims = code_prior.spatial_dims
        self.spatial_size: tuple[int, ...] = code_prior.spatial_size
        self.num_embeddings: int = code_prior.num_embeddings
        self.num_classes = code_prior.num_classes
        self.num_values = code_prior.num_values
        #: names of the grids of a context, in their order.
        self.context_names: tuple[str, ...] = code_prior.context_names
        self._num_contexts = len(self.context_names)
        #: number of random numbers of a grid, one for each code of the sketch and then one for each code.
        self.num_draws: int = sketch_prior.num_draws + math.prod(self.spatial_size)
        #: how many grids of a batch the prior of the codes learns from; -1 for all.
        self.code_batch_size: int = -1 if code_batch_size is None else code_batch_size
        if code_batch_size == 0:
            code_prior.requires_grad_(False)

    def forward(
        self,
        codes: torch.Tensor,
        labels: torch.Tensor | None = None,
        values: torch.Tensor | None = None,
        context: torch.Tensor | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """
        Rate grids with their sketches.

        Args:
            codes: (B, *spatial), integers in 0..K-1.
            labels: as in :meth:`GatedPixelCNN.forward`.
            values: as in :meth:`GatedPixelCNN.forward`.
            context: grids of codes, (B, number of ``context_names``, *spatial), -1 where a code is missing; None when
                all are missing.

        Returns:
            in training mode the logits (b, K, *spatial) of the codes given the sketch, for the first b =
            ``code_batch_size`` grids, (B, 0, *spatial) for none, and the bits of the sketches for each code of the
            grids, a scalar; in evaluation mode logits (B, K + 1, *spatial), see above.
        """
        sketch = self.sketch(codes)
        nats = _nats_of(self.sketch_prior(sketch, labels, values, self._sketches(context)), sketch)  # (B, *sketch)
        known = self.code_context(sketch, context)
        if self.training:
            return self._learned(codes, labels, values, known), nats.sum() / (codes.numel() * math.log(2.0))
        logits = self.code_prior(codes, labels, values, known)
        share = -self.sketch.spread(nats) / self.sketch.spread(self.sketch.block_sizes)  # (B, 1, *spatial)
        share = share.clamp_max(-1e-6)  # what is left for all other sketches has a logarithm
        others = torch.log(-torch.expm1(share))
        return torch.cat([F.log_softmax(logits.float(), 1) + share, others], 1)

    @torch.no_grad()
    def generate(
        self,
        choose: Callable[[int, torch.Tensor], torch.Tensor],
        batch_size: int,
        labels: torch.Tensor | None = None,
        values: torch.Tensor | None = None,
        context: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """
        Draw sketches, then grids of these sketches, each position computed once.

        Args:
            choose: as in :meth:`GatedPixelCNN.generate`; the draws of the sketch come first, then the positions of the
                grid, :attr:`num_draws` in all.
            batch_size: number of grids, B.
            labels: as in :meth:`GatedPixelCNN.forward`.
            values: as in :meth:`GatedPixelCNN.forward`.
            context: as in :meth:`forward`.

        Returns:
            codes, (B, *spatial) int64. A code that was drawn may lie in a block whose own sketch would be another.
        """
        sketch = self.sketch_prior.generate(choose, batch_size, labels, values, self._sketches(context))
        first = self.sketch_prior.num_draws
        known = self.code_context(sketch, context)
        return self.code_prior.generate(
            lambda position, logits: choose(first + position, logits), batch_size, labels, values, known
        )

    def _learned(
        self,
        codes: torch.Tensor,
        labels: torch.Tensor | None,
        values: torch.Tensor | None,
        context: torch.Tensor,
    ) -> torch.Tensor:
        """Logits (b, K, *spatial) of the grids that the prior of the codes learns from."""
        number = self.code_batch_size
        if number == 0:
            return torch.zeros([len(codes), 0] + list(codes.shape[1:]), device=codes.device)  # noqa: RUF005 (TorchScript)
        if number > 0:
            codes, context = codes[:number], context[:number]
            labels = None if labels is None else labels[:number]
            values = None if values is None else values[:number]
        return self.code_prior(codes, labels, values, context)

    def _sketches(self, context: torch.Tensor | None) -> torch.Tensor | None:
        """The context of the sketch: the sketches (B, n, *sketch) of grids (B, n, *spatial)."""
        if context is None:
            return None
        sketches = self.sketch.of_known(context.flatten(0, 1))  # (B, n, *spatial) -> (B * n, *spatial)
        return sketches.view([context.shape[0], context.shape[1]] + list(sketches.shape[1:]))  # noqa: RUF005 (TorchScript)

    def code_context(self, sketch: torch.Tensor, context: torch.Tensor | None = None) -> torch.Tensor:
        """
        What ``code_prior`` gets as its context: a sketch, and what else is known.

        Args:
            sketch: (B, *sketch), codes of the sketch.
            context: as in :meth:`forward`.

        Returns:
            (B, 1 + number of ``context_names``, *spatial), each code of the sketch at each position of its block.
        """
        spread = self.sketch.spread(sketch)
        if self._num_contexts == 0:
            return spread
        if context is None:
            sizes = list(spread.shape)
            sizes[1] = self._num_contexts
            context = torch.full(sizes, -1, dtype=spread.dtype, device=spread.device)
        return torch.cat([spread, context], 1)

    def given_draws(self, given: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """
        The draws of :meth:`generate` that the given codes of a grid determine.

        Args:
            given: codes (B, *spatial), of any value where they are not kept.
            mask: (B, *spatial), True where a code is kept.

        Returns:
            codes and mask of all draws, each (B, num_draws); a code of the sketch is given if all codes of its block
            are.
        """
        codes = torch.where(mask, given, 0)
        numbers = self.sketch.num_kept(mask)  # (B, *sketch)
        settled = numbers == self.sketch.block_sizes
        sketch = self.sketch(codes)
        if isinstance(self.sketch_prior, HierarchicalPrior):
            first, settled = self.sketch_prior.given_draws(sketch, settled)
        else:
            first, settled = sketch.flatten(1), settled.flatten(1)
        return torch.cat([first, codes.flatten(1)], 1), torch.cat([settled, mask.flatten(1)], 1)


def _nats_of(rated: torch.Tensor | tuple[torch.Tensor, torch.Tensor], codes: torch.Tensor) -> torch.Tensor:
    """Natural information content (B, *grid) of codes that a prior of either kind has rated."""
    if isinstance(rated, torch.Tensor):
        return F.cross_entropy(rated.float(), codes, reduction="none")
    logits, besides = rated  # bits a code that are spent besides
    return F.cross_entropy(logits.float(), codes, reduction="none") + besides * math.log(2.0)


def make_prior(
    code_prior: GatedPixelCNN,
    sketch_prior: GatedPixelCNN | HierarchicalPrior | None = None,
    sketch: CodeSketch | None = None,
    code_batch_size: int | None = None,
) -> GatedPixelCNN | HierarchicalPrior:
    """The prior of a configuration: of sketches and codes where there is a sketch, else that of the codes alone."""
    if sketch is None or sketch_prior is None:
        return code_prior
    return HierarchicalPrior(sketch, sketch_prior, code_prior, code_batch_size)


def make_sketch_prior(
    num_embeddings: int,
    embedding_dim: int,
    spatial_size: Sequence[int],
    levels: int = 1,
    channels: int = 96,
    context_names: Sequence[str] = (),
    context_kernels: Sequence[int] = (),
    **options: Any,
) -> GatedPixelCNN | HierarchicalPrior:
    """
    The prior of the sketches of a grid in two dimensions, with attention in each layer.

    Args:
        num_embeddings: number of codes of each sketch, K.
        embedding_dim: length of a code vector of the sketch.
        spatial_size: size of the sketch.
        levels: number of sketches: with 2, the sketch has a sketch of its own, of blocks of 2 x 2 codes, that is drawn
            before it; with 3, this one too, and so on.
        channels: channels of each level.
        context_names: as in :class:`GatedPixelCNN`.
        context_kernels: for each of them, as ``kernel_sizes`` of :class:`~monai_vqprior.networks.CodeContext`.
        options: further arguments of :class:`GatedPixelCNN`, for each level.

    Raises:
        ValueError: when there is no level, or a sketch is of one code already and has another one above it.
    """
    if levels < 1:
        raise InputError(f"levels must be at least 1, got {levels}.")
    names, kernels = tuple(context_names), list(context_kernels)
    above = 1 if levels > 1 else 0
    context = (
        CodeContext(
            [num_embeddings] * (above + len(names)),
            spatial_size,
            channels,
            strides=[_BLOCK] * above + [1] * len(names),
            num_blocks=[_CONTEXT_BLOCKS] * above + [1] * len(names),
            kernel_sizes=[1] * above + kernels,
        )
        if above or names
        else None
    )
    prior = GatedPixelCNN(
        num_embeddings=num_embeddings,
        spatial_size=spatial_size,
        channels=channels,
        attention_every=1,
        context_network=context,
        context_names=names,
        **options,
    )
    if not above:
        return prior
    if max(spatial_size) == 1:
        raise InputError("a sketch of one code has no sketch of its own: leave out a level (--prior_sketch_levels).")
    sketch = CodeSketch(num_embeddings, embedding_dim, spatial_size, _BLOCK, num_embeddings)
    coarser = make_sketch_prior(
        num_embeddings,
        sketch.codebook.embedding_dim,
        sketch.spatial_size,
        levels - 1,
        channels,
        names,
        kernels,
        **options,
    )
    return HierarchicalPrior(sketch, coarser, prior)
