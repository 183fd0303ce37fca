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
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from monai_vqprior.data.layout import natural_key
from monai_vqprior.volumes.layouts import is_segmentation

__all__ = ["FileTree", "find_files", "is_run"]

# What runs write below their output folder, where that is the folder of the data too.
_OF_A_RUN = frozenset(
    (
        "samples",
        "samples.png",
        "completions",
        "completions.png",
        "reconstructions",
        "reconstructions.png",
        "neighbors.png",
        "models",
        "tensorboard",
    )
)
# Files and folders that together identify a run.
_SIGNS = (
    {"splits.csv", "splits.json"},
    {"splits.csv", "models"},
    {"samples", "samples.json"},
    {"completions", "completions.json"},
    {"neighbors.png", "neighbors.json"},
    {"reconstructions", "reconstructions.png"},
)
_SHOWN = 3  # names of each kind in a message, or one for each suffix


@dataclass
class FileTree:
    """
    The files of a folder and of the folders in it.

    Attributes:
        files: the requested files, in natural order.
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
    found: list[tuple[str, bool, tuple[int, int]]] = []
    for name, entry in _entries(folder, tree, output):
        if entry.name.startswith("."):
            if is_wanted(entry.name) and not entry.name.startswith(".partial-"):
                tree.leave_out("hidden files", name)
        elif not is_wanted(entry.name):
            if entry.name not in companions:
                tree.leave_out(f"files that are no {what}", name)
        elif not segmentations and is_segmentation(name):
            tree.leave_out("segmentations", name)
        else:
            status = entry.stat()
            found.append((name, entry.is_symlink(), (status.st_dev, status.st_ino)))

    found.sort(key=lambda item: natural_key(item[0]))
    first: dict[tuple[int, int], str] = {}
    for name, _, identity in sorted(found, key=lambda item: item[1]):  # files before links to them
        first.setdefault(identity, name)
    for name, _, identity in found:
        if identity[1] and first[identity] != name:
            tree.leave_out("other names of files that are there already", name)
        else:
            tree.files.append(folder / name)
    for names in tree.left_out.values():
        names.sort(key=natural_key)
    return tree


def is_run(folder: Path, names: Collection[str]) -> bool:
    """Whether a folder, which holds these names, holds what a run of this package has written."""
    held = set(names)
    return any(sign <= held for sign in _SIGNS) or (
        "models" in held
        and any((folder / "models" / name).is_file() for name in ("settings.json", "prior_settings.json"))
    )


def _entries(folder: Path, tree: FileTree, output: str | None) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """All files below a folder, with their paths from there; what only links lead to comes last, and nothing twice."""
    top = os.path.realpath(folder)
    visited: set[str] = set()
    folders, links = [""], deque[str]()  # paths from the folder, which end with a slash
    while folders or links:
        place = folders.pop() if folders else links.popleft()
        real = os.path.realpath(folder / place)
        if real in visited or (place and Path(top).is_relative_to(real)):  # a circle
            tree.leave_out("links to folders that are read already", place[:-1])
            continue
        visited.add(real)
        try:
            entries = sorted(os.scandir(folder / place), key=lambda entry: natural_key(entry.name))
        except OSError:
            tree.leave_out("folders that cannot be read", place[:-1])
            continue
        of_run = is_run(folder / place, [entry.name for entry in entries])
        if place and (of_run or real == output):
            tree.leave_out("folders with the results of a run", place[:-1])
            continue
        for entry in entries:
            name = place + entry.name
            if of_run and entry.name in _OF_A_RUN:
                tree.leave_out("results of a run", name)
            elif _is(entry.is_file):
                yield name, entry
            elif entry.name.startswith("."):
                continue
            elif _is(entry.is_dir):
                (links if entry.is_symlink() else folders).append(f"{name}/")
            elif entry.is_symlink():
                tree.leave_out("links that lead to no file", name)


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
    return ", ".join(shown) + (", ..." if len(names) > len(shown) else "")
