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
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from monai_vqprior.bundles import bundle_root
from monai_vqprior.cli import main
from monai_vqprior.data import SliceDataset

pytestmark = pytest.mark.integration

# What cannot be written is told in one line that names it, and before the work.

WEIGHTS = ["--ckpt", str(bundle_root() / "models" / "model.pt"), "--device", "cpu"]
COMMANDS = {
    "train": ["--stage", "vqvae", "--spatial_size", "32"],
    "evaluate": WEIGHTS,
    "reconstruct": WEIGHTS,
    "sample": WEIGHTS,
    "neighbors": [],
    "demo": [],
    "phantom": ["--subjects", "3", "--num_slices", "1", "--size", "32"],
    "bundle": [],
    "prepare": [],
}


def command(name: str, output: object, phantom: Path) -> list[str]:
    """A command with where it reads and writes."""
    option = "--output" if name in ("phantom", "bundle", "prepare") else "--output_dir"
    words = [name, *COMMANDS[name], option, str(output)]
    if name == "prepare":
        words += ["--volumes", str(phantom)]
    return (
        words if name in ("sample", "demo", "phantom", "bundle", "prepare") else [*words, "--dataset_dir", str(phantom)]
    )


def error_of(capsys: pytest.CaptureFixture[str], words: list[str]) -> str:
    """The one line about what is wrong."""
    assert main(words) == 2
    _, *lines = capsys.readouterr().err.split("vqprior: error: ")
    assert len(lines) == 1
    assert lines[0].count("\n") == 1
    return lines[0]


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("target", ["file/below", "a" * 300, "/proc/nothing", "/dev/full"], ids=lambda text: text[:9])
def test_where_nothing_can_be_written_nothing_is_read(
    name: str, target: str, phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def read(*arguments: Any, **options: Any) -> None:
        raise AssertionError("slices were read")

    monkeypatch.setattr(SliceDataset, "_load", read)
    (tmp_path / "file").write_text("mine")
    message = error_of(capsys, command(name, tmp_path / target, phantom))
    assert str(tmp_path / target) in message
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO])
def test_what_cannot_be_written_in_the_end(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(self: Path, target: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "replace", fails)
    output = tmp_path / "out"
    words = ["phantom", "--output", str(output), "--subjects", "3", "--num_slices", "1", "--size", "32"]
    assert error_of(capsys, words) == (
        f"{output / 'phantom.json'} cannot be read or written ({os.strerror(number)}).\n"
    )
    assert list(output.iterdir()) == []


def run(words: list[str], limit: int, **streams: Any) -> subprocess.CompletedProcess[str]:
    """The command in a process whose files may have so many bytes, as on a disk that is full."""
    program = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2); "
        "from monai_vqprior.cli import main; sys.exit(main(sys.argv[2:]))"
    )
    # Unbuffered, argparse itself would swallow what is wrong with standard output.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    command_line = [sys.executable, "-c", program, str(limit), *words]
    return subprocess.run(command_line, text=True, check=False, env=environment, **streams)


def test_a_full_disk(tmp_path: Path) -> None:
    words = ["bundle", "--output", str(tmp_path / "out")]
    done = run(words, 1000, capture_output=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "out cannot be written to (File too large)" in done.stderr
    assert not list(tmp_path.iterdir())
    done = run(words, 100_000, capture_output=True)  # some files fit
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert f"{tmp_path / 'out'}" in done.stderr
    assert "File too large" in done.stderr
    assert not list(tmp_path.rglob(".partial-*"))


def test_nobody_reads_the_output() -> None:
    """A closed pipe ends a command quietly; a full disk does so with one line."""
    read, write = os.pipe()
    os.close(read)
    for words in (["--version"], ["train", "--help"]):
        done = run(words, 10**9, stdout=write, stderr=subprocess.PIPE)
        assert (done.returncode, done.stderr) == (141, "")
    os.close(write)
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = run(["--version"], 10**9, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 2
    assert done.stderr == "vqprior: error: standard output cannot be written (No space left on device).\n"
