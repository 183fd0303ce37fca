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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from monai_vqprior.errors import InputError

__all__ = ["atomic_path", "check_writable", "claim_output", "write_png", "write_text"]

_TEMPORARY = ".partial-"
_PROBE = b"0" * 65536  # what a disk must have room for


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """
    Yield a temporary path in the folder of ``path``, and rename it to ``path`` when the block ends without an error.

    A reader never sees half a file, and an interrupted run leaves none. The temporary name keeps the suffix of
    ``path``, because image and volume writers choose the format by it. The parent folder is made if it is missing.

    Args:
        path: where the finished file goes; an existing file is replaced.

    Yields:
        the path to write to.

    Raises:
        OSError: as the block or the file system raises it, naming ``path`` where it would name no file or the temporary
            one.
    """
    target = Path(path)
    try:
        with _renamed_to(target) as temporary:
            yield temporary
    except OSError as error:
        names = [Path(os.fsdecode(name)).name for name in (error.filename, error.filename2) if name is not None]
        if not names or any(name.startswith(_TEMPORARY) for name in names):
            error.filename, error.filename2 = str(target), None
        raise


@contextmanager
def _renamed_to(target: Path) -> Iterator[Path]:
    """A temporary path that becomes ``target``."""
    target.parent.mkdir(parents=True, exist_ok=True)
    suffix = "".join(target.suffixes[-2:]) or ".file"  # a name of nothing but a suffix is refused by torch.save
    descriptor, name = tempfile.mkstemp(prefix=_TEMPORARY, suffix=suffix, dir=target.parent)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes files that only their owner can read; a finished file has the permissions of any new file.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def write_png(path: str | os.PathLike[str], image: np.ndarray) -> Path:
    """
    Write an 8-bit image as PNG, under a temporary name first.

    Args:
        path: the file to write.
        image: ``uint8`` array of shape (H, W) for grey or (H, W, 3) for RGB, rows from top to bottom.

    Returns:
        the path that was written.

    Raises:
        TypeError: when the image is not ``uint8``.
    """
    if image.dtype != np.uint8:
        raise TypeError(f"write_png takes 8-bit images, got {image.dtype}.")
    with atomic_path(path) as temporary:
        Image.fromarray(image).save(temporary, format="PNG")
    return Path(path)


def write_text(path: str | os.PathLike[str], text: str) -> Path:
    """Write ``text`` as UTF-8, under a temporary name first, and return the path that was written."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(path)


def claim_output(path: str | os.PathLike[str], overwrite: bool = False, what: str = "files") -> Path:
    """
    Make the folder that results go to, and refuse one that holds something already.

    Args:
        path: the output folder; made with its parents if it is missing.
        overwrite: whether a folder that is not empty may be written into.
        what: the word for its content in the error message, such as "slices".

    Returns:
        the folder.

    Raises:
        InputError: when the folder cannot be made or written to, or is not empty and ``overwrite`` is false.
    """
    folder = Path(path)
    check_writable(folder, what)
    if folder.is_dir() and not overwrite and any(folder.iterdir()):
        raise InputError(f"{folder} is not empty: name another folder for the {what}, or pass --overwrite.")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


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
        with tempfile.TemporaryFile(prefix=_TEMPORARY, dir=place) as probe:
            probe.write(_PROBE)
            probe.flush()
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        # What is no path at all, such as one with a null byte, is a ValueError.
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{folder} cannot be written to ({reason}): name another folder for the {what}.") from error


def _exists(path: Path) -> bool:
    """Whether a path leads to something, or is a link to nothing; an error tells that nothing can ever be there."""
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    path.stat()
    return True
