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
from scipy import ndimage

from monai_vqprior.audit import match_images

SIDE = 64


def heads(number: int, seed: int) -> torch.Tensor:
    """Pictures of their own within a round margin of black, (N, 1, 64, 64) uint8."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    inside = np.hypot(rows, columns) < 24
    smooth = ndimage.gaussian_filter(rng.normal(size=(number, SIDE, SIDE)), (0, 3, 3))
    values = 110 + 60 * smooth / smooth.std()
    return torch.as_tensor(np.where(inside, values.clip(30, 220), 0).astype(np.uint8))[:, None]


REFERENCES = heads(40, 0)


def changed(images: torch.Tensor, change: str) -> torch.Tensor:
    """Images after something that leaves them copies."""
    x = images.double()
    if change == "moved":
        x = torch.roll(x, (3, -4), (-2, -1))
    elif change == "flipped":
        x = x.flip(-1)
    elif change == "brightened":
        x = 1.2 * x + 20
    elif change == "darker":
        x = 0.4 * x
    elif change == "scaled":
        x = torch.as_tensor(ndimage.zoom(x.numpy(), (1, 1, 67 / 64, 67 / 64), order=1))[..., 1:65, 1:65]
    elif change == "blurred":
        x = torch.as_tensor(ndimage.gaussian_filter(x.numpy(), (0, 0, 1, 1)))
    else:
        x = 1.1 * torch.roll(x, (-2, 4), (-2, -1)).flip(-1) + 5
    return x.clamp(0, 255).round().to(torch.uint8)


@pytest.mark.parametrize("change", ["moved", "flipped", "brightened", "darker", "scaled", "blurred", "all"])
def test_copies_are_found_whatever_was_done_to_them(change: str) -> None:
    found = match_images(changed(REFERENCES[:12], change), REFERENCES)
    assert found.index.tolist() == list(range(12))
    others = match_images(heads(12, 1), REFERENCES)
    assert found.distance.max() < 0.6 * others.distance.min()


def test_distance_by_hand() -> None:
    """Every shift, flip and reference tried, without scales: pixels of mean 0 and variance 1."""

    def standard(image: np.ndarray) -> np.ndarray:
        return (image - image.mean()) / image.std()

    images, references = heads(3, 2), REFERENCES[:6]
    found = match_images(images, references, shift=2)
    for number, image in enumerate(images[:, 0].double().numpy()):
        least = min(
            float(np.sqrt(np.mean((standard(np.roll(view, (dy, dx), (0, 1))) - standard(other)) ** 2)))
            for other in references[:, 0].double().numpy()
            for view in (image, image[:, ::-1])
            for dy in range(-2, 3)
            for dx in range(-2, 3)
        )
        assert found.distance[number] <= least + 1e-4  # a scale may be nearer
        assert found.distance[number] > 0.9 * least


def test_a_shift_that_is_too_large_is_no_match() -> None:
    moved = torch.roll(REFERENCES[:4], 9, -1)
    assert match_images(moved, REFERENCES, shift=4).distance.min() > 0.5
    assert match_images(moved, REFERENCES, shift=9).distance.max() < 0.01


def test_constant_images_and_exact_copies() -> None:
    black = torch.zeros(1, 1, SIDE, SIDE, dtype=torch.uint8)
    assert match_images(black, REFERENCES).distance.item() == pytest.approx(2**0.5)
    assert match_images(REFERENCES[7:8], REFERENCES).distance.item() < 1e-2
    assert match_images(REFERENCES[:1], black).distance.item() == pytest.approx(2**0.5)


def test_images_are_counted_and_results_do_not_depend_on_chunks() -> None:
    counted: list[int] = []
    images = changed(REFERENCES[:19], "moved")
    together = match_images(images, REFERENCES, on_images=counted.append)
    assert sum(counted) == 19
    alone = [match_images(image[None], REFERENCES).distance.item() for image in images]
    np.testing.assert_allclose(together.distance.numpy(), alone, atol=1e-3)


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="one size"):
        match_images(REFERENCES, REFERENCES[..., :32])
    with pytest.raises(ValueError, match="must be images"):
        match_images(REFERENCES[:0], REFERENCES)
