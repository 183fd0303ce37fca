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


"""The space that slices are cut in: that of a template, or of the scanner with the brain in the same place."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from monai_vqprior.errors import InputError
from monai_vqprior.prepare_arguments import SPACES
from monai_vqprior.volumes.geometry import Volume
from monai_vqprior.volumes.registration import Registration, register, rigid_part
from monai_vqprior.volumes.template import Template

__all__ = ["BRAIN_CENTER", "Placed", "centering", "place"]

#: Middle of the bounding box of MNI152's brain in mm; heads that are not registered get theirs there.
BRAIN_CENTER = (0.0, -16.0, 6.5)


@dataclass(frozen=True, eq=False)
class Placed:
    """
    Where a head was put.

    Attributes:
        matrix: (4, 4), mm of the head to mm of the space, RAS+.
        registration: how well the head fits the template; None for a head that was not registered.
    """

    matrix: np.ndarray
    registration: Registration | None = None


def place(volume: Volume, space: str, template: Template | None = None) -> Placed:
    """
    Find where a head lies in a space.

    Args:
        volume: the head, 0 out of the brain.
        space: ``template``, 12 parameters; ``rigid``, rotation and shift, which keep the head's size; ``native``, a
            shift of the middle of the brain's bounding box to ``BRAIN_CENTER``; ``scanner``, nothing.
        template: for ``template`` and ``rigid``.

    Returns:
        the matrix, and for registered heads how well they fit.

    Raises:
        InputError: when the head is empty or its registration failed, with what is wrong; the message names no file.
    """
    if space not in SPACES:
        raise InputError(f"space must be one of {', '.join(SPACES)}, got {space!r}.")
    if space == "scanner":
        return Placed(np.eye(4))
    if space == "native":
        return Placed(centering(volume))
    if template is None:
        raise InputError(f"the space {space!r} needs a template.")
    found = register(volume, template)
    if found.fault is not None:
        raise InputError(f"its registration to the template failed: {found.fault}. Is it a head without skull?")
    return Placed(found.matrix if space == "template" else rigid_part(found.matrix, template.center), found)


def centering(volume: Volume) -> np.ndarray:
    """
    The shift that brings the brain's bounding box to the same place in each head.

    Args:
        volume: the head, 0 out of the brain.

    Returns:
        (4, 4), a shift in mm.

    Raises:
        InputError: when no voxel is above 0.
    """
    brain = _largest_part(volume.data > 0)
    places = np.argwhere(brain & ~ndimage.binary_erosion(brain)) @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    matrix = np.eye(4)
    matrix[:3, 3] = np.asarray(BRAIN_CENTER) - (places.min(0) + places.max(0)) / 2
    return matrix


def _largest_part(mask: np.ndarray) -> np.ndarray:
    """The largest connected part of a mask: bits of eyes and vessels that a stripping program has left are none."""
    labels, count = ndimage.label(mask)
    if count == 0:
        raise InputError("it is empty: none of its voxels is above 0.")
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return labels == sizes.argmax()
