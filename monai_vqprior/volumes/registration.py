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
Heads of different subjects in one space: affine registration to a template, without skull.

SimpleITK finds the affine that maps millimeters of a template to those of a head, from coarse to fine. The first stage
begins with several pitches of the head, in which scans differ most, and the best of them goes on. Mutual information is
the measure, so that neither scanner nor bias field matters much.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from monai_vqprior.errors import InputError, needs_extra
from monai_vqprior.volumes.geometry import Volume, resample, resample_to_cubes
from monai_vqprior.volumes.template import Template

# SimpleITK is imported where it is used: only who registers needs it.
if TYPE_CHECKING:
    import SimpleITK

__all__ = ["Registration", "check_registration_packages", "measure", "register", "rigid_part"]

#: Resolutions in mm from coarse to fine, the length of the first step in voxels, steps, share of the voxels.
_COARSE, _FINE = (8.0, 4.0, 40, 1.0), ((4.0, 2.0, 50, 0.5), (2.0, 1.0, 30, 0.12))
_PITCHES = (-20.0, 0.0, 20.0)  # degrees about the axis from left to right
_MARGIN = 8.0  # mm of background around a head, which the optimizer needs to see its edge
# Mm around the template's brain that count: at first its outline leads, without the neck that stripping may have left;
# then what is in it alone, as a crown may be missing.
_WIDE, _NARROW = 8.0, 1.0
_BINS = 32
_FIELD = 20.0  # mm; a bias field changes more slowly, tissue faster
_CHECKED_AT = 4.0  # mm; finer structure differs from brain to brain
# On the heads of OpenNeuro ds002748 the correlation is 0.52 and more, and at most 0.38 when they are shifted by 8 mm or
# turned by 12 degrees.
_LEAST_OVERLAP, _LEAST_CORRELATION = 0.8, 0.45
_DETERMINANTS = (0.4, 8.0)  # brains of 0.2 to 4.7 liters
_LARGEST_STRETCH = 2.0  # of the longest axis against the shortest


@dataclass(frozen=True)
class Registration:
    """
    Where a head lies in the space of a template, and how well it fits.

    Attributes:
        matrix: (4, 4), mm of the head to mm of the template, RAS+.
        overlap: Dice coefficient of the masks of head and template, in [0, 1].
        correlation: of their intensities without bias field at 4 mm, in the brains of both, in [-1, 1].
    """

    matrix: np.ndarray
    overlap: float
    correlation: float

    @property
    def determinant(self) -> float:
        """How much larger the template is than the head, as a ratio of volumes; negative for a mirrored head."""
        return float(np.linalg.det(self.matrix[:3, :3]))

    @property
    def fault(self) -> str | None:
        """Why this is not the place of the head; None where nothing speaks against it."""
        stretches = np.linalg.svd(self.matrix[:3, :3], compute_uv=False)
        low, high = _DETERMINANTS
        if not low <= self.determinant <= high:
            return f"the determinant is {self.determinant:.2f}, not within {low:g} and {high:g}"
        if stretches[0] > _LARGEST_STRETCH * stretches[2]:
            return f"it is stretched {stretches[0] / stretches[2]:.1f} times as much along one axis as along another"
        if self.overlap < _LEAST_OVERLAP:
            return f"it overlaps with the template by {self.overlap:.3f} only, less than {_LEAST_OVERLAP:g}"
        if self.correlation < _LEAST_CORRELATION:
            return f"it correlates with the template by {self.correlation:.3f} only, less than {_LEAST_CORRELATION:g}"
        return None


def check_registration_packages(what: str = "registration to a template") -> None:
    """Raise InputError where the packages that registration, or what else is named, needs are not installed."""
    with needs_extra("registration", what):
        import SimpleITK  # noqa: F401


def register(volume: Volume, template: Template) -> Registration:
    """
    Register a head without skull to a template, by 12 parameters.

    On one thread, and with the same result each time but for rounding. Look at :attr:`Registration.fault` before the
    matrix is used.

    Args:
        volume: the head, 0 out of the brain.
        template: what to register it to.

    Returns:
        the matrix, and how well the two fit.

    Raises:
        InputError: when the volume has no voxel above 0, the optimizer loses it, or SimpleITK is not installed.
    """
    with needs_extra("registration", "registration to a template"):
        import SimpleITK
    head = _flattened(_clipped(volume))
    try:
        moving = _image(head, _COARSE[0])
        tries = [_optimized(template, _WIDE, moving, start, _COARSE) for start in _starts(head, template)]
        best = min(tries, key=lambda item: item[0])[1]
        transform = SimpleITK.AffineTransform(3)
        transform.SetCenter(best.GetCenter())
        transform.SetTranslation(best.GetTranslation())
        transform.SetMatrix(best.GetMatrix())
        for stage in _FINE:
            _, transform = _optimized(template, _NARROW, _image(head, stage[0]), transform, stage)
    except RuntimeError as error:  # all that ITK raises, as when no voxel of the template is mapped into the volume
        reason = next((line for line in str(error).splitlines() if line.startswith("ITK ERROR")), str(error))
        raise InputError(f"it cannot be registered to the template ({' '.join(reason.split())}).") from error
    return measure(volume, template, np.linalg.inv(_matrix_of(transform)))


def measure(volume: Volume, template: Template, matrix: np.ndarray) -> Registration:
    """
    How well a matrix brings a head to a template.

    Args:
        volume: the head, 0 out of the brain.
        template: the template.
        matrix: (4, 4), mm of the head to mm of the template.

    Returns:
        the matrix with what was measured.
    """
    grid, theirs = _template_cubes(template)
    shape, affine = grid.data.shape, grid.affine
    mask = Volume((volume.data > 0).astype(np.float32), volume.affine)
    ours = resample(mask, shape, affine, matrix, _CHECKED_AT).data > 0.5
    both = ours & theirs
    values = resample(_flattened(_clipped(volume)), shape, affine, matrix, _CHECKED_AT).data[both]
    correlation = np.corrcoef(values, grid.data[both])[0, 1] if values.size and values.std() > 0 else 0.0
    overlap = 2 * both.sum() / (ours.sum() + theirs.sum())
    return Registration(matrix, float(overlap), float(correlation))


def rigid_part(matrix: np.ndarray, center: np.ndarray) -> np.ndarray:
    """
    The rotation and shift in an affine, so that a head is turned to the template and keeps its size.

    Args:
        matrix: (4, 4), mm of a head to mm of a template.
        center: (3,), a point of the template where the two agree, such as :attr:`Template.center`.

    Returns:
        (4, 4), the nearest rotation (by its polar decomposition), and the shift that keeps ``center``.
    """
    left, _, right = np.linalg.svd(matrix[:3, :3])
    point = np.linalg.inv(matrix) @ [*center, 1.0]
    rigid = np.eye(4)
    rigid[:3, :3] = left @ right
    rigid[:3, 3] = center - rigid[:3, :3] @ point[:3]
    return rigid


def _clipped(volume: Volume) -> Volume:
    """A head on cubes of the finest resolution, from 0 to 1 at its 99th percentile: no vessel is brighter."""
    cubes = resample_to_cubes(Volume(np.maximum(volume.data, 0), volume.affine), _FINE[-1][0])
    inside = cubes.data > 0
    if not inside.any():
        raise InputError("it is empty: none of its voxels is above 0.")
    top = float(np.percentile(cubes.data[inside], 99))
    return Volume(np.minimum(cubes.data / top, 1), cubes.affine)


def _flattened(cubes: Volume) -> Volume:
    """A clipped head divided by its mean in the neighborhood: without a bias field."""
    inside = cubes.data > 0
    sigma = _FIELD / cubes.voxel_sizes
    weights = ndimage.gaussian_filter(inside.astype(np.float32), sigma, truncate=2)
    means = ndimage.gaussian_filter(cubes.data, sigma, truncate=2) / np.maximum(weights, 1e-3)
    flat = np.where(inside, cubes.data / np.maximum(means, 1e-6), 0)
    return Volume(np.minimum(flat, 2).astype(np.float32), cubes.affine)


def _image(volume: Volume, step: float) -> SimpleITK.Image:
    """A volume on cubes as SimpleITK has it. Its axes are those of RAS here, for both images alike, not of LPS."""
    import SimpleITK

    cubes = resample_to_cubes(volume, step, _MARGIN)
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(cubes.data.transpose(2, 1, 0)))
    image.SetSpacing([step] * 3)
    image.SetOrigin(cubes.affine[:3, 3].tolist())
    return image


@lru_cache(maxsize=8)
def _template_images(template: Template, step: float, rim: float) -> tuple[SimpleITK.Image, SimpleITK.Image]:
    """The same of a template, and where it counts, kept for the next head."""
    import SimpleITK

    distance = _distance_from(template)
    near = resample_to_cubes(Volume((distance.data < rim).astype(np.float32), distance.affine), step)
    inside = SimpleITK.GetImageFromArray((near.data > 0.5).astype(np.uint8).transpose(2, 1, 0))
    inside.SetSpacing([step] * 3)
    inside.SetOrigin(near.affine[:3, 3].tolist())
    return _image(_flattened(_clipped(template.volume)), step), inside


@lru_cache(maxsize=2)
def _distance_from(template: Template) -> Volume:
    """How far each place is from the brain of a template in mm, 0 in it."""
    mask = Volume(template.mask.astype(np.float32), template.volume.affine)
    cubes = resample_to_cubes(mask, _FINE[-1][0], _WIDE + _MARGIN)
    return Volume(ndimage.distance_transform_edt(cubes.data < 0.5, sampling=cubes.voxel_sizes), cubes.affine)


@lru_cache(maxsize=2)
def _template_cubes(template: Template) -> tuple[Volume, np.ndarray]:
    """A template and its mask at the resolution of the check."""
    mask = Volume(template.mask.astype(np.float32), template.volume.affine)
    return resample_to_cubes(_flattened(_clipped(template.volume)), _CHECKED_AT), resample_to_cubes(
        mask, _CHECKED_AT
    ).data > 0.5


def _starts(head: Volume, template: Template) -> list[Any]:
    """Similarities from template to head: centroid on centroid, as large as the head, at several pitches."""
    import SimpleITK

    mask = head.data > 0
    center = head.affine[:3, :3] @ np.array(ndimage.center_of_mass(mask)) + head.affine[:3, 3]
    scale = float(mask.sum() * head.voxel_volume / template.brain_volume) ** (1 / 3)
    starts = []
    for pitch in _PITCHES:
        transform = SimpleITK.Similarity3DTransform()
        transform.SetCenter(template.center.tolist())
        transform.SetTranslation((center - template.center).tolist())
        transform.SetRotation((1.0, 0.0, 0.0), float(np.deg2rad(pitch)))
        transform.SetScale(scale)
        starts.append(transform)
    return starts


def _optimized(
    template: Template, rim: float, moving: SimpleITK.Image, start: Any, stage: tuple[float, float, int, float]
) -> tuple[float, Any]:
    """Value of the metric, less is better, and the transform after some steps of the optimizer."""
    import SimpleITK

    step, length, steps, share = stage
    fixed, inside = _template_images(template, step, rim)
    method = SimpleITK.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)  # sums of several threads differ in their last bits from run to run
    method.SetMetricAsMattesMutualInformation(_BINS)
    if share < 1:
        method.SetMetricSamplingStrategy(method.REGULAR)
        method.SetMetricSamplingPercentage(share, 1)  # by default the clock is the seed
    method.SetMetricFixedMask(inside)
    method.SetInterpolator(SimpleITK.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(length, length * 1e-3, steps, 0.6, 1e-6)
    method.SetOptimizerScalesFromPhysicalShift()
    transform = type(start)(start)
    method.SetInitialTransform(transform, True)
    method.Execute(fixed, moving)
    return method.GetMetricValue(), transform


def _matrix_of(transform: Any) -> np.ndarray:
    """(4, 4) of an affine transform of SimpleITK, which turns about its center."""
    matrix, center = np.eye(4), np.array(transform.GetCenter())
    matrix[:3, :3] = np.array(transform.GetMatrix()).reshape(3, 3)
    matrix[:3, 3] = np.array(transform.GetTranslation()) + center - matrix[:3, :3] @ center
    return matrix
