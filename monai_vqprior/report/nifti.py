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

from pathlib import Path

import numpy as np

from monai_vqprior.files import atomic_path
from monai_vqprior.volumes import Volume

__all__ = ["write_nifti"]


def write_nifti(path: Path, volume: Volume) -> Path:
    """
    Write a volume as NIfTI of ``float32``, under a temporary name first.

    Args:
        path: the file, ``.nii`` or ``.nii.gz``.
        volume: voxels, and where they lie.

    Returns:
        the path that was written.
    """
    import nibabel  # takes time, and only who has volumes needs it

    with atomic_path(path) as temporary:
        image = nibabel.Nifti1Image(volume.data.astype(np.float32), volume.affine)
        image.header.set_xyzt_units("mm")
        nibabel.save(image, temporary)
    return path
