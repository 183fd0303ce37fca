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

import csv
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from monai_vqprior.data.layout import SPLITS
from monai_vqprior.data.slices import SliceFolder
from monai_vqprior.errors import InputError

REAL_SLICES = Path(__file__).resolve().parents[3] / "shared" / "data" / "oasis1_slices"


def put(folder: Path, *names: str) -> Path:
    """Make files with these names; which split a slice is in is told by names alone, so they stay empty."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def oasis(folder: Path, cases: dict[str, list[int]], slices: int = 2) -> Path:
    """The layout of the preprocessed OASIS slices."""
    for split, numbers in cases.items():
        put(
            folder / f"keras_png_slices_{split}",
            *(f"case_{n}_slice_{i}.nii.png" for n in numbers for i in range(slices)),
        )
    return folder


def names_of(slices: SliceFolder, split: str) -> list[str]:
    return [Path(item["image"]).relative_to(slices.dataset_dir).as_posix() for item in slices.datalist(split)]


class TestOasisLayout:
    def test_each_folder_is_a_split_in_natural_order(self, tmp_path: Path) -> None:
        slices = SliceFolder(oasis(tmp_path, {"train": [10, 9], "validate": [100], "test": [3]}, slices=11))
        items = slices.datalist("train")
        assert [(item["subject"], item["index"]) for item in items] == [
            (case, index) for case in ("case_9", "case_10") for index in range(11)
        ]
        assert [item["image"] for item in items] == [
            str(tmp_path / "keras_png_slices_train" / f"case_{case}_slice_{index}.nii.png")
            for case in (9, 10)
            for index in range(11)
        ]
        assert {item["subject"] for item in slices.datalist("validate")} == {"case_100"}
        assert {item["subject"] for item in slices.datalist("test")} == {"case_3"}

    def test_all_joins_the_splits_that_there_are(self, tmp_path: Path) -> None:
        slices = SliceFolder(oasis(tmp_path, {"test": [1], "train": [2]}))
        assert [item["subject"] for item in slices.datalist("all")] == ["case_2", "case_2", "case_1", "case_1"]

    def test_a_missing_split(self, tmp_path: Path) -> None:
        slices = SliceFolder(oasis(tmp_path, {"train": [1]}))
        with pytest.raises(InputError, match=r"keras_png_slices_test does not exist: .* no split 'test'"):
            slices.datalist("test")

    @pytest.mark.parametrize("name", [None, "notes.txt", ".case_1_slice_0.nii.png", ".partial/case_1_slice_0.nii.png"])
    def test_an_empty_split(self, tmp_path: Path, name: str | None) -> None:
        folder = oasis(tmp_path, {"train": [1]}) / "keras_png_slices_test"
        folder.mkdir()
        put(folder, *([] if name is None else [name]))
        with pytest.raises(InputError, match=r"keras_png_slices_test holds no slices for the split 'test' \(\.png, "):
            SliceFolder(tmp_path).datalist("test")

    def test_files_beside_the_folders_are_not_slices(self, tmp_path: Path) -> None:
        slices = SliceFolder(put(oasis(tmp_path, {"train": [1]}), "overview.png"))
        assert len(slices.datalist("all")) == 2


class TestPlainFolder:
    def test_deals_subjects(self, tmp_path: Path) -> None:
        slices = SliceFolder(put(tmp_path, *(f"case_{n}_slice_{i}.png" for n in range(20) for i in range(3))))
        per_split = {split: Counter(item["subject"] for item in slices.datalist(split)) for split in SPLITS}
        assert [len(per_split[split]) for split in SPLITS] == [16, 2, 2]
        assert all(set(counts.values()) == {3} for counts in per_split.values())  # subjects stay whole
        assert len(set.union(*map(set, per_split.values()))) == 20
        assert all([item["index"] for item in slices.datalist(split)][:3] == [0, 1, 2] for split in SPLITS)

    def test_deals_files_whose_names_tell_no_subject_when_told(self, tmp_path: Path) -> None:
        put(tmp_path, *(f"scan{n}.png" for n in range(20)))
        refused = SliceFolder(tmp_path)
        for split in SPLITS:
            with pytest.raises(InputError, match=r"nothing tells .* 20 of the 20 .* scan0\.png: .*--split_by file"):
                refused.datalist(split)
        assert len(refused.datalist("all")) == 20  # which deals nothing
        slices = SliceFolder(tmp_path, split_by="file")
        assert [len(slices.datalist(split)) for split in SPLITS] == [16, 2, 2]
        for item in slices.datalist("all"):
            assert item["subject"] == Path(item["image"]).name
            assert item["index"] == 0

    def test_deals_subjects_and_files_side_by_side(self, tmp_path: Path) -> None:
        named = [f"case_{n}_slice_{i}.png" for n in range(5) for i in range(4)]
        put(tmp_path, *named, *(f"scan{n}.png" for n in range(5)))
        with pytest.raises(InputError, match=r"the subject of 5 of the 25 files in .* such as scan0\.png"):
            SliceFolder(tmp_path).datalist("train")
        slices = SliceFolder(tmp_path, split_by="file")
        subjects = [{item["subject"] for item in slices.datalist(split)} for split in SPLITS]
        assert [len(names) for names in subjects] == [8, 1, 1]
        assert len(set.union(*subjects)) == 10
        assert len(slices.datalist("all")) == 25

    @pytest.mark.parametrize(
        ("names", "subject", "indices"),
        [
            (["OAS1_0061_MR1_a.png", "OAS1_0061_MR2_a.png"], "OAS1_0061", [0, 0]),  # of two scans
            (["OAS1_0001_MR1_slice_7.png", "OAS1_0001_MR1_slice_12.png"], "OAS1_0001", [7, 12]),
            (["OAS2_0007_MR1-3.png"], "OAS2_0007", [0]),
            (["sub-01_ses-1_slice-3.tif", "sub-01_ses-2_slice-3.tif"], "sub-01", [3, 3]),
            (["sub-a2_x.png", "sub-a2_y.png", "sub-a2_z.png"], "sub-a2", [0, 1, 2]),
            (["brain_slice_0.jpg"], "brain", [0]),
        ],
    )
    def test_subjects_that_names_tell(self, tmp_path: Path, names: list[str], subject: str, indices: list[int]) -> None:
        items = SliceFolder(put(tmp_path, *names), fractions={"test": 1.0}).datalist("test")
        assert [(item["subject"], item["index"]) for item in items] == [(subject, index) for index in indices]

    def test_searches_subfolders(self, tmp_path: Path) -> None:
        put(tmp_path, "b/1.png", "a/10.png", "a/9.png", "a/deep/1.png", "0.png")
        slices = SliceFolder(tmp_path, fractions={"train": 1.0}, split_by="file")
        assert names_of(slices, "train") == ["0.png", "a/9.png", "a/10.png", "a/deep/1.png", "b/1.png"]
        # The outermost folder is a subject, scans lie below it; a file of its own is one too.
        items = slices.datalist("train")
        assert [(item["subject"], item["index"]) for item in items] == [
            ("0.png", 0), ("a", 9), ("a", 10), ("a", 1), ("b", 1)
        ]  # fmt: skip
        scans = [slices.scan_of(item["image"]) for item in items]
        assert scans[1] == scans[2]
        assert len(set(scans)) == 4

    def test_takes_images_of_any_case_and_nothing_hidden(self, tmp_path: Path) -> None:
        wanted = ["a.png", "b.PNG", "c.jpg", "d.JPEG", "e.tif", "f.TIFF", "g.nii.png"]
        put(tmp_path, *wanted, "notes.txt", "v.nii.gz", "h.bmp", "png", "._a.png", ".partial-x.png")
        put(tmp_path, ".ipynb_checkpoints/a-checkpoint.png", "folder.png/readme")
        assert names_of(SliceFolder(tmp_path, fractions={"train": 1.0}, split_by="file"), "train") == wanted

    def test_a_hidden_folder_may_be_the_data_set(self, tmp_path: Path) -> None:
        put(tmp_path / ".cache" / "slices", "a.png")
        assert (
            len(
                SliceFolder(tmp_path / ".cache" / "slices", fractions={"train": 1.0}, split_by="file").datalist("train")
            )
            == 1
        )

    def test_the_seed_decides(self, tmp_path: Path) -> None:
        put(tmp_path, *(f"case_{n}_slice_0.png" for n in range(30)))
        deals = [{split: names_of(SliceFolder(tmp_path, seed), split) for split in SPLITS} for seed in (0, 1, 0)]
        assert deals[0] == deals[2]
        assert deals[0]["train"] != deals[1]["train"]

    def test_fractions(self, tmp_path: Path) -> None:
        put(tmp_path, *(f"{n}.png" for n in range(10)))
        slices = SliceFolder(tmp_path, fractions={"train": 0.7, "test": 0.3}, split_by="file")
        assert (len(slices.datalist("train")), len(slices.datalist("test"))) == (7, 3)
        assert len(slices.datalist("all")) == 10
        with pytest.raises(InputError, match="holds no slices for the split 'validate'"):
            slices.datalist("validate")

    def test_without_slices(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"holds no slices \(\.png, \.jpg, \.jpeg, \.tif, \.tiff\)"):
            SliceFolder(put(tmp_path, "notes.txt")).datalist("train")

    def test_too_few_subjects(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="1 subject cannot fill the splits train, validate, test"):
            SliceFolder(put(tmp_path, "case_1_slice_0.png", "case_1_slice_1.png")).datalist("train")


@pytest.mark.parametrize("name", ["absent", "file"])
def test_what_is_no_directory(tmp_path: Path, name: str) -> None:
    put(tmp_path, "file")
    with pytest.raises(InputError, match=f"{name} is not a directory: give the folder of the slices as dataset_dir"):
        SliceFolder(tmp_path / name)


@pytest.mark.parametrize("in_split_folders", [True, False])
def test_there_is_no_other_split(tmp_path: Path, in_split_folders: bool) -> None:
    folder = oasis(tmp_path, {"train": [1]}) if in_split_folders else put(tmp_path, "a.png", "b.png", "c.png")
    with pytest.raises(InputError, match="split must be one of train, validate, test, got 'val'"):
        SliceFolder(folder).datalist("val")


@pytest.mark.parametrize("folder", ["slices", 'axial, "T1"'])
@pytest.mark.parametrize("in_split_folders", [True, False])
def test_write_splits(tmp_path: Path, folder: str, in_split_folders: bool) -> None:
    data = tmp_path / folder
    if in_split_folders:
        oasis(data, {"train": [1, 2], "test": [3]})
    else:
        put(data, *(f"case_{n}_slice_{i}.png" for n in range(9) for i in range(2)), "a, b.png")
    slices = SliceFolder(data, seed=4, split_by="file")
    slices.write_splits(tmp_path / "out" / "splits.csv")
    with (tmp_path / "out" / "splits.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    splits = ("train", "test") if in_split_folders else SPLITS
    assert rows == [
        {"split": split, "subject": item["subject"], "index": str(item["index"]), "image": item["image"]}
        for split in splits
        for item in slices.datalist(split)
    ]
    assert sorted(row["image"] for row in rows) == sorted(str(path) for path in data.rglob("*.png"))


@pytest.mark.skipif(not REAL_SLICES.is_dir(), reason=f"the OASIS-1 slices are not at {REAL_SLICES}")
def test_the_oasis_slices() -> None:
    slices = SliceFolder(REAL_SLICES)
    items = {split: slices.datalist(split) for split in SPLITS}
    assert {split: len(items[split]) for split in SPLITS} == {"train": 4480, "validate": 640, "test": 640}
    assert len(slices.datalist("all")) == 5760
    with (REAL_SLICES / "subjects.csv").open(newline="") as file:
        table = {(f"case_{row['case']}", row["split"]) for row in csv.DictReader(file)}
    counts = {(item["subject"], split): 0 for split in SPLITS for item in items[split]}
    assert set(counts) == table
    assert Counter(split for _, split in counts) == {"train": 140, "validate": 20, "test": 20}
    assert len({subject for subject, _ in counts}) == 180  # no subject is in two splits
    for split in SPLITS:
        assert [item["index"] for item in items[split]] == list(range(32)) * (len(items[split]) // 32)
        with Image.open(items[split][0]["image"]) as image:
            assert (image.mode, image.size) == ("L", (128, 128))
