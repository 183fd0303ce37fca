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

from monai_vqprior.errors import InputError
from monai_vqprior.runs import SINGLE_SLICES, find_prior_settings

AGE: dict[str, Any] = {"name": "age", "mean": 60.5, "std": 20.25}


def put(folder: Path, *weights: str, name: str = "prior_settings.json", **settings: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for file in weights:
        (folder / file).touch()
    (folder / name).write_text(json.dumps({"prior_layers": 3, **settings}), encoding="utf-8")
    return folder


def test_where_the_prior_is(tmp_path: Path) -> None:
    """In the order in which configurations look for its weights."""
    run, bundle, mine = (tmp_path / name for name in ("run", "bundle", "mine"))
    assert find_prior_settings(run, bundle) == SINGLE_SLICES
    put(bundle / "models", "model.pt", "prior.pt", conditions=[AGE], neighbor_context=True, head_slices=40)
    shipped = {**SINGLE_SLICES, "conditions": [AGE], "neighbor_context": True, "head_slices": 40}
    assert find_prior_settings(run, bundle) == shipped
    assert SINGLE_SLICES["neighbor_slices"] == 1  # what priors had before there was such a setting
    put(run, "model.pt", given_context=True)  # an autoencoder of its own, and no prior yet
    assert find_prior_settings(run, bundle) == SINGLE_SLICES
    put(run, "prior.pt", given_context=True)
    assert find_prior_settings(run, bundle) == {**SINGLE_SLICES, "given_context": True}
    put(mine, "model.pt", "prior.pt", name="settings.json", head_axis=1)  # as earlier versions wrote it
    for named in ({"ckpt_prior": mine / "prior.pt"}, {"ckpt": mine / "model.pt"}):
        found = find_prior_settings(tmp_path / "empty", bundle, **named)
        assert found == {**SINGLE_SLICES, "head_axis": 1}
    assert find_prior_settings(run, bundle, ckpt=mine / "model.pt")["given_context"]


def test_conditions_are_used_as_they_are(tmp_path: Path) -> None:
    conditions = [{"name": "age", "mean": -3.5, "std": 20}, {"name": "Größe", "classes": ["klein", "groß, sehr"]}]
    put(tmp_path, "prior.pt", conditions=conditions)
    assert find_prior_settings(tmp_path, tmp_path)["conditions"] == conditions


def test_settings_are_data(tmp_path: Path) -> None:
    put(tmp_path, "prior.pt", conditions=[{"name": "$a", "classes": ["x"]}])
    with pytest.raises(InputError, match=r"prior_settings\.json cannot be used"):
        find_prior_settings(tmp_path, tmp_path)
