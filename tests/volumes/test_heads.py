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

from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

from monai_vqprior.errors import InputError
from monai_vqprior.prepare_arguments import Cutting
from monai_vqprior.volumes import HeadCutter, Volume


def cut(volume: Volume, tmp_path: Path, **arguments: object) -> np.ndarray:
    """The slices of a volume that was written to a file."""
    path = tmp_path / "head.nii.gz"
    nibabel.save(nibabel.Nifti1Image(volume.data, volume.affine), path)
    settings = {"space": "native", "size": 48, "voxel_size": 2, "num_slices": 3, "center": 6.5, **arguments}
    return HeadCutter(Cutting(**settings))(path, path.name).slices


@pytest.mark.parametrize("negative", [False, True])
def test_a_background_that_is_not_black_is_refused(
    sample: Callable[..., Volume], tmp_path: Path, negative: bool
) -> None:
    """The bounding box of such a head is its field of view, and a shift by it would bring it anywhere."""
    head = sample()
    noise = np.random.default_rng(0).normal(0, 0.3, head.data.shape)
    black = Volume(np.where(head.data > 100, head.data, 0), head.affine)
    noisy = Volume((black.data + (noise if negative else np.abs(noise))).astype(np.float32), head.affine)
    assert cut(black, tmp_path).any()
    with pytest.raises(InputError, match=r"head\.nii\.gz: its background is not black: (9\d|100)% of the voxels"):
        cut(noisy, tmp_path)
    assert cut(noisy, tmp_path, space="scanner", center=None).any()


def test_a_head_of_one_slice(sample: Callable[..., Volume], tmp_path: Path) -> None:
    head = sample(np.diag([1.0, 1.0, 1.0]))
    middle = head.data.shape[2] // 2
    single = Volume(head.data[:, :, middle : middle + 1], head.affine)
    arguments = {"space": "scanner", "center": None, "voxel_size": 1, "size": 80}
    assert cut(single, tmp_path, num_slices=1, **arguments).any()
    with pytest.raises(InputError, match="2 of its 3 slices show nothing"):
        cut(single, tmp_path, num_slices=3, spacing=5, **arguments)


def test_a_head_beside_all_slices(sample: Callable[..., Volume], tmp_path: Path) -> None:
    head = sample()
    path = tmp_path / "head.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.where(head.data > 100, head.data, 0), head.affine), path)
    cutter = HeadCutter(Cutting(space="scanner", size=16, voxel_size=0.1))
    far = Volume(head.data, head.affine)
    affine = far.affine.copy()
    affine[0, 3] += 25
    data = np.where(head.data > 100, head.data, 0)
    data[: data.shape[0] // 2 + 5] = 0
    nibabel.save(nibabel.Nifti1Image(data, affine), path)
    with pytest.raises(InputError, match="none of its slices shows anything"):
        cutter(path, path.name, whole=True)
