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

"""
Python programs in processes of their own, as ``python -m ...`` runs them, but forked from a process that has imported
torch and MONAI already: these imports take four seconds, many times what most such programs do.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["run_python", "run_ranks", "run_together"]

Completed = subprocess.CompletedProcess[Any]

_FORKED = multiprocessing.get_context("forkserver")
_ROOMS = ("data", "engines", "handlers", "inferers", "losses", "metrics", "networks", "report", "transforms")
_FORKED.set_forkserver_preload(["monai.bundle", *(f"monai_vqprior.{room}" for room in _ROOMS)])


def run_python(words: Sequence[object], cwd: Path | None = None, timeout: float = 120, **variables: str) -> Completed:
    """
    What ``python words`` returns and prints.

    Args:
        words: ``-m module``, ``-c code`` or a file, and arguments.
        cwd: folder to run in; that of this process by default.
        timeout: seconds after which the program is killed.
        variables: of the environment, beside those of this process.

    Raises:
        subprocess.TimeoutExpired: when it was killed.
    """
    return run_together([words], cwd, timeout, [variables])[0]


def run_ranks(words: Sequence[object], cwd: Path | None = None, timeout: float = 300) -> list[Completed]:
    """What a program returns and prints in each of the two processes that ``torchrun`` would start on this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return run_together([words] * 2, cwd, timeout, [{"RANK": rank, "LOCAL_RANK": rank, **common} for rank in "01"])


def run_together(
    programs: Sequence[Sequence[object]],
    cwd: Path | None = None,
    timeout: float = 120,
    variables: Sequence[Mapping[str, str]] | None = None,
) -> list[Completed]:
    """Programs at the same time, as :func:`run_python` runs one, each with variables of its own."""
    commands = [[str(word) for word in words] for words in programs]
    with tempfile.TemporaryDirectory() as folder:
        streams = [(f"{folder}/{i}.out", f"{folder}/{i}.err") for i in range(len(commands))]
        processes = []
        for command, further, printed in zip(commands, variables or [{}] * len(commands), streams, strict=True):
            arguments = (command, str(cwd or Path.cwd()), {**os.environ, **further}, printed)
            process = _FORKED.Process(target=_become, args=arguments)
            process.start()
            processes.append(process)
        try:
            for command, process in zip(commands, processes, strict=True):
                process.join(timeout)
                if process.exitcode is None:
                    raise subprocess.TimeoutExpired(command, timeout)
        finally:
            for process in processes:
                process.kill()
                process.join()
        return [
            Completed(command, process.exitcode, *(Path(path).read_text(encoding="utf-8") for path in printed))
            for command, process, printed in zip(commands, processes, streams, strict=True)
        ]


def _become(words: list[str], cwd: str, environment: dict[str, str], printed: tuple[str, str]) -> None:
    """In the new process: turn into a program."""
    for path, stream in zip(printed, (1, 2), strict=True):
        file = os.open(path, os.O_WRONLY | os.O_CREAT)
        os.dup2(file, stream)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.path.insert(0, "")
    try:
        if words[0] == "-m":
            sys.argv = words[1:]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        elif words[0] == "-c":
            sys.argv = ["-c", *words[2:]]
            exec(compile(words[1], "<string>", "exec"), {"__name__": "__main__"})
        else:
            sys.argv = words
            runpy.run_path(words[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # which processes of multiprocessing leave out
