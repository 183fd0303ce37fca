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


"""What the intensities of a head mean: its bias field is taken away, and they are scaled to those of other heads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from monai_vqprior.errors import InputError, needs_extra
from monai_vqprior.volumes.geometry import Volume

__all__ = [
    "WHITE",
    "blacken",
    "border_of",
    "correct_bias",
    "scale",
    "scale_by_percentiles",
    "scale_by_white_matter",
    "white_matter_peak",
    "white_matter_range",
]

#: What white matter becomes, of 255: fat and vessels are brighter.
WHITE = 200.0
_LEVEL_STEPS = (30, 30, 20)  # of N4, from coarse to fine
_GRID = 4.0  # mm; a bias field is smooth
_BINS = 256


def correct_bias(volume: Volume) -> Volume:
    """
    Take away the slow change of brightness over a head, by N4 (Tustison et al. 2010).

    Args:
        volume: a head, 0 out of the brain.

    Returns:
        ``float32``, divided by the field; the mean within the brain stays.

    Raises:
        InputError: when the volume has no voxel above 0, or SimpleITK is not installed.
    """
    with needs_extra("registration", "bias correction"):
        import SimpleITK
    mask = volume.data > 0
    if not mask.any():
        raise InputError("it is empty: none of its voxels is above 0.")
    image = SimpleITK.GetImageFromArray(np.where(mask, volume.data, 0).astype(np.float32))
    image.SetSpacing([float(size) for size in volume.voxel_sizes[::-1]])  # SimpleITK's axes run the other way around
    inside = SimpleITK.GetImageFromArray(mask.astype(np.uint8))
    inside.CopyInformation(image)
    shrink = [max(1, int(_GRID / size)) for size in image.GetSpacing()]
    method = SimpleITK.N4BiasFieldCorrectionImageFilter()
    method.SetNumberOfThreads(1)
    method.SetMaximumNumberOfIterations(_LEVEL_STEPS)
    method.Execute(SimpleITK.Shrink(image, shrink), SimpleITK.Shrink(inside, shrink))
    field = SimpleITK.GetArrayFromImage(method.GetLogBiasFieldAsImage(image))
    data = np.where(mask, volume.data / np.exp(field), 0)
    data *= volume.data[mask].mean() / data[mask].mean()
    return Volume(data.astype(np.float32), volume.affine)


def blacken(volume: Volume) -> Volume:
    """
    Make the background of a volume 0, and all else more.

    Where no voxel is negative, 0 is the background. Else it is the value that more than half of the voxels at the
    border have (-1024 in CT, 0 in z-scores within a mask); other volumes have none.

    Args:
        volume: finite numbers.

    Returns:
        ``float32``; the volume itself where no voxel is negative. Differences of intensities stay as they are.

    Raises:
        InputError: when there is nothing but background.
    """
    if volume.data.min() >= 0:
        return volume
    border = border_of(volume.data)
    values, counts = np.unique(border, return_counts=True)
    inside = np.ones(volume.data.shape, bool)
    if 2 * counts.max() > border.size:
        inside = volume.data != values[counts.argmax()]
    if not inside.any():
        raise InputError("the volume is empty: each of its voxels has the same value.")
    low, high = float(volume.data[inside].min()), float(volume.data[inside].max())
    shift = (high - low) * 1e-4 + 1e-6 - low  # the darkest voxel of the head is no background
    return Volume(np.where(inside, volume.data + np.float32(shift), 0).astype(np.float32), volume.affine)


def border_of(data: np.ndarray) -> np.ndarray:
    """The voxels of an array (X, Y, Z) that lie at the border of the field of view, (N,)."""
    return np.concatenate([np.moveaxis(data, axis, 0)[[0, -1]].ravel() for axis in range(3)])


def scale_by_percentiles(volume: Volume, percentiles: Sequence[float] = (0.5, 99.5)) -> Volume:
    """
    Scale a head linearly from two percentiles of the voxels that are not 0 to 0 and 255.

    Args:
        volume: a head, 0 out of the brain.
        percentiles: each in [0, 100].

    Returns:
        ``float32`` in [0, 255]; what was 0 stays 0.

    Raises:
        InputError: when the volume is empty, or the percentiles are the same intensity.
    """
    return scale(volume, *percentile_range(volume, percentiles))


def percentile_range(volume: Volume, percentiles: Sequence[float] = (0.5, 99.5)) -> tuple[float, float]:
    """The intensities that :func:`scale_by_percentiles` makes 0 and 255."""
    values = volume.data[volume.data != 0]
    if not values.size:
        raise InputError("the volume is empty: each of its voxels is 0.")
    low, high = (float(value) for value in np.percentile(values.astype(np.float64), percentiles))
    if not low < high:
        raise InputError(
            f"the percentiles {percentiles[0]:g} and {percentiles[1]:g} of the non-zero voxels are {low:g} and "
            f"{high:g}: nothing to scale. Is it a mask?"
        )
    return low, high


def scale_by_white_matter(volume: Volume) -> Volume:
    """
    Scale a T1-weighted head so that its white matter becomes ``WHITE``.

    Args:
        volume: a head, 0 out of the brain.

    Returns:
        ``float32`` in [0, 255]; 0 stays 0.

    Raises:
        InputError: when no peak of white matter is found.
    """
    return scale(volume, *white_matter_range(volume))


def white_matter_range(volume: Volume) -> tuple[float, float]:
    """The intensities that :func:`scale_by_white_matter` makes 0 and 255."""
    return 0.0, white_matter_peak(volume) * 255.0 / WHITE


def white_matter_peak(volume: Volume) -> float:
    """
    The intensity that white matter has in a T1-weighted head: the brightest of its histogram's large peaks.

    Args:
        volume: a head, 0 out of the brain.

    Returns:
        the intensity.

    Raises:
        InputError: when the volume is empty or has one intensity only.
    """
    values = volume.data[volume.data > 0]
    top = float(np.percentile(values, 99.5)) if values.size else 0.0
    if not values.size or values.min() >= top:
        raise InputError("no peak of white matter is found: the volume is empty, or is it a mask?")
    counts, edges = np.histogram(values, _BINS, (0.0, top))
    smooth = ndimage.gaussian_filter1d(counts.astype(np.float64), _BINS / 50, mode="constant")
    middle = (edges[:-1] + edges[1:]) / 2
    peaks = [
        i for i in range(1, _BINS - 1) if smooth[i - 1] < smooth[i] >= smooth[i + 1] and smooth[i] > 0.4 * smooth.max()
    ]
    return float(middle[peaks[-1] if peaks else int(smooth.argmax())])


def scale(volume: Volume, low: float, high: float) -> Volume:
    """Scale linearly, ``low`` to 0 and ``high`` to 255, clipped; what was 0 is the background and stays 0."""
    data = np.clip((volume.data - np.float32(low)) * np.float32(255 / (high - low)), 0, 255)
    return Volume(np.where(volume.data == 0, 0, data).astype(np.float32), volume.affine)
