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
from typing import cast

import torch
import torch.nn as nn
import torch.nn.functional as F
from monai.networks.layers.factories import Conv
from monai.utils import ensure_tuple_rep

from monai_vqprior.errors import InputError
from monai_vqprior.networks.attention import CausalAttention
from monai_vqprior.networks.causal import GatedLayer, shift
from monai_vqprior.networks.code_similarity import similarity_maps
from monai_vqprior.networks.condition_dropout import drop_conditions, drop_contexts
from monai_vqprior.networks.mirror import MirroredCodes
from monai_vqprior.networks.scripting import is_scripting
from monai_vqprior.sampling import GridSampler

__all__ = ["GatedPixelCNN"]


class GatedPixelCNN(nn.Module):
    """
    Autoregressive prior over grids of discrete codes: the product of p(code | codes before it).

    The gated PixelCNN of van den Oord et al., "Conditional Image Generation with PixelCNN Decoders" (2016),
    https://arxiv.org/abs/1606.05328, for grids of two or three dimensions, with a stack of causal convolutions for each
    axis (:class:`~monai_vqprior.networks.causal.GatedLayer`) and a learned embedding of each position, because brains
    in a common space differ by position more than by anything else.

    :meth:`forward` gives the logits of all positions of a known grid at once; :meth:`generate` visits the positions in
    order and computes at each only what is new. TorchScript, ONNX and ``torch.export`` take :meth:`forward` alone.

    Args:
        spatial_dims: 2 or 3.
        num_embeddings: number of codes, K.
        spatial_size: size of the grid, one number for all axes or one an axis.
        channels: channels of every layer, C.
        num_layers: number of gated layers.
        kernel_size: odd size of the causal kernels.
        num_classes: number of classes of each label that grids can be conditioned on, such as ``[4]`` for four
            dementia classes; none by default.
        num_values: how many continuous values grids can be conditioned on, such as 1 for the slice position.
        dropout: probability that a gated feature is dropped in training.
        attention_every: a :class:`~monai_vqprior.networks.CausalAttention` follows each layer of which the number is a
            multiple of this; 0 for none.
        num_heads: heads of each attention.
        condition_dropout: probability that conditions are withheld in training
            (see ``condition_dropout.py``), never in evaluation mode.
        skip_connections: the head also reads what passed the gates of the last stack in each layer.
        position_logits: the logits of the layers are added to those of :meth:`start_from`, a histogram for each
            position.
        mirror: the last stack also reads the code at the mirrored position of the last axis, where it comes before
            (:class:`~monai_vqprior.networks.MirroredCodes`).
        context_network: computes from a *spatial context*, given before the first code, a map (B, C, *spatial) that is
            added to the input of every stack, like a position embedding that differs from grid to grid. It need not be
            causal: every logit may depend on all of the context. Such as :class:`~monai_vqprior.networks.CodeContext`,
            for a sketch of the grid or the grid of a neighboring slice; any module that takes one tensor (B, ...) and
            returns such a map. None for a network without.
        context_names: names of the grids that the context consists of, in their order, such as ``("neighbor",)``: by
            them those who make contexts know what the network takes.
        context_dropout: probability that the context of a grid is withheld in training, never in evaluation mode.

    Raises:
        ValueError: when an argument is out of its range.

    Example:
        >>> prior = GatedPixelCNN(spatial_dims=2, num_embeddings=16, spatial_size=8, channels=8, num_layers=2)
        >>> prior(torch.randint(16, (2, 8, 8))).shape
        torch.Size([2, 16, 8, 8])
    """

    def __init__(
        self,
        spatial_dims: int = 2,
        num_embeddings: int = 512,
        spatial_size: int | Sequence[int] = 32,
        channels: int = 96,
        num_layers: int = 12,
        kernel_size: int = 3,
        num_classes: Sequence[int] = (),
        num_values: int = 0,
        dropout: float = 0.0,
        attention_every: int = 0,
        num_heads: int = 4,
        condition_dropout: float = 0.0,
        skip_connections: bool = False,
        position_logits: bool = False,
        context_network: nn.Module | None = None,
        context_dropout: float = 0.0,
        context_names: Sequence[str] = (),
        mirror: bool = False,
    ) -> None:
        super().__init__()
        if spatial_dims not in (2, 3):
            raise InputError(f"spatial_dims must be 2 or 3, got {spatial_dims}.")
        _check_positive(num_embeddings=num_embeddings, channels=channels, num_layers=num_layers)
        _check_probabilities(condition_dropout=condition_dropout, context_dropout=context_dropout)
        if num_values < 0 or any(number < 1 for number in num_classes):
            raise InputError(f"num_classes and num_values must be positive, got {list(num_classes)} and {num_values}.")
        if attention_every < 0:
            raise InputError(f"attention_every must not be negative, got {attention_every}.")
        self.spatial_dims = spatial_dims
        self.num_embeddings = num_embeddings
        self.spatial_size: tuple[int, ...] = ensure_tuple_rep(spatial_size, spatial_dims)
        if any(size < 1 for size in self.spatial_size):
            raise InputError(f"spatial_size must be positive, got {spatial_size}.")
        #: random numbers that a grid is made from, one for each code.
        self.num_draws: int = math.prod(self.spatial_size)
        self.condition_dropout = condition_dropout
        self.context_dropout = context_dropout
        self.context_names: tuple[str, ...] = tuple(context_names)
        if self.context_names and context_network is None:
            raise InputError(f"context_names need a context_network, got {list(context_names)} and none.")
        self.num_classes = tuple(num_classes)
        self.num_values = num_values

        pointwise = Conv[Conv.CONV, spatial_dims]
        self.embedding = nn.Embedding(num_embeddings, channels)
        self.position = nn.Parameter(torch.zeros(1, channels, *self.spatial_size))
        mirrored: nn.Module | None = MirroredCodes(num_embeddings, channels) if mirror else None
        self.mirror = mirrored
        self.layers = nn.ModuleList(
            GatedLayer(spatial_dims, channels, kernel_size, dropout, last=i == num_layers - 1)
            for i in range(num_layers)
        )
        after = range(attention_every, num_layers + 1, attention_every) if attention_every else ()
        self.attentions = nn.ModuleList(
            CausalAttention(channels, num_heads) if number in after else nn.Identity()
            for number in range(1, num_layers + 1)
        )
        self.head = nn.Sequential(
            nn.SiLU(), pointwise(channels, channels, 1), nn.SiLU(), pointwise(channels, num_embeddings, 1)
        )
        self.skip = pointwise(num_layers * channels, channels, 1) if skip_connections else None
        # In half precision: a histogram of a few thousand grids is not known to more digits, and it is the largest part
        # of a small network's file.
        logits = torch.zeros(1, num_embeddings, *self.spatial_size, dtype=torch.half) if position_logits else None
        self.position_logits: torch.Tensor | None
        self.register_buffer("position_logits", logits)

        # One embedding a class, one direction a value; each value also has an indicator that distinguishes 0 from
        # missing.
        self.class_embeddings = nn.ModuleList(nn.Embedding(number, channels) for number in self.num_classes)
        self.value_embedding = nn.Linear(2 * num_values, channels, bias=False) if num_values else None
        self.context_network = context_network
        conditional = bool(self.num_classes) or num_values > 0
        self.condition_heads = nn.ModuleList(
            nn.Linear(channels, 2 * channels, bias=False) for _ in range(num_layers if conditional else 0)
        )

    def forward(
        self,
        codes: torch.Tensor,
        labels: torch.Tensor | None = None,
        values: torch.Tensor | None = None,
        context: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """
        Logits of every position given the codes before it.

        Args:
            codes: (B, *spatial), integers in 0..K-1, of the network's ``spatial_size``. Any type of numbers will do:
                MONAI's checks and its ONNX export feed every network with floats.
            labels: (B, number of labels), a class for each label, -1 where it is missing; None when all are missing.
            values: (B, num_values), NaN where a value is missing; None when all are missing.
            context: what the context network takes, (B, ...). A grid of which no number of the context is 0 or more
                (codes of -1, or NaN) is one without context; None when none has any.

        Returns:
            (B, K, *spatial); position i depends on the codes before i, and on all of the context.

        Raises:
            ValueError: when the shapes do not fit the network.
        """
        if codes.shape[1:] != self.position.shape[2:]:
            size = _listed(list(self.position.shape[2:]))
            raise ValueError(f"codes must be (B, {size}), got ({_listed(list(codes.shape))}).")
        embedded = self.embedding(codes.long()).movedim(-1, 1)  # (B, *spatial, C) -> (B, C, *spatial)
        places = self._places(codes.shape[0], context)
        stacks = [shift(embedded, axis) + places for axis in range(self.spatial_dims)]
        if self.mirror is not None:
            stacks[-1] = stacks[-1] + self.mirror(codes.long())
        conditions = self._conditions(codes.shape[0], labels, values)
        gated: list[torch.Tensor] = []
        for index, (layer, attention) in enumerate(zip(self.layers, self.attentions)):  # noqa: B905 (TorchScript)
            stacks, passed = layer(stacks, conditions[index])
            if self.skip is not None:
                gated.append(passed)
            stacks[-1] = attention(stacks[-1])
        features = stacks[-1] if self.skip is None else stacks[-1] + self.skip(torch.cat(gated, 1))
        logits = self.head(features)
        return logits if self.position_logits is None else logits + self.position_logits

    @torch.no_grad()
    def start_at_codes(self, vectors: torch.Tensor) -> None:
        """
        Initialize with the codebook: similar codes have similar embeddings.

        A new network tells each code from each other one, and must learn from data which of them mean about the same.
        Here the embedding of the codes and the last weights of the head, a row of which makes the logit of a code, are
        each a random linear map of the codebook's vectors, whose components are brought to mean 0 and variance 1. What
        is learned of a code, going in or coming out, then holds for those like it. The head starts silent.

        Args:
            vectors: the codebook, (K, D), on any scale.

        Raises:
            ValueError: when there is not one vector for each code.
        """
        if vectors.dim() != 2 or len(vectors) != self.num_embeddings:
            raise ValueError(f"vectors must be ({self.num_embeddings}, D), got {tuple(vectors.shape)}.")
        last = cast(torch.Tensor, self.head[-1].weight)  # (K, C, 1, ...)
        embeddings, rows = similarity_maps(vectors, last.shape[1], 2, self.embedding.weight)
        self.embedding.weight.copy_(embeddings)
        last.copy_((rows / math.sqrt(last.shape[1])).view_as(last))
        self._silence_head()

    @torch.no_grad()
    def start_from(self, log_probabilities: torch.Tensor) -> None:
        """
        Initialize with the histogram of each position, for a network with ``position_logits``.

        Args:
            log_probabilities: natural logarithms, finite, (K, *spatial), such as those of
                :func:`~monai_vqprior.metrics.position_log_probabilities`. The head starts silent, so that this is
                the network's first answer.

        Raises:
            ValueError: when the network has none to start, or the shape is another.
        """
        if self.position_logits is None:
            raise ValueError("start_from needs a network with position_logits=True.")
        if log_probabilities.shape != self.position_logits.shape[1:]:
            raise ValueError(
                f"log_probabilities must be {tuple(self.position_logits.shape[1:])}, got "
                f"{tuple(log_probabilities.shape)}."
            )
        self.position_logits.copy_(log_probabilities[None])
        self._silence_head()

    def _silence_head(self) -> None:
        """Let the head say zero whatever it hears; both of its convolutions can learn from there."""
        for parameter in (*self.head[1].parameters(), self.head[-1].bias):
            nn.init.zeros_(cast(torch.Tensor, parameter))

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
        Fill grids in raster order, each position computed once.

        By its cached twin, :class:`~monai_vqprior.sampling.GridSampler`: a whole grid costs about the arithmetic of one
        :meth:`forward`. The network should be in evaluation mode, or dropout takes part.

        Args:
            choose: given the position (0 for the first of the grid) and its logits (B, K), the codes (B,) to put there.
            batch_size: number of grids, B.
            labels: as in :meth:`forward`.
            values: as in :meth:`forward`.
            context: as in :meth:`forward`.

        Returns:
            codes, (B, *spatial) int64.
        """
        conditions = self._conditions(batch_size, labels, values)
        return GridSampler(self, conditions, self._places(batch_size, context), batch_size).fill(choose)

    def _places(self, batch_size: int, context: torch.Tensor | None) -> torch.Tensor:
        """What to add to the codes at each position, (1 or B, C, *spatial): its embedding, and that of the context."""
        network = self.context_network
        if network is None or context is None:
            if context is not None:
                raise ValueError("a context needs a network with a context_network.")
            return self.position
        if context.shape[0] != batch_size:
            raise ValueError(f"context must be of {batch_size} grids, got {context.shape[0]}.")
        known = (context >= 0).flatten(1).any(1)  # (B,)
        if not is_scripting() and self.training:
            known = drop_contexts(known, self.context_dropout)
        shape = [batch_size, 1]
        shape += [1] * self.spatial_dims
        return self.position + torch.where(known.view(shape), network(context), 0.0)

    def _conditions(
        self, batch_size: int, labels: torch.Tensor | None, values: torch.Tensor | None
    ) -> list[torch.Tensor | None]:
        """What to add to the gates of each layer, (B, 2C, 1, ...), or None for each layer of a network without."""
        num_labels = len(self.class_embeddings)
        if labels is not None and list(labels.shape) != [batch_size, num_labels]:
            raise ValueError(f"labels must be ({batch_size}, {num_labels}), got ({_listed(list(labels.shape))}).")
        if values is not None and list(values.shape) != [batch_size, self.num_values]:
            raise ValueError(f"values must be ({batch_size}, {self.num_values}), got ({_listed(list(values.shape))}).")
        conditions: list[torch.Tensor | None] = [None for _ in self.layers]
        if len(self.condition_heads) == 0:
            return conditions
        if not is_scripting() and self.training:
            labels, values = drop_conditions(labels, values, self.condition_dropout)
        hidden = self.position.new_zeros([batch_size, self.position.shape[1]])  # (B, C)
        if labels is not None:
            for index, embedding in enumerate(self.class_embeddings):
                label = labels[:, index]
                known = (label >= 0)[:, None]
                hidden = hidden + torch.where(known, embedding(label.clamp_min(0)), 0.0)
        if self.value_embedding is not None and values is not None:
            known = ~values.isnan()
            values = torch.where(known, values, 0.0).to(hidden.dtype)
            hidden = hidden + self.value_embedding(torch.cat([values, known.to(hidden.dtype)], dim=1))
        shape = [batch_size, -1]
        shape += [1] * self.spatial_dims
        for index, head in enumerate(self.condition_heads):
            conditions[index] = head(F.silu(hidden)).view(shape)
        return conditions


def _check_positive(**numbers: int) -> None:
    """
    Check arguments that count something.

    Raises:
        InputError: when one is less than 1.
    """
    for name, value in numbers.items():
        if value < 1:
            raise InputError(f"{name} must be at least 1, got {value}.")


def _check_probabilities(**probabilities: float) -> None:
    """
    Check probabilities of leaving something out.

    Raises:
        InputError: when one is not in [0, 1).
    """
    for name, value in probabilities.items():
        if not 0 <= value < 1:
            raise InputError(f"{name} must be at least 0 and less than 1, got {value}.")


def _listed(sizes: list[int]) -> str:
    """Sizes as an error message names them, joined here because TorchScript formats no tuples."""
    return ", ".join([str(size) for size in sizes])
