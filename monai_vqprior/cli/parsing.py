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

import argparse
import re
import sys
from collections.abc import Sequence
from typing import Any

from monai_vqprior.cli.options import command_parser, option_of
from monai_vqprior.errors import InputError
from monai_vqprior.values import SETTINGS, literal

__all__ = ["parse_command"]


def parse_command(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """
    Read a command line of ``vqprior``.

    Args:
        arguments: the words after the program's name; those of the process by default.

    Returns:
        the ``command`` and its options. Those that are configuration keys begin with ``override.``; ``overrides`` has
        the other ones.

    Raises:
        InputError: when a command or an option does not exist, is missing, or has a wrong value.
    """
    words = sys.argv[1:] if arguments is None else arguments
    options, rest = command_parser().parse_known_args(_with_values(words))
    options.overrides = _overrides(rest)
    if options.overrides and not options.takes_overrides:
        raise InputError(f"vqprior {options.command} has no option --{next(iter(options.overrides))}.")
    return options


def _with_values(words: Sequence[str]) -> list[str]:
    """Words of a command line, with ``--key -value`` as ``--key=-value``: a path may begin with a hyphen."""
    joined: list[str] = []
    for word in words:
        of_option = bool(joined) and joined[-1].startswith("--") and "=" not in joined[-1]
        if of_option and re.fullmatch(r"-(?![-\d.]|h$).*", word, re.DOTALL):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def _overrides(words: Sequence[str]) -> dict[str, Any]:
    """``--key value``, ``--key=value`` and ``--flag`` that are not options of the command."""
    overrides: dict[str, Any] = {}
    key: str | None = None
    for word in words:
        if word.startswith("--") and len(word) > 2:
            key, equals, value = word[2:].partition("=")
            key = key.replace("::", "#")
            overrides[key] = _read(key, value) if equals else True
            key = None if equals else key
        elif key is not None:
            overrides[key] = _read(key, word)
            key = None
        else:
            raise InputError(f"{word!r} belongs to no option: options look like --key value.")
    for key, value in overrides.items():
        if value is True and key in SETTINGS:
            SETTINGS[key].check(f"--{key}", value)  # --batch_size alone, say
    return overrides


def _read(key: str, text: str) -> Any:
    """The value of an option that is not one of the command's own."""
    return option_of(key).read(text) if key in SETTINGS else literal(text)
