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

import torch
import torch.nn as nn

from monai_vqprior.errors import InputError
from monai_vqprior.networks.codebook import channels_first, channels_last
from monai_vqprior.networks.gradients import StraightThrough
from monai_vqprior.networks.scripting import export, is_scripting

__all__ = ["FSQCodebook"]


class FSQCodebook(nn.Module):
    """
    Finite scalar quantization: each channel is bounded and rounded to one of a few levels, and the product of the
    levels is the codebook, after Mentzer et al., "Finite scalar quantization: VQ-VAE made simple" (2023),
    https://arxiv.org/abs/2309.15505.

    Nothing is learned, followed, revived or summed over processes, and there is no commitment loss: the codes cannot
    collapse, nor move to where the images need them.

    Args:
        levels: number of levels of each channel, each at least 2; the code has as many channels. (8, 8, 8) are 512
            codes, (8, 5, 5, 5) are 1000, (7, 5, 5, 5, 5) are 4375.
        gradient: how the gradient of the codes reaches the encoder:
            :class:`~monai_vqprior.networks.StraightThrough`, the default, or
            :class:`~monai_vqprior.networks.RotationTrick`.

    Raises:
        ValueError: when there is no level or one of less than 2.

    Example:
        >>> codebook = FSQCodebook(levels=(8, 8, 8))
        >>> quantized, indices, loss = codebook(torch.randn(2, 3, 32, 32))
        >>> quantized.shape, indices.shape, codebook.num_embeddings
        (torch.Size([2, 3, 32, 32]), torch.Size([2, 32, 32]), 512)
    """

    __jit_ignored_attributes__ = ("gradient",)  # TorchScript cannot save what is written in Python alone

    def __init__(
        self,
        levels: Sequence[int] = (8, 8, 8),
        gradient: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        super().__init__()
        if not levels or any(level < 2 for level in levels):
            raise InputError(f"levels must name at least one number of levels, all at least 2, got {list(levels)}.")
        self.num_embeddings: int = math.prod(levels)
        self.embedding_dim: int = len(levels)
        self.levels = list(levels)
        self.gradient = StraightThrough() if gradient is None else gradient

        # Annotated here, not in the class: TorchScript cannot read annotations of a class that are text.
        self.num_levels: torch.Tensor
        self.places: torch.Tensor
        self.register_buffer("num_levels", torch.tensor(list(levels)), persistent=False)
        # What one level of a channel adds to the index: the first channel counts single codes.
        places = [math.prod(levels[:channel]) for channel in range(len(levels))]
        self.register_buffer("places", torch.tensor(places), persistent=False)

    def extra_repr(self) -> str:
        return f"levels={self.levels}, gradient={self.gradient}"

    @export
    def encode(self, z: torch.Tensor) -> torch.Tensor:
        """
        Indices of the nearest codes.

        Args:
            z: encoder output, (B, D, *spatial), any floating type and any values.

        Returns:
            (B, *spatial) int64.
        """
        return self._index(self._bound(channels_last(z.float())).round())

    @export
    def decode(self, indices: torch.Tensor) -> torch.Tensor:
        """
        Codes of the indices.

        Args:
            indices: (B, *spatial), integers in 0..K-1.

        Returns:
            (B, D, *spatial) float32, values in -1..1.
        """
        steps = indices.long().unsqueeze(-1).div(self.places, rounding_mode="floor") % self.num_levels
        return channels_first(self._scale(steps.float()))

    def quantize(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """
        Round each channel to its nearest level.

        Args:
            z: encoder output, (B, D, *spatial), any floating type and any values.

        Returns:
            the quantized vectors (B, D, *spatial) in float32, values in -1..1, whose gradient passes to ``z``; the
            indices (B, *spatial) int64; and a commitment loss of 0.
        """
        bounded = self._bound(channels_last(z.float()))  # (B, *spatial, D)
        steps = bounded.detach().round()
        indices = self._index(steps)
        quantized = self._scale(steps)
        if not is_scripting():
            vectors = self._scale(bounded).reshape(-1, self.embedding_dim)
            quantized = self.gradient(vectors, quantized.reshape(-1, self.embedding_dim)).view(bounded.shape)
        return channels_first(quantized), indices, torch.zeros([], device=z.device)

    def forward(
        self, z: torch.Tensor, mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """As :meth:`quantize`, in training and evaluation. No code follows the encoder, so any mask is right."""
        return self.quantize(z)

    def _index(self, steps: torch.Tensor) -> torch.Tensor:
        """Indices (...) of levels 0..L-1 of each channel (..., D); NaN counts as level 0, and has an index too."""
        return (steps.nan_to_num(0.0).long() * self.places).sum(-1)

    def _bound(self, values: torch.Tensor) -> torch.Tensor:
        """Values (..., D) squashed smoothly into 0..L-1 of each channel's L levels, to be rounded."""
        top = self.num_levels.to(values.dtype) - 1
        # A little less than half a level beyond the outermost, so that all levels are equally wide and none is left.
        half = top / 2 + 0.499
        return torch.tanh(values) * half + top / 2

    def _scale(self, steps: torch.Tensor) -> torch.Tensor:
        """Levels 0..L-1 of each channel (..., D) as values in -1..1."""
        return 2 * steps / (self.num_levels.to(steps.dtype) - 1) - 1
