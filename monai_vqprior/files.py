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

import json
import math
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from monai_vqprior.errors import InputError, reason_of
from monai_vqprior.outputs import TEMPORARY, check_writable, log_folder

__all__ = [
    "MOST_PIXELS",
    "MOST_VOXELS",
    "atomic_path",
    "check_extent",
    "check_writable",
    "log_folder",
    "open_picture",
    "parse_json",
    "path_before",
    "read_json",
    "tell",
    "write_png",
    "write_text",
]

# A header of a few bytes can claim any number of pixels or voxels, and a small file can hold it; what is decoded takes
# some bytes for each.
#: the largest number of pixels of a picture that is read, 8192 x 8192.
MOST_PIXELS = 2**26
#: the largest number of voxels of a volume that is read, about 645 along each axis.
MOST_VOXELS = 2**28

#: Formats of pictures. Pillow reads more, of which one runs another program: Encapsulated PostScript.
_FORMATS = ("PNG", "JPEG", "TIFF")
# Levels of lists and dictionaries in a JSON file, and digits of a whole number, at most.
_MOST_LEVELS = 16
_MOST_DIGITS = 20


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
        if not names or any(name.startswith(TEMPORARY) for name in names):
            error.filename, error.filename2 = str(target), None
        raise


@contextmanager
def _renamed_to(target: Path) -> Iterator[Path]:
    """A temporary path that becomes ``target``."""
    target.parent.mkdir(parents=True, exist_ok=True)
    suffix = "".join(target.suffixes[-2:]) or ".file"  # a name of nothing but a suffix is refused by torch.save
    descriptor, name = tempfile.mkstemp(prefix=TEMPORARY, suffix=suffix, dir=target.parent)
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


def tell(*words: object) -> None:
    """Print a line, with escapes for characters that standard output lacks, such as the path of a result."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    print(" ".join(map(str, words)).encode(encoding, "backslashreplace").decode(encoding), flush=True)


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
    """
    Write ``text`` as UTF-8, under a temporary name first, and return the path that was written.

    In the name of a file that is not UTF-8 each such byte becomes an escape, ``\\udce9`` for 0xe9, so that any program
    reads the text.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    return Path(path)


def check_extent(path: str | os.PathLike[str], shape: Sequence[int]) -> None:
    """
    Refuse a picture or a volume that is larger than anybody means, by its header, before it is decoded.

    Args:
        path: the file.
        shape: pixels or voxels along each axis; two axes are a picture, more a volume.

    Raises:
        InputError: when there are more than :data:`MOST_PIXELS` or :data:`MOST_VOXELS`.
    """
    most, what = (MOST_PIXELS, "pixels") if len(shape) == 2 else (MOST_VOXELS, "voxels")
    if math.prod(map(int, shape)) > most:
        raise InputError(
            f"{path} has {' x '.join(str(size) for size in shape)} {what} by its header, more than the {most} that are "
            "read: make it smaller, or leave such files out with --skip_bad."
        )


@contextmanager
def open_picture(path: str | os.PathLike[str], formats: Sequence[str] = _FORMATS) -> Iterator[Image.Image]:
    """
    Open a picture after a check of its size; its pixels are decoded on access.

    Args:
        path: the file.
        formats: the formats that it may have, as Pillow names them.

    Yields:
        the picture, open.

    Raises:
        InputError: when it has more than :data:`MOST_PIXELS` pixels.
        OSError: and others of Pillow's errors, when it is no picture in one of the formats.
    """
    # Opened here: of a TIFF file that Pillow opens and maps to memory, it mixes up the rows when its orientation tag
    # exchanges height and width.
    with Path(path).open("rb") as file:
        with warnings.catch_warnings():
            # Pillow warns of some large pictures and refuses others; here one limit holds for all.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(file, formats=tuple(formats))
        with image:
            check_extent(path, image.size)
            yield image


def read_json(
    path: str | os.PathLike[str], advice: str = "mend it or remove it", most_bytes: int = 2**20
) -> dict[str, Any]:
    """
    Read a JSON file of another program, or of a stranger: an object of plain values, and nothing that JSON has not.

    Args:
        path: the file.
        advice: what to do about one that cannot be read.
        most_bytes: how large it may be.

    Returns:
        the object, at most 16 levels deep, with finite numbers of at most 20 digits.

    Raises:
        InputError: naming the file, when it is missing, too large, not UTF-8, no JSON or no object, or has a key twice,
            a number that is not finite or too long, or too many levels.
    """
    try:
        size = Path(path).stat().st_size
        if size > most_bytes:
            raise ValueError(f"{size} bytes, more than {most_bytes}")
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise _unreadable(path, error, advice) from error
    return parse_json(text, path, advice)


def parse_json(text: str, path: str | os.PathLike[str], advice: str = "mend it or remove it") -> dict[str, Any]:
    """
    The object in a text of JSON, as :func:`read_json` accepts it.

    Args:
        text: the text.
        path: the file that it is of.
        advice: what to do about one that cannot be read.

    Returns:
        the object.

    Raises:
        InputError: see there.
    """
    try:
        content = json.loads(
            text,
            object_pairs_hook=_without_duplicates,
            parse_int=_whole,
            parse_float=_finite,
            parse_constant=_finite,
        )
        if not isinstance(content, dict):
            raise ValueError(f"a {type(content).__name__}, not an object")
        _check_plain(content)
    except (ValueError, RecursionError) as error:
        raise _unreadable(path, error, advice) from error
    return content


def _unreadable(path: str | os.PathLike[str], error: BaseException, advice: str) -> InputError:
    return InputError(f"{path} cannot be read ({reason_of(error)}): {advice}.")


def _without_duplicates(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, in which no key is there twice: readers would differ in which of them they take."""
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("a key is there twice")
    return content


def _whole(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:_MOST_DIGITS]} is not finite")
    return value


def _check_plain(content: Any) -> None:
    """Refuse what is nested too deeply, and text that cannot be written again, half a pair of surrogates."""
    level: list[Any] = [content]
    for _ in range(_MOST_LEVELS):
        for item in level:
            for text in item if isinstance(item, dict) else (item,):
                if isinstance(text, str) and not text.isascii():
                    text.encode(errors="surrogateescape")
        inner = (item.values() if isinstance(item, dict) else item for item in level if isinstance(item, (dict, list)))
        level = [value for values in inner for value in values]
        if not level:
            return
    raise ValueError(f"more than {_MOST_LEVELS} levels")
