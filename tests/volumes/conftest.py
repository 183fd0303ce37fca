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

import numpy as np
import pytest

from monai_vqprior.volumes import Volume

HEADS = Path(__file__).resolve().parents[3] / "shared" / "data" / "ds002748"


def _brightness(places: np.ndarray) -> np.ndarray:
    """
    A head of 52 x 64 x 48 mm, smooth, as a function of (x, y, z) in mm, with a bright ball on the patient's right,
    somewhat to the front and to the top.
    """
    x, y, z = np.moveaxis(places, -1, 0)
    inside = 1 / (1 + np.exp((np.sqrt((x / 26) ** 2 + (y / 32) ** 2 + (z / 24) ** 2) - 1) * 12))
    ball = np.exp(-((x - 12) ** 2 + (y - 8) ** 2 + (z - 4) ** 2) / (2 * 4**2))
    return inside * (300 + 3 * y + 2 * z) + 500 * ball


@pytest.fixture
def brightness() -> Callable[[np.ndarray], np.ndarray]:
    """The head as a function of (..., 3) places in mm."""
    return _brightness


@pytest.fixture
def sample() -> Callable[..., Volume]:
    """Scans that head: ``sample(linear, field_of_view)``, with the columns of ``linear`` as the voxels' axes in mm."""

    def scan(linear: np.ndarray | None = None, field_of_view: float = 72.0) -> Volume:
        linear = np.eye(3) * 2.0 if linear is None else linear
        shape = np.ceil(field_of_view / np.linalg.norm(linear, axis=0)).astype(int) + 1
        affine = np.eye(4)
        affine[:3, :3] = linear
        affine[:3, 3] = -linear @ ((shape - 1) / 2)
        indices = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
        values = _brightness(indices @ affine[:3, :3].T + affine[:3, 3])
        return Volume(values.astype(np.float32), affine)

    return scan


@pytest.fixture(scope="session")
def real_heads() -> list[Volume]:
    """Two skull-stripped T1 heads, which are not part of the repository: the first lies straight, the other oblique."""
    nibabel = pytest.importorskip("nibabel")
    if not HEADS.is_dir():
        pytest.skip("the heads of ds002748 are not at ../shared/data/ds002748")
    images = [nibabel.load(HEADS / name / "anat" / f"{name}_T1w.nii.gz") for name in ("sub-01", "sub-40")]
    return [Volume(np.asarray(image.dataobj, np.float32), image.affine) for image in images]
