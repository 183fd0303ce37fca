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
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.transforms import Compose, Lambda

from monai_vqprior.errors import AlreadyDoneError, InputError, counted, input_error_in, system_error_in


@pytest.mark.parametrize(
    ("number", "told"), [(0, "0 slices"), (1, "1 slice"), (2, "2 slices"), ("1", "1 slice"), ("11", "11 slices")]
)
def test_a_number_with_its_noun(number: int | str, told: str) -> None:
    assert counted(number, "slice") == told


def plain() -> None:
    raise InputError("wrong")


def with_a_cause() -> None:
    try:
        raise InputError("wrong")
    except InputError as error:
        raise RuntimeError("applying transform") from error


def in_its_handling() -> None:
    try:
        raise InputError("wrong")
    except InputError:
        raise KeyError("image")  # noqa: B904


def two_levels_deep() -> None:
    try:
        with_a_cause()
    except RuntimeError as error:
        raise OSError("worker") from error


def in_a_transform() -> None:
    def fail(path: str) -> None:
        raise InputError("wrong")

    Compose([Lambda(fail)])("slice.png")


def raised_by(action: Callable[[], None]) -> Exception:
    with pytest.raises(Exception) as raised:  # noqa: PT011
        action()
    return raised.value


@pytest.mark.parametrize("action", [plain, with_a_cause, in_its_handling, two_levels_deep, in_a_transform])
def test_finds_the_input_error_at_any_depth(action: Callable[[], None]) -> None:
    found = input_error_in(raised_by(action))
    assert type(found) is InputError
    assert str(found) == "wrong"


def test_finds_none_where_the_program_is_wrong() -> None:
    def fail() -> None:
        try:
            raise KeyError("image")
        except KeyError as error:
            raise ValueError("no image") from error

    assert input_error_in(raised_by(fail)) is None


def test_an_input_error_is_a_value_error_and_what_is_done_an_input_error() -> None:
    assert issubclass(InputError, ValueError)
    assert isinstance(input_error_in(AlreadyDoneError("done")), AlreadyDoneError)


def open_missing() -> None:
    open("/no/such/file").close()  # noqa: PTH123


def list_a_file() -> None:
    next(Path(__file__).iterdir())


def fill_the_disk() -> None:
    with open("/dev/full", "wb", buffering=0) as file:  # noqa: PTH123
        file.write(b"0")


def fail_in_a_writer() -> None:
    error = OSError("encoder error -2 when writing image file")
    error.filename = "a.png"
    raise error


def wrapped() -> None:
    try:
        open_missing()
    except OSError as error:
        raise RuntimeError("Failed to evaluate '$@train'") from error


@pytest.mark.parametrize(
    ("action", "line"),
    [
        (open_missing, "/no/such/file cannot be read or written (No such file or directory)."),
        (wrapped, "/no/such/file cannot be read or written (No such file or directory)."),
        (list_a_file, f"{__file__} cannot be read or written (Not a directory)."),
        (fill_the_disk, "a file, perhaps one in out, cannot be read or written (No space left on device)."),
        (fail_in_a_writer, "a.png cannot be read or written (encoder error -2 when writing image file)."),
        (lambda: np.zeros(2**60, np.uint8), "there is not enough memory"),
        (lambda: torch.empty(2**60, dtype=torch.uint8), "there is not enough memory"),
        (lambda: bytearray(2**62), "there is not enough memory"),
    ],
)
def test_finds_what_the_machine_has_refused(action: Callable[[], None], line: str) -> None:
    found = system_error_in(raised_by(action), "out")
    assert found is not None
    assert line in str(found)
    assert "\n" not in str(found)


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError(errno.ECONNREFUSED, "refused"),
        ConnectionResetError(errno.ECONNRESET, "reset"),
        BrokenPipeError(errno.EPIPE, "broken"),
        TimeoutError(errno.ETIMEDOUT, "timed out"),
        OSError(errno.EADDRINUSE, "in use"),
        OSError("of a library"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
    ],
)
def test_connections_and_bugs_are_not_of_the_file_system(error: Exception) -> None:
    assert system_error_in(error) is None
