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

import itertools
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from scipy.spatial.transform import Rotation

from monai_vqprior.errors import InputError
from monai_vqprior.files import write_png
from monai_vqprior.volumes import Slab, Volume, cut_slices, resample, resample_to_cubes, restore_slices
from monai_vqprior.volumes.geometry import block_of, pictures_of

Sample = Callable[..., Volume]
Brightness = Callable[[np.ndarray], np.ndarray]


def turned(*degrees: float) -> np.ndarray:
    """A rotation about x, y and z."""
    return Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()


SLABS = [Slab(axis, num_slices=5, size=48, voxel_size=1.5, spacing=4, center=(1, -2, 3)) for axis in range(3)]
OBLIQUE = turned(20, -15, 30)


def shown(slab: Slab, brightness: Brightness) -> np.ndarray:
    """What the slices must show, from the function that the head is, without an image in between."""
    across = slab.voxel_size * (np.arange(slab.size) - (slab.size - 1) / 2)
    levels = slab.spacing * (np.arange(slab.num_slices) - (slab.num_slices - 1) / 2)
    right, up = [axis for axis in range(3) if axis != slab.axis]
    places = np.empty((slab.num_slices, slab.size, slab.size, 3))
    places[..., slab.axis] = (slab.center[slab.axis] + levels)[:, None, None]
    places[..., up] = (slab.center[up] + across[::-1])[None, :, None]
    places[..., right] = (slab.center[right] + across)[None, None, :]
    return brightness(places)


def stored(volume: Volume, order: tuple[int, ...], flips: tuple[bool, ...]) -> Volume:
    """The same voxels in another order, and the affine that says so."""
    affine = volume.affine.copy()
    data = volume.data
    for axis, flip in enumerate(flips):
        if flip:
            data = np.flip(data, axis)
            affine[:3, 3] += affine[:3, axis] * (data.shape[axis] - 1)
            affine[:3, axis] *= -1
    affine[:, :3] = affine[:, list(order)]
    return Volume(np.ascontiguousarray(data.transpose(order)), affine)


ORIENTATIONS = list(itertools.product(itertools.permutations(range(3)), itertools.product((False, True), repeat=3)))


@pytest.mark.parametrize("slab", SLABS, ids=["sagittal", "coronal", "axial"])
def test_slices_are_the_same_in_all_48_orders_of_storage(sample: Sample, brightness: Brightness, slab: Slab) -> None:
    volume = sample(np.diag([2.0, 1.5, 2.5]))
    expected = cut_slices(volume, slab)
    assert len(ORIENTATIONS) == 48
    for order, flips in ORIENTATIONS:
        np.testing.assert_allclose(cut_slices(stored(volume, order, flips), slab), expected, atol=0.02)
    np.testing.assert_allclose(expected, shown(slab, brightness), atol=35)  # of some 800


@pytest.mark.parametrize("slab", SLABS, ids=["sagittal", "coronal", "axial"])
@pytest.mark.parametrize(
    "linear",
    [np.eye(3), OBLIQUE, OBLIQUE @ np.diag([1.0, 1.0, 3.0]), np.diag([-0.9, 0.9, 1.0]), -OBLIQUE[:, [2, 0, 1]]],
    ids=["cubes", "oblique", "thick and oblique", "LAS", "oblique PIL"],
)
def test_slices_show_what_lies_there(sample: Sample, brightness: Brightness, linear: np.ndarray, slab: Slab) -> None:
    difference = np.abs(cut_slices(sample(linear), slab) - shown(slab, brightness))
    thick = np.linalg.norm(linear, axis=0).max() > 2
    assert difference.max() < (100 if thick else 40)  # of some 800
    assert difference.mean() < (4 if thick else 1.5)


@pytest.mark.parametrize("axis", range(3))
def test_a_slab_says_where_its_slices_lie(axis: int) -> None:
    slab = SLABS[axis]
    middle = slab.affine @ [*((np.array(slab.shape) - 1) / 2), 1]
    np.testing.assert_allclose(middle[:3], slab.center)
    np.testing.assert_allclose(slab.positions, slab.center[axis] + np.array([-8, -4, 0, 4, 8]))


@pytest.mark.parametrize("axis", range(3))
def test_pictures_and_blocks(axis: int) -> None:
    block = np.random.default_rng(0).random((3, 4, 5))
    pictures = pictures_of(block, axis)
    np.testing.assert_array_equal(block_of(pictures, axis), block)
    # the top left pixel of the first slice: left or posterior, and superior or anterior
    assert pictures[0, 0, 0] == block[(0, 0, -1) if axis < 2 else (0, -1, 0)]


def test_resampling_agrees_with_scipy(sample: Sample) -> None:
    volume = sample(OBLIQUE * 1.7)
    matrix = np.eye(4)
    matrix[:3] = np.column_stack([turned(3, 5, -8) * 1.1, (1, 2, 3)])
    affine = np.diag([1.2, 1.5, 1.1, 1.0])
    affine[:3, 3] = -18
    to_voxels = np.linalg.inv(volume.affine) @ np.linalg.inv(matrix) @ affine
    expected = ndimage.affine_transform(
        volume.data, to_voxels[:3, :3], to_voxels[:3, 3], output_shape=(30, 25, 28), order=1
    )
    result = resample(volume, (30, 25, 28), affine, matrix)
    np.testing.assert_allclose(result.data, expected, atol=0.05)


def test_what_is_finer_than_the_pixels_is_blurred_first() -> None:
    stripes = np.zeros((60, 20, 20), np.float32)
    stripes[::2] = 100
    slab = Slab(num_slices=1, size=6, voxel_size=4.0, center=(0, 0, 0))
    affine = np.eye(4)
    affine[:3, 3] = -29.5, -9.5, -9.5
    picture = cut_slices(Volume(stripes, affine), slab)[0, 2:4]
    np.testing.assert_allclose(picture, 50, atol=3)
    along = Slab(num_slices=3, size=6, voxel_size=1.0, spacing=4.0, center=(0.5, 0, 0), axis=0)
    thin = cut_slices(Volume(stripes, affine), along)  # as thick as a pixel, whatever the distance
    assert np.allclose(thin, 0, atol=0.01) or np.allclose(thin, 100, atol=0.01)


def test_cubes_cover_the_volume(sample: Sample) -> None:
    volume = sample(OBLIQUE @ np.diag([1.0, 2.0, 3.0]))
    cubes = resample_to_cubes(volume, 2.0, margin=4.0)
    np.testing.assert_allclose(cubes.voxel_sizes, 2)
    places = np.argwhere(cubes.data > 250) @ cubes.affine[:3, :3].T + cubes.affine[:3, 3]
    np.testing.assert_allclose(places.max(0), (24, 31, 23), atol=3)
    assert float(cubes.data.sum()) * 8 == pytest.approx(float(volume.data.sum()) * volume.voxel_volume, rel=0.02)


@pytest.mark.parametrize("axis", range(3))
def test_slices_come_back_to_their_place(sample: Sample, axis: int) -> None:
    volume = sample(OBLIQUE @ np.diag([-1.5, 1.0, 2.0]))
    matrix = np.eye(4)
    matrix[:3] = np.column_stack([turned(5, 3, -4) * 1.2, (4, -3, 2)])
    slab = Slab(axis, num_slices=40, size=72, voxel_size=1.2, spacing=1.2, center=(0, 0, 0))
    back = restore_slices(cut_slices(volume, slab, matrix), slab, volume, matrix)
    assert back.data.shape == volume.data.shape
    np.testing.assert_array_equal(back.affine, volume.affine)
    places = np.stack(np.meshgrid(*map(np.arange, volume.data.shape), indexing="ij"), -1)
    there = places @ (matrix @ volume.affine)[:3, :3].T + (matrix @ volume.affine)[:3, 3]
    within = np.abs(there[..., axis]) < 1.2 * 19
    difference = np.abs(back.data - volume.data)[within]
    assert difference.mean() < 3
    assert difference.max() < 80
    assert (back.data[np.abs(there[..., axis]) > 1.2 * 21] == 0).all()


STORAGES = {
    "RAS": np.eye(3),
    "LAS": np.diag([-1.0, 1.0, 1.0]),
    "LPS": np.diag([-1.0, -1.0, 1.0]),
    "PIR": np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]]),
    "oblique": turned(12, -20, 25) @ np.diag([-1.0, 1.0, 1.3]),
}


@pytest.mark.parametrize("storage", STORAGES)
def test_right_is_right_up_to_a_picture_and_back(sample: Sample, storage: str, tmp_path: Path) -> None:
    """The ball lies at x = 12, y = 8 and z = 4 mm, to the patient's right."""
    scan = sample(STORAGES[storage])
    nibabel.save(nibabel.Nifti1Image(scan.data, scan.affine), tmp_path / "head.nii.gz")
    image = nibabel.load(tmp_path / "head.nii.gz")
    if storage != "oblique":
        assert "".join(nibabel.aff2axcodes(image.affine)) == storage
    volume = Volume(image.get_fdata(dtype=np.float32), image.affine)

    slab = Slab(axis=2, num_slices=9, size=64, spacing=2.0, center=(0, 0, 4))
    slices = cut_slices(volume, slab)
    pictures = np.clip(np.rint(slices * 255 / 900), 0, 255).astype(np.uint8)
    for index, picture in enumerate(pictures):
        write_png(tmp_path / f"{index}.png", picture)
    read = np.stack([np.asarray(Image.open(tmp_path / f"{index}.png")) for index in range(9)])
    level, row, column = np.unravel_index(read.argmax(), read.shape)
    assert level == 4
    assert abs(row - (31.5 - 8)) <= 1  # anterior is above the middle
    assert abs(column - (31.5 + 12)) <= 1  # the patient's right is on the right

    back = restore_slices(read.astype(np.float32), slab, volume)
    brightest = np.unravel_index(back.data.argmax(), back.data.shape)
    place = volume.affine @ [*brightest, 1]
    np.testing.assert_allclose(place[:3], (12, 8, 4), atol=1.5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"axis": 3}, "axis"),
        ({"num_slices": 0}, "num_slices"),
        ({"voxel_size": 0.0}, "voxel_size"),
        ({"spacing": float("nan")}, "spacing"),
        ({"center": (0.0, float("inf"), 0.0)}, "center"),
    ],
)
def test_slabs_that_lie_nowhere(arguments: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        Slab(**arguments)


def test_volumes_that_lie_nowhere() -> None:
    data = np.zeros((3, 3, 3), np.float32)
    with pytest.raises(InputError, match="3 axes"):
        Volume(data[0], np.eye(4))
    with pytest.raises(InputError, match="singular"):
        Volume(data, np.diag([1.0, 1.0, 0.0, 1.0]))
    with pytest.raises(InputError, match="finite"):
        Volume(data, np.diag([1.0, np.nan, 1.0, 1.0]))
    with pytest.raises(InputError, match="cubes"):
        resample_to_cubes(Volume(data, np.diag([1e4, 1e4, 1e4, 1.0])), 1.0)
    with pytest.raises(InputError, match="shape"):
        restore_slices(np.zeros((2, 8, 8)), Slab(num_slices=3, size=8), Volume(data, np.eye(4)))
