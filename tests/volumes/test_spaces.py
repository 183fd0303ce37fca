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

import sys
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

from monai_vqprior.errors import InputError
from monai_vqprior.volumes import Template, Volume, load_template, place
from monai_vqprior.volumes.spaces import BRAIN_CENTER, centering


def test_native_space_shifts_the_bounding_box_to_one_place(sample: Callable[..., Volume]) -> None:
    volume = sample(np.diag([-1.5, 1.0, 2.0]))
    affine = volume.affine.copy()
    affine[:3, 3] += 31, -47, 90
    data = np.where(volume.data > 150, volume.data, 0)
    indices = np.argwhere(data)
    middle = (indices.min(0) + indices.max(0)) / 2 * (-1.5, 1.0, 2.0) + affine[:3, 3]
    data[0, 0, 0] = 9  # a speck far from the brain
    matrix = place(Volume(data, affine), "native").matrix
    np.testing.assert_allclose(matrix[:3, :3], np.eye(3))
    np.testing.assert_allclose(matrix[:3, 3], np.array(BRAIN_CENTER) - middle)


def test_spaces_that_cannot_be_had() -> None:
    volume = Volume(np.zeros((3, 3, 3), np.float32), np.eye(4))
    with pytest.raises(InputError, match="template, rigid, native"):
        place(volume, "talairach")
    with pytest.raises(InputError, match="needs a template"):
        place(volume, "rigid")
    with pytest.raises(InputError, match="empty"):
        place(volume, "native")


def test_the_template_of_nilearn() -> None:
    pytest.importorskip("nilearn")
    template = load_template()
    assert 1.7e6 < template.brain_volume < 2e6
    assert (template.volume.data[~template.mask] == 0).all()
    np.testing.assert_allclose(template.center[0], 0, atol=0.5)  # it is symmetric
    np.testing.assert_allclose(centering(template.volume)[:3, 3], 0, atol=0.6)  # BRAIN_CENTER is its middle


def test_a_template_of_a_file(sample: Callable[..., Volume], tmp_path: Path) -> None:
    volume = sample(np.diag([2.0, 2.0, 2.0]))
    data = np.where(volume.data > 100, volume.data, 0)
    path = tmp_path / "mine.nii.gz"
    nibabel.save(nibabel.Nifti1Image(data, np.diag([5.0, 5.0, 5.0, 1.0])), path)
    template = load_template(path)
    assert template.name == "mine.nii.gz"
    np.testing.assert_array_equal(template.mask, data > 0)


def test_files_that_are_no_template(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        load_template(tmp_path / "none.nii")
    (tmp_path / "text.nii").write_text("no volume")
    with pytest.raises(InputError, match=r"text\.nii cannot be read"):
        load_template(tmp_path / "text.nii")
    for value, words in ((1.0, "0 out of the brain"), (np.nan, "NaN")):
        path = tmp_path / "flat.nii"
        voxels = np.full((30, 30, 30), value, np.float32)
        voxels[0, 0, 0] = 0
        nibabel.save(nibabel.Nifti1Image(voxels, np.diag([5.0, 5, 5, 1])), path)
        with pytest.raises(InputError, match=words):
            load_template(path)
    dot = np.zeros((30, 30, 30), np.float32)
    dot[15, 15, 15] = 1
    nibabel.save(nibabel.Nifti1Image(dot, np.eye(4)), path)
    with pytest.raises(InputError, match="ml of it"):
        load_template(path)


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    volume = Volume(np.ones((3, 3, 3), np.float32), np.eye(4))
    template = Template("any", volume, volume.data > 0)
    asked = {"SimpleITK": lambda: place(volume, "template", template), "nilearn": load_template}
    monkeypatch.setattr("monai_vqprior.volumes.template.find_spec", lambda name: None)
    for package, ask in asked.items():
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(InputError, match=rf"{package}.*monai-vqprior\[registration\]") as caught:
            ask()
        assert "\n" not in str(caught.value)
