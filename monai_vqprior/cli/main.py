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

import io
import logging
import os
import sys
import threading
from collections.abc import Sequence

from monai_vqprior.cli.commands import COMMANDS
from monai_vqprior.cli.parsing import parse_command
from monai_vqprior.errors import chain_of, input_error_in, system_error_in

__all__ = ["main"]

_OUTPUT = ("output", "output_dir")  # options with the folder that a command writes to
_OUTPUT_CLOSED = 141  # as a shell tells of a program whose reader has gone


def main(arguments: Sequence[str] | None = None) -> int:
    """
    The command ``vqprior``.

    Args:
        arguments: command line without the program's name; that of the process by default.

    Returns:
        exit status: 0, 2 after one line about wrong input, 3 when an audit has failed, 130 after Ctrl-C, 141 when the
        reader of the output has gone. A bug raises.
    """
    try:
        status = _execute(arguments)
    except SystemExit:  # after --help and --version
        closed = _flush()
        if closed is not None:
            return closed
        raise
    return _flush() or status


def _execute(arguments: Sequence[str] | None) -> int:
    """Run a command, and return its exit status."""
    output = None
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a path may have signs that it has not
            stream.reconfigure(errors="backslashreplace")
    threading.excepthook = _thread_failed
    try:
        options = parse_command(arguments)
        output = next((value for key, value in vars(options).items() if key.removeprefix("override.") in _OUTPUT), None)
        logging.basicConfig(level=logging.WARNING, format="%(message)s")
        return COMMANDS[options.command](options) or 0
    except KeyboardInterrupt:
        print("\nvqprior: interrupted (training and sampling go on with --resume)", file=sys.stderr)
        return 130
    except Exception as error:
        of_output = any(isinstance(link, OSError) and link.filename is None for link in chain_of(error))
        closed = _flush() if of_output else None
        if closed is not None:
            return closed
        wrong = input_error_in(error) or system_error_in(error, output)
        if wrong is None:
            raise
        _print_error(wrong)
        return 2


def _thread_failed(failure: threading.ExceptHookArgs) -> None:
    """Report a thread that failed, unless it is TensorBoard's, which raises its error at the next write."""
    of_tensorboard = type(failure.thread).__module__.startswith("tensorboard.")
    if not (of_tensorboard and isinstance(failure.exc_value, OSError)):
        threading.__excepthook__(failure)


def _flush() -> int | None:
    """Write what is left for standard output; an exit status where it takes no more."""
    try:
        sys.stdout.flush()
    except OSError as error:
        # The interpreter would try again at its end, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return _OUTPUT_CLOSED
        _print_error(f"standard output cannot be written ({error.strerror}).")
        return 2
    return None


def _print_error(message: object) -> None:
    """One line, below the progress bars that are shown."""
    if "tqdm" in sys.modules:
        from tqdm import tqdm

        for bar in list(getattr(tqdm, "_instances", ())):
            bar.close()
    print(f"vqprior: error: {message}", file=sys.stderr)
