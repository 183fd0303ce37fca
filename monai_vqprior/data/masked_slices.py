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
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.utils import ensure_tuple_rep

from monai_vqprior.data.slices import IMAGE_SUFFIXES
from monai_vqprior.data.tree import find_files
from monai_vqprior.errors import InputError
from monai_vqprior.transforms.masks import LoadMask

__all__ = ["MaskedSlices", "load_masks", "touched_blocks"]

logger = logging.getLogger(__name__)


class MaskedSlices:
    """
    Slices with a hole each: the files of images and of masks, matched by name.

    An image ``a/b.png`` of a folder belongs to the mask ``a/b`` of any of the suffixes; one mask that is a file holds
    for all images.

    Args:
        image: an image, or a folder of images, which is searched with its subfolders.
        mask: a mask, or a folder of masks.
        output_dir: folder of the run, which holds none of them.

    Raises:
        InputError: when one of them does not exist, a folder has no images, an image has no mask, or two files of a
            folder have the same name without their suffixes.
    """

    def __init__(
        self,
        image: str | os.PathLike[str],
        mask: str | os.PathLike[str],
        output_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        images = _by_name(Path(image), "image", output_dir)
        masks = _by_name(Path(mask), "mask", output_dir)
        if Path(mask).is_file():
            masks = dict.fromkeys(images, Path(mask))
        without = [name for name in images if name not in masks]
        if without:
            more = f" ({len(without)} images have none)" if len(without) > 1 else ""
            raise InputError(
                f"{images[without[0]]} has no mask{more}: {mask} must have a picture of the name {without[0]}, or be "
                "one mask for all images."
            )
        unused = [path for name, path in masks.items() if name not in images]
        if unused:
            logger.warning("%d masks have no image and are not used, such as %s", len(unused), unused[0])
        self._items = [
            {"image": str(path), "mask": str(masks[name]), "name": name} for name, path in sorted(images.items())
        ]

    def datalist(self, split: str = "all") -> list[dict[str, Any]]:
        """
        The images with their masks.

        Args:
            split: ``all``, as of a :class:`SliceFolder`; there are no others.

        Returns:
            for each image its path as ``image``, that of its ``mask``, and its ``name``: its path relative to the
            folder, without the suffix.
        """
        if split != "all":
            raise ValueError(f"split must be 'all', got {split!r}.")
        return self._items


def _by_name(path: Path, what: str, output_dir: str | os.PathLike[str] | None) -> dict[str, Path]:
    """The pictures of a folder by their paths there without suffixes; a single file by its name."""
    if not path.exists():
        raise InputError(f"{path} does not exist: give a picture or a folder of pictures as --{what}.")
    if path.is_file():
        return {path.stem: path}
    tree = find_files(path, _is_picture, "pictures", output_dir=output_dir, segmentations=True)
    if not tree.files:
        raise InputError(f"{path} holds no {what} ({', '.join(IMAGE_SUFFIXES)}).")
    found: dict[str, Path] = {}
    for file in tree.files:
        name = file.relative_to(path).with_suffix("").as_posix()
        if name in found:
            raise InputError(f"{found[name]} and {file} have one name: which is the {what}? Remove one of them.")
        found[name] = file
    return found


def _is_picture(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES)


def load_masks(
    items: Iterable[Mapping[str, Any]], spatial_size: int | Sequence[int], stride: int | Sequence[int] = 1
) -> torch.Tensor:
    """
    Read the masks of slices.

    Args:
        items: as :meth:`MaskedSlices.datalist` has them.
        spatial_size: the size that every mask must have, one number or (H, W).
        stride: pixels that one code stands for along each axis: a mask must leave the pixels of one code whole.

    Returns:
        (N, 1, H, W) bool, True where a slice is to be filled.

    Raises:
        InputError: when a mask cannot be read, has another size or more than two values, or leaves nothing to be
            filled or nothing that is given.
    """
    size = tuple(ensure_tuple_rep(spatial_size, 2))
    load = LoadMask()
    known: dict[str, torch.Tensor] = {}
    for path in dict.fromkeys(item["mask"] for item in items):
        mask = load(path)
        if tuple(mask.shape[1:]) != size:
            raise InputError(
                f"{path} is {mask.shape[1]} x {mask.shape[2]} pixels, but the slices are {size[0]} x {size[1]}: a mask "
                "has the size of its slice."
            )
        if not mask.any():
            raise InputError(f"{path} is black, so that there is nothing to fill: a mask is white where there is.")
        if touched_blocks(mask, stride).all():
            raise InputError(
                f"{path} touches every block of {stride} x {stride} pixels, so that nothing is given: mask less of it, "
                "or draw whole slices by `vqprior sample`."
            )
        known[path] = mask
    return torch.stack([known[item["mask"]] for item in items])


def touched_blocks(masks: torch.Tensor, stride: int | Sequence[int]) -> torch.Tensor:
    """
    Which codes of a grid are to be drawn anew: those of which a pixel is in the mask.

    Args:
        masks: (..., H, W) bool.
        stride: pixels that one code stands for along each axis.

    Returns:
        (..., H / stride, W / stride) bool.
    """
    rows, columns = ensure_tuple_rep(stride, 2)
    return masks.unflatten(-1, (-1, columns)).any(-1).unflatten(-2, (-1, rows)).any(-2)
