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


"""Heads that still hold a skull are recognized, and masks that lie beside volumes take it away."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from scipy import ndimage

from monai_vqprior.errors import InputError
from monai_vqprior.volumes.geometry import Volume, resample, resample_to_cubes
from monai_vqprior.volumes.layouts import name_of

__all__ = ["apply_mask", "find_mask", "sign_of_skull"]

_CUBE = 3.0  # mm
_TISSUE = 0.12  # of the 99th percentile; noise in the air around a head is below it
_LARGEST_BRAIN = 2300.0  # ml with all that a stripping program leaves; a head with skull has 3000 and more
_RIND = 24.0  # mm from the surface inwards that scalp, skull and cortex lie in
_DIP = 0.2  # of the intensity of the brain


def sign_of_skull(volume: Volume) -> str | None:
    """
    Tell whether a head still holds its skull.

    A head is larger than any brain; where it is a child's, scalp, skull and brain follow one another from the surface
    inwards, bright, dark and bright. A brain without skull grows brighter inwards.

    Args:
        volume: a T1-weighted head.

    Returns:
        what tells of a skull, as the end of a sentence; None for a head without one.
    """
    cubes = resample_to_cubes(volume, _CUBE, margin=2 * _CUBE).data
    values = cubes[cubes > 0]
    if not values.size:
        return None
    head = _filled(cubes > _TISSUE * np.percentile(values, 99))
    milliliters = float(head.sum() * _CUBE**3 / 1000)
    if milliliters > _LARGEST_BRAIN:
        return f"{milliliters / 1000:.1f} liters are above the background, more than a brain has"
    dip = _dip_below_surface(cubes, head)
    if dip > _DIP:
        return (
            f"it is bright at its surface and darker below it, by {dip:.2f} of the brain, as scalp over skull is, or "
            "grey over white matter in a scan that is not T1-weighted"
        )
    return None


def _filled(mask: np.ndarray) -> np.ndarray:
    """The largest connected part of a mask, bone between scalp and brain closed and holes filled."""
    closed = ndimage.binary_closing(mask, iterations=2)
    labels, count = ndimage.label(closed)
    if count > 1:
        closed = labels == 1 + np.argmax(ndimage.sum_labels(closed, labels, range(1, count + 1)))
    return ndimage.binary_fill_holes(closed)


def _dip_below_surface(cubes: np.ndarray, head: np.ndarray) -> float:
    """How much darker it is below the surface than at it, relative to the inside of the head."""
    depth = ndimage.distance_transform_edt(head) * _CUBE
    inside = depth > _RIND
    if not inside.any():
        return 0.0
    layers = [(depth > start) & (depth <= start + _CUBE) for start in np.arange(0, _RIND, _CUBE)]
    profile = np.array([np.median(cubes[layer]) for layer in layers if layer.any()])
    brightest_above = np.maximum.accumulate(profile)
    return float(np.max(brightest_above - profile) / max(float(np.median(cubes[inside])), 1e-6))


def find_mask(path: str | os.PathLike[str], pattern: str) -> Path:
    """
    Find the mask of a volume.

    Args:
        path: the volume.
        pattern: glob relative to the volume's folder, in which ``{name}`` stands for the volume's name without suffix:
            ``{name}_mask.nii.gz`` as of HD-BET, ``brainmask.mgz`` of FreeSurfer, ``../masks/{name}*.nii.gz``.

    Returns:
        the one file that matches.

    Raises:
        InputError: naming the volume, when none or several match.
    """
    path = Path(path)
    try:
        filled = pattern.replace("{name}", _escaped(name_of(path.name)))
        found = sorted(mask for mask in path.parent.glob(filled) if mask.is_file() and mask != path)
    except (ValueError, NotImplementedError) as error:
        raise InputError(f"masks must be a relative glob such as {{name}}_mask.nii.gz, got {pattern!r}.") from error
    if len(found) != 1:
        among = f" ({', '.join(mask.name for mask in found[:3])})" if found else ""
        raise InputError(f"{path} has {len(found) or 'no'} masks that match {pattern!r}{among}: name one by --masks.")
    return found[0]


def _escaped(name: str) -> str:
    """A name in which nothing stands for anything else in a glob."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def apply_mask(volume: Volume, mask: Volume) -> Volume:
    """
    Take away what lies out of a mask.

    Args:
        volume: a head.
        mask: above 0 where the brain is; its voxels may lie elsewhere, the affines tell.

    Returns:
        the volume, 0 out of the mask.

    Raises:
        InputError: when nothing of the volume is in the mask.
    """
    brain = (mask.data > 0).astype(np.float32)
    same = mask.data.shape == volume.data.shape and np.allclose(mask.affine, volume.affine, atol=1e-3)
    if not same:
        brain = resample(Volume(brain, mask.affine), volume.data.shape, volume.affine).data
    data = np.where(brain >= 0.5, volume.data, 0)
    if not data.any():
        raise InputError("the mask leaves nothing of the volume: it belongs to another one, or is empty.")
    return Volume(data, volume.affine)
