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

__all__ = ["atomic_path", "claim_output", "path_before", "write_png", "write_text"]


def path_before(path: str | os.PathLike[str]) -> Path:
    """Where the file is kept that ``path`` replaces: ``model.pt`` has ``model_before.pt``."""
    return Path(path).with_stem(f"{Path(path).stem}_before")


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
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    suffix = "".join(target.suffixes[-2:])
    descriptor, name = tempfile.mkstemp(prefix=".partial-", suffix=suffix, dir=target.parent)
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
        InputError: when the path or a parent is a file, or the folder is not empty and ``overwrite`` is false.
    """
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file: name a folder for the {what}.")
    if folder.is_dir() and not overwrite and any(folder.iterdir()):
        raise InputError(f"{folder} is not empty: name another folder for the {what}, or pass --overwrite.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise InputError(f"{folder} cannot be made ({error.strerror}): name another folder for the {what}.") from error
    return folder
