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

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from monai_vqprior.data import MaskedSlices, load_masks
from monai_vqprior.data.masked_slices import touched_blocks
from monai_vqprior.errors import InputError
from monai_vqprior.files import write_png


def picture(path: Path, mask: np.ndarray | None = None) -> Path:
    """A mask, by default one of 8 x 12 pixels with a hole of 2 x 2."""
    if mask is None:
        mask = np.zeros((8, 12), bool)
        mask[2:4, 5:7] = True
    return write_png(path, np.where(mask, 255, 0).astype(np.uint8))


def names(slices: MaskedSlices) -> dict[str, tuple[str, str]]:
    return {item["name"]: (Path(item["image"]).name, Path(item["mask"]).name) for item in slices.datalist()}


def test_images_and_masks_are_matched_by_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images, masks = tmp_path / "images", tmp_path / "masks"
    for name in ("b.png", "a/c.nii.png"):
        picture(images / name)
        picture(masks / name)
    (images / "b.png").rename(images / "b.JPG")
    assert names(MaskedSlices(images, masks)) == {
        "a/c.nii": ("c.nii.png", "c.nii.png"),
        "b": ("b.JPG", "b.png"),
    }
    assert not caplog.records
    picture(masks / "other.png")
    with caplog.at_level(logging.WARNING):
        MaskedSlices(images, masks)
    assert "1 masks have no image and are not used, such as" in caplog.text


def test_files_and_one_mask_for_all(tmp_path: Path) -> None:
    image, other = picture(tmp_path / "images" / "one.png"), picture(tmp_path / "images" / "two.png")
    mask = picture(tmp_path / "mask.png")
    assert names(MaskedSlices(image, mask)) == {"one": ("one.png", "mask.png")}
    assert names(MaskedSlices(image.parent, mask)) == {name: (f"{name}.png", "mask.png") for name in ("one", "two")}
    assert names(MaskedSlices(other, image.parent)) == {"two": ("two.png", "two.png")}


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    image = picture(tmp_path / "images" / "one.png")
    masks = picture(tmp_path / "masks" / "two.png").parent
    with pytest.raises(InputError, match=r"one\.png has no mask: .*masks must have a picture of the name one"):
        MaskedSlices(image, masks)
    with pytest.raises(InputError, match=r"nowhere does not exist: .* as --image"):
        MaskedSlices(tmp_path / "nowhere", masks)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty holds no mask \(\.png"):
        MaskedSlices(image, tmp_path / "empty")
    picture(image.with_name("one.tif.png")).rename(image.with_suffix(".tif"))
    with pytest.raises(InputError, match=r"one\.png and .*one\.tif have one name: which is the image"):
        MaskedSlices(image.parent, image)


def test_masks_are_read_once_and_in_order(tmp_path: Path) -> None:
    first, second = picture(tmp_path / "1.png"), picture(tmp_path / "2.png", np.eye(8, 12, dtype=bool))
    masks = load_masks([{"mask": str(path)} for path in (second, first, second)], (8, 12), 4)
    assert masks.shape == (3, 1, 8, 12)
    assert torch.equal(masks[0], masks[2])
    assert torch.equal(masks[2, 0], torch.eye(8, 12).bool())
    assert masks[1].nonzero()[:, 1:].tolist() == [[2, 5], [2, 6], [3, 5], [3, 6]]


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.ones((8, 8), bool), "is 8 x 8 pixels, but the slices are 8 x 12"),
        (np.zeros((8, 12), bool), "is black, so that there is nothing to fill"),
        (np.ones((8, 12), bool), "touches every block of 4 x 4 pixels, so that nothing is given"),
        (np.indices((8, 12)).sum(0) % 4 == 0, "touches every block of 4 x 4 pixels"),
    ],
)
def test_masks_that_are_refused(tmp_path: Path, mask: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_masks([{"mask": str(picture(tmp_path / "mask.png", mask))}], (8, 12), 4)


def test_a_code_is_drawn_where_the_mask_touches_its_block() -> None:
    mask = torch.zeros(2, 8, 12, dtype=torch.bool)
    mask[1, 3, 4] = mask[1, 7, 11] = True
    touched = touched_blocks(mask, (4, 2))
    assert touched.shape == (2, 2, 6)
    assert touched.nonzero().tolist() == [[1, 0, 2], [1, 1, 5]]
