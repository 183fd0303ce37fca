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

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Transform
from PIL import Image

from monai_vqprior.errors import InputError
from monai_vqprior.transforms.pictures import (
    is_deep,
    is_inverted,
    read_grey,
    read_picture,
    read_values,
    transparent_value,
)

__all__ = ["LoadSlice", "LoadSliced"]

# Floating-point values may be so much over the one that is white: they were rounded.
_ROUNDING = 1e-6


class LoadSlice(Transform):
    """
    Read a slice from a PNG, JPEG or TIFF file as an 8-bit grey image, as a viewer shows it.

    Orientation tags are followed, grey scales in which 0 is white are inverted, palettes and colors become luminance,
    and what is transparent lies on black. Files with more than 8 bits are scaled linearly from 0 and ``max_value`` to 0
    and 255. What viewers show in different ways is refused, and so are damaged files, by the checksums of PNG.
    Gamma and color profiles are ignored.

    :class:`monai.transforms.LoadImage` returns the transpose in float32, leaves 16-bit and RGB files to the caller,
    and wraps the error of a truncated file without its name.

    Args:
        max_value: the value that becomes 255 in files with more than 8 bits, such as 4095 for 12-bit data; by default
            65535 for integers and 1 for floating point. One file does not record it:
            :func:`monai_vqprior.transforms.find_max_value` finds it for a data set.

    Raises:
        InputError: when a file is missing, damaged, not an image in one of these formats, larger than
            :data:`monai_vqprior.files.MOST_PIXELS`, shown in different ways by viewers, or holds values that are NaN,
            infinite, negative or larger than ``max_value``.
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
        return torch.from_numpy(read_picture(path, np.uint8, self._read))[None]

    def _read(self, band: Image.Image, image: Image.Image, path: str | Path) -> np.ndarray:
        """Rows as 8-bit grey."""
        return self._to_8_bit(band, image, path) if is_deep(image) else read_grey(band, image, path)

    def _to_8_bit(self, band: Image.Image, image: Image.Image, path: str | Path) -> np.ndarray:
        """Scale rows of more than 8 bits linearly, 0 to 0 and the largest value to 255, or the other way around."""
        values = read_values(band, image, path)
        of_floats = values.dtype.kind == "f"
        largest = self.max_value or (1.0 if of_floats else 65535.0)
        if values.max() > largest * (1 + _ROUNDING if of_floats else 1):
            raise InputError(
                f"{path} holds values up to {values.max():g}, more than the {largest:g} that is white: pass the value "
                "that is white in your slices as --max_value, or leave such files out with --skip_bad."
            )
        shares = np.clip(values / largest, 0, 1)
        pixels = np.rint((1 - shares if is_inverted(image) else shares) * 255).astype(np.uint8)
        hidden = transparent_value(image)
        if hidden is not None:
            pixels[values == hidden] = 0
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
