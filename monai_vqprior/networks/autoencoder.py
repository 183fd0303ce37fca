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
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
import torch.utils.checkpoint
from monai.networks.layers.factories import Conv, Pool
from monai.utils import ensure_tuple_rep

from monai_vqprior.errors import InputError
from monai_vqprior.networks.codebook import EMACodebook
from monai_vqprior.networks.predictability import unpredicted_share
from monai_vqprior.networks.scripting import export, is_exported, is_scripting
from monai_vqprior.transforms.unit_range import BRAIN_THRESHOLD

__all__ = ["AutoencoderVQ", "PreactivationBlock"]


def _group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm with groups of 16 channels, or one group where that does not divide."""
    return nn.GroupNorm(channels // 16 if channels % 16 == 0 else 1, channels)


def fold(x: torch.Tensor, factor: int) -> torch.Tensor:
    """
    Space to channels, (B, C, *spatial) -> (B, C * factor**dims, *spatial / factor): what
    :func:`monai.networks.utils.pixelunshuffle` does, with operations that TorchScript supports.
    """
    dims = x.dim() - 2
    split, order = [x.shape[0], x.shape[1]], [0, 1]
    for size in x.shape[2:]:
        split += [size // factor, factor]
    order += [3 + 2 * axis for axis in range(dims)]
    order += [2 + 2 * axis for axis in range(dims)]
    # (B, C, X / f, f, Y / f, f) -> (B, C, f, f, X / f, Y / f) -> (B, C * f * f, X / f, Y / f)
    return x.reshape(split).permute(order).flatten(1, 1 + dims)


def unfold(x: torch.Tensor, factor: int) -> torch.Tensor:
    """
    Channels to space, (B, C * factor**dims, *spatial) -> (B, C, *spatial * factor): what
    :func:`monai.networks.utils.pixelshuffle` does, with operations that TorchScript supports. The inverse of
    :func:`fold`.
    """
    dims = x.dim() - 2
    split, order = [-1], [0, 1]
    for axis in range(dims):
        split += [factor]
        order += [2 + dims + axis, 2 + axis]
    x = x.unflatten(1, split).permute(order)  # (B, C * f * f, X, Y) -> (B, C, f, f, X, Y) -> (B, C, X, f, Y, f)
    sizes = [x.shape[0], x.shape[1]]
    for axis in range(dims):
        sizes += [x.shape[2 + 2 * axis] * factor]
    return x.reshape(sizes)  # (B, C, X * f, Y * f)


class PreactivationBlock(nn.Module):
    """
    Pre-activation residual block: (GroupNorm, SiLU, 3x3 convolution) twice, and the input added.

    The last convolution starts at zero, so that a deep stack starts as the identity.

    Args:
        spatial_dims: 2 or 3.
        channels: channels in and out.
        dropout: probability that a value is dropped before the second convolution.
        use_checkpointing: recompute the block in the backward pass instead of keeping its activations.
    """

    def __init__(self, spatial_dims: int, channels: int, dropout: float = 0.0, use_checkpointing: bool = False) -> None:
        super().__init__()
        conv = Conv[Conv.CONV, spatial_dims]
        self.norm1 = _group_norm(channels)
        self.conv1 = conv(channels, channels, 3, padding=1, bias=False)
        self.norm2 = _group_norm(channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = conv(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)
        self.use_checkpointing = use_checkpointing

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, *spatial) -> (B, C, *spatial)."""
        if not is_scripting() and self.use_checkpointing and torch.is_grad_enabled():
            return torch.utils.checkpoint.checkpoint(self._compute, x, use_reentrant=False)
        return self._compute(x)

    def _compute(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(self.dropout(F.silu(self.norm2(y))))


class FoldDown(nn.Module):
    """Space to channels by ``factor``, then a 3x3 convolution: no pixel is skipped."""

    def __init__(self, spatial_dims: int, in_channels: int, out_channels: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        conv = Conv[Conv.CONV, spatial_dims]
        self.conv = conv(in_channels * factor**spatial_dims, out_channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C_in, *spatial) -> (B, C_out, *spatial / factor)."""
        return self.conv(fold(x, self.factor))


class UnfoldUp(nn.Module):
    """A 3x3 convolution, then channels to space by ``factor``: the mirror of :class:`FoldDown`."""

    def __init__(self, spatial_dims: int, in_channels: int, out_channels: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        conv = Conv[Conv.CONV, spatial_dims]
        self.conv = conv(in_channels, out_channels * factor**spatial_dims, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C_in, *spatial) -> (B, C_out, *spatial * factor)."""
        return unfold(self.conv(x), self.factor)


class AutoencoderVQ(nn.Module):
    """
    VQ-VAE for images of two or three dimensions, after van den Oord et al., "Neural Discrete Representation Learning"
    (2017), https://arxiv.org/abs/1711.00937, with the interface of :class:`monai.networks.nets.VQVAE`.

    The encoder folds patches of ``patch_size`` pixels into channels, so that all convolutions run at the resolution of
    the code grid (and at twice, four times it for further ``channels``), where they are cheap; the decoder mirrors it.
    A slice of 128 x 128 with the default patch of 4 becomes 32 x 32 codes.

    In training mode a call returns (reconstruction, commitment loss) as MONAI's network does; in evaluation mode it
    returns the reconstruction alone, one tensor, which is what MONAI's bundle checks and exporters expect. TorchScript
    keeps all methods, and returns of both modes; it is for use, not for training: the codes do not follow and no
    gradient passes them.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        out_channels: channels of the reconstruction.
        channels: width of each level; the first works at 1/``patch_size`` of the image's resolution, each further one
            at half of the level before.
        num_encoder_blocks: residual blocks on each level of the encoder: a number for all, or one for each of
            ``channels``.
        num_decoder_blocks: residual blocks on each level of the decoder, in the order of ``channels`` too.
        patch_size: side of the patches that the first convolution sees as channels.
        codebook: the quantizer: an :class:`~monai_vqprior.networks.EMACodebook` of 512 codes of length 8 by default, a
            :class:`~monai_vqprior.networks.CosineCodebook`, an :class:`~monai_vqprior.networks.FSQCodebook`, or any
            module with their methods.
        background: intensity; the codes do not follow patches without a brighter pixel, of which a brain slice is
            full, so that all codes are spent on the others. None lets them follow every patch.
        predictability_weight: weight of a loss for codes that a prior predicts better: the natural logarithm of
            the share of the variance of quantized encodings that their neighbors do not predict, over patches with a
            pixel above ``background`` (0.02 where that is None); see :func:`~monai_vqprior.networks.unpredicted_share`.
            0 turns it off.
        dropout: probability that a value is dropped inside a residual block.
        use_checkpointing: recompute the residual blocks in the backward pass instead of keeping their activations.

    Raises:
        ValueError: when an argument is out of its range, or the numbers of blocks do not fit ``channels``.

    Example:
        >>> network = AutoencoderVQ(spatial_dims=2, channels=(32,)).eval()
        >>> images = torch.rand(2, 1, 64, 64)
        >>> network(images).shape, network.index_quantize(images).shape
        (torch.Size([2, 1, 64, 64]), torch.Size([2, 16, 16]))
    """

    def __init__(
        self,
        spatial_dims: int = 2,
        in_channels: int = 1,
        out_channels: int = 1,
        channels: Sequence[int] = (64,),
        num_encoder_blocks: int | Sequence[int] = 2,
        num_decoder_blocks: int | Sequence[int] = 4,
        patch_size: int = 4,
        codebook: nn.Module | None = None,
        background: float | None = None,
        predictability_weight: float = 0.0,
        dropout: float = 0.0,
        use_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if spatial_dims not in (2, 3):
            raise InputError(f"spatial_dims must be 2 or 3, got {spatial_dims}.")
        if not channels or any(width < 1 for width in channels):
            raise InputError(f"channels must name at least one width, all positive, got {list(channels)}.")
        if patch_size < 1:
            raise InputError(f"patch_size must be at least 1, got {patch_size}.")
        if in_channels < 1 or out_channels < 1:
            raise InputError(f"in_channels and out_channels must be positive, got {in_channels} and {out_channels}.")
        if not 0 <= dropout < 1:
            raise InputError(f"dropout must be in [0, 1), got {dropout}.")
        if predictability_weight < 0:
            raise InputError(f"predictability_weight must not be negative, got {predictability_weight}.")
        encoder_blocks = _blocks_per_level("num_encoder_blocks", num_encoder_blocks, len(channels))
        decoder_blocks = _blocks_per_level("num_decoder_blocks", num_decoder_blocks, len(channels))
        self.spatial_dims = spatial_dims
        self.background = background
        self.predictability_weight = predictability_weight
        quantizer: Any = EMACodebook() if codebook is None else codebook
        self.codebook = quantizer
        self.num_embeddings: int = quantizer.num_embeddings
        self.embedding_dim: int = quantizer.embedding_dim
        #: pixels that one code stands for along each axis.
        self.stride: int = patch_size * 2 ** (len(channels) - 1)

        factors = [patch_size, *(2 for _ in channels[1:])]
        widths = list(channels)
        pointwise = Conv[Conv.CONV, spatial_dims]

        def blocks(width: int, number: int) -> list[nn.Module]:
            return [PreactivationBlock(spatial_dims, width, dropout, use_checkpointing) for _ in range(number)]

        encoder: list[nn.Module] = []
        for level, width in enumerate(widths):
            before = widths[level - 1] if level > 0 else in_channels
            encoder += [FoldDown(spatial_dims, before, width, factors[level]), *blocks(width, encoder_blocks[level])]
        encoder += [_group_norm(widths[-1]), nn.SiLU(), pointwise(widths[-1], self.embedding_dim, 1)]
        self.encoder = nn.Sequential(*encoder)

        decoder: list[nn.Module] = [pointwise(self.embedding_dim, widths[-1], 3, padding=1)]
        for level, width in reversed(list(enumerate(widths))):
            after = widths[level - 1] if level > 0 else out_channels
            decoder += [*blocks(width, decoder_blocks[level]), _group_norm(width), nn.SiLU()]
            decoder += [UnfoldUp(spatial_dims, width, after, factors[level])]
        self.decoder = nn.Sequential(*decoder)
        #: finds the patches with a pixel brighter than the background.
        self.brightest = Pool[Pool.MAX, spatial_dims](self.stride)

    @export
    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """
        Encoder output before quantization.

        Args:
            images: (B, in_channels, *spatial), values in 0..1; each side a multiple of :attr:`stride`.

        Returns:
            (B, D, *spatial / stride).

        Raises:
            ValueError: when the image has other dimensions or a side that the stride does not divide.
        """
        if images.dim() != self.spatial_dims + 2:
            raise ValueError(f"images must have {self.spatial_dims + 2} dimensions (B, C, ...), got {images.dim()}.")
        for size in images.shape[2:]:
            if size % self.stride != 0:
                raise ValueError(f"image sides must be multiples of the network's stride {self.stride}, got {size}.")
        return self.encoder(images)

    @export
    def quantize(self, encodings: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Replace encoder outputs by their nearest codes. Never writes.

        Args:
            encodings: (B, D, *grid).

        Returns:
            the quantized encodings (B, D, *grid) and the commitment loss, a scalar.
        """
        quantized, _, loss = self.codebook.quantize(encodings)
        return quantized, loss

    @export
    def decode(self, quantizations: torch.Tensor) -> torch.Tensor:
        """Images (B, out_channels, *grid * stride) of quantized encodings (B, D, *grid), any floating type."""
        # Codes are float32, whatever the network was cast to.
        weight: torch.Tensor = self.decoder[0].weight  # type: ignore[assignment]
        return self.decoder(quantizations.to(weight.dtype))

    @export
    def index_quantize(self, images: torch.Tensor) -> torch.Tensor:
        """Code grids (B, *spatial / stride), int64, of images (B, in_channels, *spatial)."""
        return self.codebook.encode(self.encode(images))

    @export
    def decode_samples(self, embedding_indices: torch.Tensor) -> torch.Tensor:
        """Images (B, out_channels, *grid * stride) of code grids (B, *grid)."""
        return self.decode(self.codebook.decode(embedding_indices))

    @export
    def encode_stage_2_inputs(self, x: torch.Tensor) -> torch.Tensor:
        """
        Quantized encodings (B, D, *spatial / stride) of images, as latent models of MONAI ask for them. Their gradient
        passes to the encoder with the codebook's own estimator, in either mode.
        """
        return self._quantized(self.encode(x)).contiguous()

    @export
    def decode_stage_2_outputs(self, z: torch.Tensor) -> torch.Tensor:
        """Images of latents (B, D, *grid) that a latent model made: quantized, then decoded."""
        return self.decode(self.quantize(z)[0])

    def _quantized(self, encodings: torch.Tensor) -> torch.Tensor:
        """Codes (B, D, *grid) of encodings (B, D, *grid), whose gradient passes to these where one is required."""
        if encodings.requires_grad and not is_exported():  # what is exported is for use, not for training
            return self.quantize(encodings)[0]
        return self.codebook.decode(self.codebook.encode(encodings))

    def forward(self, images: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """
        Reconstruct images through the codes.

        Args:
            images: (B, in_channels, *spatial).

        Returns:
            in training mode the reconstruction (B, out_channels, *spatial) and the commitment loss, with what else the
            codebook and ``predictability_weight`` ask of the encodings; in evaluation mode the reconstruction. Its
            gradient reaches the encoder in both.
        """
        if not self.training:
            return self.decode(self._quantized(self.encode(images)))
        encodings = self.encode(images)
        mask: torch.Tensor | None = None
        if self.background is None:
            quantized, _, loss = self.codebook(encodings)
        else:
            mask = self._brighter(images, self.background)
            quantized, _, loss = self.codebook(encodings, mask=mask)
        if not is_scripting() and self.predictability_weight > 0:
            # Unquantized encodings could predict one another in digits that quantization removes: no help to a prior.
            counted = self._brighter(images, BRAIN_THRESHOLD) if mask is None else mask
            loss = loss + self.predictability_weight * unpredicted_share(quantized, counted).log()
        return self.decode(quantized), loss

    def _brighter(self, images: torch.Tensor, threshold: float) -> torch.Tensor:
        """Which patches (B, *grid) of images (B, C, *spatial) have a pixel above the threshold."""
        return self.brightest(images.amax(1, keepdim=True)).squeeze(1) > threshold


def _blocks_per_level(name: str, numbers: int | Sequence[int], levels: int) -> tuple[int, ...]:
    """
    Numbers of blocks, one for each level.

    Raises:
        InputError: when there is a negative one, or not one for each level.
    """
    if not isinstance(numbers, int) and len(numbers) != levels:
        raise InputError(f"{name} must be one number or one for each of the {levels} channels, got {list(numbers)}.")
    per_level = ensure_tuple_rep(numbers, levels)
    if any(number < 0 for number in per_level):
        raise InputError(f"{name} must not be negative, got {numbers}.")
    return per_level
