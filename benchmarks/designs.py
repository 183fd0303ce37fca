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

"""Designs of the autoencoder that the study in benchmarks/study.py compares with the default, and that did not win."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn as nn
from monai.losses import JukeboxLoss
from monai.networks.blocks import SpatialAttentionBlock

from monai_vqprior.losses import TokenizerLoss
from monai_vqprior.networks import AutoencoderVQ, EMACodebook, PreactivationBlock
from monai_vqprior.networks.autoencoder import FoldDown, UnfoldUp

__all__ = [
    "AttentionVQ",
    "ContextVQ",
    "OtherNormVQ",
    "OtherResamplingVQ",
    "ResidualCodebook",
    "SpectralTokenizerLoss",
    "TwoLevelVQ",
]


def replace(module: nn.Module, kind: type[nn.Module], make: Callable[[Any], nn.Module]) -> None:
    """Replace every submodule of a kind by what is made of it."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, kind):
                setattr(parent, name, make(child))


class ContextVQ(AutoencoderVQ):
    """
    What the encoder knows of the whole slice, made from the mean over all positions, is added to each of them: the
    global context of Cao et al., "GCNet" (2019), https://arxiv.org/abs/1904.11492, with a plain mean.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.encoder.insert(len(self.encoder) - 3, GlobalContext(self.encoder[-1].in_channels))


class GlobalContext(nn.Module):
    """Adds the same vector to all positions, made by two linear layers from their mean."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(channels, channels), nn.SiLU(), nn.Linear(channels, channels))
        nn.init.zeros_(self.layers[2].weight)
        nn.init.zeros_(self.layers[2].bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return x + self.layers(x.mean((2, 3)))[:, :, None, None]


class AttentionVQ(AutoencoderVQ):
    """Self-attention between all positions of the code grid, once in the encoder and once in the decoder."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        width = self.encoder[-1].in_channels
        for layers, place in ((self.encoder, len(self.encoder) - 3), (self.decoder, 1)):
            attention = SpatialAttentionBlock(2, width, 16, width // 16, use_flash_attention=True)
            nn.init.zeros_(attention.attn.out_proj.weight)
            layers.insert(place, attention)


class OtherNormVQ(AutoencoderVQ):
    """
    Another normalization than GroupNorm with 16 channels a group.

    Args:
        norm: "none", or "layer" for one group of all channels.
        options: arguments of :class:`AutoencoderVQ`.
    """

    def __init__(self, norm: str, **options: Any) -> None:
        super().__init__(**options)
        make = {"none": lambda old: nn.Identity(), "layer": lambda old: nn.GroupNorm(1, old.num_channels)}[norm]
        replace(self, nn.GroupNorm, make)


class OtherResamplingVQ(AutoencoderVQ):
    """
    Another way down and up than folding pixels into channels.

    Args:
        down: "fold", or "patchify" for a convolution whose kernel is its stride, or "strided" for one of twice that.
        up: "unfold", or "transposed" for a transposed convolution whose kernel is its stride, or "nearest" for
            repeated pixels and a 3 x 3 convolution at full resolution.
        options: arguments of :class:`AutoencoderVQ`.
    """

    def __init__(self, down: str = "fold", up: str = "unfold", **options: Any) -> None:
        super().__init__(**options)

        def make_down(old: Any) -> nn.Module:
            f, channels = old.factor, old.conv.in_channels // old.factor**2
            if down == "patchify":
                return nn.Conv2d(channels, old.conv.out_channels, f, stride=f)
            return nn.Conv2d(channels, old.conv.out_channels, 2 * f, stride=f, padding=f // 2)

        def make_up(old: Any) -> nn.Module:
            f, channels = old.factor, old.conv.out_channels // old.factor**2
            if up == "transposed":
                return nn.ConvTranspose2d(old.conv.in_channels, channels, f, stride=f)
            return nn.Sequential(nn.Upsample(scale_factor=f), nn.Conv2d(old.conv.in_channels, channels, 3, padding=1))

        if down != "fold":
            replace(self, FoldDown, make_down)
        if up != "unfold":
            replace(self, UnfoldUp, make_up)


class ResidualCodebook(nn.Module):
    """
    Two codes a position, the second for what the first leaves over; index first * K2 + second.

    Args:
        first: codes of the first stage.
        second: codes of the second stage.
        embedding_dim: length of a code.
    """

    def __init__(self, first: int, second: int, embedding_dim: int = 8) -> None:
        super().__init__()
        self.first = EMACodebook(first, embedding_dim)
        self.second = EMACodebook(second, embedding_dim)
        self.num_embeddings = first * second
        self.embedding_dim = embedding_dim

    def encode(self, z: torch.Tensor) -> torch.Tensor:
        """(B, D, *spatial) -> (B, *spatial)."""
        first = self.first.encode(z)
        return first * self.second.num_embeddings + self.second.encode(z.float() - self.first.decode(first))

    def decode(self, indices: torch.Tensor) -> torch.Tensor:
        """(B, *spatial) -> (B, D, *spatial)."""
        number = self.second.num_embeddings
        return self.first.decode(indices // number) + self.second.decode(indices % number)

    def quantize(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """As the other codebooks."""
        return self.eval()(z)

    def forward(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """As the other codebooks."""
        z = z.float()
        coarse, i, loss1 = self.first(z)
        fine, j, loss2 = self.second(z - coarse.detach())
        quantized = z + (coarse + fine - z).detach()
        return quantized, i * self.second.num_embeddings + j, loss1 + loss2


class TwoLevelVQ(AutoencoderVQ):
    """
    Codes on two grids, the top one of half the resolution, as in Razavi et al., "Generating diverse high-fidelity
    images with VQ-VAE-2" (2019), https://arxiv.org/abs/1906.00446. Codes come as one row: bottom, then top.

    Args:
        top: codes of the top grid; those of the bottom grid are the ``codebook``'s.
        options: arguments of :class:`AutoencoderVQ` of one level.
    """

    def __init__(self, top: int, **options: Any) -> None:
        super().__init__(**options)
        width, dim = self.encoder[-1].in_channels, self.embedding_dim
        self.bottom_embeddings = self.num_embeddings
        self.num_embeddings += top
        #: mean over both grids, where other autoencoders have log2(num_embeddings).
        self.bits_per_code = (4 * math.log2(self.bottom_embeddings) + math.log2(top)) / 5
        self.top_codebook = EMACodebook(top, dim)
        self.to_top = nn.Sequential(
            FoldDown(2, width, width, 2),
            PreactivationBlock(2, width),
            nn.GroupNorm(width // 16, width),
            nn.SiLU(),
            nn.Conv2d(width, dim, 1),
        )
        self.from_top = nn.Sequential(
            nn.Conv2d(dim, width, 3, padding=1), PreactivationBlock(2, width), UnfoldUp(2, width, width, 2)
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """As :class:`AutoencoderVQ`."""
        if not self.training:
            return self.decode_samples(self.index_quantize(images))
        features, to_bottom = self._features(images)
        top, _, top_loss = self.top_codebook(self.to_top(features))
        above = self.from_top(top)
        bottom, _, bottom_loss = self.codebook(to_bottom(features + above))
        return self._decode_both(bottom, above), top_loss + bottom_loss

    def index_quantize(self, images: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, bottom + top positions)."""
        features, to_bottom = self._features(images)
        top = self.top_codebook.encode(self.to_top(features))
        above = self.from_top(self.top_codebook.decode(top))
        bottom = self.codebook.encode(to_bottom(features + above))
        return torch.cat([bottom.flatten(1), top.flatten(1) + self.bottom_embeddings], 1)

    def decode_samples(self, embedding_indices: torch.Tensor) -> torch.Tensor:
        """(B, bottom + top positions) -> (B, C, H, W), of square grids."""
        side = round((embedding_indices.shape[1] / 5) ** 0.5)
        top = embedding_indices[:, 4 * side**2 :].reshape(-1, side, side) - self.bottom_embeddings
        bottom = embedding_indices[:, : 4 * side**2].reshape(-1, 2 * side, 2 * side)
        return self._decode_both(self.codebook.decode(bottom), self.from_top(self.top_codebook.decode(top)))

    def _features(self, images: torch.Tensor) -> tuple[torch.Tensor, nn.Sequential]:
        """Features before the last three layers of the encoder, and these layers."""
        x = images
        for layer in self.encoder[:-3]:
            x = layer(x)
        return x, nn.Sequential(*self.encoder[-3:])

    def _decode_both(self, bottom: torch.Tensor, above: torch.Tensor) -> torch.Tensor:
        x = self.decoder[0](bottom) + above
        for layer in self.decoder[1:]:
            x = layer(x)
        return x


class SpectralTokenizerLoss(TokenizerLoss):
    """
    The autoencoder's loss and a spectral one, after Dhariwal et al., "Jukebox: a generative model for music" (2020),
    https://arxiv.org/abs/2005.00341, as in VQ-VAEs of brain MRI.

    Args:
        spectral_weight: weight of the spectral loss.
        options: arguments of :class:`TokenizerLoss`.
    """

    def __init__(self, spectral_weight: float, **options: Any) -> None:
        super().__init__(**options)
        self.spectral_weight = spectral_weight
        self.spectral = JukeboxLoss(spatial_dims=2)

    def forward(self, output: tuple[torch.Tensor, torch.Tensor], target: torch.Tensor) -> torch.Tensor:
        """As :class:`TokenizerLoss`."""
        return super().forward(output, target) + self.spectral_weight * self.spectral(output[0].float(), target)
