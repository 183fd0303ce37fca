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

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["AlreadyDoneError", "InputError", "input_error_in", "needs_extra"]


class InputError(ValueError):
    """
    The input is wrong, not the program: a missing folder, a truncated slice, a checkpoint of another network.

    The message is one line that names the file or the value and says what to do. The command line prints it and
    exits with status 2; every other exception is a bug and keeps its traceback. Constructors raise it for
    arguments out of range, which come from configurations and the command line; it is a :class:`ValueError`.
    """


class AlreadyDoneError(InputError):
    """What was asked for is done already, such as a training that has had all its epochs."""


def input_error_in(error: BaseException) -> InputError | None:
    """The :class:`InputError` that an exception was raised from, at any depth: MONAI wraps what transforms raise."""
    current: BaseException | None = error
    while current is not None and not isinstance(current, InputError):
        current = current.__cause__ or current.__context__
    return current


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
