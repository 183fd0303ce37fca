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

import pytest
import torch
from scipy.ndimage import label

from monai_vqprior.data import GivenCodes, random_holes
from monai_vqprior.errors import InputError


@pytest.fixture(scope="module")
def holes() -> torch.Tensor:
    return random_holes(400, (16, 12), torch.Generator().manual_seed(0))


def test_holes_are_of_all_sizes(holes: torch.Tensor) -> None:
    """From a few codes to most of the grid, small ones as often as large ones along a side."""
    assert holes.shape == (400, 16, 12)
    assert holes.dtype == torch.bool
    shares = holes.flatten(1).float().mean(1)
    assert (shares > 0).all()
    assert (shares < 1).all()
    sides = (shares / 0.95).sqrt()
    for low in (0.0, 0.25, 0.5, 0.75):
        assert ((sides > low) & (sides <= low + 0.25)).float().mean() == pytest.approx(0.25, abs=0.07)


def test_holes_are_everywhere(holes: torch.Tensor) -> None:
    often = holes.float().mean(0)
    assert often.min() > 0.5 * often.max()


def test_there_are_rectangles_halves_blobs_and_scattered_codes(holes: torch.Tensor) -> None:
    def is_box(hole: torch.Tensor) -> bool:
        return bool(torch.outer(hole.any(1), hole.any(0)).eq(hole).all())

    boxes = [is_box(hole) or is_box(~hole) for hole in holes]
    assert 0.1 < sum(boxes) / len(boxes) < 0.6
    parts = [label(hole.numpy())[1] for hole in holes]
    assert sum(number == 1 for number in parts) > 100
    assert sum(number > 8 for number in parts) > 20
    # Whole rows at one end of the grid, to within a row.
    upper = [hole[: int(hole.sum()) // 12].all() and int(hole.sum()) > 24 for hole in holes]
    lower = [hole[16 - int(hole.sum()) // 12 :].all() and int(hole.sum()) > 24 for hole in holes]
    assert sum(upper) > 5
    assert sum(lower) > 5


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (3, 4, 5)])
def test_other_grids(size: tuple[int, ...]) -> None:
    holes = random_holes(20, size, torch.Generator().manual_seed(1))
    assert holes.shape == (20, *size)
    assert holes.flatten(1).any(1).all()
    assert size == (1, 1) or not holes.flatten(1).all(1).any()


def test_given_codes_are_those_of_the_grid_outside_of_the_hole() -> None:
    grid = torch.randint(7, (16, 12), generator=torch.manual_seed(2))
    given = GivenCodes(dropout=0)(grid, torch.Generator().manual_seed(3))
    known = given >= 0
    assert known.any()
    assert not known.all()
    assert torch.equal(given[known], grid[known])
    assert (given[~known] == -1).all()
    assert torch.equal(GivenCodes(dropout=0)(grid, torch.Generator().manual_seed(3)), given)


def test_a_share_of_grids_has_nothing_given() -> None:
    draw = torch.Generator().manual_seed(4)
    nothing = [bool((GivenCodes(dropout=0.3)(torch.zeros(4, 4).long(), draw) < 0).all()) for _ in range(300)]
    assert sum(nothing) / 300 == pytest.approx(0.3, abs=0.08)
    with pytest.raises(InputError, match=r"dropout must be at least 0 and at most 1, got 1\.5"):
        GivenCodes(dropout=1.5)


def test_scattered_codes_have_given_neighbors() -> None:
    """Where regions are missing few codes are beside a given one, where scattered codes are most of them."""
    grid, draw = torch.zeros(32, 32).long(), torch.Generator().manual_seed(5)

    def beside_given(scattered: float) -> tuple[float, float]:
        """The mean share of codes that are missing, and of those the share with the code below them given."""
        given = torch.stack([GivenCodes(0, scattered)(grid, draw) for _ in range(200)]) >= 0
        return float((~given).float().mean()), float(given[:, 1:][~given[:, :-1]].float().mean())

    assert beside_given(1.0) == pytest.approx((0.5, 0.44), abs=0.03)  # E[s (1 - s)] / E[s] of shares 0.2 to 0.8
    assert beside_given(0.0)[1] < 0.3
    with pytest.raises(InputError, match=r"scattered must be at least 0 and at most 1, got -1"):
        GivenCodes(scattered=-1)


def test_a_region_is_missing_as_its_slice_was_encoded() -> None:
    grid, draw = torch.zeros(4, 4).long(), torch.Generator().manual_seed(6)
    views = torch.stack([torch.full((4, 4), 1), torch.full((4, 4), 2)]).int()
    views[:, 0, 0] = -1
    drawn = [GivenCodes(0, 0)(grid, draw, views) for _ in range(20)]
    assert {int(given[1, 1]) for given in drawn} == {1, 2}
    assert all(given.dtype == grid.dtype and given[0, 0] == -1 for given in drawn)
    assert set(GivenCodes(0, 1)(grid, draw, views).unique().tolist()) == {-1, 0}  # scattered codes of the whole slice
    assert (GivenCodes(1, 0)(grid, draw, views) == -1).all()
