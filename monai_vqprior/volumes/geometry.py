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
Where the voxels of a volume lie, and slices cut by millimeters.

Coordinates are those of NIfTI and of MONAI's ``MetaTensor``: RAS+ millimeters, x to the patient's right, y to anterior,
z to superior. An affine maps voxel indices to them. What a slice shows depends on the affine alone, not on the order in
which the voxels are stored.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import SpatialResample
from scipy import ndimage

from monai_vqprior.errors import InputError

__all__ = [
    "Slab", "Volume", "block_of", "crop", "cut_slices", "pictures_of", "resample", "resample_to_cubes",
    "restore_slices",
]  # fmt: skip

#: The middle of the brain of MNI152's bounding box in x and y, at the bodies of the lateral ventricles in z.
_CENTER = (0.0, -18.0, 26.0)
_MOST_CUBES = 2**26  # of a volume on cubes; a whole head of 0.5 mm has less


@dataclass(frozen=True)
class Volume:
    """
    Voxels and where they lie.

    Args:
        data: array (X, Y, Z) of finite numbers, in any order of storage.
        affine: (4, 4), voxel indices to RAS+ mm.

    Raises:
        InputError: when the array has not 3 axes, or the affine places the voxels nowhere.
    """

    data: np.ndarray
    affine: np.ndarray

    def __post_init__(self) -> None:
        if self.data.ndim != 3:
            raise InputError(f"a volume must have 3 axes, got the shape {self.data.shape}.")
        check_matrix(self.affine, "the affine of a volume")

    @property
    def voxel_sizes(self) -> np.ndarray:
        """Length of a voxel along each axis of the array in mm, (3,)."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)

    @property
    def voxel_volume(self) -> float:
        """Volume of a voxel in cubic mm."""
        return abs(float(np.linalg.det(self.affine[:3, :3])))

    def meta_tensor(self) -> MetaTensor:
        """The same as MONAI has it, (1, X, Y, Z) float32."""
        data = np.ascontiguousarray(self.data, np.float32)
        return MetaTensor(torch.from_numpy(data)[None], affine=torch.from_numpy(np.asarray(self.affine, np.float64)))


@dataclass(frozen=True)
class Slab:
    """
    Parallel slices of one volume: where each of their pixels lies.

    ======  ========  =========  =============  =============
    axis    plane     top        left           right
    ======  ========  =========  =============  =============
    0       sagittal  superior   posterior      anterior
    1       coronal   superior   patient left   patient right
    2       axial     anterior   patient left   patient right
    ======  ========  =========  =============  =============

    Args:
        axis: the axis to cut along; 0, 1 or 2.
        num_slices: number of slices, at least 1.
        size: height and width of a slice in pixels.
        voxel_size: height and width of a pixel in mm.
        spacing: distance from slice to slice in mm.
        center: the middle of the slab, (x, y, z) in mm.
    """

    axis: int = 2
    num_slices: int = 32
    size: int = 192
    voxel_size: float = 1.0
    spacing: float = 1.0
    center: tuple[float, float, float] = _CENTER

    def __post_init__(self) -> None:
        if self.axis not in (0, 1, 2):
            raise InputError(f"axis must be 0, 1 or 2, got {self.axis}.")
        if self.num_slices < 1 or self.size < 1:
            raise InputError(f"num_slices and size must be at least 1, got {self.num_slices} and {self.size}.")
        lengths = (self.voxel_size, self.spacing)
        if not all(np.isfinite(lengths)) or min(lengths) <= 0:
            raise InputError(f"voxel_size and spacing must be positive, got {self.voxel_size} and {self.spacing} mm.")
        if len(self.center) != 3 or not all(np.isfinite(self.center)):
            raise InputError(f"center must be three numbers in mm, got {self.center}.")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels of the block that the slices make up, along x, y and z."""
        shape = [self.size] * 3
        shape[self.axis] = self.num_slices
        return shape[0], shape[1], shape[2]

    @property
    def affine(self) -> np.ndarray:
        """(4, 4), voxel indices of the block to mm."""
        affine = np.diag([self.voxel_size] * 3 + [1.0])
        affine[self.axis, self.axis] = self.spacing
        affine[:3, 3] = np.asarray(self.center) - affine[:3, :3] @ ((np.asarray(self.shape) - 1) / 2)
        return affine

    @property
    def positions(self) -> np.ndarray:
        """Where each slice lies along the axis in mm, (num_slices,), ascending."""
        return self.affine[self.axis, 3] + self.spacing * np.arange(self.num_slices)


def check_matrix(matrix: np.ndarray, what: str) -> None:
    """Raise InputError for what is no invertible affine of RAS+ mm."""
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all() or not np.allclose(matrix[3], (0, 0, 0, 1)):
        raise InputError(f"{what} is not a 4 x 4 matrix of finite numbers with the last row 0 0 0 1.")
    linear = matrix[:3, :3]
    lengths = np.linalg.norm(linear, axis=0)
    if not lengths.all() or abs(np.linalg.det(linear / lengths)) < 1e-3:
        raise InputError(f"{what} is singular: it maps the volume to a plane.")


def cut_slices(volume: Volume, slab: Slab, matrix: np.ndarray | None = None) -> np.ndarray:
    """
    Cut a volume into slices.

    Voxels are interpolated linearly, after a Gaussian filter where the pixels are larger than they; what lies out of
    the volume is 0. A slice is as thick as a pixel is wide, whatever the distance to the next one.

    Args:
        volume: any voxel sizes, orientation and obliqueness.
        slab: where the slices lie.
        matrix: (4, 4), mm of the volume to mm of the slab, as a registration finds it; by default the same mm.

    Returns:
        ``float32`` (num_slices, size, size), rows from top to bottom.
    """
    block = resample(volume, slab.shape, slab.affine, matrix, resolution=slab.voxel_size)
    return pictures_of(block.data, slab.axis)


def restore_slices(slices: np.ndarray, slab: Slab, like: Volume, matrix: np.ndarray | None = None) -> Volume:
    """
    Bring slices back to the volume that :func:`cut_slices` has cut them from, interpolated linearly.

    Args:
        slices: (num_slices, size, size): the slices, or maps, reconstructions and samples in their place.
        slab: where they lie.
        like: the volume whose shape and affine the result has.
        matrix: the same as :func:`cut_slices` took.

    Returns:
        ``float32``; 0 where no slice reaches.

    Raises:
        InputError: when the slices are not those of the slab.
    """
    if slices.shape != (slab.num_slices, slab.size, slab.size):
        raise InputError(f"the slab has {slab.num_slices} slices of {slab.size} pixels, got the shape {slices.shape}.")
    inverse = None if matrix is None else np.linalg.inv(matrix)
    resolution = float(like.voxel_sizes.min())
    return resample(Volume(block_of(slices, slab.axis), slab.affine), like.data.shape, like.affine, inverse, resolution)


def resample(
    volume: Volume,
    shape: tuple[int, ...],
    affine: np.ndarray,
    matrix: np.ndarray | None = None,
    resolution: float | None = None,
) -> Volume:
    """
    Bring a volume onto another grid, linearly (:class:`monai.transforms.SpatialResample`).

    Args:
        volume: what to resample.
        shape: voxels of the new grid.
        affine: (4, 4), its voxel indices to mm.
        matrix: (4, 4), mm of the volume to mm of the grid; by default the same mm.
        resolution: what lies closer together than this many mm of the grid is blurred first; by default nothing.

    Returns:
        ``float32`` on the new grid, 0 out of the volume.

    Raises:
        InputError: when ``matrix`` is singular.
    """
    moved = np.asarray(volume.affine, np.float64)
    if matrix is not None:
        check_matrix(matrix, "the matrix of a registration")
        moved = matrix @ moved
    data = np.asarray(volume.data, np.float32)
    if resolution is not None:
        data = _blurred(data, moved, resolution)
    to_grid = SpatialResample(mode="bilinear", padding_mode="zeros", dtype=np.float32)
    result = to_grid(
        Volume(data, moved).meta_tensor(),
        dst_affine=torch.from_numpy(np.asarray(affine, np.float64)),
        spatial_size=tuple(shape),
    )
    return Volume(result.numpy()[0], affine)


def resample_to_cubes(volume: Volume, voxel_size: float, margin: float = 0.0) -> Volume:
    """
    Bring a volume onto cubes along the RAS axes that cover all of it.

    Args:
        volume: any voxel sizes, orientation and obliqueness.
        voxel_size: edge of a cube in mm.
        margin: how far the cubes reach beyond the volume in mm.

    Returns:
        ``float32``, x to the right, y to anterior, z to superior.

    Raises:
        InputError: when that would be more cubes than a head can need.
    """
    corners = np.stack(np.meshgrid(*[(0, length - 1) for length in volume.data.shape], indexing="ij"), -1).reshape(
        -1, 3
    )
    places = corners @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    low, high = places.min(0) - margin, places.max(0) + margin
    lengths = np.ceil((high - low) / voxel_size - 1e-6) + 1
    if lengths.prod() > _MOST_CUBES:
        raise InputError(
            f"the volume would have {' x '.join(f'{n:.0f}' for n in lengths)} cubes of {voxel_size:g} mm: its header "
            "has wrong voxel sizes, or the cubes are too small."
        )
    affine = np.diag([voxel_size] * 3 + [1.0])
    affine[:3, 3] = low
    return resample(volume, tuple(int(n) for n in lengths), affine, resolution=voxel_size)


def crop(volume: Volume) -> Volume:
    """
    Cut away the background around a head, which takes memory and time.

    Args:
        volume: a head, 0 out of the brain.

    Returns:
        the smallest block that holds all that is not 0 and a rim of one voxel; the volume itself where it is empty.
    """
    places = [np.flatnonzero(volume.data.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1))]
    if not places[0].size:
        return volume
    first = [max(0, int(found[0]) - 1) for found in places]
    block = tuple(slice(start, int(found[-1]) + 2) for start, found in zip(first, places, strict=True))
    affine = np.array(volume.affine, np.float64)
    affine[:3, 3] += affine[:3, :3] @ np.array(first)
    return Volume(np.ascontiguousarray(volume.data[block]), affine)


def pictures_of(block: np.ndarray, axis: int) -> np.ndarray:
    """Slices (N, H, W) of a block (X, Y, Z), rows from top to bottom, see :class:`Slab`."""
    planes = np.moveaxis(block, axis, 0)  # (X, Y, Z) -> (N, A, B)
    return np.ascontiguousarray(planes.transpose(0, 2, 1)[:, ::-1])  # (N, A, B) -> (N, B, A): A to the right, B up


def block_of(slices: np.ndarray, axis: int) -> np.ndarray:
    """The block (X, Y, Z) that :func:`pictures_of` has made the slices of."""
    planes = slices[:, ::-1].transpose(0, 2, 1)  # (N, B, A) -> (N, A, B)
    return np.ascontiguousarray(np.moveaxis(planes, 0, axis))


def _blurred(data: np.ndarray, affine: np.ndarray, resolution: float) -> np.ndarray:
    """Take away what is finer than ``resolution`` mm, as scikit-image does before it shrinks a picture."""
    steps = np.linalg.norm(np.linalg.inv(affine[:3, :3]), axis=1) * resolution  # voxels along each axis of the array
    sigmas = np.maximum(0, (steps - 1) / 2)
    return ndimage.gaussian_filter(data, sigmas) if sigmas.max() > 0.05 else data
