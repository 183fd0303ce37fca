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

from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Transform
from PIL import Image, UnidentifiedImageError

from monai_vqprior.errors import InputError
from monai_vqprior.files import open_picture

__all__ = ["LoadSlice", "LoadSliced"]

# Pixels that are converted at a time: the intermediate results of a large picture are not held at once.
_PIXELS_AT_ONCE = 1 << 20


class LoadSlice(Transform):
    """
    Read a slice from a PNG, JPEG or TIFF file as an 8-bit grey image, as a viewer shows it.

    :class:`monai.transforms.LoadImage` returns the transpose in float32, leaves 16-bit and RGB files to the caller,
    and wraps the error of a truncated file without its name. Here 16-bit and floating-point files are scaled to 8 bits,
    and RGB ones become their luminance.

    Args:
        max_value: the value that becomes 255 in files with more than 8 bits, such as 4095 for 12-bit data; by default
            65535 for integers and 1 for floating point. Larger values are clipped.

    Raises:
        InputError: when a file is missing, truncated, not an image in one of these formats, larger than
            :data:`monai_vqprior.files.MOST_PIXELS`, or holds NaN or infinity.
    """

    def __init__(self, max_value: float | None = None) -> None:
        if max_value is not None and not max_value > 0:
            raise InputError(f"max_value must be positive, got {max_value}.")
        self.max_value = max_value

    def __call__(self, path: str | Path) -> torch.Tensor:
        """
        Read one file.

        Args:
            path: the file.

        Returns:
            (1, H, W) uint8, rows from top to bottom.
        """
        try:
            with open_picture(path) as image:
                if image.mode in ("I", "F", "I;16", "I;16B", "I;16L"):
                    pixels = _in_bands(image, lambda band: self._to_8_bit(np.asarray(band), path))
                else:
                    pixels = _in_bands(image, lambda band: np.asarray(band.convert("L")))
        except FileNotFoundError:
            raise InputError(f"{path} does not exist.") from None
        except InputError:
            raise
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            reason = str(error).replace("\n", " ")
            raise InputError(
                f"{path} cannot be read as an image ({reason}): replace it, or leave such files out with --skip_bad."
            ) from error
        return torch.from_numpy(pixels)[None]

    def _to_8_bit(self, pixels: np.ndarray, path: str | Path) -> np.ndarray:
        """Scale an image of more than 8 bits linearly, 0 to 0 and the largest value to 255."""
        if not np.isfinite(pixels).all():
            raise InputError(f"{path} holds NaN or infinity: replace it, or leave such files out with --skip_bad.")
        largest = self.max_value or (1.0 if pixels.dtype.kind == "f" else 65535.0)
        return np.rint(np.clip(pixels / largest, 0, 1) * 255).astype(np.uint8)


def _in_bands(image: Image.Image, convert: Callable[[Image.Image], np.ndarray]) -> np.ndarray:
    """What becomes of a picture, (H, W) uint8, that is converted a few rows at a time."""
    width, height = image.size
    pixels = np.empty((height, width), np.uint8)
    rows = max(1, _PIXELS_AT_ONCE // max(1, width))
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        pixels[top:bottom] = convert(image.crop((0, top, width, bottom)))
    return pixels


class LoadSliced(MapTransform):
    """
    Dictionary version of :class:`LoadSlice`.

    Args:
        keys: keys of the paths, which the images replace.
        max_value: see :class:`LoadSlice`.
        allow_missing_keys: whether a key may be missing.
    """

    def __init__(self, keys: KeysCollection, max_value: float | None = None, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.load = LoadSlice(max_value)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the dictionary with each path of ``keys`` replaced by its image (1, H, W) uint8."""
        items = dict(data)
        for key in self.key_iterator(items):
            items[key] = self.load(items[key])
        return items
