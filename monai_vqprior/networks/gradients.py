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

"""
How the gradient of the chosen codes reaches the encoder, whose choice has none: the two paths to choose from.

Both are called with vectors (N, D), which ask for a gradient, and the codes (N, D) that were chosen for them, and
return the codes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

__all__ = ["RotationTrick", "StraightThrough"]

# Vectors shorter than this have no direction to turn.
_SHORTEST = 1e-6


class _Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, vectors: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        return codes.view_as(codes)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradient, None


class _Rotation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, vectors: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(vectors, codes)
        return codes.view_as(codes)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        vectors, codes = ctx.saved_tensors
        vector_norm = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
        code_norm = torch.linalg.vector_norm(codes, dim=1, keepdim=True)
        e = vectors / vector_norm.clamp_min(_SHORTEST)
        q = codes / code_norm.clamp_min(_SHORTEST)
        middle = e + q  # the two reflections that turn e into q: first at the middle of both, then at q
        squared = middle.square().sum(1, keepdim=True)
        # The rotation is R = I - 2 m m' / |m|^2 + 2 q e'; its transpose takes the gradient back.
        along_middle = (gradient * middle).sum(1, keepdim=True) / squared.clamp_min(_SHORTEST)
        along_code = (gradient * q).sum(1, keepdim=True)
        turned = gradient - 2 * along_middle * middle + 2 * along_code * e
        # Opposite vectors have no middle, and those of no length no direction: there, straight through.
        defined = (squared > _SHORTEST) & (vector_norm > _SHORTEST) & (code_norm > _SHORTEST)
        return torch.where(defined, turned * (code_norm / vector_norm.clamp_min(_SHORTEST)), gradient), None


class StraightThrough:
    """
    The gradient of a code is passed to its vector unchanged, after Bengio et al., "Estimating or propagating gradients
    through stochastic neurons for conditional computation" (2013), https://arxiv.org/abs/1308.3432.
    """

    def __call__(self, vectors: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        """Codes (N, D), whose gradient goes to the vectors (N, D)."""
        return _Straight.apply(vectors, codes)

    def __repr__(self) -> str:
        return "StraightThrough()"


class RotationTrick:
    """
    The gradient turns and scales as the vector would to become its code, after Fifty et al., "Restructuring vector
    quantization with the rotation trick" (2024), https://arxiv.org/abs/2410.06424.

    Vectors in one cell then receive different gradients, by where they lie relative to the code, where the
    straight-through estimator gives all of them the same.
    """

    def __call__(self, vectors: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        """Codes (N, D), whose gradient goes, rotated and scaled, to the vectors (N, D)."""
        return _Rotation.apply(vectors, codes)

    def __repr__(self) -> str:
        return "RotationTrick()"
