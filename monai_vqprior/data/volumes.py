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
"""
Volumes as arrays, and slices of them as they lie in the array.

:func:`monai_vqprior.volumes.cut_slices` cuts by millimeters, and is what ``vqprior prepare`` does.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from monai_vqprior.data.volume_files import find_volumes, session_of, subject_of
from monai_vqprior.errors import InputError
from monai_vqprior.prepare_arguments import Cutting
from monai_vqprior.volumes.geometry import Slab, Volume, cut_slices
from monai_vqprior.volumes.normalization import blacken, scale_by_percentiles
from monai_vqprior.volumes.reading import read_volume

__all__ = ["find_volumes", "load_volume", "session_of", "subject_of", "volume_slices"]


def load_volume(path: str | os.PathLike[str]) -> np.ndarray:
    """
    Read the voxels of a volume, turned to RAS+ orientation: to the patient's right, to anterior, to superior.

    Oblique volumes are turned to the closest of the 48 orientations; nothing is resampled.

    Args:
        path: the file, see :func:`monai_vqprior.volumes.read_volume`.

    Returns:
        ``float32`` array of shape (X, Y, Z) with finite values, in the intensity units of the file.

    Raises:
        InputError: as :func:`monai_vqprior.volumes.read_volume`.
    """
    import nibabel

    volume = read_volume(path)
    return nibabel.apply_orientation(volume.data, nibabel.io_orientation(volume.affine))


def volume_slices(
    volume: np.ndarray,
    axis: int = 2,
    num_slices: int = 32,
    center_offset: int = 0,
    size: int = 256,
    percentiles: tuple[float, float] = (0.5, 99.5),
    spacing: int = 1,
    voxel_size: Sequence[float] = (1.0, 1.0, 1.0),
) -> np.ndarray:
    """
    Cut an array into square 8-bit slices, as they lie around its middle, in ascending order.

    Intensities are scaled linearly, from two percentiles of the voxels without the background to 0 and 255, and
    clipped; background becomes 0, see :func:`monai_vqprior.volumes.blacken`. The longer side of a slice in mm becomes
    ``size`` pixels, and the rest is black. :class:`monai_vqprior.volumes.Slab` tells which side is where.

    Args:
        volume: array of shape (X, Y, Z) with finite values in RAS+ orientation, as :func:`load_volume` returns it.
        axis: the axis to cut along; 0, 1 or 2.
        num_slices: number of slices, at least 1.
        center_offset: how many voxels the middle of the slices lies above the middle of the volume (below it if
            negative).
        size: height and width of a slice in pixels; even, at least 16.
        percentiles: the percentiles that become 0 and 255, each in [0, 100].
        spacing: distance from slice to slice in voxels, at least 1.
        voxel_size: sides of a voxel along x, y and z; only their ratios count.

    Returns:
        ``uint8`` array of shape (num_slices, size, size), rows from top to bottom.

    Raises:
        InputError: when an argument is out of its range, the volume has too few slices, or its voxels without the
            background have no spread that could be scaled.
    """
    Cutting(axis=axis, num_slices=num_slices, spacing=spacing, size=size, percentiles=percentiles).check()
    sides = np.array(voxel_size, np.float64)
    head = Volume(volume, np.diag([*sides, 1.0]))
    first = _first_slice(volume.shape[axis], axis, num_slices, center_offset, spacing)
    center = sides * (np.array(volume.shape) - 1) / 2
    center[axis] = sides[axis] * (first + (num_slices - 1) * spacing / 2)
    lengths = np.delete(sides * volume.shape, axis)
    slab = Slab(axis, num_slices, size, float(lengths.max() / size), float(spacing * sides[axis]), tuple(center))
    return np.rint(cut_slices(scale_by_percentiles(blacken(head), percentiles), slab)).astype(np.uint8)


def _first_slice(length: int, axis: int, num_slices: int, center_offset: int, spacing: int) -> int:
    """Index of the first slice around the middle of ``length`` voxels; of the lower middle where there are two."""
    reach = (num_slices - 1) * spacing
    first = (length - 1 - reach) // 2 + center_offset
    if first < 0 or first + reach >= length:
        raise InputError(
            f"num_slices={num_slices} with spacing={spacing} and center_offset={center_offset} asks for the slices "
            f"{first} to {first + reach}, but the volume has {length} along axis {axis} (0 to {length - 1})."
        )
    return first
