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

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from monai_vqprior.errors import InputError, reason_of

__all__ = [
    "TEMPORARY",
    "OutputFolder",
    "check_writable",
    "log_folder",
]

#: prefix of the names of files that are being written.
TEMPORARY = ".partial-"
_PROBE = b"0" * 65536  # what a disk must have room for


class OutputFolder:
    """
    The folder that a command writes to: may it, and is there something already?

    Args:
        path: the folder, which need not exist.
        overwrite: whether what is there may be replaced.
    """

    def __init__(self, path: str | os.PathLike[str], overwrite: bool = False) -> None:
        self.path = Path(path)
        self.overwrite = overwrite

    def check(
        self, files: Iterable[str | os.PathLike[str]] = (), folders: Iterable[str | os.PathLike[str]] = ()
    ) -> None:
        """
        Refuse to replace the results of an earlier run, and to begin what could not be written in the end.

        Args:
            files: the files that are going to be written, relative to the folder, or absolute.
            folders: the folders that are going to be written, likewise.

        Raises:
            InputError: when one of them exists, a folder being ignored while it is empty, and may not be replaced; when
                a folder is where a file goes or the other way around; and when nothing can be written there.
        """
        for is_folder, names in ((False, files), (True, folders)):
            for name in names:
                self._check_result(self.path / name, is_folder)
        check_writable(self.path)

    def _check_result(self, path: Path, is_folder: bool) -> None:
        holds_something = any(path.iterdir()) if path.is_dir() else path.exists()
        if holds_something and not self.overwrite:
            raise InputError(f"{path} exists: pass --overwrite to replace it, or another --output_dir.")
        if path.exists() and path.is_dir() != is_folder:
            kinds = ("folder", "file") if is_folder else ("file", "folder")
            raise InputError(
                f"{path} must be a {kinds[0]}, but is a {kinds[1]}: remove it, or give another --output_dir."
            )
        check_writable(path if path.is_dir() else path.parent)

    def claim(self, what: str = "files") -> Path:
        """
        Make the folder, and refuse one that holds something already.

        Args:
            what: the word for its content in the error message, such as "slices".

        Returns:
            the folder.

        Raises:
            InputError: when it cannot be made or written to, or is not empty and may not be replaced.
        """
        check_writable(self.path, what)
        if self.path.is_dir() and not self.overwrite and any(self.path.iterdir()):
            raise InputError(f"{self.path} is not empty: name another folder for the {what}, or pass --overwrite.")
        self.path.mkdir(parents=True, exist_ok=True)
        return self.path


def check_writable(folder: str | os.PathLike[str], what: str = "results") -> None:
    """
    Refuse a folder that cannot be made or written to, before hours of work whose results go there.

    A probe is written, into the folder or the nearest above it that exists, and leaves nothing behind. Several
    processes may do so at once.

    Args:
        folder: the folder, which need not exist.
        what: the word for its content in the error message, such as "slices".

    Raises:
        InputError: naming the folder and what the file system says.
    """
    folder = Path(folder)
    try:
        place = next(parent for parent in (folder, *folder.absolute().parents) if _exists(parent))
        if not place.is_dir():
            raise InputError(f"{place} is a file: name a folder for the {what}.")
        for name in folder.absolute().relative_to(place.absolute()).parts:
            _exists(place / name)  # it does not, and a name that is too long never will
        with tempfile.TemporaryFile(prefix=TEMPORARY, dir=place) as probe:
            probe.write(_PROBE)
            probe.flush()
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        # What is no path at all, such as one with a null byte, is a ValueError.
        reason = error.strerror if isinstance(error, OSError) else reason_of(error)
        raise InputError(f"{folder} cannot be written to ({reason}): name another folder for the {what}.") from error


def _exists(path: Path) -> bool:
    """Whether a path leads to something, or is a link to nothing; an error means that nothing can be there."""
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    path.stat()
    return True


def log_folder(path: str | os.PathLike[str]) -> str:
    """
    A path of a folder that TensorBoard can write to, whose own paths must be UTF-8; made if need be.

    Args:
        path: the folder, of any bytes.

    Returns:
        the path itself where it is UTF-8, else one that leads there by way of the folder, open until the process ends.

    Raises:
        InputError: when the system has no such other path.
    """
    folder = os.fspath(path)
    try:
        folder.encode()
    except UnicodeEncodeError:
        Path(folder).mkdir(parents=True, exist_ok=True)
        other = Path(f"/proc/self/fd/{os.open(folder, os.O_RDONLY)}")
        if not other.is_dir():
            raise InputError(f"{folder} is not UTF-8, and TensorBoard cannot write there: name another.") from None
        return str(other)
    return folder
