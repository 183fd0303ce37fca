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

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from monai_vqprior.cli import main

pytestmark = pytest.mark.integration


@pytest.fixture
def run(small_run: Path) -> Path:
    """The folder of a finished training of both stages."""
    return small_run


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("model.pt", ["reconstruct", "--dataset_dir", "data"]),
        ("prior.pt", ["sample"]),
        ("vqvae_last.pt", ["train", "--stage", "vqvae", "--dataset_dir", "data", "--resume", "--max_epochs", "2"]),
    ],
)
def test_one_flipped_bit_in_a_checkpoint_is_named(
    run: Path, phantom: Path, tmp_path: Path, name: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """The state before, or the last one, is offered by a command that works."""
    output = shutil.copytree(run, tmp_path / "run")
    path = output / "models" / name
    if name == "vqvae_last.pt":
        shutil.copy(path, path.with_name("vqvae_last_before.pt"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    before = {
        file: file.read_bytes() for file in output.rglob("*") if file.is_file() and "tensorboard" not in file.parts
    }
    words = [word.replace("data", str(phantom)) if word == "data" else word for word in words]
    words += ["--output_dir", str(output), "--device", "cpu"]
    capsys.readouterr()
    assert main(words) == 2
    (message,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("vqprior: ")]
    assert f"{path} cannot be read as a checkpoint (damaged record " in message
    assert all(file.read_bytes() == content for file, content in before.items())
    subprocess.run(shlex.split(message.partition("instead: ")[2]), check=True)
    assert main(words) == 0
