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
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from monai_vqprior.bundles import bundle_root
from monai_vqprior.cli import main
from monai_vqprior.command_configs import AUTOENCODER, PRIOR, STACKS, Owners, Stack, resolve, train_stacks

OWN: dict[str, Any] = {"spatial_size": 64, "channels": [8], "split_by": "file"}
OF_PRIOR: dict[str, Any] = {"prior_layers": 3, "split_by": "file"}
#: what priors are that were trained before there were such settings, where a configuration has to be told.
BEFORE: dict[str, Any] = {"prior_sketch_block": 0, "prior_sketch_levels": 1, "prior_sketch_mirror": False}
TO_GO_ON: dict[str, Any] = {**BEFORE, "neighbor_slices": 1, "given_kernel_size": 1}


@pytest.fixture(params=["one file", "two files"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The folder of a run with settings, as this and as earlier versions write them."""
    models = tmp_path / "run" / "models"
    models.mkdir(parents=True)
    joint = request.param == "one file"
    (models / "settings.json").write_text(json.dumps({**OWN, **OF_PRIOR} if joint else OWN), encoding="utf-8")
    if not joint:
        (models / "prior_settings.json").write_text(json.dumps(OF_PRIOR), encoding="utf-8")
    return models.parent


def overrides(stack: Stack, run: Path, **given: Any) -> dict[str, Any]:
    root, names, values = resolve(stack, bundle_root(), {"output_dir": str(run), **given})
    assert root == bundle_root()
    assert names[: len(stack.files)] == stack.files
    return {key: value for key, value in values.items() if key not in ("output_dir", *given)}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # How many slices below there are, these read beside the weights themselves.
        ("evaluate", {**OWN, **OF_PRIOR, **BEFORE}),
        ("sample", {**OWN, **OF_PRIOR, **BEFORE}),
        ("reconstruct", OWN),
        ("neighbors", {"spatial_size": 64, "split_by": "file"}),
        (AUTOENCODER, {}),
        (PRIOR, OWN),
    ],
)
def test_each_command_has_the_settings_of_its_networks(name: str, expected: dict[str, Any], run: Path) -> None:
    assert overrides(STACKS[name], run) == expected


def test_a_training_that_goes_on_has_its_settings(run: Path) -> None:
    for stage in (AUTOENCODER, PRIOR):
        (run / "models" / f"{stage}_last.pt").write_bytes(b"state")
    assert overrides(STACKS[AUTOENCODER], run, resume=True) == OWN
    assert overrides(STACKS[PRIOR], run, resume=True) == {**OWN, **OF_PRIOR, **TO_GO_ON}


def test_networks_in_folders_of_their_own(tmp_path: Path) -> None:
    for folder, name, content in (("a", "settings.json", OWN), ("b", "prior_settings.json", OF_PRIOR)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text(json.dumps(content), encoding="utf-8")
    weights = {"ckpt": str(tmp_path / "a" / "model.pt"), "ckpt_prior": str(tmp_path / "b" / "prior.pt")}
    found = overrides(STACKS["sample"], tmp_path / "run", **weights)
    assert found == {**OWN, **OF_PRIOR, **BEFORE}


def test_what_uses_no_weights_ignores_those_of_the_bundle(tmp_path: Path) -> None:
    assert overrides(STACKS["neighbors"], tmp_path) == {}
    assert overrides(STACKS["reconstruct"], tmp_path)["max_value"] == 255


def test_fine_tuning_starts_from_the_weights_that_are_named(run: Path, tmp_path: Path) -> None:
    pretrained = str(run / "models" / "model.pt")
    stacks = train_stacks([AUTOENCODER, PRIOR], fine_tune=True)
    assert [stack.files[-1] for stack in stacks.values()] == ["fine_tune.json"] * 2
    # How subjects are found belongs to the data, which is other data.
    found = overrides(stacks[AUTOENCODER], tmp_path / "new", pretrained=pretrained)
    assert found == {"spatial_size": 64, "channels": [8]}


def test_processes_train_together_and_do_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    given = {"output_dir": str(tmp_path)}
    for name, stack in STACKS.items():
        names = resolve(stack, bundle_root(), given, together=True)[1]
        assert ("multi_gpu_train.json" in names) == (name in (AUTOENCODER, PRIOR))
        assert resolve(stack, bundle_root(), given)[1] == stack.files


def test_each_setting_has_one_owner() -> None:
    owners = Owners.of(bundle_root())
    assert not owners.autoencoder & owners.prior
    assert {"codebook", "spatial_size"} <= owners.autoencoder
    assert {"conditions", "autoencoder_weights", "prior_layers"} <= owners.prior
    assert owners.all == owners.autoencoder | owners.prior


@pytest.mark.parametrize("stage", ["vqvae", "autoencoder"])
def test_both_names_of_the_first_stage(stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[Stack] = []
    monkeypatch.setattr("monai_vqprior.cli.train.run", lambda options, stack, **changes: runs.append(stack))
    assert main(["train", "--dataset_dir", str(tmp_path), "--output_dir", str(tmp_path), "--stage", stage]) == 0
    assert runs == [replace(STACKS[AUTOENCODER])]
