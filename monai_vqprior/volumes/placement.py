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


"""Where the slices of a volume come from, kept beside them, so that they can be brought back."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from monai_vqprior.errors import InputError
from monai_vqprior.files import check_extent, read_json, write_text
from monai_vqprior.prepare_arguments import SPACES
from monai_vqprior.volumes.geometry import Slab, Volume, check_matrix, restore_slices

__all__ = ["SPACES", "Placement", "read_placement", "write_placement"]

_ADVICE = "prepare the volumes again, or name another file"


@dataclass(frozen=True, eq=False)
class Placement:
    """
    Where the slices of one volume lie.

    Attributes:
        file: the volume, relative to the folder of the volumes.
        shape: its voxels, (X, Y, Z).
        affine: (4, 4), its voxel indices to RAS+ mm.
        matrix: (4, 4), these mm to the mm that the slices are cut by.
        slab: the slices.
        space: one of ``SPACES``.
        template: name of the template; empty where there is none.
    """

    file: str
    shape: tuple[int, int, int]
    affine: np.ndarray
    matrix: np.ndarray
    slab: Slab
    space: str = "template"
    template: str = ""

    def restore(self, slices: np.ndarray) -> Volume:
        """
        Bring slices back to the geometry of the volume.

        Args:
            slices: (num_slices, size, size): those of the volume, or maps, reconstructions and samples in their place.

        Returns:
            ``float32``, with the shape and the affine of the volume; 0 where no slice reaches.

        Raises:
            InputError: when the slices are not those of the slab.
        """
        # The voxels do not matter here, only how many there are: an array of one zero.
        like = Volume(np.broadcast_to(np.float32(0), self.shape), self.affine)
        return restore_slices(slices, self.slab, like, self.matrix)


def write_placement(path: str | os.PathLike[str], placement: Placement) -> Path:
    """
    Write a placement as JSON.

    Args:
        path: the file, ``transforms/case_1.json`` as a rule.
        placement: what to write; each number keeps its value.

    Returns:
        the path that was written.
    """
    content: dict[str, Any] = {
        "file": placement.file,
        "space": placement.space,
        "template": placement.template,
        "shape": [int(length) for length in placement.shape],
        "affine": placement.affine.tolist(),
        "matrix": placement.matrix.tolist(),
        "slab": asdict(placement.slab),
    }
    rows = ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in content.items())
    return write_text(path, f"{{\n{rows}\n}}\n")


def read_placement(path: str | os.PathLike[str]) -> Placement:
    """
    Read what :func:`write_placement` has written.

    Args:
        path: the file.

    Returns:
        the placement.

    Raises:
        InputError: naming the file, when it is missing, no JSON, or holds something else.
    """
    content = read_json(path, _ADVICE)
    try:
        placement = _placement(content)
    except KeyError as error:
        raise InputError(f"{path} has no {error}: {_ADVICE}.") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is no placement of slices ({error}): {_ADVICE}.") from error
    check_extent(path, placement.shape)
    check_extent(path, placement.slab.shape)
    return placement


def _placement(content: dict[str, Any]) -> Placement:
    """The placement that a file tells of; ValueError where one of its values is none of its kind."""
    shape, slab = content["shape"], content["slab"]
    if len(shape) != 3 or not all(type(length) is int and length > 0 for length in shape):
        raise ValueError(f"shape is {shape}")
    if content["space"] not in SPACES:
        raise ValueError(f"space is {content['space']!r}")
    matrices = {key: np.array(content[key], np.float64) for key in ("affine", "matrix")}
    for key, matrix in matrices.items():
        check_matrix(matrix, key)
    kinds = {"axis": int, "num_slices": int, "size": int, "voxel_size": float, "spacing": float}
    sizes: dict[str, Any] = {key: kind(slab[key]) for key, kind in kinds.items()}
    x, y, z = map(float, slab["center"])
    return Placement(
        file=str(content["file"]),
        shape=(shape[0], shape[1], shape[2]),
        slab=Slab(**sizes, center=(x, y, z)),
        space=content["space"],
        template=str(content["template"]),
        **matrices,
    )
