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
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from monai_vqprior.metrics import nearest_distances, nearest_images


@st.composite
def two_sets(draw: st.DrawFn, few: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """8-bit images and references (·, 1, H, W), few gray levels among them so that many pairs are equally near."""
    number, others = draw(st.integers(few, 9)), draw(st.integers(1, 9))
    shape = (1, draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    levels = st.sampled_from([0, 1, 128, 254, 255])
    images = draw(arrays(np.uint8, (number, *shape), elements=levels))
    return images, draw(arrays(np.uint8, (others, *shape), elements=levels))


def squares_by_hand(images: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Sums of squared differences of 8-bit images, (N, M), in whole numbers."""
    difference = images[:, None].astype(np.int64) - references[None].astype(np.int64)
    return (difference**2).sum(axis=(2, 3, 4))


@settings(deadline=None, derandomize=True)
@given(two_sets(), st.integers(1, 64))
def test_8_bit_images_by_hand(sets: tuple[np.ndarray, np.ndarray], values_at_once: int) -> None:
    """Exactly, ties and all, however small the chunks are."""
    images, references = sets
    squares = squares_by_hand(images, references)
    index, distance = nearest_images(torch.from_numpy(images), torch.from_numpy(references), values_at_once)
    assert np.array_equal(index.numpy(), squares.argmin(1))
    expected = np.sqrt(squares.min(1) / images[0].size) / 255
    np.testing.assert_allclose(distance.numpy(), expected, rtol=1e-14, atol=0)


@settings(deadline=None, derandomize=True)
@given(two_sets(few=2), st.integers(1, 64))
def test_no_image_is_its_own_neighbor(sets: tuple[np.ndarray, np.ndarray], values_at_once: int) -> None:
    images, _ = sets
    squares = squares_by_hand(images, images)
    np.fill_diagonal(squares, squares.max() + 1)
    index, distance = nearest_images(torch.from_numpy(images), None, values_at_once)
    assert np.array_equal(index.numpy(), squares.argmin(1))
    np.testing.assert_allclose(distance.numpy(), np.sqrt(squares.min(1) / images[0].size) / 255, rtol=1e-14, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("values_at_once", [1, 50, 1 << 20])
def test_floating_point_images_in_three_dimensions(dtype: torch.dtype, values_at_once: int) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(7, 2, 3, 4, 2, generator=generator, dtype=torch.float64).to(dtype)
    references = torch.rand(11, 2, 3, 4, 2, generator=generator, dtype=torch.float64).to(dtype)
    x, y = images.double().numpy()[:, None], references.double().numpy()[None]
    roots = np.sqrt(((x - y) ** 2).mean(axis=(2, 3, 4, 5)))
    index, distance = nearest_images(images, references, values_at_once)
    assert np.array_equal(index.numpy(), roots.argmin(1))
    np.testing.assert_allclose(distance.numpy(), roots.min(1), rtol=1e-12)


def test_a_copy_has_no_distance_and_a_change_of_one_level_has_one() -> None:
    """Where float32 would see no difference between a copy and an image that differs in one pixel by one level."""
    references = torch.full((3, 1, 64, 64), 200, dtype=torch.uint8)
    references[0, 0, 5, 6] += 1
    references[2, 0, 7, 8] -= 1
    index, distance = nearest_images(references[1:2], references)
    assert (index.item(), distance.item()) == (1, 0.0)
    index, distance = nearest_images(references[1:2], references[[0, 2]])
    assert index.item() == 0
    assert distance.item() == pytest.approx(1 / 255 / 64, rel=1e-14)
    index, distance = nearest_images(references[1:2] / 255, references / 255)
    assert (index.item(), distance.item()) == (1, 0.0)


@settings(deadline=None, derandomize=True)
@given(two_sets(), st.integers(1, 64), st.integers(1, 5))
def test_distances_to_the_nearest_by_hand(
    sets: tuple[np.ndarray, np.ndarray], values_at_once: int, number: int
) -> None:
    images, references = sets
    squares = np.sort(squares_by_hand(images, references), axis=1)[:, :number]
    found = nearest_distances(torch.from_numpy(images), torch.from_numpy(references), number, values_at_once)
    np.testing.assert_allclose(found.numpy(), np.sqrt(squares / images[0].size) / 255, rtol=1e-14, atol=0)


def test_all_pairs_are_counted() -> None:
    counted: list[int] = []
    images = torch.zeros(5, 1, 2, 2)
    nearest_images(images, torch.zeros(3, 1, 2, 2), values_at_once=8, device="cpu", on_pairs=counted.append)
    assert len(counted) == 3 * 2
    assert sum(counted) == 5 * 3


@pytest.mark.parametrize(
    ("images", "references", "named"),
    [
        (torch.zeros(0, 1, 2, 2), torch.zeros(3, 1, 2, 2), "got 0 and 3"),
        (torch.zeros(3, 1, 2, 2), torch.zeros(0, 1, 2, 2), "got 3 and 0"),
        (torch.zeros(1, 1, 2, 2), None, "got 1 and 1"),
        (torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 3), r"got \(1, 2, 2\) and \(1, 2, 3\)"),
        (torch.zeros(1, 1, 0, 2), torch.zeros(1, 1, 0, 2), "with pixels in it"),
        (torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2, dtype=torch.uint8), "got torch.float32 and torch.uint8"),
        (torch.zeros(2, 1, 2, 2, dtype=torch.int64), None, "got torch.int64 and torch.int64"),
    ],
)
def test_what_cannot_be_compared(images: torch.Tensor, references: torch.Tensor | None, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        nearest_images(images, references)
