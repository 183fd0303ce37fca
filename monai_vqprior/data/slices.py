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

import csv
import io
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from monai_vqprior.data.layout import SPLITS, natural_key, parse_slice_name, split_folder, split_subjects
from monai_vqprior.errors import InputError
from monai_vqprior.files import write_text

__all__ = ["IMAGE_SUFFIXES", "SliceFolder"]

logger = logging.getLogger(__name__)

#: suffixes of the slices that a folder is searched for, in lower case.
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")

# OASIS sessions (the session number dropped) and BIDS subjects.
_SUBJECT_NAME = re.compile(r"OAS\d+_\d+|sub-[A-Za-z0-9]+")
_NUMBER_ALONE = re.compile(r"^(slice|img|image)?[_-]?\d+$", re.IGNORECASE)


def subject_of_slice(path: PurePath) -> str | None:
    """
    Subject that the path of a slice tells, relative to the data set's folder; None where it tells none.

    ``case_441`` of ``case_441_slice_0.nii.png``, an OASIS or BIDS name anywhere in the path, and the folder of files
    that are named by number alone, such as ``patient7/slice_003.png``.
    """
    match = _SUBJECT_NAME.search(path.as_posix())
    if match is not None:
        return match[0]
    if _NUMBER_ALONE.match(path.stem) and len(path.parts) > 1:
        return path.parent.as_posix()
    return parse_slice_name(path.name)[0]


class SliceFolder:
    """
    The slices of a data set on disk, and which split each of them is in.

    Two layouts are known. That of the preprocessed OASIS slices has a folder for each split,
    ``keras_png_slices_{train,validate,test}``. Any other folder is searched, with its subfolders, for PNG, JPEG and
    TIFF files; these are dealt to the splits by subject where the names tell the subject (``case_441_slice_0``, OASIS
    and BIDS names, a folder of numbered slices), and by file where they do not.

    Args:
        dataset_dir: the folder.
        seed: deals a plain folder in the same way each time.
        fractions: share of the subjects of a plain folder for each split; 0.8, 0.1, 0.1 by default.

    Raises:
        InputError: when the folder does not exist or holds no slices.

    Example:
        >>> slices = SliceFolder("oasis")  # doctest: +SKIP
        >>> slices.datalist("test")[0]  # doctest: +SKIP
        {'image': 'oasis/keras_png_slices_test/case_441_slice_0.nii.png', 'subject': 'case_441', 'index': 0}
    """

    def __init__(
        self, dataset_dir: str | os.PathLike[str], seed: int = 0, fractions: Mapping[str, float] | None = None
    ):
        self.dataset_dir = Path(dataset_dir)
        if not self.dataset_dir.is_dir():
            raise InputError(f"{self.dataset_dir} is not a directory: give the folder of the slices as dataset_dir.")
        self.seed = seed
        self.fractions = fractions
        self.in_split_folders = any(split_folder(self.dataset_dir, split).is_dir() for split in SPLITS)
        self._dealt: dict[str, list[dict[str, Any]]] | None = None

    def datalist(self, split: str) -> list[dict[str, Any]]:
        """
        The slices of a split.

        Args:
            split: ``train``, ``validate``, ``test``, or ``all`` for every slice of the folder.

        Returns:
            for each slice its ``image`` path, its ``subject``, and its ``index`` within the subject, in natural order.

        Raises:
            InputError: when there is no such split or it is empty.
        """
        if split == "all":
            return [item for part in SPLITS if self._has(part) for item in self.datalist(part)]
        folder = split_folder(self.dataset_dir, split)
        if self.in_split_folders:
            if not folder.is_dir():
                raise InputError(f"{folder} does not exist: the data set has no split {split!r}.")
            items = self._describe(_find_images(folder))
            where = folder
        else:
            items = self._deal()[split]
            where = self.dataset_dir
        if not items:
            raise InputError(f"{where} holds no slices for the split {split!r} ({', '.join(IMAGE_SUFFIXES)}).")
        return items

    def write_splits(self, path: str | os.PathLike[str]) -> None:
        """Write down which slice is in which split, as CSV with the columns split, subject, index, image."""
        text = io.StringIO()
        table = csv.DictWriter(text, ["split", "subject", "index", "image"], lineterminator="\n")
        table.writeheader()
        for split in SPLITS:
            if self._has(split):
                table.writerows({"split": split, **item} for item in self.datalist(split))
        write_text(path, text.getvalue())

    def _has(self, split: str) -> bool:
        if self.in_split_folders:
            return split_folder(self.dataset_dir, split).is_dir()
        return bool(self._deal()[split])

    def _deal(self) -> dict[str, list[dict[str, Any]]]:
        """Deal the slices of a plain folder to the splits, by subject."""
        if self._dealt is None:
            items = self._describe(_find_images(self.dataset_dir))
            if not items:
                raise InputError(f"{self.dataset_dir} holds no slices ({', '.join(IMAGE_SUFFIXES)}).")
            subjects = split_subjects([item["subject"] for item in items], self.fractions, self.seed)
            split_of = {subject: split for split, names in subjects.items() for subject in names}
            if len(subjects_named := {item["subject"] for item in items}) == len(items):
                logger.warning(
                    "the names of the %d slices in %s tell no subject: they are split by file, and a subject may be in "
                    "two splits",
                    len(subjects_named),
                    self.dataset_dir,
                )
            self._dealt = {split: [] for split in SPLITS}
            for item in items:
                self._dealt[split_of[item["subject"]]].append(item)
        return self._dealt

    def _describe(self, paths: list[Path]) -> list[dict[str, Any]]:
        """Path, subject and index of each slice; slices whose names tell no index are counted through."""
        items = []
        counts: dict[str, int] = {}
        for path in paths:
            # A slice whose name tells no subject is a subject of its own, so that it is dealt by file.
            relative = path.relative_to(self.dataset_dir)
            subject = subject_of_slice(relative) or relative.as_posix()
            index = parse_slice_name(path.name)[1]
            counts[subject] = counts.get(subject, -1) + 1
            items.append({"image": str(path), "subject": subject, "index": counts[subject] if index is None else index})
        return items


def _find_images(folder: Path) -> list[Path]:
    """All images below a folder in natural order, without hidden files and folders (an interrupted copy)."""
    found = [
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    ]
    return sorted(found, key=lambda path: natural_key(path.relative_to(folder).as_posix()))
