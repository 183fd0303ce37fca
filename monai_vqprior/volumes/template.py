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


"""The head that the others are registered to: one without a skull, from a package or a file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from scipy import ndimage

from monai_vqprior.errors import InputError, needs_extra
from monai_vqprior.volumes.geometry import Volume
from monai_vqprior.volumes.reading import read_volume

__all__ = ["MNI152", "Template", "load_template"]

#: Name of the template that nilearn's wheel carries: 197 x 233 x 189 voxels of 1 mm.
MNI152 = "MNI152 2009a symmetric, nilearn"
_FILES = "mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"
_TISSUE = 75  # of 255: grey and white matter together where the brain is
_SMALLEST_BRAIN = 1e5  # cubic mm; a newborn's has three times as much


@dataclass(frozen=True, eq=False)
class Template:
    """
    A head without a skull, in the space that slices are cut in.

    Attributes:
        name: what the files that a registration writes call it.
        volume: its intensities, 0 out of the brain.
        mask: where the brain is, of the same shape.
    """

    name: str
    volume: Volume
    mask: np.ndarray

    @property
    def center(self) -> np.ndarray:
        """Centroid of the brain in mm, (3,)."""
        return self.volume.affine[:3, :3] @ np.array(ndimage.center_of_mass(self.mask)) + self.volume.affine[:3, 3]

    @property
    def brain_volume(self) -> float:
        """Volume of the brain in cubic mm."""
        return float(self.mask.sum() * self.volume.voxel_volume)


def load_template(path: str | os.PathLike[str] | None = None) -> Template:
    """
    Read a template.

    Args:
        path: a NIfTI volume of a head without skull, 0 out of the brain; by default MNI152 as nilearn carries it, for
            which nothing is downloaded.

    Returns:
        the template and its mask.

    Raises:
        InputError: naming the file, when it cannot be read, is not 0 out of the brain or holds no brain; naming the
            package, when nilearn is not installed.
    """
    return _mni152() if path is None else _of_file(Path(path))


def _mni152() -> Template:
    """MNI152 without skull; the mask is filled grey and white matter."""
    with needs_extra("registration", "the template MNI152"):
        place = find_spec("nilearn")  # to import it takes seconds, and only its data are needed
        if place is None or place.origin is None:
            raise ModuleNotFoundError("No module named 'nilearn'", name="nilearn")
    folder = Path(place.origin).parent / "datasets" / "data"
    head, grey, white = (read_volume(folder / _FILES.format(kind)) for kind in ("t1", "gm", "wm"))
    tissue = grey.data + white.data > _TISSUE
    mask = ndimage.binary_fill_holes(ndimage.binary_closing(tissue, iterations=3))
    return Template(MNI152, Volume(np.where(mask, head.data, 0), head.affine), mask)


def _of_file(path: Path) -> Template:
    """A template of the user's."""
    if not path.is_file():
        raise InputError(f"{path} does not exist: name the file of a template.")
    volume = read_volume(path)
    mask = volume.data > 0
    if mask.mean() > 0.8:
        raise InputError(f"{path} is no template: it must be 0 out of the brain, a head without skull.")
    if mask.sum() * volume.voxel_volume < _SMALLEST_BRAIN:
        raise InputError(f"{path} is no template: less than {_SMALLEST_BRAIN / 1000:g} ml of it are above 0.")
    mask = ndimage.binary_fill_holes(mask)
    return Template(path.name, Volume(np.where(mask, volume.data, 0), volume.affine), mask)
