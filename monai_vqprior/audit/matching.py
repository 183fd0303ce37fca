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
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

__all__ = ["Matches", "match_images"]

# Sides of the pictures that candidates are found on, and how many are compared in full.
_COARSE = 32
_CANDIDATES = 16
_IMAGES_AT_ONCE = 8
_SCALES = (0.96, 1.0, 1.04)
_LEAST = 1e-6  # norm below which an image is constant


@dataclass(frozen=True)
class Matches:
    """
    The reference that each image resembles most, whatever was done to it.

    Attributes:
        index: (N,) int64, which reference it is.
        distance: (N,) float64, root-mean-square difference of the two images once both have mean 0 and variance 1 and
            one of them is moved, flipped and scaled as fits best; 0 for a copy, about 1.4 for unrelated images.
    """

    index: torch.Tensor
    distance: torch.Tensor


@torch.no_grad()
def match_images(
    images: torch.Tensor,
    references: torch.Tensor,
    shift: int = 4,
    device: str | torch.device | None = None,
    on_images: Callable[[int], None] | None = None,
) -> Matches:
    """
    Find the reference that each image resembles most up to a shift, a flip, a scale of 4 % and any linear contrast.

    All pairs are compared on pictures of about 32 x 32 pixels. The 16 best are compared in full, by the normalized
    cross-correlation at all of the shifts.

    Args:
        images: (N, 1, H, W) uint8, or floating point.
        references: (M, 1, H, W), of the same size.
        shift: largest shift in pixels along each axis. Shifts are circular, so the images need a margin.
        device: where to compute; that of the images by default.
        on_images: called with a number of images after these have been compared.

    Returns:
        the matches, on the CPU.

    Raises:
        ValueError: when there is nothing to compare, or the sizes differ.
    """
    if not len(images) or not len(references):
        raise ValueError(f"there must be images and references, got {len(images)} and {len(references)}.")
    if images.shape[1:] != references.shape[1:]:
        sizes = f"{tuple(images.shape[1:])} and {tuple(references.shape[1:])}"
        raise ValueError(f"images and references must have one size, got {sizes}.")
    place = images.device if device is None else torch.device(device)
    small = _coarse(references, place)
    indices, distances = [], []
    for part in images.split(_IMAGES_AT_ONCE):
        candidates = _candidates(part.to(place), small, shift)  # (n, C)
        correlation = _correlations(part.to(place), references[candidates.cpu()].to(place), shift)  # (n, C)
        best, position = correlation.max(1)
        indices.append(candidates.gather(1, position[:, None])[:, 0].cpu())
        distances.append((2 * (1 - best.double())).clamp(min=0).sqrt().cpu())
        if on_images is not None:
            on_images(len(part))
    return Matches(torch.cat(indices), torch.cat(distances))


def _normalized(images: torch.Tensor) -> torch.Tensor:
    """Images (..., H, W) float32 with mean 0 and norm 1; 0 where they are constant."""
    images = images.float()
    images = images - images.mean((-2, -1), keepdim=True)
    norm = images.square().sum((-2, -1), keepdim=True).sqrt()
    return torch.where(norm > _LEAST, images / norm.clamp(min=_LEAST), torch.zeros_like(images))


def _factor(images: torch.Tensor) -> int:
    """How many pixels along a side become one of a coarse picture."""
    return max(1, min(images.shape[-2:]) // _COARSE)


def _coarse(images: torch.Tensor, place: torch.device) -> torch.Tensor:
    """Coarse pictures (N, h, w) of images (N, 1, H, W), normalized."""
    factor = _factor(images)
    parts = [F.avg_pool2d(part.to(place).float(), factor)[:, 0] for part in images.split(256)]
    return _normalized(torch.cat(parts))


def _candidates(images: torch.Tensor, references: torch.Tensor, shift: int) -> torch.Tensor:
    """The references (n, C) that coarse pictures of images (n, 1, H, W) correlate with most, of (M, h, w)."""
    small = _coarse(images, images.device)
    reach = math.ceil(shift / _factor(images))
    moved = [
        torch.roll(picture, (dy, dx), (-2, -1))
        for picture in (small, small.flip(-1))
        for dy in range(-reach, reach + 1)
        for dx in range(-reach, reach + 1)
    ]
    products = torch.stack(moved, 1).flatten(2) @ references.flatten(1).t()  # (n, V, M)
    return products.amax(1).topk(min(_CANDIDATES, len(references)), dim=1).indices


def _correlations(images: torch.Tensor, references: torch.Tensor, shift: int) -> torch.Tensor:
    """The largest correlation (n, C) of images (n, 1, H, W) with their candidates (n, C, 1, H, W)."""
    height, width = images.shape[-2:]
    reach = _reach(shift, height)
    # Lines are transformed, columns are not: for a few shifts matrix products cost less than transforms back.
    spectra = torch.fft.rfft(_normalized(_variants(images))).permute(0, 3, 1, 2)  # (n, F, V, H)
    others = torch.fft.rfft(_normalized(references[:, :, 0])).permute(0, 3, 2, 1)  # (n, F, H, C)
    around = [spectra[..., height - reach :], spectra, spectra[..., :reach]]
    moved = torch.cat(around, -1).unfold(-1, height, 1).flatten(2, 3)  # (n, F, V S, H)
    products = torch.view_as_real(moved @ others.conj()).permute(0, 2, 3, 1, 4)  # (n, V S, C, F, 2)
    correlation = products.flatten(3) @ _inverse_transform(width, shift, images.device)  # (n, V S, C, S)
    return correlation.amax((1, 3))


def _reach(shift: int, side: int) -> int:
    """The largest shift along an axis: as far as asked, and less than half of the side."""
    return min(shift, (side - 1) // 2)


def _inverse_transform(width: int, shift: int, device: torch.device) -> torch.Tensor:
    """
    What ``torch.fft.irfft`` does to the conjugate of a spectrum, at a few places.

    Returns:
        (2 F, S), for real and imaginary parts in turn.
    """
    frequencies = torch.arange(width // 2 + 1, dtype=torch.float64)
    # Each frequency stands for its negative, too, except the first, and the last of an even width.
    weight = torch.where((frequencies == 0) | (2 * frequencies == width), 1.0, 2.0) / width
    reach = _reach(shift, width)
    angles = 2 * math.pi / width * torch.outer(frequencies, torch.arange(-reach, reach + 1, dtype=torch.float64))
    back = weight[:, None, None] * torch.stack([angles.cos(), angles.sin()], 1)  # (F, 2, S)
    return back.flatten(0, 1).float().to(device)


def _variants(images: torch.Tensor) -> torch.Tensor:
    """Images (n, 1, H, W) at several scales, as they are and flipped left to right, (n, V, H, W)."""
    images = images.float()
    scaled = [images if scale == 1 else _scaled(images, scale) for scale in _SCALES]
    together = torch.cat(scaled, 1)
    return torch.cat([together, together.flip(-1)], 1)


def _scaled(images: torch.Tensor, scale: float) -> torch.Tensor:
    """Images (n, 1, H, W) enlarged about their middle, with zeros around them where they become smaller."""
    theta = torch.tensor([[1 / scale, 0, 0], [0, 1 / scale, 0]], device=images.device).expand(len(images), -1, -1)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)
