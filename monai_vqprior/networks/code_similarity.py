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

import torch

__all__ = ["similarity_maps"]


@torch.no_grad()
def similarity_maps(vectors: torch.Tensor, channels: int, number: int, like: torch.Tensor) -> list[torch.Tensor]:
    """
    Random linear maps of the vectors of a codebook: codes that look alike get similar rows.

    Args:
        vectors: the codebook, (K, D), on any scale; its components are brought to mean 0 and variance 1.
        channels: length of a row, C.
        number: how many maps.
        like: a tensor of the type and device of the result.

    Returns:
        tensors (K, C) of variance 1.
    """
    centered = (vectors - vectors.mean(0)).to(like)
    scale = centered.square().mean(0).sqrt().clamp_min(torch.finfo(centered.dtype).tiny)
    standardized = centered / scale / math.sqrt(vectors.shape[1])
    directions = torch.randn(number, vectors.shape[1], channels).to(standardized)  # (number, D, C)
    return [standardized @ direction for direction in directions]
