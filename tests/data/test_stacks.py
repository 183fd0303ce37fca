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

import pytest

from monai_vqprior.data import SliceFolder, scan_numbers, slices_below, stack_height
from monai_vqprior.errors import InputError


def folder(root: Path, names: list[str]) -> SliceFolder:
    """A data set of empty files, which nobody reads here."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return SliceFolder(root)


def below(slices: SliceFolder) -> dict[str, str | None]:
    """The slice below each slice, by their paths."""
    items = slices.datalist("all")
    names = [Path(item["image"]).relative_to(slices.dataset_dir).as_posix() for item in items]
    return {
        name: None if i < 0 else names[i] for name, i in zip(names, slices_below(slices, items).tolist(), strict=True)
    }


def test_next_lower_number_of_the_same_scan(tmp_path: Path) -> None:
    numbers = [2, 10, 1, 3]  # natural order, not that of text
    found = below(folder(tmp_path, [f"case_{case}_slice_{number}.png" for case in (1, 2) for number in numbers]))
    for case in (1, 2):
        expected = {1: None, 2: 1, 3: 2, 10: None}  # slices between 3 and 10 are missing
        for number, lower in expected.items():
            name = None if lower is None else f"case_{case}_slice_{lower}.png"
            assert found[f"case_{case}_slice_{number}.png"] == name


def test_sessions_of_a_subject_are_heads_of_their_own(tmp_path: Path) -> None:
    names = [f"sub-01/ses-{visit}/slice_{number}.png" for visit in (1, 2) for number in (0, 2, 4)]
    slices = folder(tmp_path, names)
    assert below(slices) == {
        f"sub-01/ses-{visit}/slice_{number}.png": f"sub-01/ses-{visit}/slice_{number - 2}.png" if number else None
        for visit in (1, 2)
        for number in (0, 2, 4)
    }
    items = slices.datalist("all")
    assert scan_numbers(slices, items) == [0, 0, 0, 1, 1, 1]
    assert stack_height(slices, items) == 3


def test_most_frequent_height(tmp_path: Path) -> None:
    heights = {"case_1": 3, "case_2": 2, "case_3": 3}
    slices = folder(tmp_path, [f"{case}_slice_{i}.png" for case, height in heights.items() for i in range(height)])
    assert stack_height(slices, slices.datalist("all")) == 3


def test_single_slices_have_no_neighbors(tmp_path: Path) -> None:
    slices = folder(tmp_path, [f"case_{case}_slice_5.png" for case in range(3)])
    with pytest.raises(InputError, match=r"no slice in .* --neighbor_context needs several slices a subject"):
        slices_below(slices, slices.datalist("all"))
