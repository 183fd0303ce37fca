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

"""Which volumes a folder holds, and of whom they are."""

from __future__ import annotations

import fnmatch
import logging
import os
from collections.abc import Sequence
from pathlib import Path, PurePath, PurePosixPath

from monai_vqprior.data.names import name_scans
from monai_vqprior.data.tree import FileTree, find_files
from monai_vqprior.errors import InputError
from monai_vqprior.volumes.headers import header_of, is_pair
from monai_vqprior.volumes.layouts import SUFFIXES, choose_volumes, is_volume

__all__ = ["find_volumes", "session_of", "subject_of"]

logger = logging.getLogger(__name__)

# What lies beside volumes and is read, or belongs to them.
_BESIDE = ("participants.tsv", "participants.json", "dataset_description.json")


def find_volumes(
    volumes_dir: str | os.PathLike[str],
    pattern: str | None = None,
    output_dir: str | os.PathLike[str] | None = None,
) -> list[Path]:
    """
    Find the volumes of a folder and of the folders in it: NIfTI, Analyze and FreeSurfer's.

    An ``.img`` stands for its ``.hdr`` too. Links are followed. Hidden files and folders are passed over, and so are
    the results of a run of this package. Which of the volumes are the heads is chosen by
    :func:`monai_vqprior.volumes.choose_volumes`. A warning names what is left out.

    Args:
        volumes_dir: the folder.
        pattern: glob such as ``*_T1w.nii.gz`` or ``anat/*.nii`` that chooses the files instead. Each becomes a case of
            its own.
        output_dir: a folder in which no volume is looked for.

    Returns:
        the paths, in natural order.

    Raises:
        InputError: when the folder is missing or holds no volume, or the pattern is not a relative glob.
    """
    folder = Path(volumes_dir)
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder: name the one that holds the volumes.")
    if pattern is not None and (not PurePath(pattern).parts or PurePath(pattern).is_absolute()):
        raise InputError(f"pattern must be a relative glob such as *_T1w.nii.gz, got {pattern!r}.")
    tree = find_files(folder, is_volume, "volumes", _BESIDE, output_dir, segmentations=True)
    _forget_headers(folder, tree)
    if pattern is not None:
        wanted_parts = ("**", *PurePath(pattern).parts)
        volumes = [path for path in tree.files if _matches(path.relative_to(folder).parts, wanted_parts)]
    else:
        choice = choose_volumes(PurePosixPath(path.relative_to(folder).as_posix()) for path in tree.files)
        volumes = [folder / path for path in choice.taken]
        for what, names in choice.left_out.items():
            tree.left_out.setdefault(what, []).extend(names)
    told = tree.told()
    if not volumes:
        wanted = ", ".join(f"*{suffix}" for suffix in SUFFIXES)
        matching = "" if pattern is None else f" that matches {pattern!r}"
        raise InputError(f"{folder} holds no volume ({wanted}){matching}{told and f'; {told}'}.")
    if told:
        logger.warning("%s: %s", folder, told)
    return volumes


def subject_of(path: str | os.PathLike[str]) -> str:
    """
    Name the subject of a volume by its own path; :func:`monai_vqprior.data.names.name_scans` sees the whole data set.

    Args:
        path: path of the file, relative to the data set.

    Returns:
        ``OAS1_0001`` for OASIS-1 names (and alike for OASIS-2), ``sub-01`` for BIDS names, otherwise what the name of
        the file tells.

    Example:
        >>> subject_of("OAS1_0061_MR2_mpr_n4_anon_111_t88_masked_gfc.img")
        'OAS1_0061'
    """
    return name_scans([PurePath(path)], volumes=True).subjects[0]


def session_of(path: str | os.PathLike[str]) -> str:
    """
    Name the session of a volume, one visit of one subject, by its own path.

    Args:
        path: path of the file, relative to the data set.

    Returns:
        ``OAS1_0001_MR1`` for OASIS-1 names (and alike for OASIS-2), ``sub-01_ses-02`` for BIDS names, otherwise
        the file name without suffixes.

    Example:
        >>> session_of("sub-01_ses-02_T1w.nii.gz")
        'sub-01_ses-02'
    """
    return name_scans([PurePath(path)], volumes=True).names[0].session


def _forget_headers(folder: Path, tree: FileTree) -> None:
    """Leave the headers of pairs out of what is mentioned: they belong to their volumes."""
    headers = {
        header.relative_to(folder).as_posix()
        for path in tree.files
        if is_pair(path) and (header := header_of(path)) is not None
    }
    for what, names in tree.left_out.items():
        tree.left_out[what] = [name for name in names if name not in headers]


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether the parts of a path match those of a glob, of which ``**`` is any number of folders."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_matches(parts[start:], pattern[1:]) for start in range(len(parts) + 1))
    return bool(parts) and fnmatch.fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])
