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

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from monai_vqprior.errors import InputError
from monai_vqprior.volumes import Placement, Slab, Volume, cut_slices, read_placement, write_placement

MATRIX = np.eye(4)
MATRIX[:3] = np.column_stack([Rotation.from_euler("xyz", (5, -3, 8), degrees=True).as_matrix() * 1.1, (1 / 3, -2, 4)])


def placement_of(volume: Volume) -> Placement:
    slab = Slab(axis=1, num_slices=20, size=40, voxel_size=2.0, spacing=2.0, center=(1.0, -2.0, 0.1))
    return Placement("sub-01/anat/sub-01_T1w.nii.gz", volume.data.shape, volume.affine, MATRIX, slab, "template", "MNI")


def test_a_placement_is_read_as_it_was_written(sample: Callable[..., Volume], tmp_path: Path) -> None:
    placement = placement_of(sample(np.diag([-0.868, 0.9, 1.2])))
    again = read_placement(write_placement(tmp_path / "transforms" / "case_1.json", placement))
    np.testing.assert_array_equal(again.matrix, placement.matrix)
    np.testing.assert_array_equal(again.affine, placement.affine)
    for name in ("file", "shape", "slab", "space", "template"):
        assert getattr(again, name) == getattr(placement, name)
    assert len((tmp_path / "transforms" / "case_1.json").read_text().splitlines()) < 12


def test_slices_come_back_by_what_the_file_says(sample: Callable[..., Volume], tmp_path: Path) -> None:
    volume = sample(np.diag([-1.0, 1.5, 2.0]))
    placement = placement_of(volume)
    slices = cut_slices(volume, placement.slab, placement.matrix)
    back = read_placement(write_placement(tmp_path / "case_1.json", placement)).restore(slices)
    assert back.data.shape == volume.data.shape
    np.testing.assert_array_equal(back.affine, volume.affine)
    there = back.data > 0
    assert 0.3 < there.mean() < 0.9
    assert np.corrcoef(back.data[there], volume.data[there])[0, 1] > 0.98


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("matrix", None, "matrix"),
        ("matrix", [[1, 0], [0, 1]], "4 x 4"),
        ("affine", [[0] * 4] * 3 + [[0, 0, 0, 1]], "singular"),
        ("shape", [10, 10], "shape"),
        ("shape", [10, 10, 2.5], "shape"),
        ("shape", [10**6] * 3, "voxels"),
        ("space", "talairach", "space"),
        ("slab", {"axis": 2}, "num_slices"),
        ("slab", 3, "no placement"),
    ],
)
def test_a_damaged_file_is_one_line(
    sample: Callable[..., Volume], tmp_path: Path, key: str, value: object, words: str
) -> None:
    path = write_placement(tmp_path / "case_1.json", placement_of(sample()))
    content = json.loads(path.read_text())
    content[key] = value
    if value is None:
        del content[key]
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=words) as caught:
        read_placement(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"case_1\.json"):
        read_placement(tmp_path / "case_1.json")
