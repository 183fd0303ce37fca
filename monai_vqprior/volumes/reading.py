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
"""Volumes on disk -> voxels and where they lie. Nothing is turned or resampled: the affine tells where a voxel is."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import numpy as np

from monai_vqprior.errors import InputError, reason_of
from monai_vqprior.volumes.geometry import Volume
from monai_vqprior.volumes.headers import (
    affine_of,
    check_checksum,
    check_header,
    check_orientation,
    check_volume,
    header_of,
    is_pair,
)

__all__ = ["read_volume"]


def read_volume(path: str | os.PathLike[str]) -> Volume:
    """
    Read a volume. Trailing axes of length 1 are dropped (OASIS-1's volumes are 176 x 208 x 176 x 1).

    Analyze 7.5 has no trustworthy orientation of its own. As nibabel and SPM do, its ``orient`` byte is ignored and
    the axes are taken to run to left, anterior and superior, unless an SPM ``.mat`` file lies beside it. Should
    a program have written x the other way around, left and right are exchanged. Volumes that were stored in another
    plane, such as OASIS-1's raw sagittal scans, have to be converted to NIfTI first. A NIfTI file whose header has no
    orientation, or two that contradict one another, is refused.

    Args:
        path: NIfTI (``.nii``, ``.nii.gz``), FreeSurfer's (``.mgz``, ``.mgh``), or the ``.img`` of an Analyze or NIfTI
            pair.

    Returns:
        ``float32`` voxels with finite values, in the intensity units of the file and in its order of storage, and the
        affine in mm, also where the header of a NIfTI file has meters or microns.

    Raises:
        InputError: naming the file, when it cannot be read, is damaged by the checksum of gzip, is an ``.img`` without
            ``.hdr``, is not a single 3-D volume of real numbers, has more than
            :data:`monai_vqprior.files.MOST_VOXELS`, does not define its orientation or its voxels' size, is too small
            or too large for a head, holds NaN or infinity, or has the same value everywhere.
    """
    import nibabel  # takes time, and only who has volumes needs it
    from nibabel.filebasedimages import ImageFileError
    from nibabel.orientations import OrientationError
    from nibabel.spatialimages import HeaderDataError, SpatialImage
    from nibabel.wrapstruct import WrapStructError

    # What nibabel raises for a file that is damaged, or is no volume at all.
    format_errors = (ImageFileError, HeaderDataError, WrapStructError, OrientationError)
    path = Path(path)
    if is_pair(path) and header_of(path) is None:
        raise InputError(f"{path} has no header: {path.name.lower().partition('.img')[0]}.hdr must lie beside it.")
    try:
        # A value out of the range of float32 becomes an infinity, which is refused below; a nonsensical orientation
        # becomes NaN, which is refused too.
        with np.errstate(all="ignore"):
            check_header(path)
            image = nibabel.load(path, mmap=False)
            if not isinstance(image, SpatialImage):
                raise InputError(f"{path} is not a volume: nibabel reads it as {type(image).__name__}.")
            check_volume(path, image)
            check_checksum(path, image)
            nibabel.io_orientation(image.affine)
            check_orientation(path, image)
            affine = affine_of(path, image)
            data = image.get_fdata(dtype=np.float32)
    except InputError:
        raise
    except (OSError, EOFError, ValueError, TypeError, OverflowError, MemoryError, zlib.error, *format_errors) as error:
        raise InputError(f"{path} cannot be read as a volume, it may be truncated: {reason_of(error)}") from error

    data = data.reshape(data.shape[:3])  # (X, Y, Z, 1, ...) -> (X, Y, Z)
    bad = int(data.size - np.isfinite(data).sum())
    if bad:
        raise InputError(f"{path} holds NaN or infinity in {bad} of its {data.size} voxels: replace them.")
    if data.min() == data.max():
        raise InputError(f"{path} is empty: each of its voxels is {data.flat[0]:g}.")
    return Volume(data, affine)
