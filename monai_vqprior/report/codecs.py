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

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, features
from tqdm import tqdm

from monai_vqprior.losses import ssim_map
from monai_vqprior.metrics import BRAIN_THRESHOLD, MaskedSSIMMetric
from monai_vqprior.transforms import BytesToUnit

__all__ = ["CODECS", "codec_baselines"]

_TRIED = 16  # slices that a setting is chosen on
_MOST_SLICES = 160
_BATCH = 16


@dataclass(frozen=True)
class _Codec:
    """
    A codec of pictures as Pillow has it.

    Attributes:
        feature: what Pillow calls it when it is asked whether it has it.
        settings: from the smallest file to the largest.
        options: Pillow's options for a setting.
    """

    feature: str
    settings: Sequence[int]
    options: Callable[[int], dict[str, Any]]


_QUALITIES = range(1, 101)
_CODECS: Mapping[str, _Codec] = {
    "JPEG": _Codec("jpg", _QUALITIES, lambda quality: {"quality": quality, "optimize": True}),
    "WEBP": _Codec("webp", _QUALITIES, lambda quality: {"quality": quality, "method": 4}),
    "JPEG2000": _Codec(
        "jpg_2000",
        range(400, 0, -1),
        lambda rate: {"quality_mode": "rates", "quality_layers": [rate], "irreversible": True},
    ),
    "AVIF": _Codec("avif", _QUALITIES, lambda quality: {"quality": quality, "speed": 6}),
}

#: The codecs that reconstructions are compared with, as Pillow names them.
CODECS = tuple(_CODECS)


def codec_baselines(images: torch.Tensor, bits: float, progress: bool = True) -> dict[str, dict[str, Any] | None]:
    """
    What codecs of pictures make of slices with as many bits as the codes of the autoencoder need.

    The setting of a codec is one for all slices: the best whose files, headers included, are on average no larger.
    Where even the smallest files are larger, these are measured; ``bits_per_pixel`` says how large they are.

    Args:
        images: (N, 1, H, W) uint8; at most 160 of them are coded.
        bits: bits of a slice.
        progress: show a progress bar.

    Returns:
        for each of ``CODECS`` the ``setting`` (quality, or rate of JPEG 2000), ``bits_per_pixel``, ``ssim`` and
        ``ssim_brain`` (None without a brain); None for one that this Pillow lacks.
    """
    chosen = images[:: max(1, len(images) // _MOST_SLICES)][:_MOST_SLICES]
    tried = chosen[:: max(1, len(chosen) // _TRIED)][:_TRIED]
    results: dict[str, dict[str, Any] | None] = {}
    for name, codec in tqdm(_CODECS.items(), "coding slices", disable=not progress, leave=False):
        results[name] = None
        if features.check(codec.feature):
            setting = _largest_that_fits(name, codec, tried, bits)
            coded = [_coded(name, codec, image, setting) for image in chosen]
            results[name] = {"setting": setting, **_measure(chosen, coded)}
    return results


def _largest_that_fits(name: str, codec: _Codec, images: torch.Tensor, bits: float) -> int:
    """The setting with the largest files that have at most so many bits on average; by bisection."""
    low, high = 0, len(codec.settings)  # what fits, if anything does, and what does not
    while high - low > 1:
        middle = (low + high) // 2
        sizes = [8 * len(_coded(name, codec, image, codec.settings[middle])) for image in images]
        low, high = (middle, high) if np.mean(sizes) <= bits else (low, middle)
    return codec.settings[low]


def _coded(name: str, codec: _Codec, image: torch.Tensor, setting: int) -> bytes:
    """The file of an image (1, H, W)."""
    file = io.BytesIO()
    Image.fromarray(image[0].numpy()).save(file, format=name, **codec.options(setting))
    return file.getvalue()


def _measure(images: torch.Tensor, coded: Sequence[bytes]) -> dict[str, float | None]:
    """Size and similarity of files of images (N, 1, H, W)."""
    unit, brain = BytesToUnit(), MaskedSSIMMetric(BRAIN_THRESHOLD)
    decoded = torch.stack([torch.as_tensor(_decoded(file)) for file in coded])[:, None]
    values = []
    for ours, real in zip(decoded.split(_BATCH), images.split(_BATCH), strict=True):
        values.append(ssim_map(unit(ours), unit(real)).flatten(1).mean(1))
        brain(unit(ours), unit(real))
    similarity = torch.cat(values).mean()
    of_brain = float(torch.as_tensor(brain.aggregate()))
    return {
        "bits_per_pixel": 8 * sum(map(len, coded)) / images.numel(),
        "ssim": float(similarity),
        "ssim_brain": of_brain if math.isfinite(of_brain) else None,  # slices without a brain have none
    }


def _decoded(file: bytes) -> np.ndarray:
    """The picture (H, W) uint8 in a file."""
    with Image.open(io.BytesIO(file)) as image:
        return np.asarray(image.convert("L")).copy()
