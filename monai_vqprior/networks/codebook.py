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

import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F

from monai_vqprior.errors import InputError

__all__ = ["EMACodebook", "channels_first", "channels_last", "nearest_code"]

# Rows of the distance matrix that exist at a time: 4096 x 512 codes is 8 MB, which stays in the cache.
_CHUNK_ROWS = 4096
# The data-driven start draws its codes in this many rounds, each round far from the codes of the rounds before.
_START_ROUNDS = 8


def channels_last(z: torch.Tensor) -> torch.Tensor:
    """(B, D, *spatial) -> (B, *spatial, D)."""
    return z.movedim(1, -1)


def channels_first(z: torch.Tensor) -> torch.Tensor:
    """(B, *spatial, D) -> (B, D, *spatial)."""
    return z.movedim(-1, 1)


def nearest_code(vectors: torch.Tensor, codes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Nearest code of each vector by Euclidean distance, without ever holding the whole distance matrix.

    Args:
        vectors: (N, D), float32.
        codes: (K, D), float32.

    Returns:
        indices (N,) int64 of the nearest codes and the squared distances (N,) to them, clamped at 0.
    """
    # |v - c|^2 = |v|^2 + (|c|^2 - 2 v.c): the term in brackets is one fused matrix product, |v|^2 moves no minimum.
    squared_norms = codes.pow(2).sum(1)  # (K,)
    transposed = codes.t()
    indices = []
    minima = []
    for chunk in vectors.split(_CHUNK_ROWS):
        minimum, index = torch.addmm(squared_norms, chunk, transposed, alpha=-2.0).min(1)
        indices.append(index)
        minima.append(minimum)
    distances = torch.cat(minima) + vectors.pow(2).sum(1)
    return torch.cat(indices), distances.clamp_min(0.0)


class EMACodebook(nn.Module):
    """
    A codebook that follows the encoder by exponential moving averages, after appendix A.1 of van den Oord et al.,
    "Neural Discrete Representation Learning" (2017), https://arxiv.org/abs/1711.00937.

    Three things keep it from collapsing. It starts from encoder vectors of the first training batch, drawn far from
    one another. A code that the batches have stopped using is revived: it moves to an encoder vector that the other
    codes serve badly, and its running sums start anew there, so that the next update does not undo the move. And all
    of its arithmetic is float32, whatever the autocast around it.

    Only the training forward moves the codes: :meth:`encode` and :meth:`decode` never write. In distributed training
    the statistics are summed over all processes and every draw is made by process 0, so that all codebooks stay equal.

    Args:
        num_embeddings: number of codes, K.
        embedding_dim: length of a code, D.
        decay: share of the running averages that survives a training step, in [0, 1).
        commitment_cost: weight of the commitment loss, which pulls the encoder to its codes.
        revival_threshold: a code is revived when its running count falls below this share of the count it would have
            if all codes were used alike; 0 turns revival off.

    Raises:
        ValueError: when an argument is out of its range.

    Example:
        >>> codebook = EMACodebook(num_embeddings=512, embedding_dim=8)
        >>> quantized, indices, loss = codebook(torch.randn(2, 8, 32, 32))
        >>> quantized.shape, indices.shape
        (torch.Size([2, 8, 32, 32]), torch.Size([2, 32, 32]))
    """

    embedding: torch.Tensor
    cluster_size: torch.Tensor
    embedding_sum: torch.Tensor
    started: torch.Tensor

    def __init__(
        self,
        num_embeddings: int = 512,
        embedding_dim: int = 8,
        decay: float = 0.99,
        commitment_cost: float = 0.25,
        revival_threshold: float = 0.02,
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
        if not 0 <= revival_threshold < 1:
            raise InputError(f"revival_threshold must be in [0, 1), got {revival_threshold}.")
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        self.decay = decay
        self.commitment_cost = commitment_cost
        self.revival_threshold = revival_threshold
        embedding = torch.randn(num_embeddings, embedding_dim)
        self.register_buffer("embedding", embedding)
        self.register_buffer("cluster_size", torch.ones(num_embeddings))
        self.register_buffer("embedding_sum", embedding.clone())
        self.register_buffer("started", torch.tensor(False))

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}, decay={self.decay}"

    def encode(self, z: torch.Tensor) -> torch.Tensor:
        """
        Indices of the nearest codes.

        Args:
            z: encoder output, (B, D, *spatial), any floating type.

        Returns:
            (B, *spatial) int64.
        """
        with torch.autocast(device_type=z.device.type, enabled=False):
            indices, _ = self._nearest(z.float())
        return indices

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
            the quantized vectors (B, D, *spatial) in float32, whose gradient goes straight through to ``z``; the
            indices (B, *spatial) int64; and the commitment loss, a scalar with its weight applied.
        """
        with torch.autocast(device_type=z.device.type, enabled=False):
            z = z.float()
            indices, _ = self._nearest(z)
            return self._straight_through(z, indices)

    def forward(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """As :meth:`quantize`; in training mode the codes also follow the encoder."""
        if not self.training:
            return self.quantize(z)
        with torch.autocast(device_type=z.device.type, enabled=False):
            z = z.float()
            vectors = channels_last(z.detach()).reshape(-1, self.embedding_dim)  # (N, D)
            if not self.started:
                self._start(vectors)
            indices, distances = self._nearest(z)
            output = self._straight_through(z, indices)
            self._follow(vectors, indices.flatten(), distances)
            return output

    def _nearest(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Indices (B, *spatial) of the codes nearest to z (B, D, *spatial), float32, and squared distances (N,)."""
        vectors = channels_last(z.detach())  # (B, *spatial, D)
        indices, distances = nearest_code(vectors.reshape(-1, self.embedding_dim), self.embedding)
        return indices.view(vectors.shape[:-1]), distances

    def _straight_through(
        self, z: torch.Tensor, indices: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Codes of the indices with the gradient of z, the indices, and the commitment loss."""
        quantized = self.decode(indices)
        loss = self.commitment_cost * F.mse_loss(z, quantized)
        return z + (quantized - z).detach(), indices, loss

    @torch.no_grad()
    def _start(self, vectors: torch.Tensor) -> None:
        """Place the codes on vectors of the first batch, each round of draws far from the codes drawn before."""
        codes = vectors[torch.randint(len(vectors), (1,), device=vectors.device)]
        for drawn in range(1, _START_ROUNDS + 1):
            _, distances = nearest_code(vectors, codes)
            missing = self.num_embeddings * drawn // _START_ROUNDS - len(codes)
            if missing > 0:  # with few codes, some rounds have none to draw
                codes = torch.cat([codes, _draw_far(vectors, distances, missing)])
        codes = _from_first_process(codes)
        self.embedding.copy_(codes)
        self.embedding_sum.copy_(codes)
        self.cluster_size.fill_(1.0)
        self.started.fill_(True)

    @torch.no_grad()
    def _follow(self, vectors: torch.Tensor, indices: torch.Tensor, distances: torch.Tensor) -> None:
        """Move the running averages to this batch, the codes with them, and revive the codes that nothing uses."""
        counts = torch.bincount(indices, minlength=self.num_embeddings).to(vectors.dtype)  # (K,)
        sums = torch.zeros_like(self.embedding).index_add_(0, indices, vectors)  # (K, D)
        counts, sums = _sum_over_processes(counts, sums)
        self.cluster_size.lerp_(counts, 1 - self.decay)
        self.embedding_sum.lerp_(sums, 1 - self.decay)

        uniform = self.cluster_size.sum() / self.num_embeddings
        dead = self.cluster_size < self.revival_threshold * uniform  # (K,)
        if self.revival_threshold > 0:
            candidates = _from_first_process(_draw_far(vectors, distances, self.num_embeddings))
            # A few thresholds (a tenth of a fair share at least) let a revived code live through its first quiet steps.
            revived_size = max(0.1, 2 * self.revival_threshold) * uniform
            self.cluster_size.copy_(torch.where(dead, revived_size, self.cluster_size))
            self.embedding_sum.copy_(torch.where(dead[:, None], candidates * revived_size, self.embedding_sum))
        sizes = self.cluster_size[:, None]
        # Where the running count has died away, the code stays.
        self.embedding.copy_(torch.where(sizes > 1e-12, self.embedding_sum / sizes.clamp_min(1e-12), self.embedding))


def _draw_far(vectors: torch.Tensor, distances: torch.Tensor, number: int) -> torch.Tensor:
    """Draw ``number`` of the vectors (N, D), each in proportion to its squared distance (N,) from its code."""
    weights = distances + 1e-12  # all equal to their codes: then any will do
    return vectors[torch.multinomial(weights, number, replacement=True)]


def _several_processes() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _sum_over_processes(counts: torch.Tensor, sums: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum the counts (K,) and the sums (K, D) over all processes, in one message."""
    if not _several_processes():
        return counts, sums
    joined = torch.cat([counts[:, None], sums], dim=1)
    dist.all_reduce(joined)
    return joined[:, 0], joined[:, 1:]


def _from_first_process(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor as process 0 has it."""
    if _several_processes():
        tensor = tensor.contiguous()
        dist.broadcast(tensor, src=0)
    return tensor
