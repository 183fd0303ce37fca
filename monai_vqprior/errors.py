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

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = [
    "AlreadyDoneError", "InputError", "chain_of", "counted", "input_error_in", "needs_extra", "one_line", "reason_of",
    "system_error_in",
]  # fmt: skip

#: What a file system may refuse. Connections of processes have other numbers, and are no matter of the user's paths.
_OF_FILES = {
    getattr(errno, name)
    for name in (
        "EACCES", "EBUSY", "EDQUOT", "EEXIST", "EFBIG", "EIO", "EISDIR", "ELOOP", "EMFILE", "EMLINK", "ENAMETOOLONG",
        "ENFILE", "ENODEV", "ENOENT", "ENOSPC", "ENOTDIR", "ENOTEMPTY", "ENXIO", "EPERM", "EROFS", "ESTALE", "ETXTBSY",
        "EXDEV",
    )
    if hasattr(errno, name)
}  # fmt: skip
_OUT_OF_MEMORY = ("not enough memory", "can't allocate memory", "out of memory")


class InputError(ValueError):
    """
    The input is wrong, not the program: a missing folder, a truncated slice, a checkpoint of another network.

    The message is one line that names the file or the value and says what to do. The command line prints it and
    exits with status 2; every other exception is a bug and keeps its traceback. Constructors raise it for
    arguments out of range, which come from configurations and the command line; it is a :class:`ValueError`.
    Line breaks and other characters that are not printable, which a path may have, are escaped.

    Args:
        message: the line.
    """

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class AlreadyDoneError(InputError):
    """The requested work is done already, such as a training with all its epochs."""


def one_line(text: str) -> str:
    """Text with an escape (``\\n``, ``\\udce9``) for each line break, control sign, and byte that is no UTF-8."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


def counted(number: int | str, noun: str) -> str:
    """A number with its noun, for a message: ``1 slice``, ``2 slices``."""
    return f"{number} {noun}" if str(number) == "1" else f"{number} {noun}s"


def reason_of(error: BaseException) -> str:
    """What an exception of any library says, in one line; the name of its class where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


def input_error_in(error: BaseException) -> InputError | None:
    """The :class:`InputError` that an exception was raised from, at any depth: MONAI wraps what transforms raise."""
    return next((link for link in chain_of(error) if isinstance(link, InputError)), None)


def chain_of(error: BaseException) -> Iterator[BaseException]:
    """An exception, the one that it was raised from, and so on."""
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__ or current.__context__


def system_error_in(error: BaseException, folder: str | os.PathLike[str] | None = None) -> InputError | None:
    """
    What the machine has refused, at any depth of an exception: a file or folder, or memory.

    Args:
        error: any exception.
        folder: where most of what is written goes, to be named where the exception names no file.

    Returns:
        the same in one line that names the path; None for an exception that has nothing to do with either, such as one
        of the connections between processes.
    """
    for link in chain_of(error):
        if isinstance(link, OSError) and not isinstance(link, (ConnectionError, TimeoutError)):
            if link.filename is not None or link.errno in _OF_FILES:
                return InputError(_of_file(link, folder))
        elif _is_of_memory(link):
            return InputError(
                f"there is not enough memory ({_first_line(link)}): take smaller sizes or a smaller batch."
            )
    return None


def _of_file(error: OSError, folder: str | os.PathLike[str] | None) -> str:
    """What a file system has refused, in one line."""
    reason = error.strerror or " ".join(map(str, error.args))
    if error.filename is None:
        place = "" if folder is None else f", perhaps one in {os.fspath(folder)},"
        return f"a file{place} cannot be read or written ({reason})."
    path = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else str(error.filename)
    return f"{path} cannot be read or written ({reason})."


def _is_of_memory(error: BaseException) -> bool:
    """Whether Python, NumPy or PyTorch has got no memory; PyTorch on a CPU says so in words alone."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


@contextmanager
def needs_extra(extra: str, what: str) -> Iterator[None]:
    """
    Around the imports of packages that only some users need, and that an extra of this package installs.

    Args:
        extra: name of the extra, as in ``setup.py``.
        what: what needs the packages, as the subject of the message.

    Raises:
        InputError: naming the package that is missing, and the extra.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        raise InputError(
            f'{what} needs the package {package}, which is not installed: pip install "monai-vqprior[{extra}]".'
        ) from error
