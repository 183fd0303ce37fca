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
Brain volumes on disk (NIfTI or Analyze) -> 8-bit slices in the layout of the preprocessed OASIS data set.

The pictures are drawn in neurological convention: the patient's left is on the left of an axial or coronal slice.
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from monai_vqprior.data.headers import (
    check_checksum,
    check_header,
    check_orientation,
    check_volume,
    header_of,
    voxel_sizes,
)
from monai_vqprior.data.volume_files import find_volumes, session_of, subject_of
from monai_vqprior.errors import InputError, needs_extra
from monai_vqprior.files import MOST_PIXELS
from monai_vqprior.values import PREPARE, check_values

__all__ = [
    "check_packages",
    "check_slicing",
    "find_volumes",
    "load_volume",
    "read_volume",
    "session_of",
    "subject_of",
    "volume_slices",
]


def check_packages() -> None:
    """Raise InputError where the packages that volumes need are not installed."""
    with needs_extra("volumes", "cutting volumes into slices"):
        import nibabel  # noqa: F401
        import skimage.transform  # noqa: F401


def load_volume(path: str | os.PathLike[str]) -> np.ndarray:
    """
    Read the voxels of a volume, turned to RAS+ orientation.

    Args:
        path: ``.nii``, ``.nii.gz``, or the ``.img`` of an Analyze or NIfTI pair.

    Returns:
        ``float32`` array of shape (X, Y, Z) with finite values, in the intensity units of the file.

    Raises:
        InputError: as ``volumes.read_volume``.
    """
    return read_volume(path)[0]


def read_volume(path: str | os.PathLike[str]) -> tuple[np.ndarray, tuple[float, float, float]]:
    """
    Read a volume and turn it to RAS+ orientation: x grows to the patient's right, y to anterior, z to superior.

    Oblique volumes are turned to the closest of the 48 orientations; nothing is resampled. Trailing axes of
    length 1 are dropped (OASIS-1's volumes are 176 x 208 x 176 x 1).

    Analyze 7.5 has no trustworthy orientation of its own. As nibabel and SPM do, its ``orient`` byte is ignored and
    the axes are taken to run to left, anterior and superior, unless an SPM ``.mat`` file lies beside it. Should
    a program have written x the other way around, left and right are exchanged. Volumes that were stored in another
    plane, such as OASIS-1's raw sagittal scans, have to be converted to NIfTI first. A NIfTI file whose header has no
    orientation, or two that contradict one another, is refused.

    Args:
        path: ``.nii``, ``.nii.gz``, or the ``.img`` of an Analyze or NIfTI pair.

    Returns:
        the voxels, a ``float32`` array of shape (X, Y, Z) with finite values, in the intensity units of the file, and
        the sides of a voxel along x, y and z in mm.

    Raises:
        InputError: naming the file, when it cannot be read, is damaged by the checksum of gzip, is an ``.img`` without
            ``.hdr``, is not a single 3-D volume of real numbers, has more than
            :data:`monai_vqprior.files.MOST_VOXELS`, does not define its orientation or its voxels' size, holds NaN or
            infinity, or has the same value everywhere; naming the package, when nibabel is not installed.
    """
    with needs_extra("volumes", "reading a volume"):
        import nibabel
        from nibabel.filebasedimages import ImageFileError
        from nibabel.orientations import OrientationError
        from nibabel.spatialimages import HeaderDataError, SpatialImage
        from nibabel.wrapstruct import WrapStructError

    # What nibabel raises for a file that is damaged, or is no volume at all.
    format_errors = (ImageFileError, HeaderDataError, WrapStructError, OrientationError)
    path = Path(path)
    if path.suffix.lower() == ".img" and header_of(path) is None:
        raise InputError(f"{path} has no header: {path.with_suffix('.hdr').name} must lie beside it.")
    try:
        # A value out of the range of float32 becomes an infinity, which is refused below; a nonsensical orientation
        # becomes NaN, which nibabel refuses.
        with np.errstate(all="ignore"):
            check_header(path)
            image = nibabel.load(path, mmap=False)
            if not isinstance(image, SpatialImage):
                raise InputError(f"{path} is not a volume: nibabel reads it as {type(image).__name__}.")
            check_volume(path, image)
            check_checksum(path, image)
            upright = nibabel.as_closest_canonical(image)
            check_orientation(path, image)
            data = upright.get_fdata(dtype=np.float32)
    except InputError:
        raise
    except (OSError, EOFError, ValueError, TypeError, OverflowError, MemoryError, zlib.error, *format_errors) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path} cannot be read as a volume, it may be truncated: {reason}") from error

    data = data.reshape(data.shape[:3])  # (X, Y, Z, 1, ...) -> (X, Y, Z)
    bad = int(data.size - np.isfinite(data).sum())
    if bad:
        raise InputError(f"{path} holds NaN or infinity in {bad} of its {data.size} voxels: replace them.")
    if data.min() == data.max():
        raise InputError(f"{path} is empty: each of its voxels is {data.flat[0]:g}.")
    x, y, z = map(float, voxel_sizes(upright))
    return data, (x, y, z)


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
    Cut a volume into square 8-bit slices.

    The slices lie around the middle of the volume, in ascending order (for axis 2 from inferior to superior).
    Intensities are scaled linearly, from two percentiles of the volume's voxels without the background to 0 and 255,
    and clipped; background becomes 0. It is the value 0 where no voxel is negative, else the value that more than half
    of the voxels at the border have, 0 or a negative one; other volumes have none.

    Where the pixels of a slice are no squares, it is stretched bilinearly to squares of their shorter side. The slices
    are those of the volume: none is interpolated between two. Each slice is padded with background to a square,
    centered on the field of view, and resized bilinearly, with a Gaussian filter beforehand where it shrinks.

    ======  ========  =========  =============  =============
    axis    plane     top        left           right
    ======  ========  =========  =============  =============
    0       sagittal  superior   posterior      anterior
    1       coronal   superior   patient left   patient right
    2       axial     anterior   patient left   patient right
    ======  ========  =========  =============  =============

    Args:
        volume: array of shape (X, Y, Z) with finite values in RAS+ orientation, as :func:`load_volume` returns it.
        axis: the axis to cut along; 0, 1 or 2.
        num_slices: number of slices, at least 1.
        center_offset: how many voxels the middle of the slices lies above the middle of the volume (below it if
            negative).
        size: height and width of a slice in pixels; even, at least 16.
        percentiles: the percentiles that become 0 and 255, each in [0, 100].
        spacing: distance from slice to slice in voxels, at least 1.
        voxel_size: sides of a voxel along x, y and z, as ``volumes.read_volume`` returns them; only their ratios count.

    Returns:
        ``uint8`` array of shape (num_slices, size, size), rows from top to bottom.

    Raises:
        InputError: when an argument is out of its range, the volume has too few slices, or its voxels without the
            background have no spread that could be scaled, or scikit-image is not installed.
    """
    check_slicing(axis, num_slices, size, percentiles, spacing)
    if volume.ndim != 3:
        raise InputError(f"a volume must have 3 axes, got the shape {volume.shape}.")
    indices = _slice_indices(volume.shape[axis], axis, num_slices, center_offset, spacing)
    background = _background(volume)
    low, high = _intensity_range(volume[volume != background], percentiles)

    planes = np.moveaxis(volume, axis, 0)[indices]  # (X, Y, Z) -> (N, A, B)
    pictures = planes.transpose(0, 2, 1)[:, ::-1]  # (N, A, B) -> (N, B, A): A runs to the right and B runs up
    scaled = np.interp(pictures, (low, high), (0, 255))
    scaled[pictures == background] = 0
    width, height = (side for place, side in enumerate(voxel_size) if place != axis)
    return np.stack([_fit(_squared(picture, height, width), size) for picture in scaled])


def check_slicing(axis: int, num_slices: int, size: int, percentiles: Sequence[float], spacing: int) -> None:
    """Raise InputError for arguments of :func:`volume_slices` that are wrong whatever the volume."""
    check_values(PREPARE, axis=axis, num_slices=num_slices, spacing=spacing, size=size, percentiles=percentiles)


def _slice_indices(length: int, axis: int, num_slices: int, center_offset: int, spacing: int) -> np.ndarray:
    """Indices of the slices around the middle of an axis of ``length`` voxels; the lower middle where there are two."""
    reach = (num_slices - 1) * spacing
    first = (length - 1 - reach) // 2 + center_offset
    if first < 0 or first + reach >= length:
        raise InputError(
            f"num_slices={num_slices} with spacing={spacing} and center_offset={center_offset} asks for the slices "
            f"{first} to {first + reach}, but the volume has {length} along axis {axis} (0 to {length - 1})."
        )
    return np.arange(first, first + reach + 1, spacing)


def _background(volume: np.ndarray) -> float:
    """The value of the background: 0 where nothing is negative, else that of most voxels at the border, or NaN."""
    if volume.min() >= 0:
        return 0.0
    border = np.concatenate([np.moveaxis(volume, axis, 0)[[0, -1]].ravel() for axis in range(3)])
    values, counts = np.unique(border, return_counts=True)
    return float(values[counts.argmax()]) if 2 * counts.max() > border.size else math.nan


def _intensity_range(foreground: np.ndarray, percentiles: tuple[float, float]) -> tuple[float, float]:
    """The two percentiles of the voxels that are no background, as intensities."""
    if not foreground.size:
        raise InputError("the volume is empty: each of its voxels has the same value.")
    low, high = np.percentile(foreground.astype(np.float64), percentiles)
    if not low < high:
        raise InputError(
            f"the percentiles {percentiles[0]:g} and {percentiles[1]:g} of the voxels without the background are "
            f"{low:g} and {high:g}: nothing to scale. Is it a mask?"
        )
    return float(low), float(high)


def _squared(picture: np.ndarray, height: float, width: float) -> np.ndarray:
    """A slice (H, W) with pixels of these sides, stretched to square ones of the shorter side."""
    side = min(height, width)
    shape = tuple(round(length * of / side) for length, of in zip(picture.shape, (height, width), strict=True))
    if shape == picture.shape:
        return picture
    if math.prod(shape) > MOST_PIXELS:
        raise InputError(f"slices of {shape[0]} x {shape[1]} pixels would come of its voxels: resample it first.")
    with needs_extra("volumes", "resizing slices"):
        from skimage.transform import resize

    return resize(picture, shape, order=1, mode="edge", anti_aliasing=False, preserve_range=True)


def _fit(picture: np.ndarray, size: int) -> np.ndarray:
    """Pad a slice (H, W) in [0, 255] to a square around its center, and resize it to (size, size), ``uint8``."""
    side = max(picture.shape)
    before = [(side - length) // 2 for length in picture.shape]
    square = np.pad(picture, [(b, side - length - b) for b, length in zip(before, picture.shape, strict=True)])
    if side != size:
        with needs_extra("volumes", "resizing slices"):
            from skimage.transform import resize

        square = resize(square, (size, size), order=1, mode="edge", anti_aliasing=side > size, preserve_range=True)
    return np.rint(square).astype(np.uint8)
