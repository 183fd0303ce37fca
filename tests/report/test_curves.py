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

import json
import os
from pathlib import Path

import pytest
import torch
from torch.utils.tensorboard import SummaryWriter

from monai_vqprior.errors import InputError
from monai_vqprior.report.curves import read_log
from monai_vqprior.runs import log_settings


def write(folder: Path, name: str, points: dict[int, float], suffix: str, seed: int | None = None) -> None:
    """A log as a training writes it; logs of a folder are read in the order of their suffixes."""
    writer = SummaryWriter(str(folder), filename_suffix=suffix)
    if seed is not None:
        settings = {"seed": seed, "device": torch.device("cpu"), "output_dir": "/home/somebody/run", "channels": [8]}
        log_settings(writer, settings)
    for step, value in points.items():
        writer.add_scalar(name, value, step)
    writer.close()


def test_curves_and_settings_of_a_training(tmp_path: Path) -> None:
    write(tmp_path, "train_loss", {1: 0.5, 2: 0.25, 3: float("nan")}, ".1", seed=7)
    write(tmp_path, "ssim", {1: 0.75}, ".2")
    log = read_log(tmp_path)
    assert log is not None
    assert log.losses == {"train_loss": [(1, 0.5), (2, 0.25)]}
    assert log.metrics == {"ssim": [(1, 0.75)]}
    assert log.settings == {"seed": 7, "device": "cpu", "channels": [8]}  # no folder of somebody
    assert log.versions["torch"] == torch.__version__


def test_a_training_that_goes_on_and_one_that_begins_anew(tmp_path: Path) -> None:
    """Of steps that were trained twice, the later training counts; nothing is left of one that was replaced."""
    write(tmp_path, "train_loss", {1: 9.0, 2: 8.0, 3: 7.0, 4: 6.0}, ".1", seed=1)
    write(tmp_path, "train_loss", {3: 5.0}, ".2", seed=2)
    log = read_log(tmp_path)
    assert log is not None
    assert log.losses["train_loss"] == [(1, 9.0), (2, 8.0), (3, 5.0)]
    assert log.settings["seed"] == 2
    write(tmp_path, "train_loss", {1: 4.0, 2: 3.0}, ".3")
    log = read_log(tmp_path)
    assert log is not None
    assert log.losses["train_loss"] == [(1, 4.0), (2, 3.0)]


def test_a_folder_whose_name_is_no_text(tmp_path: Path) -> None:
    write(tmp_path / "log", "train_loss", {1: 0.5}, ".1")
    log = read_log((tmp_path / "log").rename(tmp_path / os.fsdecode(b"a\xe9::b")))
    assert log is not None
    assert log.losses == {"train_loss": [(1, 0.5)]}


def test_no_log(tmp_path: Path) -> None:
    assert read_log(tmp_path / "missing") is None
    assert read_log(tmp_path) is None
    log_settings(None, {"seed": 0})  # of a process that writes none


@pytest.mark.parametrize("text", ["[", "[]", '{"settings": 3}', '{"versions": []}', '{"settings": {"a": NaN}}'])
def test_settings_of_a_stranger(tmp_path: Path, text: str) -> None:
    writer = SummaryWriter(str(tmp_path))
    writer.add_text("settings", text)
    writer.close()
    with pytest.raises(InputError, match=r"cannot be read .*move .* away") as caught:
        read_log(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_a_log_that_was_cut_off(tmp_path: Path) -> None:
    """As a training leaves it that was killed: what was written whole is read."""
    write(tmp_path, "train_loss", {1: 0.5, 2: 0.25, 3: 0.125}, ".1")
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-5])
    log = read_log(tmp_path)
    assert log is not None
    assert log.losses == {"train_loss": [(1, 0.5), (2, 0.25)]}
    path.write_bytes(b"x" * 50)
    log = read_log(tmp_path)
    assert log is not None
    assert json.dumps([log.losses, log.metrics, log.settings]) == "[{}, {}, {}]"
