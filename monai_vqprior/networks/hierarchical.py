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
from collections.abc import Callable

import torch
import torch.nn as nn
import torch.nn.functional as F

from monai_vqprior.networks.pixelcnn import GatedPixelCNN
from monai_vqprior.networks.sketch import CodeSketch

__all__ = ["HierarchicalPrior", "make_prior"]


class HierarchicalPrior(nn.Module):
    """
    Prior of a grid by way of its sketch: p(sketch) p(codes | sketch), two :class:`GatedPixelCNN`.

    What is large in a slice, such as the size of the ventricles on both sides, is decided by the sketch before the
    first code is drawn; a prior in raster order alone decides the upper half of a brain before the lower one. The
    sketch is a function of the codes, so the bits of both add up to an exact code length.

    The sketch has few positions, so that its prior can have attention; the prior of the codes takes the sketch as its
    spatial context. Conditions go to both. So do other contexts (``context_names`` of both networks): grids of the same
    codes that are known before, such as that of the neighboring slice. The prior of the codes takes them behind the
    sketch, the prior of the sketches takes their sketches.

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

    Raises:
        ValueError: when sizes, numbers of codes or contexts do not fit together.

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

    def __init__(self, sketch: CodeSketch, sketch_prior: GatedPixelCNN, code_prior: GatedPixelCNN) -> None:
        super().__init__()
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
        self.spatial_size = code_prior.spatial_size
        self.num_embeddings = code_prior.num_embeddings
        self.num_classes = code_prior.num_classes
        self.num_values = code_prior.num_values
        #: names of the grids of a context, in their order.
        self.context_names = code_prior.context_names
        self._num_contexts = len(self.context_names)
        #: number of random numbers of a grid, one for each code of the sketch and then one for each code.
        self.num_draws: int = math.prod(sketch.spatial_size) + math.prod(self.spatial_size)

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
            in training mode the logits (B, K, *spatial) of the codes given the sketch, and the bits of the sketch for
            each code of the grid, a scalar; in evaluation mode logits (B, K + 1, *spatial), see above.
        """
        sketch = self.sketch(codes)
        sketch_logits = self.sketch_prior(sketch, labels, values, self._sketches(context)).float()
        nats = F.cross_entropy(sketch_logits, sketch, reduction="none")  # (B, *sketch)
        logits = self.code_prior(codes, labels, values, self.code_context(sketch, context))
        if self.training:
            return logits, nats.sum() / (codes.numel() * math.log(2.0))
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
            choose: as in :meth:`GatedPixelCNN.generate`; the positions of the sketch come first, then those of the
                grid, :attr:`num_draws` in all.
            batch_size: number of grids, B.
            labels: as in :meth:`GatedPixelCNN.forward`.
            values: as in :meth:`GatedPixelCNN.forward`.
            context: as in :meth:`forward`.

        Returns:
            codes, (B, *spatial) int64. A code that was drawn may lie in a block whose own sketch would be another.
        """
        sketch = self.sketch_prior.generate(choose, batch_size, labels, values, self._sketches(context))
        first = math.prod(self.sketch.spatial_size)
        known = self.code_context(sketch, context)
        return self.code_prior.generate(
            lambda position, logits: choose(first + position, logits), batch_size, labels, values, known
        )

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
        return (
            torch.cat([self.sketch(codes).flatten(1), codes.flatten(1)], 1),
            torch.cat([settled.flatten(1), mask.flatten(1)], 1),
        )


def make_prior(
    code_prior: GatedPixelCNN, sketch_prior: GatedPixelCNN | None = None, sketch: CodeSketch | None = None
) -> GatedPixelCNN | HierarchicalPrior:
    """The prior of a configuration: of sketches and codes where there is a sketch, else that of the codes alone."""
    if sketch is None or sketch_prior is None:
        return code_prior
    return HierarchicalPrior(sketch, sketch_prior, code_prior)
