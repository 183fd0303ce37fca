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

from pathlib import Path

import numpy as np
import torch
from monai.transforms import Transform
from PIL import Image
from scipy.ndimage import distance_transform_edt

from monai_vqprior.errors import InputError
from monai_vqprior.transforms.pictures import is_deep, read_grey, read_picture, read_values

__all__ = ["LoadMask", "fill_from_nearest"]


class LoadMask(Transform):
    """
    Read a mask from a PNG, JPEG or TIFF file: true where the picture is not black.

    A mask has two values, of any depth: 0 and another one. What has more of them, such as a mask that was saved as JPEG
    or a slice in the place of a mask, is refused, since a threshold would be a guess.

    Raises:
        InputError: when a file cannot be read, or has more than two values.
    """

    def __call__(self, path: str | Path) -> torch.Tensor:
        """
        Read one file.

        Args:
            path: the file.

        Returns:
            (1, H, W) bool, rows from top to bottom.
        """
        found: set[float] = set()

        def is_hole(band: Image.Image, image: Image.Image, path: str | Path) -> np.ndarray:
            values = read_values(band, image, path) if is_deep(image) else read_grey(band, image, path)
            found.update(np.unique(values).tolist())
            return values > 0

        pixels = read_picture(path, np.bool_, is_hole)
        if len(found - {0}) > 1:
            raise InputError(
                f"{path} has {len(found)} grey levels, and a mask has two: make it black where the image is given, and "
                "of one other level where it is to be filled, and save it as PNG."
            )
        return torch.from_numpy(pixels)[None]


def fill_from_nearest(image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """
    Put the value of the nearest given pixel into each pixel of a hole.

    An encoder sees around the pixels of a code. So what is in a hole changes codes beside it, and has to be hidden
    before they are computed, by something that makes no edge.

    Args:
        image: (1, *spatial), of any value in the hole.
        mask: bool, True in the hole but not everywhere, (1, *spatial).

    Returns:
        (1, *spatial) of the image's type; what is given is unchanged.
    """
    nearest = distance_transform_edt(mask[0].cpu().numpy(), return_distances=False, return_indices=True)
    return image[0][tuple(torch.from_numpy(nearest).long().to(image.device))][None]
