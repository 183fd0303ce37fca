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
from monai.bundle import ConfigParser

from monai_vqprior.transforms import axis_ranges

TRAIN = Path(__file__).resolve().parent.parent.parent / "bundle" / "configs" / "train.json"


def sides_after(number: int, **settings: Any) -> np.ndarray:
    """Height and width of a square of 20 pixels after the augmentation of the bundle, relative, (number, 2)."""
    parser = ConfigParser()
    parser.read_config(str(TRAIN))
    still = {"spatial_size": 64, "affine_prob": 1, "rotate_range": 0, "translate_range": 0, "scale_range": 0}
    for key, value in {**still, "intensity_prob": 0, **settings}.items():
        parser[key] = value
    augmentation = parser.get_parsed_content("train#augmentation").set_random_state(seed=0)
    image = torch.zeros(1, 64, 64, dtype=torch.uint8)
    image[:, 22:42, 22:42] = 255
    changed = [np.asarray(augmentation({"image": image})["image"])[0] for _ in range(number)]
    return np.array([[part.sum(1).max(), part.sum(0).max()][::-1] for part in changed]) / 20


@pytest.mark.parametrize(("value", "low", "high"), [(0.2, -0.2, 0.2), ([0.1, 0.2], 0.1, 0.2)])
def test_both_axes_are_scaled_each_on_its_own(value: Any, low: float, high: float) -> None:
    sides = sides_after(40, scale_range=value)
    # RandAffine moves the grid that it reads, so that a range of [0.1, 0.2] makes a brain smaller.
    changes = 1 / sides - 1
    assert changes.min() > low - 0.03
    assert changes.max() < high + 0.03
    assert (changes.max(0) - changes.min(0) > 0.6 * (high - low)).all()
    assert abs(np.corrcoef(changes.T)[0, 1]) < 0.5


def test_a_rotation_takes_both_ends_of_its_range() -> None:
    assert (np.abs(sides_after(5, rotate_range=[0.0, 0.0]) - 1) < 1e-4).all()
    turned = sides_after(5, rotate_range=[np.pi / 4 - 0.01, np.pi / 4])
    assert (turned > 1.3).all()  # by its diagonal


def test_ranges_of_axes() -> None:
    assert axis_ranges(0.1, 1) == [(-0.1, 0.1)]
    assert axis_ranges([-0.1, 0.3], 3) == [(-0.1, 0.3)] * 3
