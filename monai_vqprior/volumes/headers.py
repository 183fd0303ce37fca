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

"""What the header of a volume claims, checked before nibabel believes it and takes the memory for it."""

from __future__ import annotations

import gzip
import io
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from monai_vqprior.errors import InputError
from monai_vqprior.files import check_extent
from monai_vqprior.volumes.layouts import name_of

# nibabel is imported where it is used: to import it takes time.
if TYPE_CHECKING:
    from nibabel.spatialimages import SpatialImage

__all__ = [
    "affine_of", "check_checksum", "check_header", "check_orientation", "check_volume", "header_of", "is_pair",
    "voxel_sizes",
]  # fmt: skip

# What may lie before the voxels: the header, and extensions such as the DICOM header of the scan.
_MOST_HEADER_BYTES = 2**26
# Gzip cannot make more bytes than these of one.
_MOST_COMPRESSION = 1032
# An SPM .mat file beside an Analyze volume holds two matrices of 4 x 4 numbers; it may be compressed.
_MOST_MATRIX_BYTES = 2**16
# The first numbers of a header of FreeSurfer's.
_MGH_DIMENSIONS = np.dtype([("version", ">i4"), ("shape", ">i4", 4)])
# Bytes that are decompressed at a time.
_CHUNK = 2**20
# How many times as long as another the side of a voxel may be.
_MOST_ELONGATED = 100
# By how much the two sizes of a voxel in a NIfTI header may differ: an affine to a template stretches a brain a little.
_MOST_STRETCH = 1.25
# Cosine of the angle between two axes of a volume, which are at right angles but for rounding.
_MOST_SHEAR = 0.02
# The longest side of a field of view in mm, far beyond those of any head.
_LEAST_SIDE, _MOST_SIDE = 1.0, 1e4
# Millimeters of the units of length that a NIfTI header may name by its code, see nifti1.h; others mean millimeters.
_UNITS = {1: ("meters", 1e3), 3: ("microns", 1e-3)}
# Cosine of the angle between an axis by the sform and by the qform: a head is turned by less to fit a template.
_LEAST_COSINE = 0.5


def header_of(path: Path) -> Path | None:
    """The ``.hdr`` or ``.hdr.gz`` beside an ``.img`` or ``.img.gz``; None where there is none."""
    bare = name_of(path.name)
    names = [f"{bare}{suffix}" for suffix in (".hdr", ".HDR", ".hdr.gz", ".HDR.GZ")]
    return next((path.with_name(name) for name in names if path.with_name(name).is_file()), None)


def is_pair(path: Path) -> bool:
    """Whether a volume lies in two files, ``.img`` and ``.hdr``."""
    return path.name.lower().endswith((".img", ".img.gz"))


def is_compressed(path: Path) -> bool:
    """Whether a volume is compressed by gzip, by its name."""
    return path.suffix.lower() in (".gz", ".mgz")


def check_header(path: Path) -> None:
    """
    Refuse a file whose header makes nibabel read more than anybody means, before nibabel reads it.

    Extensions of a NIfTI file lie between header and voxels. One that claims a negative length makes nibabel read to
    the end, which of a compressed file may be far; so they are read here from a copy of what lies before the voxels.

    Args:
        path: a volume; the ``.hdr`` of an ``.img`` is there.

    Raises:
        InputError: naming the file and the limit.
        Exception: what nibabel raises for a file that is damaged.
    """
    import nibabel
    from nibabel.openers import ImageOpener

    if path.suffix.lower() in (".mgz", ".mgh"):
        _check_freesurfer(path)
        return
    pair = header_of(path) if is_pair(path) else None
    matrix = path.with_name(f"{name_of(path.name)}.mat")
    if pair is not None and matrix.is_file() and matrix.stat().st_size > _MOST_MATRIX_BYTES:
        raise InputError(f"{matrix} has more than the {_MOST_MATRIX_BYTES} bytes of a matrix: remove it.")
    kinds = (nibabel.Nifti1Header, nibabel.Nifti2Header)
    with ImageOpener(str(pair or path)) as file:
        start = file.read(max(kind.template_dtype.itemsize for kind in kinds))
        kind = next((kind for kind in kinds if kind.may_contain_header(start)), None)
        if kind is None:
            return
        header = kind(start[: kind.template_dtype.itemsize], check=False)
        axes = max(3, min(7, int(header["dim"][0])))
        check_extent(path, header["dim"][1 : 1 + axes].tolist())
        offset = int(header["vox_offset"])
        if offset > _MOST_HEADER_BYTES:
            raise InputError(
                f"{path} claims that its voxels begin at byte {offset}, more than the {_MOST_HEADER_BYTES} of a header."
            )
        if pair is None:
            file.seek(0)
            kind.from_fileobj(io.BytesIO(file.read(max(offset, len(start)))), check=False)


def _check_freesurfer(path: Path) -> None:
    """Refuse a file of FreeSurfer's that claims too many voxels; what lies behind them is read only with them."""
    with gzip.open(path) if is_compressed(path) else path.open("rb") as file:
        start = file.read(_MGH_DIMENSIONS.itemsize)
    if len(start) < _MGH_DIMENSIONS.itemsize:
        raise EOFError("its header is not complete")
    check_extent(path, np.frombuffer(start, _MGH_DIMENSIONS)[0]["shape"].tolist())


def check_volume(path: Path, image: SpatialImage) -> None:
    """
    Refuse all but a single 3-D volume of real numbers that its file can hold, before its voxels are read.

    Raises:
        InputError: naming the file.
    """
    if image.get_data_dtype().kind not in "iuf":
        raise InputError(f"{path} holds voxels of type {image.get_data_dtype()}, not real numbers.")
    if len(image.shape) < 3 or min(image.shape) < 1:
        raise InputError(f"{path} is not a 3-D volume: its shape is {image.shape}.")
    check_extent(path, image.shape)
    claimed = math.prod(image.shape) * image.get_data_dtype().itemsize
    size = path.stat().st_size * (_MOST_COMPRESSION if is_compressed(path) else 1)
    if claimed > size:  # nibabel would take the memory first, and then find out
        raise InputError(f"{path} cannot be read as a volume, it may be truncated: its header claims {claimed} bytes.")
    frames = math.prod(image.shape[3:])
    if frames > 1:
        raise InputError(f"{path} holds {frames} volumes (shape {image.shape}): extract one of them first.")


def check_checksum(path: Path, image: SpatialImage) -> None:
    """
    Find damage in a compressed volume that decompresses all the same.

    The checksum of gzip lies behind the last voxel, where nibabel does not read on to.

    Args:
        path: the file; one that is not compressed has no checksum.
        image: what nibabel has read of its header.

    Raises:
        InputError: naming the file, when it holds much more than its header claims.
        OSError: and others of gzip's errors, when the checksum is wrong.
    """
    if not is_compressed(path):
        return
    most = _MOST_HEADER_BYTES + math.prod(image.shape) * image.get_data_dtype().itemsize
    with gzip.open(path) as file:
        size = 0
        while chunk := file.read(_CHUNK):
            size += len(chunk)
            if size > most:
                raise InputError(f"{path} holds more than the {most} bytes of its header and voxels: replace it.")


def check_orientation(path: Path, image: SpatialImage) -> None:
    """
    Refuse a volume whose header does not define, or defines in two ways, the axes and the size of a voxel.

    NIfTI has two orientations, sform and qform, each of which may be missing. nibabel takes the sform where it is
    there, and guesses where both are missing. For Analyze see :func:`monai_vqprior.volumes.read_volume`.

    Args:
        path: the file.
        image: what nibabel has read of its header.

    Raises:
        InputError: naming the file.
    """
    import nibabel
    from nibabel.freesurfer.mghformat import MGHHeader

    sizes = voxel_sizes(image)
    if not (np.isfinite(sizes).all() and sizes.min() > 0 and sizes.max() <= _MOST_ELONGATED * sizes.min()):
        raise InputError(f"{path} has voxels of {_shown(sizes)} mm by its header, which cannot be: mend its header.")
    axes = image.affine[:3, :3] / sizes
    if np.abs(axes.T @ axes - np.eye(3)).max() > _MOST_SHEAR:
        raise InputError(f"{path} has axes that are not at right angles by its header: resample it first.")
    header = image.header
    if isinstance(header, MGHHeader) and not header["goodRASFlag"]:
        raise InputError(f"{path} does not tell left from right (its goodRASFlag is 0): convert it by mri_convert.")
    if not isinstance(header, nibabel.Nifti1Header):
        return
    sform, qform = (form if code > 0 else None for form, code in (header.get_sform(True), header.get_qform(True)))
    if sform is None and qform is None:
        raise InputError(
            f"{path} does not tell left from right (its sform_code and qform_code are 0): set the one that is right in "
            "its header, by nibabel's set_sform or by fslorient."
        )
    if sform is None:
        return
    if qform is not None and _least_cosine(sform, qform) < _LEAST_COSINE:
        raise InputError(
            f"{path} has two orientations in its header, {''.join(nibabel.aff2axcodes(sform))} by its sform and "
            f"{''.join(nibabel.aff2axcodes(qform))} by its qform: remove the wrong one."
        )
    claimed = np.array(header.get_zooms()[:3], np.float64)
    with np.errstate(divide="ignore"):
        stretch = np.abs(np.log(claimed / sizes))
    if stretch.max() > math.log(_MOST_STRETCH):
        raise InputError(
            f"{path} has voxels of {_shown(claimed)} mm by the pixdim of its header, and of {_shown(sizes)} mm by its "
            "sform: mend the one that is wrong."
        )


def _least_cosine(affine: np.ndarray, other: np.ndarray) -> float:
    """Cosine of the largest angle between an axis of one orientation and the same axis of another."""
    axes, others = (matrix[:3, :3] / np.linalg.norm(matrix[:3, :3], axis=0) for matrix in (affine, other))
    return float((axes * others).sum(0).min())


def affine_of(path: Path, image: SpatialImage) -> np.ndarray:
    """
    The affine of a volume in millimeters, whatever unit its header has.

    Args:
        path: the file.
        image: what nibabel has read of its header; nibabel takes no notice of the unit.

    Returns:
        (4, 4), voxel indices to RAS+ mm.

    Raises:
        InputError: naming the file, when no head can be so small or so large.
    """
    import nibabel

    affine = np.array(image.affine, np.float64)
    header = image.header
    code = int(header["xyzt_units"]) & 7 if isinstance(header, nibabel.Nifti1Header) else 0
    unit, millimeters = _UNITS.get(code, ("mm", 1.0))
    affine[:3] *= millimeters
    sides = voxel_sizes(image) * millimeters * image.shape[:3]
    if not _LEAST_SIDE <= sides.max() <= _MOST_SIDE:
        raise InputError(
            f"{path} is {_shown(sides)} mm large by its header, in which lengths are in {unit}: mend the unit or the "
            "sizes of its voxels."
        )
    return affine


def voxel_sizes(image: SpatialImage) -> np.ndarray:
    """Sides of a voxel along the axes of an image, (3,), in the unit of its header, mm as a rule."""
    return np.linalg.norm(np.asarray(image.affine, np.float64)[:3, :3], axis=0)


def _shown(sizes: np.ndarray) -> str:
    return " x ".join(f"{size:g}" for size in sizes)
