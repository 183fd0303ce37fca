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

from collections.abc import Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F
from monai.utils import ensure_tuple_rep

from monai_vqprior.errors import InputError
from monai_vqprior.networks.autoencoder import fold
from monai_vqprior.networks.codebook import EMACodebook, channels_first
from monai_vqprior.networks.scripting import export

__all__ = ["CodeSketch"]

# A block of codes is seen as this many cells along each axis, each by the mean of its code vectors.
_CELLS = 2
# Blocks that the sketch codes are fitted to at most, and rounds of the fit.
_FITTED_BLOCKS = 1 << 16
_FIT_ROUNDS = 25


class CodeSketch(nn.Module):
    """
    The sketch of a grid of codes: a coarse grid, one code for each block, that says what is large in it.

    A block of codes is described by the mean code vectors of its halves along each axis (quarters in two dimensions),
    and the descriptions of all blocks of the training grids are clustered (:meth:`fit`). So the sketch is a function
    of the codes: nothing is stored beside them, and the bits of a sketch and of the codes given the sketch add up to an
    exact code length of the grid.

    Args:
        num_embeddings: number of codes of the grid, K.
        embedding_dim: length of a code vector, D.
        spatial_size: size of the grid, one number for all axes or one an axis.
        block: codes along each side of a block, an even number; blocks at the end of an axis may be smaller.
        num_sketch_codes: number of codes of the sketch.
        spatial_dims: 2 or 3.

    Raises:
        ValueError: when an argument is out of its range.

    Example:
        >>> sketch = CodeSketch(num_embeddings=16, embedding_dim=4, spatial_size=8, block=4, num_sketch_codes=8)
        >>> grids = torch.randint(16, (20, 8, 8))
        >>> sketch.fit(grids, torch.randn(16, 4))
        >>> sketch(grids).shape, sketch.spread(sketch(grids)).shape
        (torch.Size([20, 2, 2]), torch.Size([20, 1, 8, 8]))
    """

    def __init__(
        self,
        num_embeddings: int = 512,
        embedding_dim: int = 8,
        spatial_size: int | Sequence[int] = 32,
        block: int = 4,
        num_sketch_codes: int = 512,
        spatial_dims: int = 2,
    ) -> None:
        super().__init__()
        if spatial_dims not in (2, 3):
            raise InputError(f"spatial_dims must be 2 or 3, got {spatial_dims}.")
        if block < 2 or block % _CELLS != 0:
            raise InputError(f"block must be an even number of at least 2, got {block}.")
        self.spatial_dims = spatial_dims
        self.block = block
        self.cells = _CELLS
        self.num_sketch_codes = num_sketch_codes
        #: size of the grid.
        self.grid_size: tuple[int, ...] = ensure_tuple_rep(spatial_size, spatial_dims)
        #: size of the sketch.
        self.spatial_size: tuple[int, ...] = tuple(-(-size // block) for size in self.grid_size)
        # Annotated here, not in the class: TorchScript cannot read annotations of a class that are text.
        self.vectors: torch.Tensor
        self.register_buffer("vectors", torch.zeros(num_embeddings, embedding_dim))
        #: number of codes of each block, (1, *sketch), which is smaller where the grid ends within a block.
        self.block_sizes: torch.Tensor
        sizes = torch.ones(1, *self.spatial_size)
        for axis, size in enumerate(self.grid_size):
            counts = torch.full((self.spatial_size[axis],), float(block))
            counts[-1] -= self.spatial_size[axis] * block - size
            sizes = sizes * counts.view([-1 if other == axis else 1 for other in range(-1, spatial_dims)])
        self.register_buffer("block_sizes", sizes, persistent=False)
        self.codebook = EMACodebook(num_sketch_codes, embedding_dim * _CELLS**spatial_dims, decay=0.0)

    @torch.no_grad()
    def fit(self, grids: torch.Tensor, vectors: torch.Tensor, seed: int = 0) -> None:
        """
        Cluster the blocks of training grids, by the codebook's own rule: a step of it with no memory is one of k-means.

        Args:
            grids: codes (N, *spatial), integers in 0..K-1.
            vectors: the codebook, (K, D), on any scale.
            seed: seed of the choice of blocks and of the start.

        Raises:
            ValueError: when the vectors are not (K, D), or the grids not of this size.
        """
        if vectors.shape != self.vectors.shape:
            raise ValueError(f"vectors must be {tuple(self.vectors.shape)}, got {tuple(vectors.shape)}.")
        if tuple(grids.shape[1:]) != self.grid_size:
            raise ValueError(f"grids must be (N, {', '.join(map(str, self.grid_size))}), got {tuple(grids.shape)}.")
        self.vectors.copy_(vectors / vectors.std().clamp_min(torch.finfo(torch.float32).tiny))
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(len(grids), generator=generator)[: max(1, _FITTED_BLOCKS // self.block_sizes.numel())]
        described = torch.cat([self.describe(part) for part in grids[chosen.to(grids.device)].split(64)])
        training = self.codebook.training
        self.codebook.train()
        devices = [] if described.device.type == "cpu" else [described.device]
        with torch.random.fork_rng(devices):
            torch.manual_seed(seed)
            for _ in range(_FIT_ROUNDS):
                self.codebook(described)
        self.codebook.train(training)

    def _pad(self, x: torch.Tensor, mode: str) -> torch.Tensor:
        """Values (B, C, *spatial) made up to whole blocks at the end of each axis."""
        pad: list[int] = []
        for axis in range(self.spatial_dims + 1, 1, -1):  # F.pad counts from the last axis
            pad += [0, -x.shape[axis] % self.block]
        return F.pad(x, pad, mode=mode)

    def num_kept(self, mask: torch.Tensor) -> torch.Tensor:
        """How many codes of each block a mask (B, *spatial) keeps, (B, *sketch)."""
        kept = self._pad(mask[:, None].float(), "constant")
        return fold(kept, self.block).sum(1)

    @export
    def describe(self, codes: torch.Tensor) -> torch.Tensor:
        """Descriptions of the blocks, (B, D * cells, *sketch), of grids (B, *spatial)."""
        features = channels_first(F.embedding(codes.long(), self.vectors))  # (B, D, *spatial)
        features = self._pad(features, "replicate")
        cell = self.block // self.cells
        means = F.avg_pool2d(features, cell) if self.spatial_dims == 2 else F.avg_pool3d(features, cell)
        return fold(means, self.cells)

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        """The sketch, (B, *sketch) int64, of grids of codes (B, *spatial)."""
        return self.codebook.encode(self.describe(codes))

    @export
    def of_known(self, codes: torch.Tensor) -> torch.Tensor:
        """
        The sketch of grids of which codes may be missing.

        Args:
            codes: (B, *spatial), -1 where a code is missing.

        Returns:
            (B, *sketch) int64, -1 for a block that misses a code.
        """
        known = codes >= 0
        whole = self.num_kept(known) == self.block_sizes
        return torch.where(whole, self.codebook.encode(self.describe(torch.where(known, codes, 0))), -1)

    @export
    def spread(self, sketch: torch.Tensor) -> torch.Tensor:
        """
        A sketch as the context of its grid: each code at all positions of its block.

        Args:
            sketch: (B, *sketch).

        Returns:
            (B, 1, *spatial), for :class:`~monai_vqprior.networks.CodeContext`.
        """
        for axis, size in enumerate(self.grid_size):
            sketch = sketch.repeat_interleave(self.block, axis + 1).narrow(axis + 1, 0, size)
        return sketch.unsqueeze(1)
