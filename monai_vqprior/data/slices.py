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
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any

from monai_vqprior.data.layout import SPLITS, natural_key, split_folder, split_subjects
from monai_vqprior.data.names import Naming, name_scans
from monai_vqprior.data.tables import read_table
from monai_vqprior.data.tree import FileTree, find_files, is_run
from monai_vqprior.errors import InputError
from monai_vqprior.files import open_picture, write_text
from monai_vqprior.prepare_arguments import CUTTING_FILE, Cutting, read_cutting
from monai_vqprior.values import check_settings

__all__ = ["IMAGE_SUFFIXES", "SliceFolder"]

logger = logging.getLogger(__name__)

#: suffixes of the slices that a folder is searched for, in lower case.
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")

# Tables that belong to the slices.
_COMPANIONS = ("subjects.csv", "slices.csv", "phantom.json", CUTTING_FILE)


@dataclass(frozen=True)
class _Found:
    """
    Slices of a folder.

    Attributes:
        items: as :meth:`SliceFolder.datalist` describes them.
        scans: the scan of each slice, by its path.
        naming: how the subjects were found.
        paths: of the slices, relative to the data set.
    """

    items: list[dict[str, Any]]
    scans: dict[str, str]
    naming: Naming
    paths: list[PurePath]


class SliceFolder:
    """
    The slices of a data set on disk, and which split each of them is in.

    There are two layouts. That of the preprocessed OASIS slices has a folder for each split,
    ``keras_png_slices_{train,validate,test}``, in the folder given or in one folder there. Any other folder is
    searched, with its subfolders, for PNG, JPEG and TIFF files; these are split by subject.
    ``monai_vqprior.data.names`` lists the rules that find subjects.

    Links are followed. Segmentations beside the slices (``masks/``, ``*_seg``) and the results of a run of this package
    are no slices. A warning counts and names what is left out.

    Args:
        dataset_dir: the folder.
        seed: seed of the split of a plain folder.
        fractions: share of the subjects of a plain folder for each split; 0.8, 0.1, 0.1 by default.
        split_by: ``file`` to assign single slices to the splits where no subject is found, instead of refusing them.
        subject_pattern: regular expression that finds the subject in the path of a slice, relative to ``dataset_dir``:
            its group ``subject``, or its first one.
        output_dir: folder of the run, which holds no slices of the data set.

    Raises:
        InputError: when the folder does not exist, or several folders in it have folders of splits.

    Example:
        >>> slices = SliceFolder("oasis")  # doctest: +SKIP
        >>> slices.datalist("test")[0]  # doctest: +SKIP
        {'image': 'oasis/keras_png_slices_test/case_441_slice_0.nii.png', 'subject': 'case_441', 'index': 0}
    """

    def __init__(
        self,
        dataset_dir: str | os.PathLike[str],
        seed: int = 0,
        fractions: Mapping[str, float] | None = None,
        split_by: str = "subject",
        subject_pattern: str | None = None,
        output_dir: str | os.PathLike[str] | None = None,
    ):
        self.dataset_dir = Path(dataset_dir)
        if not self.dataset_dir.is_dir():
            raise InputError(f"{self.dataset_dir} is not a directory: give the folder of the slices as dataset_dir.")
        check_settings(split_by=split_by, subject_pattern=subject_pattern)
        self.seed = seed
        self.fractions = fractions
        self.split_by = split_by
        self.subject_pattern = subject_pattern
        self.output_dir = output_dir
        #: the folder with the folders of the splits and the tables, ``dataset_dir`` or a folder in it.
        self.root = self._find_root()
        self.in_split_folders = _has_splits(self.root)

    def datalist(self, split: str) -> list[dict[str, Any]]:
        """
        The slices of a split.

        Args:
            split: ``train``, ``validate``, ``test``, or ``all`` for every slice of the folder.

        Returns:
            for each slice its ``image`` path, its ``subject``, and its ``index`` within the scan, in natural order:
            the number in its name, or else its place among the slices of the scan.

        Raises:
            InputError: when there is no such split or it is empty, and when the subject of a slice is not found.
        """
        if split == "all" and not self.in_split_folders:
            return self._plain.items
        if split == "all":
            return [item for part in SPLITS if self._has(part) for item in self.datalist(part)]
        folder = split_folder(self.root, split)
        if self.in_split_folders:
            if not folder.is_dir():
                raise InputError(f"{folder} does not exist: the data set has no split {split!r}.")
            items = self._in_folders[split].items
            where = folder
        else:
            items = self._deal[split]
            where = self.dataset_dir
        if not items:
            raise InputError(f"{where} holds no slices for the split {split!r} ({', '.join(IMAGE_SUFFIXES)}).")
        return items

    def scan_of(self, image: str) -> str:
        """
        The scan of a slice: what it has in common with the other slices of one scan of its subject.

        Args:
            image: path of the slice, as :meth:`datalist` has it.
        """
        parts = self._in_folders.values() if self.in_split_folders else [self._plain]
        return next(found.scans[image] for found in parts if image in found.scans)

    def describe(self) -> str:
        """How the subjects were found, how many there are, and three of them, in one line."""
        naming, paths = self._naming()
        return naming.told(paths)

    def write_splits(self, path: str | os.PathLike[str]) -> None:
        """
        Write down which slice is in which split, and by which rule.

        Args:
            path: CSV file with the columns split, subject, index, image. ``splits.json`` beside it has the rule, the
                number of subjects, three examples, the options, and how volumes were cut into the slices.
        """
        text = io.StringIO()
        table = csv.DictWriter(text, ["split", "subject", "index", "image"], lineterminator="\n")
        table.writeheader()
        for split in SPLITS:
            if self._has(split):
                table.writerows({"split": split, **item} for item in self.datalist(split))
        write_text(path, text.getvalue())
        naming, paths = self._naming()
        rule = {
            "rule": naming.rule,
            "subjects": naming.count,
            "examples": naming.examples(paths),
            "split_by": self.split_by,
            "subject_pattern": self.subject_pattern,
            "dealt": not self.in_split_folders,
            "prepared": None if self.cutting is None else self.cutting.cutting,
        }
        write_text(Path(path).with_suffix(".json"), json.dumps(rule, indent=2) + "\n")

    @property
    def cutting(self) -> Cutting | None:
        """How volumes were cut into these slices; None where no run of ``prepare`` has made them."""
        path = self.root / CUTTING_FILE
        return read_cutting(path) if path.is_file() else None

    def check_splits(self, path: str | os.PathLike[str]) -> None:
        """
        Warn where slices are in another split than in training, since files have come or gone, or options are others.

        Args:
            path: what :meth:`write_splits` wrote then. If it does not exist, nothing is checked.
        """
        if not Path(path).is_file():
            return
        _, rows = read_table(path, ["image"], lambda image, row: os.path.abspath(image))  # noqa: PTH100
        if not any(os.path.abspath(item["image"]) in rows for item in self.datalist("all")):  # noqa: PTH100
            return  # another data set
        moved = trained = 0
        for split in (split for split in SPLITS if self._has(split)):
            for item in self.datalist(split):
                before = rows.get(os.path.abspath(item["image"]), {}).get("split", split)  # noqa: PTH100
                moved += before != split
                trained += before == "train" != split
        if moved:
            logger.warning(
                "%d slices are in another split than %s says, %d of them were trained on and are not in the split "
                "train now: give the data set and the options of the training, or train anew",
                moved,
                path,
                trained,
            )

    def _find_root(self) -> Path:
        """The folder that has the folders of the splits, the one given or one in it; else the one given."""
        if _has_splits(self.dataset_dir):
            return self.dataset_dir
        inner = sorted(path for path in self.dataset_dir.iterdir() if not path.name.startswith(".") and path.is_dir())
        roots = [
            path for path in inner if _has_splits(path) and not is_run(path, [inner.name for inner in path.iterdir()])
        ]
        if len(roots) > 1:
            names = ", ".join(path.name for path in roots)
            raise InputError(
                f"several folders in {self.dataset_dir} have folders of splits ({names}): give one of them as "
                "dataset_dir."
            )
        if not roots:
            return self.dataset_dir
        beside = FileTree()
        for path in sorted(self.dataset_dir.iterdir()):
            if path != roots[0] and not path.name.startswith(".") and path.name not in _COMPANIONS:
                beside.leave_out(f"files and folders beside {roots[0].name}", path.name)
        self._tell(self.dataset_dir, beside)
        return roots[0]

    def _has(self, split: str) -> bool:
        if self.in_split_folders:
            return split_folder(self.root, split).is_dir()
        return bool(self._deal[split])

    def _naming(self) -> tuple[Naming, list[PurePath]]:
        """How the subjects of all slices were found, and the paths of these."""
        if not self.in_split_folders:
            return self._plain.naming, self._plain.paths
        found = self._in_folders.values()
        naming = Naming(next(iter(found)).naming.rule, [name for part in found for name in part.naming.names])
        return naming, [path for part in found for path in part.paths]

    @cached_property
    def _in_folders(self) -> dict[str, _Found]:
        """The slices of each split that has a folder, named by one rule."""
        images = {split: self._find(folder) for split in SPLITS if (folder := split_folder(self.root, split)).is_dir()}
        # The folder of a split says nothing of a subject, save to a pattern.
        named = self.subject_pattern is not None
        inner = [
            path.relative_to(self.dataset_dir if named else split_folder(self.root, split))
            for split, paths in images.items()
            for path in paths
        ]
        naming = name_scans(inner, False, self.subject_pattern, self.root)
        everything = [path for paths in images.values() for path in paths]
        names = [
            replace(name, subject=path.relative_to(self.dataset_dir).as_posix()) if untold in naming.untold else name
            for name, path, untold in zip(naming.names, everything, [path.as_posix() for path in inner], strict=True)
        ]
        found, start = {}, 0
        for split, paths in images.items():
            found[split] = self._describe(paths, Naming(naming.rule, names[start : start + len(paths)]))
            start += len(paths)
        seen: dict[str, str] = {}
        shared = {
            item["subject"]
            for split, part in found.items()
            for item in part.items
            if seen.setdefault(item["subject"], split) != split
        }
        if shared:
            some = ", ".join(sorted(shared, key=natural_key)[:3])
            logger.warning(
                "%s: %d subjects are in the folders of several splits, such as %s", self.root, len(shared), some
            )
        return found

    @cached_property
    def _plain(self) -> _Found:
        """The slices of a plain folder."""
        paths = self._find(self.dataset_dir)
        relative = [path.relative_to(self.dataset_dir) for path in paths]
        naming = name_scans(relative, False, self.subject_pattern, self.dataset_dir)
        return self._describe(paths, naming)

    @cached_property
    def _deal(self) -> dict[str, list[dict[str, Any]]]:
        """Deal the slices of a plain folder to the splits, by subject."""
        found = self._plain
        if self.split_by != "file":
            found.naming.check_told(self.dataset_dir)
        subjects = split_subjects(found.naming.subjects, self.fractions, self.seed, found.naming.hint)
        split_of = {subject: split for split, names in subjects.items() for subject in names}
        dealt: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
        for item in found.items:
            dealt[split_of[item["subject"]]].append(item)
        return dealt

    def _find(self, folder: Path) -> list[Path]:
        """All images below a folder in natural order; those of a plain folder must be there."""
        tree = find_files(folder, _is_image, "images", _COMPANIONS, self.output_dir)
        if not tree.files and not self.in_split_folders:
            told = tree.told()
            raise InputError(f"{folder} holds no slices ({', '.join(IMAGE_SUFFIXES)}){told and f'; {told}'}.")
        for path in tree.files:
            pages = _num_pages(path)
            if pages > 1:
                tree.leave_out(
                    "files with pages behind the first", f"{path.relative_to(folder).as_posix()}: {pages} pages"
                )
        self._tell(folder, tree)
        return tree.files

    def _tell(self, folder: Path, tree: FileTree) -> None:
        told = tree.told()
        if told:
            logger.warning("%s: %s", folder, told)

    def _describe(self, paths: Sequence[Path], naming: Naming) -> _Found:
        """Path, subject and index of each slice; slices without an index in their name are numbered in their scan."""
        items, scans = [], {}
        counts: dict[tuple[str, str], int] = {}
        for path, name, subject in zip(paths, naming.names, naming.subjects, strict=True):
            count = counts.get((subject, name.scan), 0)
            counts[subject, name.scan] = count + 1
            index = count if name.index is None else name.index
            items.append({"image": str(path), "subject": subject, "index": index})
            scans[str(path)] = f"{subject}/{name.scan}"
        return _Found(items, scans, naming, [path.relative_to(self.dataset_dir) for path in paths])


def _has_splits(folder: Path) -> bool:
    return any(split_folder(folder, split).is_dir() for split in SPLITS)


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES)


def _num_pages(path: Path) -> int:
    """Pages of a TIFF file; 1 of any other, and of one that is damaged, which is refused when it is read."""
    if path.suffix.lower() not in (".tif", ".tiff"):
        return 1
    try:
        with open_picture(path) as image:
            return getattr(image, "n_frames", 1)
    except (InputError, OSError, SyntaxError, ValueError):
        return 1
