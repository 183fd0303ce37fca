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
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import torch

from monai_vqprior.files import write_text

__all__ = ["Row", "add_json_option", "finish", "make_record"]

#: A row of a table: figures and names by the title of their column.
Row = Mapping[str, float | str | None]

_PACKAGES = ("monai-vqprior", "torch", "monai", "numpy", "scikit-image", "vector-quantize-pytorch")


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """Give a benchmark the option ``--json``."""
    parser.add_argument("--json", metavar="FILE", help="write the figures, the machine and the versions to a file")


def finish(
    parser: argparse.ArgumentParser,
    options: argparse.Namespace,
    summary: Mapping[str, Any],
    tables: Mapping[str, Sequence[Row]],
    device: torch.device | None = None,
) -> None:
    """
    Print the summary of a benchmark in one line, and write its record where ``--json`` asks for one.

    Args:
        parser: of the benchmark.
        options: its options, with those of :func:`add_json_option`.
        summary: figures by name.
        tables: the tables of the benchmark by name, for ``make tables``.
        device: what was measured on; the CPU by default.
    """
    if options.json:
        record = make_record(parser.prog, sys.argv[1:], summary, tables, device)
        write_text(options.json, json.dumps(record, indent=2, allow_nan=False) + "\n")
    print(json.dumps(dict(summary)))


def make_record(
    program: str,
    arguments: Sequence[str],
    summary: Mapping[str, Any],
    tables: Mapping[str, Sequence[Row]],
    device: torch.device | None = None,
) -> dict[str, Any]:
    """
    What a benchmark has measured, and where, when and with what.

    Args:
        program: such as ``python -m benchmarks.ssim``.
        arguments: of the command line; files and folders in it become DIR.
        summary: as in :func:`finish`.
        tables: likewise.
        device: likewise.

    Returns:
        a dictionary that JSON can hold.
    """
    return {
        "command": _command(program, arguments),
        "date": datetime.now(timezone.utc).date().isoformat(),
        "commit": _commit(),
        "machine": _machine(device),
        "versions": {"python": platform.python_version(), **_versions()},
        "summary": dict(summary),
        "tables": {name: [dict(row) for row in rows] for name, rows in tables.items()},
    }


def _command(program: str, arguments: Sequence[str]) -> str:
    """The command line without ``--json``, and without paths of the machine."""
    words: list[str] = []
    rest = iter(arguments)
    for word in rest:
        if word == "--json":
            next(rest, None)
        elif not word.startswith("--json="):
            words.append("DIR" if os.sep in word or Path(word).exists() else word)
    return " ".join([program, shlex.join(words)]).strip()


def _commit() -> str | None:
    """The commit of the checkout, with ``-dirty`` where files differ from it; None without git."""
    command = ["git", "describe", "--always", "--dirty", "--exclude", "*"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _machine(device: torch.device | None) -> dict[str, Any]:
    machine: dict[str, Any] = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "vector_instructions": torch.backends.cpu.get_cpu_capability(),
        # Of the last five minutes; above the number of threads, other work ran beside the benchmark.
        "load": round(os.getloadavg()[1], 1) if hasattr(os, "getloadavg") else None,
    }
    if device is not None and device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        machine["gpu"] = properties.name
        machine["gpu_memory_gib"] = round(properties.total_memory / 2**30, 1)
        machine["cuda"] = torch.version.cuda
    return machine


def _processor() -> str:
    """Name of the processor, as Linux has it; elsewhere its architecture."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _versions() -> dict[str, str]:
    """Versions of the packages that are installed and matter."""
    installed = {str(one.name).lower(): one.version for one in distributions()}
    return {name: installed[name] for name in _PACKAGES if name in installed}
