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

from __future__ import annotations

from typing import Any

import numpy as np

from monai_vqprior.data import SliceFolder, stack_height
from monai_vqprior.errors import InputError
from monai_vqprior.volumes import Volume
from monai_vqprior.volumes.heads import slab_of

__all__ = ["check_whole_heads", "head_settings"]


def head_settings(slices: SliceFolder, neighbor_context: bool) -> dict[str, Any]:
    """
    What the heads of a data set are like, for those that a prior draws.

    Args:
        slices: the data set.
        neighbor_context: whether the prior draws heads.

    Returns:
        ``head_slices``, ``head_axis`` and ``head_affine`` (rows of a 4 x 4 matrix, voxel indices to mm of the space in
        which ``vqprior prepare`` has cut the slices), each None where it is not known.
    """
    known: dict[str, Any] = dict.fromkeys(("head_slices", "head_axis", "head_affine"))
    if not neighbor_context:
        return known
    known["head_slices"] = stack_height(slices, slices.datalist("train"))
    cutting = slices.cutting
    if cutting is not None and cutting.num_slices == known["head_slices"]:
        # Of slices of the space "scanner", whose place differs from head to head, the middle becomes the origin.
        slab = slab_of(cutting, Volume(np.zeros((1, 1, 1)), np.eye(4)))
        known |= {"head_axis": slab.axis, "head_affine": slab.affine.tolist()}
    return known


def check_whole_heads(neighbor_context: bool, head_slices: int | None, num_slices: int | None) -> None:
    """
    Refuse to draw heads by a prior that cannot, before its weights are read.

    Args:
        neighbor_context: whether the prior knows slices given those below.
        head_slices: slices of a head of its training.
        num_slices: slices that are asked for; None for all.

    Raises:
        InputError: when it does not, and when there are more slices than heads have.
    """
    if not neighbor_context or head_slices is None:
        raise InputError(
            "this prior draws single slices, not volumes: train one that knows the slices below, by vqprior train "
            "--stage prior --neighbor_context true, on a data set with several slices a subject."
        )
    if num_slices is not None and num_slices > head_slices:
        raise InputError(f"num_slices must be at most {head_slices}, as a head of the training has, got {num_slices}.")
