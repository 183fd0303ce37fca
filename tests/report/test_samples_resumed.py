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
import shutil
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn as nn
from random_networks import random_networks

from monai_vqprior.data import Conditions
from monai_vqprior.errors import InputError
from monai_vqprior.files import write_png
from monai_vqprior.inferers import VQPriorInferer
from monai_vqprior.networks import AutoencoderVQ, CodeContext, GatedPixelCNN
from monai_vqprior.report import samples, write_samples
from monai_vqprior.report.drawn import DrawnFiles
from monai_vqprior.report.drawn_heads import write_volumes

pytestmark = pytest.mark.integration

# Runs that were cut off and gone on with, and runs that two processes share: this file is also the program of these.

NUMBER, TILE = 11, 3
RUNS: dict[str, dict[str, Any]] = {
    "plain": {},
    "all options": {
        "inferer": {"temperature": 0.8, "top_k": 9, "top_p": 0.95, "guidance_scale": 1.5},
        "labels": [[i % 4 - 1] for i in range(NUMBER)],
        "values": [0.5],
        "nifti": True,
    },
}


class Cut(BaseException):
    """The run is cut off."""


def networks(**options: Any) -> tuple[AutoencoderVQ, GatedPixelCNN]:
    return random_networks(**{"num_classes": [3], "num_values": 1, **options})


def draw(folder: Path, run: str = "plain", **changes: Any) -> None:
    settings = {"num_samples": NUMBER, **RUNS[run], **changes}
    inferer = VQPriorInferer(tile_size=TILE, **settings.pop("inferer", {}))
    write_samples(folder, *settings.pop("networks", networks()), inferer, **settings)


def draw_heads(folder: Path, **options: Any) -> None:
    """Heads of three slices, each given the one below."""
    torch.manual_seed(0)
    below = {"context_network": CodeContext(12, (3, 4), 8, 1), "context_names": ["neighbor"]}
    known = Conditions([{"name": "slice", "mean": 0.5, "std": 0.3}])
    drawn = VQPriorInferer(tile_size=2)
    write_volumes(folder, *networks(num_classes=[], **below), drawn, known, num_volumes=5, head_slices=3, **options)


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder, hidden ones too."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """The files of each run when nothing comes between."""
    files = {}
    for run in RUNS:
        folder = tmp_path_factory.mktemp("whole")
        draw(folder, run)
        files[run] = contents(folder)
        assert len(files[run]) == NUMBER * (2 if run == "all options" else 1) + 2
    return files


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("cut", [0, 1, 4, 6, 10])
def test_ends_with_the_files_of_a_run_that_was_not_cut_off(
    cut: int, run: str, whole: dict[str, dict[str, bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut off before it writes a sample, wherever in a tile, with a file half written; and once more after that."""
    written = []
    write = samples._write

    def cut_off(files: DrawnFiles, index: int, *rest: Any) -> None:
        if len(written) == cut:
            (files.folder / ".partial-abc.png").write_bytes(b"half a slice")
            raise Cut
        written.append(index)
        write(files, index, *rest)

    for _ in range(2):
        written.clear()
        with monkeypatch.context() as patch:
            patch.setattr(samples, "_write", cut_off)
            with pytest.raises(Cut):
                draw(tmp_path, run, resume=True)
        assert not (tmp_path / "samples.png").exists()
        cut = min(cut, 1)  # the second time there are fewer left to write
    draw(tmp_path, run, resume=True)
    assert contents(tmp_path) == whole[run]


def test_draws_only_the_tiles_that_are_missing(tmp_path: Path, whole: dict[str, dict[str, bytes]]) -> None:
    draw(tmp_path)
    for index in (4, 10):
        (tmp_path / "samples" / f"sample_{index:05d}.png").unlink()
    autoencoder, prior = networks()
    decoded: list[int] = []
    decode = autoencoder.decode_samples
    autoencoder.decode_samples = lambda grids: decoded.append(len(grids)) or decode(grids)
    before = (tmp_path / "samples" / "sample_00000.png").stat().st_mtime_ns
    draw(tmp_path, networks=(autoencoder, prior), resume=True)
    assert decoded == [TILE, TILE]
    assert (tmp_path / "samples" / "sample_00000.png").stat().st_mtime_ns == before
    assert contents(tmp_path) == whole["plain"]


def test_a_finished_run_can_be_made_longer_but_not_shorter(tmp_path: Path, whole: dict[str, dict[str, bytes]]) -> None:
    for run, files in whole.items():
        labels = {"labels": RUNS[run]["labels"][:5]} if "labels" in RUNS[run] else {}
        draw(tmp_path / run, run, num_samples=5, resume=True, **labels)
        draw(tmp_path / run, run, resume=True)
        assert contents(tmp_path / run) == files
    with pytest.raises(InputError, match=f"is a run of {NUMBER} samples: pass --num_samples {NUMBER} or more"):
        draw(tmp_path / "plain", num_samples=5, resume=True)
    assert contents(tmp_path / "plain") == whole["plain"]


def other_weights(position: int) -> tuple[nn.Module, nn.Module]:
    pair = networks()
    with torch.no_grad():
        next(pair[position].parameters()).view(-1)[0] += 1e-3
    return pair


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 1}, "seed 0, not 1"),
        ({"inferer": {"temperature": 0.7}}, "temperature 1.0, not 0.7"),
        ({"inferer": {"top_k": 3}}, "top_k null, not 3"),
        ({"inferer": {"top_p": 0.5}}, "top_p null, not 0.5"),
        ({"labels": [1]}, r"labels null, not \[\[1\]\]"),
        ({"values": [float("nan")]}, r"values null, not \[\[null\]\]"),
        ({"labels": [[0]] * 30, "num_samples": 30}, r"labels null, not \[\[0\], \[0\]\]"),
        ({"values": [0.123456789 * 10**i for i in range(9)]}, "other values"),
        ({"networks": other_weights(0)}, 'autoencoder_weights "'),
        ({"networks": other_weights(1)}, 'prior_weights "'),
    ],
    ids=lambda value: None if isinstance(value, dict) else value[:12],
)
def test_other_settings_are_refused(changes: dict[str, Any], named: str, tmp_path: Path) -> None:
    draw(tmp_path, num_samples=2)
    before = contents(tmp_path)
    with pytest.raises(InputError, match=f"samples was drawn with {named}.*: pass the same, or --overwrite") as error:
        draw(tmp_path, **{"num_samples": 2, "resume": True, **changes})
    assert "\n" not in str(error.value)
    assert contents(tmp_path) == before


def test_a_missing_label_is_the_same_setting(tmp_path: Path) -> None:
    """NaN does not equal NaN, and JSON has none."""
    for resume in (False, True):
        draw(tmp_path, num_samples=2, values=[float("nan")], labels=np.array([-1]), resume=resume)
    record = (tmp_path / "samples.json").read_text()
    assert json.loads(record)["labels"] == [[-1]]
    assert "NaN" not in record


class TestSamplesThatAreThere:
    def test_are_kept(self, tmp_path: Path) -> None:
        draw(tmp_path, num_samples=2)
        before = contents(tmp_path)
        with pytest.raises(InputError, match=r"samples exists: pass --resume .*, --overwrite .*, or another"):
            draw(tmp_path, num_samples=4)
        with pytest.raises(InputError, match="--overwrite and --resume contradict one another"):
            draw(tmp_path, num_samples=4, overwrite=True, resume=True)
        assert contents(tmp_path) == before

    def test_without_their_settings(self, tmp_path: Path) -> None:
        draw(tmp_path, num_samples=2)
        (tmp_path / "samples.json").write_text('{"seed": 0')
        with pytest.raises(InputError, match=r"samples\.json cannot be read"):
            draw(tmp_path, num_samples=2, resume=True)
        (tmp_path / "samples.json").unlink()
        with pytest.raises(InputError, match=r"samples\.json does not exist, .* pass --overwrite"):
            draw(tmp_path, num_samples=2, resume=True)

    @pytest.mark.parametrize(
        "change",
        [
            {"seed": "$__import__('os').getcwd()"},
            {"labels": [["@begin"]]},
            {"values": {"_target_": "os.getcwd"}},
            {"device": "%train.json::run"},
            {"num_samples": "2"},
            {"num_samples": [2]},
            {"num_samples": -1},
            {"num_samples": True},
            {"num_samples": None},
            {"run": ["$1"]},
            {"_requires_": "$1"},
            {"x\ny": 1},
            {"temperature": [[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]},
        ],
        ids=str,
    )
    def test_with_settings_of_a_stranger(self, tmp_path: Path, change: dict[str, Any]) -> None:
        draw(tmp_path, num_samples=2)
        record = tmp_path / "samples.json"
        record.write_text(json.dumps({**json.loads(record.read_text()), **change}))
        before = contents(tmp_path)
        with pytest.raises(InputError, match=r"samples\.json cannot be read \(.*\): mend it, or pass") as error:
            draw(tmp_path, num_samples=2, resume=True)
        assert len(str(error.value).splitlines()) == 1
        assert contents(tmp_path) == before

    @pytest.mark.parametrize("size", [(5, 4), (4096, 1)])
    def test_of_another_size(self, tmp_path: Path, size: tuple[int, int]) -> None:
        draw(tmp_path, num_samples=3)
        write_png(tmp_path / "samples" / "sample_00001.png", np.zeros(size, np.uint8))
        with pytest.raises(InputError, match=r"sample_00001\.png has the size .*: remove it, and draw it again"):
            draw(tmp_path, num_samples=3, resume=True)
        (tmp_path / "samples" / "sample_00001.png").write_text("no picture")
        with pytest.raises(InputError, match=r"sample_00001\.png cannot be read as an image: remove it, and draw it"):
            draw(tmp_path, num_samples=3, resume=True)

    def test_a_run_that_failed_before_its_first_sample_is_none(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="labels must be"):
            draw(tmp_path, labels=[0, 0])
        draw(tmp_path, num_samples=2)
        assert len(list((tmp_path / "samples").iterdir())) == 2

    def test_a_file_in_the_place_of_the_folder(self, tmp_path: Path) -> None:
        (tmp_path / "out").write_text("")
        with pytest.raises(InputError, match=r"cannot be made .*: give another --output_dir"):
            draw(tmp_path / "out")


@pytest.mark.parametrize(
    ("inferer", "message"),
    [
        ({"guidance_scale": 2.0}, "guidance_scale stresses a condition"),
        ({"sketch_temperature": 0.5}, "sketch_temperature is for priors that draw sketches"),
    ],
    ids=["guidance without a condition", "no sketches"],
)
def test_what_the_prior_cannot_do_is_refused_before_anything_is_written(
    inferer: dict[str, float], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        draw(tmp_path, inferer=inferer)
    assert not contents(tmp_path)


def meet(rank: int, folder: Path, name: str) -> None:
    """What torchrun tells a process; they meet at a port that process 0 finds and writes down."""
    place = folder / f"{name}.port"
    if rank == 0:
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        place.with_suffix(".tmp").write_text(str(port))
        place.with_suffix(".tmp").rename(place)
    while not place.exists():
        time.sleep(0.01)
    told = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": place.read_text()}
    os.environ.update(told)


def program(rank: int, folder: Path) -> None:
    """Share the runs with another process, also as members of a group; go on with one that lacks files; be refused."""
    torch.set_num_threads(1)
    if rank == 0:  # by itself, and in this very environment: what ran before in a test process may round differently
        for run in RUNS:
            draw(folder / "one" / run, run)
        draw_heads(folder / "one" / "heads")
    for run in RUNS:
        meet(rank, folder, run)
        draw(folder / run, run)
    meet(rank, folder, "heads")
    draw_heads(folder / "heads")
    meet(rank, folder, "group")
    dist.init_process_group("gloo")
    draw(folder / "group")
    dist.destroy_process_group()
    meet(rank, folder, "resumed")
    if rank == 0:
        shutil.copytree(folder / "plain", folder / "resumed")
        for index in (0, 4, 5, 10):
            (folder / "resumed" / "samples" / f"sample_{index:05d}.png").unlink()
    draw(folder / "resumed", resume=True)
    meet(rank, folder, "refused")
    try:
        draw(folder / "plain", seed=1, resume=True)
    except InputError as error:
        (folder / f"refused.{rank}").write_text(str(error))


def test_two_processes_write_the_files_of_one(two_processes: Callable[[str], Path]) -> None:
    folder = two_processes(__file__)
    for run in RUNS:
        assert len(contents(folder / "one" / run)) > NUMBER
        assert contents(folder / run) == contents(folder / "one" / run)
    assert len(contents(folder / "one" / "heads")) == 5 + 2
    assert contents(folder / "heads") == contents(folder / "one" / "heads")
    assert contents(folder / "resumed") == contents(folder / "group") == contents(folder / "one" / "plain")
    refused = [(folder / f"refused.{rank}").read_text() for rank in range(2)]
    assert refused[0] == refused[1]
    assert "seed 0, not 1" in refused[0]


if __name__ == "__main__":
    program(int(sys.argv[1]), Path(sys.argv[2]))
