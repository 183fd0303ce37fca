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

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from monai_vqprior.errors import InputError
from monai_vqprior.volumes import Registration, Template, Volume, load_template, place, register, rigid_part
from monai_vqprior.volumes.registration import measure

pytestmark = pytest.mark.integration

pytest.importorskip("SimpleITK")


def displacement(angles: tuple[float, float, float], scales: tuple[float, float, float]) -> np.ndarray:
    """A rotation, a scaling and a shift of 11, -17 and 23 mm."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ np.diag(scales)
    matrix[:3, 3] = 11, -17, 23
    return matrix


def textured() -> Volume:
    """A brain of random folds, none like another, in voxels of 4 mm."""
    places = np.stack(np.meshgrid(*[np.arange(-24, 25) * 4.0] * 3, indexing="ij"), -1)
    folds = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=places.shape[:3]), 2)
    inside = np.linalg.norm(places / (66, 82, 60), axis=-1) < 1
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    affine[:3, 3] = -96
    return Volume(np.where(inside, 100 + 40 * folds / folds.std(), 0).clip(0).astype(np.float32), affine)


@pytest.fixture(scope="module")
def template() -> Template:
    volume = textured()
    return Template("random folds", volume, ndimage.binary_fill_holes(volume.data > 0))


def distance(found: np.ndarray, expected: np.ndarray) -> float:
    """How far the corners of a brain are apart that two matrices map, in mm."""
    corners = np.array([[x, y, z, 1] for x in (-60, 60) for y in (-70, 70) for z in (-50, 50)], float).T
    places = np.linalg.inv(found) @ expected @ corners
    return float(np.linalg.norm((places - corners)[:3], axis=0).max())


@pytest.mark.parametrize("angles", [(-24.0, 5.0, 8.0), (22.0, -6.0, -10.0)])
def test_a_known_displacement_is_found(template: Template, angles: tuple[float, float, float]) -> None:
    """The head is the template's own, in another place that nobody tells; its right is on the left in storage."""
    moved = displacement(angles, (1.1, 0.92, 1.05))
    head = textured()
    mirrored = head.affine @ np.diag([-1.0, 1, 1, 1])
    mirrored[:3, 3] += head.affine[:3, 0] * (head.data.shape[0] - 1)
    volume = Volume(head.data[::-1], moved @ mirrored)
    found = register(volume, template)
    assert distance(found.matrix, np.linalg.inv(moved)) < 4
    assert found.fault is None
    assert found.overlap > 0.95
    assert found.correlation > 0.9
    assert found.determinant == pytest.approx(1 / np.linalg.det(moved[:3, :3]), rel=0.05)
    if angles[0] > 0:
        np.testing.assert_allclose(register(volume, template).matrix, found.matrix, atol=1e-9)  # the same each time


def test_the_rigid_part_turns_and_keeps_the_size() -> None:
    rotation = displacement((12, -8, 20), (1, 1, 1))
    center = np.array([1.0, -20.0, 10.0])
    rigid = rigid_part(rotation, center)
    np.testing.assert_allclose(rigid, rotation, atol=1e-9)
    affine = rotation @ np.diag([1.2, 0.9, 1.1, 1.0])
    rigid = rigid_part(affine, center)
    np.testing.assert_allclose(rigid[:3, :3] @ rigid[:3, :3].T, np.eye(3), atol=1e-9)
    np.testing.assert_allclose(rigid @ np.linalg.inv(affine) @ [*center, 1], [*center, 1], atol=1e-9)


@pytest.mark.parametrize(
    ("registration", "words"),
    [
        (Registration(np.eye(4), 0.9, 0.6), None),
        (Registration(np.eye(4), 0.7, 0.6), "overlaps"),
        (Registration(np.eye(4), 0.9, 0.3), "correlates"),
        (Registration(np.diag([-1.0, 1, 1, 1]), 0.9, 0.6), "determinant"),
        (Registration(np.diag([3.0, 3, 3, 1]), 0.9, 0.6), "determinant"),
        (Registration(np.diag([2.2, 1, 1, 1]), 0.9, 0.6), "stretched"),
    ],
)
def test_what_speaks_against_a_registration(registration: Registration, words: str | None) -> None:
    if words is None:
        assert registration.fault is None
    else:
        assert words in str(registration.fault)


def test_heads_that_cannot_be_registered(template: Template) -> None:
    empty = Volume(np.zeros((8, 8, 8), np.float32), np.eye(4))
    with pytest.raises(InputError, match="empty"):
        register(empty, template)
    noise = np.random.default_rng(0).random((30, 30, 30)).astype(np.float32)
    with pytest.raises(InputError, match=r"registration .* failed|cannot be registered"):
        place(Volume(noise, np.diag([5.0, 5.0, 5.0, 1.0])), "template", template)


def test_a_real_head(real_heads: list[Volume]) -> None:
    """A head that lies oblique in the scanner; and the check finds it where it does not belong."""
    pytest.importorskip("nilearn")
    head, template = real_heads[1], load_template()
    found = register(head, template)
    assert found.fault is None
    assert found.overlap > 0.92
    assert found.correlation > 0.5
    for shift in np.eye(3) * 10:
        moved = found.matrix.copy()
        moved[:3, 3] += shift
        assert measure(head, template, moved).fault is not None
