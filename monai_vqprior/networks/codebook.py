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

from collections.abc import Callable
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F

from monai_vqprior.errors import InputError
from monai_vqprior.networks.code_entropy import lack_of_entropy
from monai_vqprior.networks.codebook_starts import NO_DISTANCE, draw_spread_vectors, draw_vectors, squared_distances
from monai_vqprior.networks.gradients import StraightThrough
from monai_vqprior.networks.nearest_code import nearest_code
from monai_vqprior.networks.process_sums import only_of_first_process, several_processes, sum_over_processes
from monai_vqprior.networks.scripting import is_scripting

__all__ = ["CosineCodebook", "EMACodebook", "channels_first", "channels_last", "nearest_code"]

# A running count below this is none.
_NO_COUNT = 1e-12


def channels_last(z: torch.Tensor) -> torch.Tensor:
    """(B, D, *spatial) -> (B, *spatial, D)."""
    return z.movedim(1, -1)


def channels_first(z: torch.Tensor) -> torch.Tensor:
    """(B, *spatial, D) -> (B, D, *spatial)."""
    return z.movedim(-1, 1)


class EMACodebook(nn.Module):
    """
    A codebook that follows the encoder by exponential moving averages, after appendix A.1 of van den Oord et al.,
    "Neural Discrete Representation Learning" (2017), https://arxiv.org/abs/1711.00937.

    Four things keep it from collapsing. It starts from encoder vectors of the first training batch, drawn far from
    one another. A code that the batches have stopped using is revived: it moves to an encoder vector that the other
    codes serve badly, and its running sums start anew there, so that the next update does not undo the move. All of
    its arithmetic is float32, whatever the autocast around it. And on request the encoder is asked to use the codes
    alike, by the entropy of the mean assignment, as in Jansen et al., "Coincidence, categorization, and consolidation:
    learning to recognize sounds with minimal supervision" (2019), https://arxiv.org/abs/1911.05894.

    Only the training forward moves the codes: :meth:`encode`, :meth:`decode` and :meth:`quantize` never write. Vectors
    that are not finite move none. Casting a network, by ``net.half()`` for instance, leaves its codebook in float32. In
    distributed training the statistics are summed over all processes and every draw is made by process 0, in one
    message a step, so that all codebooks stay equal; a process may have fewer vectors than the others, or none.

    Args:
        num_embeddings: number of codes, K.
        embedding_dim: length of a code, D.
        decay: share of the running averages that survives a training step, in [0, 1).
        commitment_cost: weight of the commitment loss, which pulls the encoder to its codes.
        revival_threshold: a code is revived when its running count falls below this share of the count it would have
            if all codes were used alike; 0 turns revival off.
        entropy_weight: weight of the entropy loss: ln K minus the entropy of the mean soft assignment in nats, on at
            most 1024 vectors of a batch. A vector is assigned softly by its squared distances to the codes, in units
            of the mean squared distance to the nearest. 0 turns it off.
        accumulation_steps: training calls whose statistics make one step of the codes, for a training that accumulates
            the gradients of as many batches.
        gradient: how the gradient of the codes reaches the encoder:
            :class:`~monai_vqprior.networks.StraightThrough`, the default, or
            :class:`~monai_vqprior.networks.RotationTrick`.

    Raises:
        ValueError: when an argument is out of its range.

    Example:
        >>> codebook = EMACodebook(num_embeddings=512, embedding_dim=8)
        >>> quantized, indices, loss = codebook(torch.randn(2, 8, 32, 32))
        >>> quantized.shape, indices.shape
        (torch.Size([2, 8, 32, 32]), torch.Size([2, 32, 32]))
    """

    __jit_ignored_attributes__ = ("gradient",)  # TorchScript cannot save what is written in Python alone

    def __init__(
        self,
        num_embeddings: int = 512,
        embedding_dim: int = 8,
        decay: float = 0.99,
        commitment_cost: float = 0.25,
        revival_threshold: float = 0.02,
        entropy_weight: float = 0.0,
        accumulation_steps: int = 1,
        gradient: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        super().__init__()
        if num_embeddings < 2:
            raise InputError(f"num_embeddings must be at least 2, got {num_embeddings}.")
        if embedding_dim < 1:
            raise InputError(f"embedding_dim must be at least 1, got {embedding_dim}.")
        if not 0 <= decay < 1:
            raise InputError(f"decay must be in [0, 1), got {decay}.")
        if commitment_cost < 0:
            raise InputError(f"commitment_cost must not be negative, got {commitment_cost}.")
        if entropy_weight < 0:
            raise InputError(f"entropy_weight must not be negative, got {entropy_weight}.")
        if not 0 <= revival_threshold < 1:
            raise InputError(f"revival_threshold must be in [0, 1), got {revival_threshold}.")
        if accumulation_steps < 1:
            raise InputError(f"accumulation_steps must be at least 1, got {accumulation_steps}.")
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        self.decay = decay
        self.commitment_cost = commitment_cost
        self.entropy_weight = entropy_weight
        self.revival_threshold = revival_threshold
        self.accumulation_steps = accumulation_steps
        self.gradient = StraightThrough() if gradient is None else gradient

        # Annotated here, not in the class: TorchScript cannot read annotations of a class that are text.
        self.embedding: torch.Tensor
        self.cluster_size: torch.Tensor
        self.embedding_sum: torch.Tensor
        self.started: torch.Tensor
        embedding = self._place(torch.randn(num_embeddings, embedding_dim), torch.zeros(num_embeddings, embedding_dim))
        self.register_buffer("embedding", embedding)
        self.register_buffer("cluster_size", torch.ones(num_embeddings))
        self.register_buffer("embedding_sum", embedding.clone())
        # A number, as federated learning subtracts and averages all that is in a state dictionary: bools have no minus.
        self.register_buffer("started", torch.tensor(0.0))
        # ``started`` as a Python bool: to ask a tensor would wait for the device in every step, and break a graph.
        self._has_started = False
        # Counts and sums of the calls since the codes moved, in one tensor as they travel between processes.
        self.pending: torch.Tensor
        waits = accumulation_steps > 1
        self.register_buffer("pending", torch.zeros(num_embeddings * waits, 1 + embedding_dim), persistent=False)
        self._pending_calls = 0

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}, decay={self.decay}, gradient={self.gradient}"

    def encode(self, z: torch.Tensor) -> torch.Tensor:
        """
        Indices of the nearest codes.

        Args:
            z: encoder output, (B, D, *spatial), any floating type.

        Returns:
            (B, *spatial) int64.
        """
        if is_scripting():
            return nearest_code(self._vectors(z), self.embedding).view(_grid_of(z))
        with _full_precision(z):
            return nearest_code(self._vectors(z.detach()), self.embedding).view(_grid_of(z))

    def decode(self, indices: torch.Tensor) -> torch.Tensor:
        """
        Codes of the indices.

        Args:
            indices: (B, *spatial), integers in 0..K-1.

        Returns:
            (B, D, *spatial) float32.
        """
        return channels_first(F.embedding(indices, self.embedding))

    def quantize(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """
        Replace each vector by its nearest code. Never writes, in training mode neither.

        Args:
            z: encoder output, (B, D, *spatial), any floating type.

        Returns:
            the quantized vectors (B, D, *spatial) in float32, whose gradient passes to ``z``; the indices
            (B, *spatial) int64; and the commitment loss, a scalar with its weight applied.
        """
        if is_scripting():
            vectors = self._vectors(z)
            indices = nearest_code(vectors, self.embedding)
            codes = F.embedding(indices, self.embedding)
            return self._as_grids(z, codes, indices, self._commitment_loss(squared_distances(vectors, codes)))
        with _full_precision(z):
            vectors = self._vectors(z)
            indices = nearest_code(vectors.detach(), self.embedding)
            codes = F.embedding(indices, self.embedding)
            loss = self._commitment_loss(squared_distances(vectors, codes))
            return self._as_grids(z, self.gradient(vectors, codes), indices, loss)

    def forward(
        self, z: torch.Tensor, mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """
        As :meth:`quantize`; in training mode the codes follow the encoder too, and the loss includes the entropy loss.

        Args:
            z: encoder output, (B, D, *spatial), any floating type.
            mask: (B, *spatial) bool, the vectors that the codes follow; None for all. The others are quantized too,
                and keep close to their codes, but no code is spent on them: most of a brain slice is background.
        """
        if is_scripting() or not self.training:
            return self.quantize(z)
        with _full_precision(z):
            vectors = self._vectors(z)
            followed = None if mask is None else mask.reshape(-1).to(vectors.dtype)
            if not self._has_started:
                self._start(vectors.detach(), followed)
            indices = nearest_code(vectors.detach(), self.embedding)
            codes = F.embedding(indices, self.embedding)
            distances = squared_distances(vectors, codes)  # (N,)
            loss = self._commitment_loss(distances)
            if self.entropy_weight > 0:
                entropy_loss = lack_of_entropy(vectors, self.embedding, distances.detach(), followed)
                loss = loss + self.entropy_weight * entropy_loss
            self._follow(vectors.detach(), indices, distances.detach(), followed)
            return self._as_grids(z, self.gradient(vectors, codes), indices, loss)

    def _vectors(self, z: torch.Tensor) -> torch.Tensor:
        """Encoder output (B, D, *spatial) as vectors (N, D), float32."""
        return channels_last(z.float()).reshape(-1, self.embedding_dim)

    def _place(self, means: torch.Tensor, current: torch.Tensor) -> torch.Tensor:
        """Where codes (K, D) come to lie that have these means and lie at ``current`` now."""
        return means

    def _commitment_loss(self, squared_distances: torch.Tensor) -> torch.Tensor:
        """Weighted mean square of what vectors and codes differ by, of their squared distances (N,); 0 without any."""
        number = squared_distances.shape[0] * self.embedding_dim
        return self.commitment_cost * (squared_distances.sum() / max(1, number))

    def _as_grids(
        self, z: torch.Tensor, codes: torch.Tensor, indices: torch.Tensor, loss: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Codes (N, D) as (B, D, *spatial) and indices (N,) as (B, *spatial) of encoder output ``z``; the loss."""
        return channels_first(codes.view_as(channels_last(z))), indices.view(_grid_of(z)), loss

    @torch.no_grad()
    def _start(self, vectors: torch.Tensor, followed: torch.Tensor | None) -> None:
        """Place the codes on vectors (N, D) of the first batch that lie far from one another."""
        start = torch.cat([self.embedding, torch.zeros_like(self.embedding[:, :1])], 1)  # an empty batch starts nothing
        if len(vectors) > 0:
            # So large that their distances overflow counts as not finite. What is left out is 0: it is never drawn.
            finite = torch.linalg.vecdot(vectors, vectors).isfinite()  # (N,)
            vectors = torch.where(finite[:, None], vectors, 0.0)
            weights = finite.to(vectors.dtype)
            if followed is not None:
                # Where the mask leaves no vector, the start takes any.
                weights = torch.where((weights * followed).any(), weights * followed, weights)
            codes, any_finite = draw_spread_vectors(vectors, weights, self.num_embeddings)
            codes = torch.cat([self._place(codes, self.embedding), torch.ones_like(codes[:, :1])], 1)
            start = torch.where(any_finite, codes, start)
        start = sum_over_processes(only_of_first_process(start))
        codes = start[:, :-1]
        # All processes must agree, and only the first has the value. A compiled graph cannot ask a tensor: there, codes
        # that had nothing to start from are left to the revivals.
        compiled = torch.compiler.is_compiling() and not several_processes()
        self._has_started = len(vectors) > 0 if compiled else bool(start[0, -1] > 0)
        self.embedding.copy_(codes)
        self.embedding_sum.copy_(codes)
        self.cluster_size.fill_(1.0)
        self.started.fill_(self._has_started)

    @torch.no_grad()
    def _follow(
        self,
        vectors: torch.Tensor,
        indices: torch.Tensor,
        squared_distances: torch.Tensor,
        followed: torch.Tensor | None,
    ) -> None:
        """Move the running averages to this batch, the codes with them, and revive the codes that nothing uses."""
        # The distance of a vector that is not finite is not either, and neither is one that is too large to be summed.
        members = squared_distances.isfinite().to(squared_distances.dtype)
        if followed is not None:
            members = members * followed
        # Not a product: what is left out may be infinite.
        left_out = members == 0
        vectors = vectors.masked_fill(left_out[:, None], 0.0)
        far = (squared_distances + NO_DISTANCE).masked_fill(left_out, 0.0)
        counts = torch.zeros_like(self.cluster_size).index_add_(0, indices, members)  # (K,)
        sums = torch.zeros_like(self.embedding).index_add_(0, indices, vectors)  # (K, D)
        statistics = self._accumulated(torch.cat([counts[:, None], sums], 1))
        if statistics is None:
            return
        candidates, drawn = draw_vectors(vectors, far, self.num_embeddings)  # (K, D), and whether there were any
        candidates = torch.cat([candidates, drawn.to(candidates.dtype).expand(self.num_embeddings, 1)], 1)
        message = sum_over_processes(torch.cat([statistics, only_of_first_process(candidates)], 1))
        counts, sums, candidates, drawn = message.split([1, self.embedding_dim, self.embedding_dim, 1], 1)
        self.cluster_size.lerp_(counts[:, 0], 1 - self.decay)
        self.embedding_sum.lerp_(sums, 1 - self.decay)
        if self.revival_threshold > 0:
            self._revive(candidates, drawn > 0)
        sizes = self.cluster_size[:, None]  # (K, 1)
        # Where the running count has died away, the code stays.
        means = torch.where(sizes > _NO_COUNT, self.embedding_sum / sizes.clamp_min(_NO_COUNT), self.embedding)
        self.embedding.copy_(self._place(means, self.embedding))

    def _accumulated(self, statistics: torch.Tensor) -> torch.Tensor | None:
        """Counts and sums (K, 1 + D) of ``accumulation_steps`` calls together; None until there are as many."""
        if self.accumulation_steps == 1:
            return statistics
        self.pending.add_(statistics)
        self._pending_calls = (self._pending_calls + 1) % self.accumulation_steps
        if self._pending_calls > 0:
            return None
        statistics = self.pending.clone()
        self.pending.zero_()
        return statistics

    def _revive(self, candidates: torch.Tensor, possible: torch.Tensor) -> None:
        """Start the running sums of unused codes anew at the candidates (K, D), where that is possible (K, 1)."""
        sizes = self.cluster_size[:, None]  # (K, 1), a view
        fair_share = sizes.mean()
        dead = (sizes < self.revival_threshold * fair_share) & possible
        # A few thresholds (a tenth of a fair share at least) let a revived code live through its first quiet steps.
        revived_size = max(0.1, 2 * self.revival_threshold) * fair_share
        self.embedding_sum.copy_(torch.where(dead, candidates * revived_size, self.embedding_sum))
        sizes.copy_(torch.where(dead, revived_size, sizes))

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> EMACodebook:
        before = dict(self.named_buffers(recurse=False))
        super()._apply(fn, recurse)
        # A cast is undone, a move to another device is not: running sums in half precision would not follow anything.
        for name, buffer in before.items():
            after = self._buffers[name]
            if after is not None and after.dtype != buffer.dtype:
                self._buffers[name] = buffer.to(after.device)
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._has_started = bool(self.started)


class CosineCodebook(EMACodebook):
    """
    An :class:`EMACodebook` on the unit sphere: vectors and codes have length 1, and the nearest code is the one of the
    largest cosine, after Yu et al., "Vector-quantized image modeling with improved VQGAN" (2021),
    https://arxiv.org/abs/2110.04627.

    Vectors that differ in length alone share a code, so a few long ones cannot draw codes to themselves. Arguments,
    methods and errors are those of :class:`EMACodebook`; the quantized vectors have length 1.

    Example:
        >>> codebook = CosineCodebook(num_embeddings=512, embedding_dim=8)
        >>> quantized, indices, loss = codebook(torch.randn(2, 8, 32, 32))
        >>> bool(torch.allclose(quantized.norm(dim=1), torch.ones(2, 32, 32)))
        True
    """

    def _vectors(self, z: torch.Tensor) -> torch.Tensor:
        # The gradient of a vector grows as it shrinks; below this length it grows no further.
        return F.normalize(channels_last(z.float()).reshape(-1, self.embedding_dim), dim=1, eps=1e-6)

    def _place(self, means: torch.Tensor, current: torch.Tensor) -> torch.Tensor:
        lengths = torch.linalg.vector_norm(means, dim=1, keepdim=True)
        # Vectors that cancel out have no direction.
        return torch.where(lengths > 1e-6, means / lengths.clamp_min(1e-6), current)


def _grid_of(z: torch.Tensor) -> list[int]:
    """(B, *spatial) of (B, D, *spatial)."""
    return [z.shape[0]] + [z.shape[axis] for axis in range(2, z.dim())]


def _full_precision(z: torch.Tensor) -> torch.autocast:
    """A context without autocast on the device of ``z``."""
    return torch.autocast(device_type=z.device.type, enabled=False)
