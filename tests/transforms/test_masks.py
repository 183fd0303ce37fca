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
import torch
from PIL import Image

from monai_vqprior.errors import InputError
from monai_vqprior.transforms import LoadMask, fill_from_nearest

HOLE = np.zeros((6, 9), bool)
HOLE[1:3, 4:8] = True


@pytest.mark.parametrize(
    "picture",
    [
        Image.fromarray(HOLE),
        Image.fromarray(HOLE.astype(np.uint8)),
        Image.fromarray(HOLE.astype(np.uint8) * 200),
        Image.fromarray(HOLE.astype(np.uint16)),
        Image.fromarray(np.where(HOLE[..., None], [255, 0, 0], 0).astype(np.uint8)),
    ],
    ids=["1 bit", "0 and 1", "0 and 200", "16 bits", "red"],
)
def test_what_is_not_black_is_to_be_filled(tmp_path: Path, picture: Image.Image) -> None:
    picture.save(tmp_path / "mask.png")
    mask = LoadMask()(tmp_path / "mask.png")
    assert mask.shape == (1, 6, 9)
    assert np.array_equal(mask[0].numpy(), HOLE)


def test_a_picture_of_more_than_two_levels_is_no_mask(tmp_path: Path) -> None:
    Image.fromarray(np.arange(54, dtype=np.uint8).reshape(6, 9)).save(tmp_path / "slice.png")
    with pytest.raises(InputError, match=r"slice\.png has 54 grey levels, and a mask has two"):
        LoadMask()(tmp_path / "slice.png")
    Image.fromarray(HOLE.astype(np.uint8) * 2 + HOLE.T.reshape(6, 9)).save(tmp_path / "labels.png")
    with pytest.raises(InputError, match=r"labels\.png has \d grey levels"):
        LoadMask()(tmp_path / "labels.png")
    with pytest.raises(InputError, match=r"none\.png does not exist"):
        LoadMask()(tmp_path / "none.png")


def test_a_hole_is_filled_from_the_nearest_given_pixels() -> None:
    image = torch.arange(54, dtype=torch.uint8).view(1, 6, 9)
    mask = torch.from_numpy(HOLE)[None].clone()
    filled = fill_from_nearest(image, mask)
    assert filled.dtype == torch.uint8
    assert torch.equal(filled[~mask], image[~mask])
    given = np.argwhere(~HOLE)
    for row, column in np.argwhere(HOLE):
        squares = ((given - [row, column]) ** 2).sum(1)
        nearest = {9 * y + x for y, x in given[squares == squares.min()].tolist()}
        assert int(filled[0, row, column]) in nearest
