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
"""One head on its way to slices: read, checked, brought to a space, cut."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from monai_vqprior.errors import InputError
from monai_vqprior.prepare_arguments import Cutting
from monai_vqprior.volumes.geometry import Slab, Volume, crop, cut_slices
from monai_vqprior.volumes.normalization import (
    blacken,
    border_of,
    correct_bias,
    percentile_range,
    scale,
    white_matter_range,
)
from monai_vqprior.volumes.placement import Placement
from monai_vqprior.volumes.reading import read_volume
from monai_vqprior.volumes.registration import Registration, check_registration_packages
from monai_vqprior.volumes.skull import apply_mask, find_mask, sign_of_skull
from monai_vqprior.volumes.spaces import BRAIN_CENTER, place
from monai_vqprior.volumes.template import Template, load_template

__all__ = ["CutHead", "HeadCutter", "Intensities", "slab_of"]

#: Where the middle of the slices lies along each axis in mm, of axial ones at the bodies of the lateral ventricles.
CENTERS = (0.0, -18.0, 26.0)
_MEASURED_AT = 2.0  # mm
_MOST_AT_BORDER = 0.5  # of its voxels; a field of view that ends within the brain has less
_RIM = 4.0  # mm beyond the ends of a head that are found
_STRIP = (
    "strip it first (SynthStrip, HD-BET, bet), name masks beside the volumes by --masks, or cut it as it is by --space "
    "scanner"
)


@dataclass(frozen=True, eq=False)
class CutHead:
    """
    The slices of one volume, and where they come from.

    Attributes:
        slices: (num_slices, size, size) ``uint8``, rows from top to bottom.
        placement: the volume and the matrix to the space of the slices.
        centroid: of the head in mm of the space, (3,); of the space ``scanner`` in mm from the middle of the slices.
        extent: of the head in mm of the space along x, y and z, (3,).
        registration: how well it fits the template; None for a head that was not registered.
        intensities: what the values of the slices are in the units of the volume.
    """

    slices: np.ndarray
    placement: Placement
    centroid: np.ndarray
    extent: np.ndarray
    registration: Registration | None
    intensities: Intensities

    def restore(self, slices: np.ndarray) -> Volume:
        """
        Bring slices back to the geometry and the units of the volume.

        Args:
            slices: (num_slices, size, size), 0 to 255: those of the volume, or reconstructions in their place. What
                rounds to 0 is background.

        Returns:
            ``float32``, with the shape and the affine of the volume.
        """
        shown = (slices >= 0.5).astype(np.float32)
        weight = self.placement.restore(shown)  # at the edge of the head, how much of a voxel is of the head
        data = self.placement.restore(slices * shown).data / np.maximum(weight.data, 0.5)
        unit = self.intensities
        values = np.float32(unit.low) + data * np.float32((unit.high - unit.low) / 255)
        return Volume(np.where(weight.data < 0.5, np.float32(unit.background), values), weight.affine)


@dataclass(frozen=True)
class Intensities:
    """
    What the values of slices are in the units of the volume.

    Attributes:
        background: the value out of the head.
        low: what becomes 0.
        high: what becomes 255.
    """

    background: float
    low: float
    high: float


class HeadCutter:
    """
    Cuts volumes into slices, all in the same way.

    Args:
        cutting: how. The template is read once.

    Raises:
        InputError: when the packages for it are missing, or the template cannot be used.
    """

    def __init__(self, cutting: Cutting) -> None:
        cutting.check()
        self.cutting = cutting
        self.space = cutting.space or "template"
        self.template = self._load_template()
        if cutting.bias_correction:
            check_registration_packages("bias correction")

    def __call__(self, path: Path, file: str, whole: bool = False) -> CutHead:
        """
        Cut a volume.

        Args:
            path: the volume.
            file: what its placement calls it, its path relative to the folder of the volumes.
            whole: cut all of it, in slices as near to one another as their pixels are or nearer, whatever their number.

        Returns:
            the slices and where they come from.

        Raises:
            InputError: naming the volume, when it cannot be read, has no mask where masks are named, holds a skull, is
                not registered well, or its slices show nothing.
        """
        volume = read_volume(path)
        mask = None if self.cutting.masks is None else read_volume(find_mask(path, self.cutting.masks))
        try:
            return self._cut(volume, mask, file, whole)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error

    def _cut(self, volume: Volume, mask: Volume | None, file: str, whole: bool) -> CutHead:
        head = blacken(volume)
        shift = float(head.data.max() - volume.data.max())
        background = 0.0 if head is volume else float(volume.data.flat[head.data.argmin()])
        if mask is not None:
            head = apply_mask(head, mask)
        head = crop(head)
        if self.space != "scanner":
            _check_stripped(head)
        if self.cutting.bias_correction:
            head = correct_bias(head)
        placed = place(head, self.space, self.template)
        centroid, low, high = _measures(head, placed.matrix)
        slab = slab_of(self.cutting, volume)
        if whole:
            slab = _whole_slab(slab, low, high)
        darkest, brightest = _range_of(head, self.cutting)
        slices = cut_slices(scale(head, darkest, brightest), slab, placed.matrix)
        if not whole:
            _check_shown(slices, slab, low, high)
        placement = Placement(
            file=file,
            shape=(volume.data.shape[0], volume.data.shape[1], volume.data.shape[2]),
            affine=volume.affine,
            matrix=placed.matrix,
            slab=slab,
            space=self.space,
            template="" if self.template is None else self.template.name,
        )
        if self.space == "scanner":  # whose slices have another center in each volume
            centroid = centroid - slab.center
        intensities = Intensities(background, darkest - shift, brightest - shift)
        pictures = np.rint(slices).astype(np.uint8)
        if not pictures.any():
            raise InputError("none of its slices shows anything of it: choose another --center or a larger --size.")
        return CutHead(pictures, placement, centroid, high - low, placed.registration, intensities)

    def _load_template(self) -> Template | None:
        """The template that heads are registered to, if they are; where a package is missing, a way without it."""
        if self.space not in ("template", "rigid"):
            return None
        try:
            check_registration_packages()
            return load_template(self.cutting.template)
        except InputError as error:
            if isinstance(error.__cause__, ModuleNotFoundError):
                raise InputError(
                    f"{error} Or pass --space native, which shifts each brain and needs neither."
                ) from error
            raise


def slab_of(cutting: Cutting, volume: Volume) -> Slab:
    """
    Where the slices of a volume lie.

    Args:
        cutting: how it is cut.
        volume: of the space ``scanner`` the middle of its field of view counts.

    Returns:
        the slices, in mm of the space.
    """
    center = np.array(BRAIN_CENTER)
    center[cutting.axis] = CENTERS[cutting.axis]
    if cutting.space == "scanner":
        center = volume.affine[:3, :3] @ ((np.array(volume.data.shape) - 1) / 2) + volume.affine[:3, 3]
    if cutting.center is not None:
        center[cutting.axis] = cutting.center
    center[cutting.axis] += cutting.center_offset
    return Slab(
        axis=cutting.axis,
        num_slices=cutting.num_slices,
        size=cutting.size,
        voxel_size=cutting.voxel_size,
        spacing=cutting.spacing,
        center=(float(center[0]), float(center[1]), float(center[2])),
    )


def _check_stripped(head: Volume) -> None:
    """Refuse what is not a brain on black: where it lies would be where its field of view lies."""
    sign = sign_of_skull(head)
    if sign is not None:
        raise InputError(f"it still holds a skull ({sign}): {_STRIP}.")
    share = float((border_of(head.data) > 0).mean())
    if share > _MOST_AT_BORDER:
        raise InputError(
            f"its background is not black: {share:.0%} of the voxels at its border are not 0, as an interpolation may "
            "leave them. Set them to 0, name masks beside the volumes by --masks, or cut it as it is by --space "
            "scanner."
        )


def _range_of(head: Volume, cutting: Cutting) -> tuple[float, float]:
    """The intensities of a head that become 0 and 255."""
    if cutting.scaling == "white_matter":
        return white_matter_range(head)
    return percentile_range(head, cutting.percentiles)


def _measures(head: Volume, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centroid of a head, and its lowest and highest place, (3,) each, in mm of the space."""
    steps = [max(1, int(_MEASURED_AT / size)) for size in head.voxel_sizes]
    thinned = tuple(slice(step // 2, None, step) for step in steps)
    indices: np.ndarray = np.argwhere(head.data[thinned] > 0) * steps + [step // 2 for step in steps]
    if not indices.size:  # a head of few voxels, such as a single slice
        indices = np.argwhere(head.data > 0)
    to_space = matrix @ head.affine
    places = indices @ to_space[:3, :3].T + to_space[:3, 3]
    # Single voxels that a stripping program has left far from the brain are not its end.
    low, high = np.percentile(places, (0.1, 99.9), axis=0)
    return places.mean(0), low, high


def _whole_slab(slab: Slab, low: np.ndarray, high: np.ndarray) -> Slab:
    """The slices of a slab, continued to both ends of a head."""
    axis, spacing = slab.axis, min(slab.spacing, slab.voxel_size)
    center = list(slab.center)
    center[axis] = float(low[axis] + high[axis]) / 2
    number = int(np.ceil((high[axis] - low[axis] + 2 * _RIM) / spacing)) + 1
    return replace(slab, num_slices=number, spacing=spacing, center=(center[0], center[1], center[2]))


def _check_shown(slices: np.ndarray, slab: Slab, low: np.ndarray, high: np.ndarray) -> None:
    """Refuse slices that show nothing."""
    empty = slab.positions[~slices.any(axis=(1, 2))]
    if empty.size:
        axis = slab.axis
        raise InputError(
            f"{empty.size} of its {slab.num_slices} slices show nothing, such as that at {empty[-1]:g} mm: it reaches "
            f"from {low[axis]:.0f} to {high[axis]:.0f} mm along axis {axis}; choose another --center, --spacing or "
            "--num_slices."
        )
