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

"""Which files a data set has: links are followed, and nothing is passed over without being named."""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from monai_vqprior.data.layout import natural_key

__all__ = ["FileTree", "find_files", "is_run", "is_segmentation"]

# What runs write below their output folder, where that is the folder of the data too.
_OF_A_RUN = frozenset(
    ("samples", "samples.png", "reconstructions", "reconstructions.png", "neighbors.png", "models", "tensorboard")
)
_SEGMENTATION = re.compile(
    r"(?<![A-Za-z])(?:[dfa]?seg|segs|segmentations?|segmented|masks?|labels?|probseg|ground[_-]?truth|annotations?)(?![A-Za-z])",
    re.IGNORECASE,
)
_SHOWN = 3  # names of each kind in a message, or one for each suffix


@dataclass
class FileTree:
    """
    The files of a folder and of the folders in it.

    Attributes:
        files: those that were asked for, in natural order.
        left_out: names of the others, relative to the folder, by what they are.
    """

    files: list[Path] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)

    def leave_out(self, what: str, name: str) -> None:
        """Note a file or folder that is not taken."""
        self.left_out.setdefault(what, []).append(name)

    def told(self) -> str:
        """What was left out, in one line with some names; empty where nothing was."""
        parts = [f"{what}: {len(names)} ({_some(names)})" for what, names in self.left_out.items() if names]
        return "left out, " + "; ".join(parts) if parts else ""


def find_files(
    folder: Path,
    is_wanted: Callable[[str], bool],
    what: str,
    companions: Collection[str] = (),
    output_dir: str | os.PathLike[str] | None = None,
    segmentations: bool = False,
) -> FileTree:
    """
    Find files in a folder and in the folders in it.

    Links are followed; a folder or file that several paths lead to is taken once, under its own name rather than that
    of a link. What a run of this package has written is never data: a folder below this one that holds the results of
    a run is passed over whole. Hidden folders are passed over too.

    Args:
        folder: where to look.
        is_wanted: whether a file is one of those, by its name.
        what: the word for them, such as "images".
        companions: names of files that belong to the data and are not mentioned.
        output_dir: folder of the current run, never data either.
        segmentations: whether to take what is a segmentation by its name (``masks/1.png``, ``x_seg.nii.gz``).

    Returns:
        the files, and what was left out.
    """
    tree = FileTree()
    output = None if output_dir is None else os.path.realpath(output_dir)
    found: list[tuple[Path, bool, tuple[int, int]]] = []
    for path, entry in _entries(folder, tree, output):
        relative = path.relative_to(folder)
        name = relative.as_posix()
        if entry.name.startswith("."):
            if is_wanted(entry.name) and not entry.name.startswith(".partial-"):
                tree.leave_out("hidden files", name)
        elif is_wanted(entry.name):
            if not segmentations and is_segmentation(relative):
                tree.leave_out("segmentations", name)
                continue
            status = entry.stat()
            found.append((path, entry.is_symlink(), (status.st_dev, status.st_ino)))
        elif entry.name not in companions:
            tree.leave_out(f"files that are no {what}", name)

    found.sort(key=lambda item: natural_key(item[0].relative_to(folder).as_posix()))
    seen: set[tuple[int, int]] = set()
    for path, _, identity in sorted(found, key=lambda item: item[1]):  # files before links to them
        if identity[1] and identity in seen:
            tree.leave_out("other names of files that are there already", path.relative_to(folder).as_posix())
        else:
            seen.add(identity)
            tree.files.append(path)
    tree.files.sort(key=lambda path: natural_key(path.relative_to(folder).as_posix()))
    for names in tree.left_out.values():
        names.sort(key=natural_key)
    return tree


def is_run(folder: Path, names: Collection[str]) -> bool:
    """Whether a folder, which holds these names, holds what a run of this package has written."""
    return (
        bool({"samples.json", "neighbors.json", "splits.json"} & set(names))
        or {"splits.csv", "models"} <= set(names)
        or {"reconstructions", "reconstructions.png"} <= set(names)
        or ("models" in names and (folder / "models" / "settings.json").is_file())
    )


def is_segmentation(path: PurePath) -> bool:
    """Whether a path, relative to the data set, says that a file is a mask or a label map: the folder or the name."""
    return any(_SEGMENTATION.search(part) for part in (*path.parts[:-1], path.name.split(".")[0]))


def _entries(folder: Path, tree: FileTree, output: str | None) -> Iterator[tuple[Path, os.DirEntry[str]]]:
    """All files below a folder; folders that only links lead to come last, and none comes twice."""
    top = os.path.realpath(folder)
    visited: set[str] = set()
    folders, links = [folder], deque[Path]()
    while folders or links:
        place = folders.pop() if folders else links.popleft()
        name, real = place.relative_to(folder).as_posix(), os.path.realpath(place)
        if real in visited or (place != folder and Path(top).is_relative_to(real)):  # a circle
            tree.leave_out("links to folders that are read already", name)
            continue
        visited.add(real)
        try:
            entries = sorted(os.scandir(place), key=lambda entry: natural_key(entry.name))
        except OSError:
            tree.leave_out("folders that cannot be read", name)
            continue
        of_run = is_run(place, [entry.name for entry in entries])
        if place != folder and (of_run or real == output):
            tree.leave_out("folders with the results of a run", name)
            continue
        for entry in entries:
            path = place / entry.name
            inner = path.relative_to(folder).as_posix()
            if of_run and entry.name in _OF_A_RUN:
                tree.leave_out("results of a run", inner)
            elif _is(entry.is_file):
                yield path, entry
            elif entry.name.startswith("."):
                continue
            elif _is(entry.is_dir):
                (links if entry.is_symlink() else folders).append(path)
            elif entry.is_symlink():
                tree.leave_out("links that lead to no file", inner)


def _is(question: Callable[[], bool]) -> bool:
    """The answer of a directory entry; a link in a circle is nothing."""
    try:
        return question()
    except OSError:
        return False


def _some(names: Sequence[str]) -> str:
    """The first names and an ellipsis, of different suffixes where there are any."""
    by_suffix: dict[str, str] = {}
    for name in names:
        by_suffix.setdefault("".join(Path(name).suffixes[-2:]).lower(), name)
    shown = list(dict.fromkeys([*by_suffix.values(), *names]))[: max(_SHOWN, min(len(by_suffix), 2 * _SHOWN))]
    return ", ".join(shown) + (", …" if len(names) > len(shown) else "")
