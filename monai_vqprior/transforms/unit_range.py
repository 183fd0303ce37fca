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
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import InvertibleTransform, MapTransform, Transform

__all__ = ["BRAIN_THRESHOLD", "BytesToUnit", "BytesToUnitd", "UnitToBytes"]

#: intensity (of 1) above which a pixel of a skull-stripped slice counts as brain. Resampling leaves up to 4 of 255 grey
#: levels around the brain, so that "greater than 0" would count a rim of background.
BRAIN_THRESHOLD = 0.02


class UnitToBytes(Transform):
    """Images in 0..1 to 8 bits, 0..255: clipped and rounded to the nearest. The inverse of :class:`BytesToUnit`."""

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """Floating-point image of any shape -> uint8 of the same shape."""
        return image.float().clamp(0, 1).mul(255).round().to(torch.uint8)


class BytesToUnit(Transform):
    """8-bit images, 0..255, to float32 in 0..1. An image that is floating point already is returned as it is."""

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """Image of any shape -> float32 of the same shape."""
        return image if image.is_floating_point() else image.float() / 255


class BytesToUnitd(MapTransform, InvertibleTransform):
    """
    Dictionary version of :class:`BytesToUnit`; its inverse is :class:`UnitToBytes`.

    Args:
        keys: keys of the images.
        allow_missing_keys: whether a key may be missing.
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.to_unit = BytesToUnit()
        self.to_bytes = UnitToBytes()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the dictionary with 8-bit images as float32 in 0..1."""
        items = dict(data)
        for key in self.key_iterator(items):
            items[key] = self.to_unit(items[key])
        return items

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the dictionary with images in 0..1 as 8 bits."""
        items = dict(data)
        for key in self.key_iterator(items):
            items[key] = self.to_bytes(items[key])
        return items
