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

from collections.abc import Callable

import pytest
from monai.transforms import Compose, Lambda

from monai_vqprior.errors import AlreadyDoneError, InputError, input_error_in


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
