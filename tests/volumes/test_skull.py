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
import pytest
from scipy import ndimage

from monai_vqprior.errors import InputError
from monai_vqprior.volumes import Volume, apply_mask, find_mask, sign_of_skull


def brain(millimeters: float = 70.0) -> Volume:
    """A ball that grows brighter inwards, as cortex and white matter do, in voxels of 3 mm."""
    places = np.stack(np.meshgrid(*[np.arange(-28, 29) * 3.0] * 3, indexing="ij"), -1)
    radius = np.linalg.norm(places, axis=-1) / millimeters
    noise = np.random.default_rng(0).normal(1, 0.05, radius.shape)
    values = np.where(radius < 1, np.interp(radius, (0, 0.75, 0.9, 1), (100, 100, 60, 40)) * noise, 0)
    affine = np.diag([3.0, 3.0, 3.0, 1.0])
    affine[:3, 3] = -84
    return Volume(values.astype(np.float32), affine)


def with_skull(volume: Volume, noise: float = 0.0) -> Volume:
    """A head around a brain: 2 mm of fluid, 6 mm of bone and 5 mm of scalp, which is as bright as white matter."""
    margin = np.ceil(18 / volume.voxel_sizes).astype(int)
    affine = volume.affine.copy()
    affine[:3, 3] -= affine[:3, :3] @ margin
    data = np.pad(volume.data, [(width, width) for width in margin])
    inside = ndimage.binary_fill_holes(ndimage.binary_closing(data > 0, iterations=2))
    depth = ndimage.distance_transform_edt(~inside, sampling=volume.voxel_sizes)
    top = np.percentile(data[data > 0], 98)
    shell = np.select([depth < 2, depth < 8, depth < 13], [0.25 * top, 0.05 * top, 0.95 * top], 0.0)
    data = np.where(inside, data, shell)
    data = data + np.abs(np.random.default_rng(0).normal(0, noise * top, data.shape)) if noise else data
    return Volume(data.astype(np.float32), affine)


@pytest.mark.parametrize("millimeters", [45.0, 60.0, 74.0])
def test_skulls_of_small_and_large_heads(millimeters: float) -> None:
    assert sign_of_skull(brain(millimeters)) is None
    for noise in (0.0, 0.03):
        assert sign_of_skull(with_skull(brain(millimeters), noise)) is not None


def test_size_alone_tells() -> None:
    assert "liters" in str(sign_of_skull(brain(86.0)))


def test_an_empty_volume_has_no_skull() -> None:
    assert sign_of_skull(Volume(np.zeros((5, 5, 5), np.float32), np.eye(4))) is None


def test_real_heads(real_heads: list[Volume]) -> None:
    for head in real_heads:
        coarse = Volume(head.data[::2, ::2, ::2], head.affine @ np.diag([2.0, 2.0, 2.0, 1.0]))
        assert sign_of_skull(coarse) is None
        assert sign_of_skull(with_skull(coarse)) is not None


def test_a_mask_takes_the_skull_away() -> None:
    stripped = brain()
    head = with_skull(stripped)
    mask = Volume((stripped.data > 0).astype(np.uint8), stripped.affine)  # on another grid than the head
    masked = apply_mask(head, mask)
    assert masked.data.shape == head.data.shape
    assert sign_of_skull(masked) is None
    assert (masked.data > 0).sum() == pytest.approx((stripped.data > 0).sum(), rel=0.01)
    far = mask.affine.copy()
    far[:3, 3] += 1000
    with pytest.raises(InputError, match="nothing of the volume"):
        apply_mask(head, Volume(mask.data, far))


def test_masks_beside_volumes(tmp_path: Path) -> None:
    names = (
        "sub-01_T1w.nii.gz",
        "sub-01_T1w_mask.nii.gz",
        "sub-02_T1w.NII.GZ",
        "a[1].nii",
        "a[1]_mask.nii.gz",
        "b.mgz",
    )
    for name in (*names, "brainmask.mgz", "b_mask1.nii", "b_mask2.nii"):
        (tmp_path / name).touch()
    assert find_mask(tmp_path / "sub-01_T1w.nii.gz", "{name}_mask.nii.gz").name == "sub-01_T1w_mask.nii.gz"
    assert find_mask(tmp_path / "a[1].nii", "{name}_mask*").name == "a[1]_mask.nii.gz"
    assert find_mask(tmp_path / "b.mgz", "brainmask.mgz").name == "brainmask.mgz"
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "b.nii").touch()
    assert find_mask(tmp_path / "b.mgz", "masks/{name}.*") == tmp_path / "masks" / "b.nii"
    with pytest.raises(InputError, match=r"sub-02_T1w.NII.GZ has no masks"):
        find_mask(tmp_path / "sub-02_T1w.NII.GZ", "{name}_mask.nii.gz")
    with pytest.raises(InputError, match="has 2 masks"):
        find_mask(tmp_path / "b.mgz", "{name}_mask*")
    with pytest.raises(InputError, match="relative glob"):
        find_mask(tmp_path / "b.mgz", "/etc/*")
