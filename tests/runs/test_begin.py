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
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigParser

from monai_vqprior import engines
from monai_vqprior.bundles import bundle_root
from monai_vqprior.data import SliceFolder
from monai_vqprior.errors import InputError, input_error_in
from monai_vqprior.runs import InferenceRun, OutputFolder, TrainingFolder, TrainingRun, select_device
from monai_vqprior.runs.processes import Processes

STACKS = {
    "train": ["train"],
    "train_prior": ["train", "train_prior"],
    "evaluate": ["train", "train_prior", "evaluate"],
    "inference": ["inference"],
    "sample": ["inference", "sample"],
    "neighbors": ["neighbors"],
}
RESULTS = {
    "train": "models/vqvae_last.pt",
    "train_prior": "models/prior_last.pt",
    "evaluate": "metrics.json",
    "inference": "reconstructions.png",
    "neighbors": "neighbors.png",
}


def begun(stack: str, output: Path, overlay: dict[str, Any] | None = None, **overrides: Any) -> list[Any]:
    """What the list of a configuration that begins a run is evaluated to."""
    files: list[Any] = [str(bundle_root() / "configs" / f"{name}.json") for name in STACKS[stack]]
    if overlay is not None:
        path = output.parent / "overlay.json"
        path.write_text(json.dumps(overlay), encoding="utf-8")
        files.append(str(path))
    parser = ConfigParser()
    parser.read_config(files)
    parser.update({"bundle_root": str(bundle_root()), "output_dir": str(output), "device": "cpu", **overrides})
    return parser.get_parsed_content("initialize" if stack == "neighbors" else "begin")


@pytest.mark.parametrize("stack", RESULTS)
def test_a_folder_with_results_is_refused_before_slices_are_read(
    stack: str, phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = tmp_path / "run" / RESULTS[stack]
    result.parent.mkdir(parents=True)
    result.write_bytes(b"mine")

    def read(*args: Any, **options: Any) -> None:
        raise AssertionError("a slice was read")

    monkeypatch.setattr("monai_vqprior.data.SliceDataset.__init__", read)
    with pytest.raises(RuntimeError) as raised:
        begun(stack, tmp_path / "run", dataset_dir=str(phantom))
    assert f"{result} exists" in str(input_error_in(raised.value))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [result]


@pytest.mark.parametrize("stack", ["train", "evaluate", "inference"])
def test_slices_without_a_window_are_refused_before_networks_are_read(
    stack: str, phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*args: Any, **options: Any) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setattr("monai_vqprior.runs.load_weights", read)
    with pytest.raises(RuntimeError) as raised:
        begun(stack, tmp_path / "run", dataset_dir=str(phantom), spatial_size=8)
    assert "smaller than the window of SSIM" in str(input_error_in(raised.value))


def test_overlays_add_to_what_begins_a_run(phantom: Path, tmp_path: Path) -> None:
    """In the words of an earlier version too: after the checks, before the engine."""
    overlay = {
        "+begin": [
            "$monai_vqprior.engines.check_settings(**@checked)",
            "$monai_vqprior.engines.check_output(os.path.join(@output_dir, 'a.png'), @overwrite, folder=False)",
            "$@training_run.folder.path",
        ]
    }
    run, *_, path = begun("train", tmp_path / "run", overlay, dataset_dir=str(phantom), spatial_size=32)
    assert isinstance(run, TrainingRun)
    assert run.settings["spatial_size"] == 32
    assert path == tmp_path / "run"
    (tmp_path / "run" / "a.png").write_bytes(b"mine")
    with pytest.raises(RuntimeError) as raised:
        begun("train", tmp_path / "run", overlay, dataset_dir=str(phantom), spatial_size=32)
    assert f"{tmp_path / 'run' / 'a.png'} exists" in str(input_error_in(raised.value))


def test_arguments_of_a_run_can_be_overridden(phantom: Path, tmp_path: Path) -> None:
    settings_file = tmp_path / "elsewhere.json"
    overrides = {"dataset_dir": str(phantom), "spatial_size": 32, "folder#settings_file": str(settings_file)}
    begun("train", tmp_path / "run", **overrides, **{"start#settings": {"spatial_size": 32}})
    assert json.loads(settings_file.read_text(encoding="utf-8")) == {"spatial_size": 32}
    assert not (tmp_path / "run" / "models" / "settings.json").exists()


def training_run(folder: Path, rank: int = 0, size: int = 1, **options: bool) -> TrainingRun:
    models = folder / "models"
    of_run = TrainingFolder(folder, models / "model.pt", models / "last.pt", **options)
    return TrainingRun(select_device("cpu"), {}, Processes(rank, size), [], of_run)


def test_what_a_training_writes_when_it_starts(phantom: Path, tmp_path: Path) -> None:
    slices = SliceFolder(phantom)
    run = training_run(tmp_path / "run")
    assert not (tmp_path / "run").exists()
    run.start(slices, range(24), range(4), {"channels": [8]}, seed=0)
    names = {path.relative_to(tmp_path / "run").as_posix() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert names == {"models/settings.json", "splits.csv", "splits.json"}
    # Process 0 alone writes.
    training_run(tmp_path / "second", rank=1, size=2).start(slices, range(24), range(4), {}, seed=0)
    assert [path.name for path in (tmp_path / "second").rglob("*")] == ["models"]
    with pytest.raises(InputError, match="5 processes cannot share the 4 slices of the split 'validate'"):
        training_run(tmp_path / "third", size=5).start(slices, range(24), range(4), {}, seed=0)
    assert not (tmp_path / "third").exists()


def test_a_run_that_goes_on_compares_the_splits(phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slices = SliceFolder(phantom)
    compared: list[Path] = []
    monkeypatch.setattr(slices, "check_splits", compared.append)
    training_run(tmp_path).start(slices, range(24), range(4), {}, seed=0)
    assert compared == []
    training_run(tmp_path, resume=True).start(slices, range(24), range(4), {}, seed=0)
    InferenceRun(select_device("cpu"), {}, OutputFolder(tmp_path), slices=slices)
    assert compared == [tmp_path / "splits.csv"] * 2


def test_engines_have_the_names_of_earlier_versions(tmp_path: Path) -> None:
    """Configurations of users call them."""
    for name in ("select_device", "check_settings", "find_checkpoint", "load_weights", "tell", "claim_run"):
        assert callable(getattr(engines, name))
    (tmp_path / "a.png").write_bytes(b"mine")
    (tmp_path / "folder").mkdir()
    engines.check_output(tmp_path / "folder", folder=True)
    engines.check_output(tmp_path / "a.png", overwrite=True)
    with pytest.raises(InputError, match=r"a\.png exists"):
        engines.check_output(str(tmp_path / "a.png"))
    engines.check_run(tmp_path / "model.pt", tmp_path / "last.pt")
    engines.claim_run(tmp_path / "run", tmp_path / "model.pt", tmp_path / "last.pt")
    assert (tmp_path / "run").is_dir()
