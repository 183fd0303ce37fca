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

import logging
import os
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from monai_vqprior.data import ConditionTable, SliceFolder, find_volumes
from monai_vqprior.data.layout import SPLITS
from monai_vqprior.errors import InputError


def put(folder: Path, *names: str) -> Path:
    """Files of these names, which are all that matters here."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def patients(folder: Path, number: int = 4) -> Path:
    return put(folder, *(f"patient{n}/{k}.png" for n in range(number) for k in range(2)))


def slices_of(folder: Path) -> list[str]:
    return [Path(item["image"]).relative_to(folder).as_posix() for item in SliceFolder(folder).datalist("all")]


def told(caplog: pytest.LogCaptureFixture) -> str:
    """The one line about what was left out."""
    (message,) = caplog.messages
    assert "\n" not in message
    return message


class TestLinks:
    def test_folders_elsewhere_are_read(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        store, data = patients(tmp_path / "store"), patients(tmp_path / "data", 2)
        for n in (2, 3):
            (data / f"patient{n}").symlink_to(store / f"patient{n}")
        (data / "patient7_5.png").symlink_to(store / "patient3" / "0.png")  # once only
        assert slices_of(data) == [f"patient{n}/{k}.png" for n in range(4) for k in range(2)]
        assert "other names of files that are there already: 1 (patient7_5.png)" in told(caplog)

    def test_circles_end(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        patients(tmp_path / "beside")
        data = patients(tmp_path / "data")
        (data / "patient1" / "up").symlink_to(data)
        (data / "patient2" / "out").symlink_to(tmp_path)
        (data / "again").symlink_to(data / "patient3")
        (data / "self").symlink_to(data / "self")
        assert slices_of(data) == [f"patient{n}/{k}.png" for n in range(4) for k in range(2)]
        message = told(caplog)
        assert "links to folders that are read already: 3 (again, patient1/up, patient2/out)" in message
        assert "links that lead to no file: 1 (self)" in message

    def test_dangling_links_of_volumes_are_named(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        put(tmp_path, "sub-01.nii.gz")
        for n in (2, 3, 4, 5, 6):
            (tmp_path / f"sub-0{n}.nii.gz").symlink_to(f"/nowhere/.git/annex/{n}")
        assert [path.name for path in find_volumes(tmp_path)] == ["sub-01.nii.gz"]
        assert "links that lead to no file: 5 (sub-02.nii.gz, sub-03.nii.gz, sub-04.nii.gz, ...)" in told(caplog)

    def test_a_pattern_sees_through_links(self, tmp_path: Path) -> None:
        put(tmp_path / "store" / "sub-01" / "anat", "a_T1w.nii.gz", "a_T2w.nii.gz")
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "sub-01").symlink_to(tmp_path / "store" / "sub-01")
        for pattern in (
            "*_T1w.nii.gz",
            "anat/*_T1w*",
            "sub-*/anat/*_T1w.nii.gz",
            "**/*_T1w.nii.gz",
            "sub-01/**/*_T1w*",
        ):
            assert [path.name for path in find_volumes(tmp_path / "data", pattern)] == ["a_T1w.nii.gz"]


class TestWhatIsLeftOut:
    def test_nothing_is_said_where_everything_is_used(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        put(patients(tmp_path), "subjects.csv", "slices.csv", ".DS_Store", "patient1/.partial-x.png")
        assert len(slices_of(tmp_path)) == 8
        assert not caplog.messages

    def test_other_formats_one_of_each_suffix(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        put(patients(tmp_path), "a1.txt", "a2.txt", "b.gif", "c.dcm", "d.img.gz", "e.mgz")
        assert len(slices_of(tmp_path)) == 8
        assert "files that are no images: 6 (a1.txt, b.gif, c.dcm, d.img.gz, e.mgz, ...)" in told(caplog)

    def test_where_nothing_is_left_one_line_says_all(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        put(tmp_path, "sub-01.dcm", "sub-02.mnc")
        with pytest.raises(InputError, match=r"holds no volume .*no volumes: 2 \(sub-01\.dcm, sub-02\.mnc\)"):
            find_volumes(tmp_path)
        with pytest.raises(InputError, match=r"holds no slices .*no images: 2 \(sub-01\.dcm, sub-02\.mnc\)"):
            SliceFolder(tmp_path).datalist("all")
        assert not caplog.messages

    def test_pages_behind_the_first(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        patients(tmp_path)
        pages = [Image.new("L", (8, 8), n) for n in range(5)]
        pages[0].save(tmp_path / "patient1" / "7.tif", save_all=True, append_images=pages[1:])
        pages[0].save(tmp_path / "patient1" / "8.tif")
        assert len(slices_of(tmp_path)) == 10
        assert told(caplog).endswith("files with pages behind the first: 1 (patient1/7.tif: 5 pages)")

    def test_segmentations_beside(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        put(patients(tmp_path), "masks/patient1/0.png", "patient1/0_mask.png", "patient2/labels/1.tif", "t1_seg/2.png")
        assert len(slices_of(tmp_path)) == 8
        assert "segmentations: 4 (" in told(caplog)
        assert len(slices_of(tmp_path / "masks")) == 1  # the folder itself may be asked for

    def test_segmentations_of_volumes_unless_asked_for(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        put(tmp_path, "a_t1.nii", "a_seg.nii", "a_desc-brain_mask.nii.gz", "a_t88_masked.img", "a_t88_masked.hdr")
        assert [path.name for path in find_volumes(tmp_path)] == ["a_t1.nii", "a_t88_masked.img"]
        assert "masks, segmentations and fields: 2 (a_desc-brain_mask.nii.gz, a_seg.nii)" in told(caplog)
        assert [path.name for path in find_volumes(tmp_path, "*_seg.nii")] == ["a_seg.nii"]

    def test_the_other_volumes_of_an_oasis_disc(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        name = "OAS1_0001_MR1"
        put(tmp_path, f"{name}_t88_masked_gfc.img", f"{name}_t88_gfc.img", f"{name}_mpr-1.img")
        assert [path.name for path in find_volumes(tmp_path)] == [f"{name}_t88_masked_gfc.img"]
        assert f"files that OASIS-1 data are not taken from: 2 ({name}_mpr-1.img, {name}_t88_gfc.img)" in told(caplog)

    @pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="nothing is closed to this user")
    def test_a_folder_that_cannot_be_read(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        patients(tmp_path)
        (tmp_path / "patient3").chmod(0)
        try:
            assert len(slices_of(tmp_path)) == 6
        finally:
            (tmp_path / "patient3").chmod(0o700)
        assert "folders that cannot be read: 1 (patient3)" in told(caplog)


class TestResultsOfRuns:
    @pytest.mark.parametrize(
        "signs",
        [
            ("samples.json",),
            ("models/settings.json",),
            ("models/prior_settings.json",),
            ("splits.csv", "splits.json"),
            ("splits.csv", "models/model.pt"),
            ("reconstructions.png",),
            ("neighbors.json", "neighbors.png"),
        ],
    )
    def test_a_run_below_is_no_data(
        self, tmp_path: Path, signs: tuple[str, ...], caplog: pytest.LogCaptureFixture
    ) -> None:
        put(patients(tmp_path), *(f"study/output/{sign}" for sign in signs), "study/output/samples/sample_00000.png")
        put(tmp_path, "study/output/samples.png", "study/output/reconstructions/patient1/0.png")
        put(tmp_path, "study/output/phantom/keras_png_slices_train/case_1_slice_0.nii.png")  # of a demo
        assert len(slices_of(tmp_path)) == 8
        assert "folders with the results of a run: 1 (study/output)" in told(caplog)

    def test_a_run_in_the_folder_of_the_data(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        put(
            patients(tmp_path), "models/settings.json", "samples/sample_00000.png", "samples.png", "reconstructions.png"
        )
        put(tmp_path, "reconstructions/patient1/0.png", "neighbors.png", "subjects.csv")
        assert len(slices_of(tmp_path)) == 8
        assert "results of a run: 6 (" in told(caplog)

    def test_without_a_run_these_are_names_like_others(self, tmp_path: Path) -> None:
        put(tmp_path, *(f"samples/patient{n}/0.png" for n in range(4)))
        assert len(slices_of(tmp_path)) == 4

    def test_the_folder_of_the_run_itself(self, tmp_path: Path) -> None:
        """Of one that was cut off before it left a sign."""
        put(patients(tmp_path), "out/reconstructions/patient1/0.png")
        assert len(SliceFolder(tmp_path, output_dir=tmp_path / "out").datalist("all")) == 8
        assert len(SliceFolder(tmp_path, output_dir=tmp_path).datalist("all")) == 9

    def test_samples_as_volumes(self, tmp_path: Path) -> None:
        put(tmp_path, "sub-01.nii", "output/samples/sample_00000.nii.gz", "output/samples.json", "new/x.nii")
        assert [path.name for path in find_volumes(tmp_path, output_dir=tmp_path / "new")] == ["sub-01.nii"]


class TestSplitsOneLevelDown:
    def test_are_found_with_their_tables(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        top = tmp_path / "keras_png_slices_data"
        for number, split in enumerate(SPLITS):
            put(top, f"keras_png_slices_{split}/case_00{number}_slice_0.nii.png")
            put(top, f"keras_png_slices_seg_{split}/seg_00{number}_slice_0.nii.png")
        (top / "subjects.csv").write_text("case,age\n0,60\n1,70\n2,80\n")
        slices = SliceFolder(tmp_path)
        assert slices.in_split_folders
        for number, split in enumerate(SPLITS):
            (item,) = slices.datalist(split)
            assert item["subject"] == f"case_00{number}"
        assert ConditionTable(slices).names == ["slice", "age"]
        assert not caplog.messages

    def test_what_lies_beside_is_named(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        put(tmp_path, "data/keras_png_slices_train/case_1_slice_0.png", "overview.png", "other/1.png", ".hidden/1.png")
        assert len(SliceFolder(tmp_path).datalist("all")) == 1
        assert "files and folders beside data: 2 (other, overview.png)" in told(caplog)

    def test_two_of_them_are_refused(self, tmp_path: Path) -> None:
        put(tmp_path, "a/keras_png_slices_train/case_1_slice_0.png", "b/keras_png_slices_test/case_1_slice_0.png")
        with pytest.raises(InputError, match=r"several folders .* \(a, b\): give one of them"):
            SliceFolder(tmp_path)

    def test_that_of_a_demo_is_its_own(self, tmp_path: Path) -> None:
        put(
            patients(tmp_path),
            "output/samples.json",
            "output/samples/1.png",
            "output/keras_png_slices_train/case_1_slice_0.png",
        )
        assert not SliceFolder(tmp_path).in_split_folders

    def test_a_person_in_two_of_the_folders_is_told(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        names = (f"keras_png_slices_{split}/OAS1_0001_MR{n}_slice_0.png" for n, split in enumerate(("train", "test")))
        SliceFolder(put(tmp_path, *names)).datalist("train")
        assert "1 subject in the folders of several splits, such as OAS1_0001" in told(caplog)


def test_the_slice_number_is_the_place_in_its_scan(tmp_path: Path) -> None:
    put(tmp_path, *(f"sub-01/ses-{v}/{c}/{k}.png" for v in (1, 2) for c in ("t1", "t2") for k in (10, 20, 30)))
    put(tmp_path, *(f"sub-02/anat/sub-02_run-{r}_{k}.png" for r in (1, 2) for k in range(r + 1)))
    table = ConditionTable(SliceFolder(tmp_path, fractions={"train": 1.0}))
    items = table.join(table.slices.datalist("train"), table.fit([{"name": "slice", "mean": 0, "std": 1}]))
    assert [item["index"] for item in items] == [10, 20, 30] * 4 + [0, 1, 0, 1, 2]
    assert [item["slice"] for item in items] == [0, 0.5, 1] * 4 + [0, 1, 0, 0.5, 1]


def test_too_few_subjects_say_how_they_were_found(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"2 subjects cannot fill .*numbered names .*: patient0, patient1; --subject_"):
        SliceFolder(patients(tmp_path, 2)).datalist("train")


def test_prepare_names_subjects_by_the_whole_path(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """All files have one name, and lie in folders of sessions; the slices go into the folder of the volumes."""
    from monai_vqprior.data import prepare_volumes

    rng = np.random.default_rng(0)
    for person in ("ann", "bob", "cyd", "dot"):
        for visit in (1, 2):
            place = tmp_path / person / f"visit{visit}" / "t1.nii"
            place.parent.mkdir(parents=True)
            nibabel.save(nibabel.Nifti1Image(rng.integers(1, 99, (16, 16, 4)).astype(np.int16), np.eye(4)), place)
    options: dict[str, object] = {
        "num_slices": 1, "size": 16, "space": "scanner", "progress": False, "overwrite": True
    }  # fmt: skip
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            summary = prepare_volumes(tmp_path, tmp_path / "slices", **options)  # type: ignore[arg-type]
    assert summary.subjects == {"train": 2, "validate": 1, "test": 1}
    assert summary.volumes == {"train": 4, "validate": 2, "test": 2}
    assert "4 subjects by folders: ann (ann/visit1/t1.nii), bob" in str(summary)
    summary = prepare_volumes(
        tmp_path, tmp_path / "slices", subject_pattern=r"(visit)", **{**options, "fractions": {"train": 1.0}}
    )  # type: ignore[arg-type]
    assert summary.subjects["train"] == 1
    rows = (tmp_path / "slices" / "subjects.csv").read_text().splitlines()
    assert rows[1] == "001,visit,visit_visit1,train,ann/visit1/t1.nii"
