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
from typing import cast

import torch
import torch.nn as nn
from monai.networks.layers.factories import Conv
from monai.utils import ensure_tuple_rep

from monai_vqprior.errors import InputError
from monai_vqprior.networks.autoencoder import PreactivationBlock, unfold
from monai_vqprior.networks.code_similarity import similarity_maps

__all__ = ["CodeContext"]


class _Source(nn.Module):
    """One grid of codes as a map of features: embedded where it is coarse, and brought to the size of the fine grid."""

    def __init__(
        self,
        spatial_dims: int,
        num_embeddings: int,
        size: Sequence[int],
        stride: int,
        channels: int,
        num_blocks: int,
        kernel_size: int,
    ) -> None:
        super().__init__()
        conv = Conv[Conv.CONV, spatial_dims]
        self.stride = stride
        self.embedding = nn.Embedding(num_embeddings + 1, channels)  # the last one for missing codes
        self.surroundings = (
            conv(channels, channels, kernel_size, padding=kernel_size // 2) if kernel_size > 1 else nn.Identity()
        )
        self.position = nn.Parameter(torch.zeros(1, channels, *size))
        self.blocks = nn.Sequential(*(PreactivationBlock(spatial_dims, channels) for _ in range(num_blocks)))
        self.up = conv(channels, channels * stride**spatial_dims, 1)

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        """(B, *fine), each code repeated over its block, -1 where it is missing -> (B, C, *coarse * stride)."""
        for axis in range(1, codes.dim()):
            length = codes.shape[axis]
            codes = codes.index_select(axis, torch.arange(0, length, self.stride, device=codes.device))
        unknown = self.embedding.num_embeddings - 1
        embedded = self.embedding(torch.where(codes < 0, unknown, codes).long()).movedim(-1, 1)  # (B, C, *coarse)
        return unfold(self.up(self.blocks(self.surroundings(embedded) + self.position)), self.stride)


class CodeContext(nn.Module):
    """
    The context of a prior from given grids of codes: a map of features for each position of its grid.

    Every grid is embedded with its positions, passes residual blocks at its own resolution, and is brought to that of
    the prior's grid; their sum passes further blocks there. Nothing is causal: each position depends on all of the
    context. Such grids are a sketch of the slice (a coarse grid, drawn first), the grid of the slice below, the part of
    a grid that is given, or a label map.

    Args:
        num_embeddings: number of codes of each grid; one number for a single grid.
        spatial_size: size of the prior's grid, one number for all axes or one an axis.
        channels: channels of the prior, C.
        strides: positions of the prior's grid along each axis that one code of the context stands for, one number for
            each grid.
        num_blocks: residual blocks of each grid, one number for all or one a grid: those of a coarse grid cost little.
        num_fine_blocks: residual blocks of their sum.
        spatial_dims: 2 or 3.
        kernel_sizes: odd side of a convolution that each grid passes before its residual blocks, one number for all or
            one a grid; 1 for none. For a grid of which a code is missing just where it is asked for, such as the part
            of a grid that is given: residual blocks start as the identity, and learn later to look around.

    Raises:
        ValueError: when an argument is out of its range, or there is not one stride for each grid.

    Example:
        >>> context = CodeContext(num_embeddings=[512, 256], spatial_size=32, channels=8, strides=[4, 1])
        >>> context(torch.randint(256, (2, 2, 32, 32))).shape
        torch.Size([2, 8, 32, 32])
    """

    def __init__(
        self,
        num_embeddings: int | Sequence[int] = 512,
        spatial_size: int | Sequence[int] = 32,
        channels: int = 64,
        strides: int | Sequence[int] = 4,
        num_blocks: int | Sequence[int] = 3,
        num_fine_blocks: int = 1,
        spatial_dims: int = 2,
        kernel_sizes: int | Sequence[int] = 1,
    ) -> None:
        super().__init__()
        numbers = [num_embeddings] if isinstance(num_embeddings, int) else list(num_embeddings)
        steps = [strides] if isinstance(strides, int) else list(strides)
        if not numbers or len(numbers) != len(steps):
            raise InputError(
                f"num_embeddings and strides must have one number for each grid, got {numbers} and {steps}."
            )
        if min(*numbers, *steps) < 1:
            raise InputError(f"num_embeddings and strides must be positive, got {numbers} and {steps}.")
        blocks = [num_blocks] * len(numbers) if isinstance(num_blocks, int) else list(num_blocks)
        if len(blocks) != len(numbers):
            raise InputError(f"num_blocks must have one number for each grid, got {blocks} for {len(numbers)} grids.")
        kernels = [kernel_sizes] * len(numbers) if isinstance(kernel_sizes, int) else list(kernel_sizes)
        if len(kernels) != len(numbers) or any(kernel < 1 or kernel % 2 == 0 for kernel in kernels):
            raise InputError(f"kernel_sizes must be odd, one number for each of {len(numbers)} grids, got {kernels}.")
        if min(*blocks, num_fine_blocks) < 0:
            raise InputError(f"numbers of blocks must not be negative, got {num_blocks} and {num_fine_blocks}.")
        self.spatial_size: tuple[int, ...] = ensure_tuple_rep(spatial_size, spatial_dims)
        self.sources = nn.ModuleList(
            _Source(
                spatial_dims, number, [-(-size // step) for size in self.spatial_size], step, channels, depth, kernel
            )
            for number, step, depth, kernel in zip(numbers, steps, blocks, kernels, strict=True)
        )
        self.blocks = nn.Sequential(*(PreactivationBlock(spatial_dims, channels) for _ in range(num_fine_blocks)))

    @torch.no_grad()
    def start_at_codes(self, vectors: torch.Tensor, source: int) -> None:
        """
        Initialize a grid with the codebook: similar codes have similar embeddings, as in
        :meth:`GatedPixelCNN.start_at_codes`.

        Args:
            vectors: the codebook of the grid, (K, D), on any scale.
            source: number of the grid.
        """
        weight = cast(_Source, self.sources[source]).embedding.weight
        weight[:-1] = similarity_maps(vectors, weight.shape[1], 1, weight)[0]

    def forward(self, context: torch.Tensor) -> torch.Tensor:
        """
        The map of a context.

        Args:
            context: (B, number of grids, *spatial) integers. A code of a coarse grid stands at each of the positions of
                its block; -1 where a code is missing.

        Returns:
            (B, C, *spatial).

        Raises:
            ValueError: when the shape is another.
        """
        if context.dim() != len(self.spatial_size) + 2 or context.shape[1] != len(self.sources):
            raise ValueError(f"context must be (B, {len(self.sources)}, ...), got {list(context.shape)}.")
        for axis, size in enumerate(self.spatial_size):
            if context.shape[axis + 2] != size:
                raise ValueError(f"context must be of size {list(self.spatial_size)}, got {list(context.shape)}.")
        features: list[torch.Tensor] = []
        for index, source in enumerate(self.sources):
            part = source(context[:, index])
            for axis, size in enumerate(self.spatial_size):
                part = part.narrow(axis + 2, 0, size)
            features.append(part)
        total = features[0]
        for part in features[1:]:
            total = total + part
        return self.blocks(total)
