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

import io
import math
from pathlib import Path
from typing import TYPE_CHECKING

from monai_vqprior.errors import InputError
from monai_vqprior.files import check_extent

# nibabel is imported where it is used: only who has volumes needs it.
if TYPE_CHECKING:
    from nibabel.spatialimages import SpatialImage

__all__ = ["check_header", "check_volume", "header_of"]

# What may lie before the voxels: the header, and extensions such as the DICOM header of the scan.
_MOST_HEADER_BYTES = 2**26
# Gzip cannot make more bytes than these of one.
_MOST_COMPRESSION = 1032
# An SPM .mat file beside an Analyze volume holds two matrices of 4 x 4 numbers; it may be compressed.
_MOST_MATRIX_BYTES = 2**16


def header_of(path: Path) -> Path | None:
    """The ``.hdr`` beside an ``.img``; None where there is none."""
    return next((path.with_suffix(suffix) for suffix in (".hdr", ".HDR") if path.with_suffix(suffix).is_file()), None)


def check_header(path: Path) -> None:
    """
    Refuse a file whose header makes nibabel read more than anybody means, before nibabel reads it.

    Extensions of a NIfTI file lie between header and voxels. One that claims a negative length makes nibabel read to
    the end, which of a compressed file may be far; so they are read here from a copy of what lies before the voxels.

    Args:
        path: ``.nii``, ``.nii.gz``, or the ``.img`` of a pair whose ``.hdr`` is there.

    Raises:
        InputError: naming the file and the limit.
        Exception: what nibabel raises for a file that is damaged.
    """
    import nibabel
    from nibabel.openers import ImageOpener

    pair = header_of(path) if path.suffix.lower() == ".img" else None
    matrix = path.with_suffix(".mat")
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
    size = path.stat().st_size * (_MOST_COMPRESSION if path.suffix.lower() == ".gz" else 1)
    if claimed > size:  # nibabel would take the memory first, and then find out
        raise InputError(f"{path} cannot be read as a volume, it may be truncated: its header claims {claimed} bytes.")
    frames = math.prod(image.shape[3:])
    if frames > 1:
        raise InputError(f"{path} holds {frames} volumes (shape {image.shape}): extract one of them first.")
