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

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from monai_vqprior.data import Conditions, ConditionTable, SliceDataset, SliceFolder
from monai_vqprior.errors import InputError
from monai_vqprior.files import write_png
from monai_vqprior.report.audit_conditions import followed_conditions
from monai_vqprior.transforms import LoadSliced

# Slices whose grey level is their value, and whose sex is a bright half: what was asked can be seen.


def slice_of(level: float, is_male: bool) -> np.ndarray:
    image = np.full((16, 16), round(100 * level), np.uint8)
    image[:, : 8 if is_male else 0] += 120
    return image


@pytest.fixture
def table(tmp_path: Path) -> ConditionTable:
    rows = ["case,level,sex"]
    for case in range(40):
        level, is_male = (case % 20) / 20, case >= 20
        rows.append(f"{case:03d},{level},{'M' if is_male else 'F'}")
        write_png(tmp_path / "keras_png_slices_train" / f"case_{case:03d}_slice_0.nii.png", slice_of(level, is_male))
    (tmp_path / "subjects.csv").write_text("\n".join(rows))
    return ConditionTable(SliceFolder(tmp_path))


def samples(images: list[np.ndarray]) -> SliceDataset:
    def load(item: dict[str, Any]) -> dict[str, Any]:
        return {**item, "image": torch.as_tensor(images[item["image"]])[None]}

    return SliceDataset([{"image": row} for row in range(len(images))], load, 16, progress=False)


def followed(table: ConditionTable, settings: dict[str, Any], images: list[np.ndarray]) -> list[dict[str, Any]]:
    train = SliceDataset(table.slices.datalist("train"), LoadSliced("image"), 16, progress=False)
    return followed_conditions(samples(images), settings, table.fit(["level", "sex"]), table, train)


def test_samples_that_do_as_asked_and_samples_that_do_not(table: ConditionTable) -> None:
    scale = table.fit(["level"]).settings[0]
    levels = [0.1, 0.3, 0.5, 0.7]
    asked = [[(level - scale["mean"]) / scale["std"]] for level in levels]
    settings = {"values": asked, "labels": [[0]]}
    level, sex = followed(table, settings, [slice_of(level, False) for level in levels])
    assert level["name"] == "level"
    assert level["asked"] == pytest.approx(0.4)
    assert level["measured"] == pytest.approx(0.4, abs=0.1)
    assert level["train"] == pytest.approx(np.mean([case % 20 / 20 for case in range(40)]))
    assert level["rank_correlation"] > 0.9
    assert (sex["name"], sex["asked"], sex["train"], sex["rank_correlation"]) == ("sex", 1, 0.5, None)
    assert sex["measured"] > 0.6
    backwards, other = followed(table, settings, [slice_of(level, True) for level in levels[::-1]])
    assert backwards["rank_correlation"] < -0.9
    assert other["measured"] < 0.4


def test_what_was_not_asked_has_no_entry(table: ConditionTable) -> None:
    images = [slice_of(0.2, False)] * 3
    assert followed(table, {}, images) == []
    assert followed(table, {"values": [[None]], "labels": [[-1]]}, images) == []
    (entry,) = followed(table, {"values": [[0.5]], "labels": [[-1]]}, images)
    assert entry["rank_correlation"] is None
    drawn = {"values": [[0.1], [0.5], [0.2]], "labels": [[1]], "drawn_conditions": ["level"]}
    assert [entry["name"] for entry in followed(table, drawn, images)] == ["sex"]
    train = SliceDataset(table.slices.datalist("train"), LoadSliced("image"), 16, progress=False)
    assert followed_conditions(samples(images), {"values": [[0.5]]}, Conditions(), None, train) == []


@pytest.mark.parametrize("rows", [[[0.1, 0.2]], [["a"]], 3, [[0.1], [0.2]]])
def test_settings_of_other_samples(table: ConditionTable, rows: Any) -> None:
    with pytest.raises(InputError, match=r"samples\.json does not belong to these samples"):
        followed(table, {"values": rows}, [slice_of(0.2, False)] * 3)
