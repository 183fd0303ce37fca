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
"""What prepare's slices show: the same head in any storage, in each space, from any layout of folders."""

from __future__ import annotations

import csv
import itertools
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from scipy.spatial.transform import Rotation

from monai_vqprior.cli import main
from monai_vqprior.data import ConditionTable, SliceFolder, prepare_volumes
from monai_vqprior.volumes import read_placement

#: of a head that is small, in pixels of 2 mm.
HEAD = {"num_slices": 6, "size": 48, "voxel_size": 2, "spacing": 3, "center": 8, "progress": False}
OBLIQUE = Rotation.from_euler("xyz", (12, -20, 25), degrees=True).as_matrix()
STORAGES = {
    "RAS": np.eye(3) * 2,
    "LAS": np.diag([-2.0, 2, 2]),
    "LPS": np.diag([-2.0, -2, 2]),
    "oblique": OBLIQUE @ np.diag([-2.0, 2, 2.5]),
}


def head(linear: np.ndarray, shift: tuple[float, float, float] = (0, 0, 0)) -> nibabel.Nifti1Image:
    """An ellipsoid of 52 x 64 x 48 mm with a bright ball on the patient's right, to the front and to the top."""
    shape = np.ceil(80 / np.linalg.norm(linear, axis=0)).astype(int) + 1
    affine = np.eye(4)
    affine[:3, :3] = linear
    affine[:3, 3] = np.array(shift) - linear @ ((shape - 1) / 2)
    x, y, z = np.moveaxis(np.moveaxis(np.indices(shape), 0, -1) @ linear.T + affine[:3, 3] - shift, -1, 0)
    inside = (x / 26) ** 2 + (y / 32) ** 2 + (z / 24) ** 2 < 1
    ball = np.exp(-((x - 12) ** 2 + (y - 8) ** 2 + (z - 4) ** 2) / (2 * 4**2))
    return nibabel.Nifti1Image((inside * (300 + 3 * y + 2 * z + 500 * ball)).astype(np.float32), affine)


def save(image: nibabel.Nifti1Image, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, path)
    return path


def stacks(folder: Path) -> dict[str, np.ndarray]:
    """The slices of each volume (N, H, W), by its file."""
    with (folder / "subjects.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        row["file"]: np.stack(
            [
                np.asarray(Image.open(path))
                for path in sorted(
                    folder.glob(f"*/case_{row['case']}_slice_*.png"), key=lambda path: int(path.name.split("_")[3][0])
                )
            ]
        )
        for row in rows
    }


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same head in each storage, in other places, cut in native space: the volumes and the slices."""
    folder = tmp_path_factory.mktemp("storages")
    for number, (name, linear) in enumerate(STORAGES.items()):
        save(head(linear, (31 * number, -20, 7 * number)), folder / "in" / f"sub-{name}_T1w.nii.gz")
    prepare_volumes(folder / "in", folder / "out", space="native", **HEAD)
    return folder / "in", folder / "out"


def test_right_is_right_in_a_picture(prepared: tuple[Path, Path]) -> None:
    found = stacks(prepared[1])
    assert len(found) == 4
    for file, slices in found.items():
        _, row, column = np.unravel_index(ndimage.gaussian_filter(slices.astype(float), 1).argmax(), slices.shape)
        # 12 mm to the right of the middle and 8 mm in front of it, of pixels of 2 mm; the bounding box is centered.
        assert column == pytest.approx(23.5 + 12 / 2, abs=1.5), file
        assert row == pytest.approx(23.5 - 8 / 2, abs=1.5), file
        assert np.abs(slices.astype(int) - found["sub-RAS_T1w.nii.gz"]).mean() < 4


def test_pictures_come_back_to_their_volumes(prepared: tuple[Path, Path]) -> None:
    """The mark is at its place in the patient, read from the volume that comes back with its own affine."""
    volumes, out = prepared
    found = stacks(out)
    for number, path in enumerate(sorted((out / "transforms").glob("case_*.json"))):
        placement = read_placement(path)
        original = nibabel.load(volumes / placement.file)
        back = placement.restore(found[placement.file].astype(np.float32))
        assert back.data.shape == original.shape
        np.testing.assert_allclose(back.affine, original.affine)
        brightest = np.unravel_index(ndimage.gaussian_filter(back.data, 1).argmax(), back.data.shape)
        shift = 31 * list(STORAGES).index(Path(placement.file).name[4:-11]), -20, 7 * number
        place = nibabel.affines.apply_affine(back.affine, brightest)
        assert place[0] - shift[0] == pytest.approx(12, abs=4), placement.file
        assert place[1] - shift[1] == pytest.approx(8, abs=4), placement.file


def test_tables_say_where_slices_lie(prepared: tuple[Path, Path]) -> None:
    out = prepared[1]
    with (out / "slices.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["case", "index", "subject", "split", "position"]
    assert [float(row["position"]) for row in rows[:6]] == [0.5, 3.5, 6.5, 9.5, 12.5, 15.5]
    with (out / "transforms" / "heads.csv").open(newline="") as file:
        heads = list(csv.DictReader(file))
    for row in heads:
        assert [float(row[name]) for name in ("width", "depth", "height")] == pytest.approx([52, 64, 48], abs=5)
        assert [float(row[name]) for name in ("x", "y", "z")] == pytest.approx([0, -16, 6.5], abs=1.5)
        assert row["correlation"] == ""
    assert json.loads((out / "prepare.json").read_text())["space"] == "native"
    assert "position" in ConditionTable(SliceFolder(out)).names


def test_all_48_orientations_give_the_same_slices(tmp_path: Path) -> None:
    image = head(np.diag([2.5, 3.0, 4.0]))
    orientations = list(itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)))
    for number, (axes, flips) in enumerate(orientations):
        stored = image.as_reoriented(np.column_stack([axes, flips]).astype(float))
        save(stored, tmp_path / "in" / f"p{number:02d}.nii")
    assert len({nibabel.aff2axcodes(nibabel.load(path).affine) for path in (tmp_path / "in").iterdir()}) == 48
    prepare_volumes(tmp_path / "in", tmp_path / "out", space="native", **{**HEAD, "num_slices": 3})
    first, *others = stacks(tmp_path / "out").values()
    assert len(others) == 47
    for other in others:
        assert np.abs(other.astype(int) - first).max() <= 1


def test_voxels_of_any_size_give_heads_of_one_size(tmp_path: Path) -> None:
    for number, sides in enumerate([(1, 1, 1), (1, 1, 3), (2, 2, 2), (1, 0.5, 2)]):
        save(head(np.diag(np.array(sides, float))), tmp_path / "in" / f"sub-{number}_T1w.nii.gz")
    prepare_volumes(tmp_path / "in", tmp_path / "out", space="scanner", **{**HEAD, "center": None})
    with (tmp_path / "out" / "transforms" / "heads.csv").open(newline="") as file:
        centroids = [[float(row[name]) for name in "xyz"] for row in csv.DictReader(file)]
    np.testing.assert_allclose(centroids, 0, atol=1)  # each head lies in the middle of its field of view
    for slices in stacks(tmp_path / "out").values():
        shown = slices[3] > 0
        assert shown.any(0).sum() == pytest.approx(26, abs=2)
        assert shown.any(1).sum() == pytest.approx(32, abs=2)


def textured(places: np.ndarray) -> np.ndarray:
    """A brain of folds, none like another, at (..., 3) places in mm."""
    folds = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(49, 49, 49)), 2)
    values = ndimage.map_coordinates(folds, np.moveaxis(places / 4 + 24, -1, 0), order=1)
    inside = np.linalg.norm(places / (66, 82, 60), axis=-1) < 1
    return np.where(inside, 100 + 40 * values / folds.std(), 0).clip(0).astype(np.float32)


# torch says so of two workers on one core
@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
def test_two_heads_in_the_space_of_a_template(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One is the template's own in another place and size; the other lies as the template does, stored mirrored."""
    grid = np.moveaxis(np.indices((50, 50, 50)), 0, -1) * 4.0 - 98
    affine = np.diag([4.0, 4, 4, 1])
    affine[:3, 3] = -98
    template = nibabel.Nifti1Image(textured(grid), affine)
    moved = np.eye(4)
    moved[:3, :3] = Rotation.from_euler("xyz", (14, 5, -8), degrees=True).as_matrix() * 1.08
    moved[:3, 3] = 11, -17, 23
    save(template, tmp_path / "template.nii.gz")
    save(nibabel.Nifti1Image(template.get_fdata(), moved @ affine), tmp_path / "in" / "sub-1" / "sub-1_T1w.nii.gz")
    mirrored = affine @ np.diag([-1.0, 1, 1, 1])
    mirrored[0, 3] = -affine[0, 3]
    save(nibabel.Nifti1Image(template.get_fdata()[::-1], mirrored), tmp_path / "in" / "sub-2" / "sub-2_T1w.nii.gz")
    words = ["prepare", "--volumes", tmp_path / "in", "--output", tmp_path / "out", "--fractions", 1, 0, 0]
    words += ["--template", tmp_path / "template.nii.gz", "--num_workers", 2, "--center", 0]
    words += ["--num_slices", 4, "--spacing", 8, "--size", 48, "--voxel_size", 4]
    assert main([str(word) for word in words]) == 0
    assert "2 volumes in" in capsys.readouterr().out
    first, second = stacks(tmp_path / "out").values()
    inside = (first > 0) & (second > 0)
    assert np.corrcoef(first[inside], second[inside])[0, 1] > 0.95
    matrix = read_placement(tmp_path / "out" / "transforms" / "case_001.json").matrix
    corners = np.array([[x, y, z, 1] for x in (-60, 60) for y in (-70, 70) for z in (-50, 50)], float).T
    assert np.linalg.norm((matrix @ moved @ corners - corners)[:3], axis=0).max() < 4


class TestInputThatPeopleHave:
    """Which files are cut, and what of; each head is the same one."""

    @staticmethod
    def cases(folder: Path, tmp_path: Path, **arguments: object) -> dict[str, dict[str, str]]:
        prepare_volumes(folder, tmp_path / "out", space="native", **{**HEAD, **arguments})
        found = list(stacks(tmp_path / "out").values())
        for slices in found[1:]:
            assert np.abs(slices.astype(int) - found[0]).max() <= 1
        with (tmp_path / "out" / "subjects.csv").open(newline="") as file:
            return {row["file"]: row for row in csv.DictReader(file)}

    def test_bids_with_sessions_derivatives_and_participants(self, tmp_path: Path) -> None:
        image, folder = head(np.eye(3) * 2), tmp_path / "bids"
        wanted = [f"sub-0{n}/ses-{v}/anat/sub-0{n}_ses-{v}_T1w.nii.gz" for n in (1, 2, 3) for v in (1, 2)]
        beside = [
            "sub-01/ses-1/anat/sub-01_ses-1_run-2_T1w.nii.gz",
            "sub-01/ses-1/anat/sub-01_ses-1_T2w.nii.gz",
            "sub-01/ses-1/func/sub-01_ses-1_task-rest_bold.nii.gz",
            "derivatives/fmriprep/sub-01/anat/sub-01_desc-preproc_T1w.nii.gz",
        ]
        for name in wanted + beside:
            save(image, folder / name)
        (folder / "participants.tsv").write_text(
            "participant_id\tage\tgender\nsub-01\t30\tf\nsub-02\tn/a\tm\n03\t50\tn/a\n"
        )
        (folder / "dataset_description.json").write_text("{}")
        rows = self.cases(folder, tmp_path)
        assert list(rows) == wanted
        assert [row["age"] for row in rows.values()] == ["30", "30", "n/a", "n/a", "50", "50"]
        assert [row["sex"] for row in rows.values()] == ["f", "f", "m", "m", "n/a", "n/a"]
        assert rows[wanted[0]]["gender"] == "f"
        table = ConditionTable(SliceFolder(tmp_path / "out"))
        train = {row["subject"] for row in rows.values() if row["split"] == "train"}
        names = ["age", "slice"] if train == {"sub-02"} else ["age", "sex", "slice"]
        names = ["sex", "slice"] if train == {"sub-02"} else ["slice", "age"] if train == {"sub-03"} else names
        assert table.fit(f"[{','.join(names)}]").names == names

    def test_a_subjects_dir_of_freesurfer(self, tmp_path: Path) -> None:
        image = head(np.eye(3) * 2)
        mgz = nibabel.MGHImage(np.asarray(image.dataobj), image.affine)
        for subject in ("bert", "ernie", "kermit"):
            for name in ("brain", "T1", "aseg", "norm"):
                save(mgz, tmp_path / "subjects" / subject / "mri" / f"{name}.mgz")
        save(mgz, tmp_path / "subjects" / "fsaverage" / "mri" / "brain.mgz")
        rows = self.cases(tmp_path / "subjects", tmp_path)
        assert list(rows) == [f"{subject}/mri/brain.mgz" for subject in ("bert", "ernie", "kermit")]
        assert [row["subject"] for row in rows.values()] == ["bert", "ernie", "kermit"]

    def test_upper_case_links_pairs_and_a_flat_folder(self, tmp_path: Path) -> None:
        image, folder = head(np.eye(3) * 2), tmp_path / "in"
        save(image, folder / "a1.nii.gz").rename(folder / "a1.NII.GZ")
        save(image, folder / "a2.nii").rename(folder / "a2.NII")
        save(image, tmp_path / "store" / "x.nii.gz")
        (folder / "a3.nii.gz").symlink_to(tmp_path / "store" / "x.nii.gz")
        save(nibabel.Nifti1Pair(image.get_fdata(), image.affine), folder / "a4.img")
        save(nibabel.Nifti1Pair(image.get_fdata(), image.affine), folder / "a5.img.gz")
        save(image, folder / "a6.nii.gz")
        save(image, folder / "a6_brain.nii.gz")
        save(image, folder / "a6_brain_mask.nii.gz")
        rows = self.cases(folder, tmp_path)
        assert list(rows) == ["a1.NII.GZ", "a2.NII", "a3.nii.gz", "a4.img", "a5.img.gz", "a6_brain.nii.gz"]
        assert [row["subject"] for row in rows.values()] == ["a1", "a2", "a3", "a4", "a5", "a6"]


def test_a_header_of_freesurfer_that_claims_too_much(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = nibabel.MGHImage(np.ones((4, 4, 4), np.float32), np.eye(4))
    for number in range(3):
        path = save(image, tmp_path / "in" / f"sub-{number}.mgh")
        raw = bytearray(path.read_bytes())
        raw[4:8] = (2**30).to_bytes(4, "big")
        path.write_bytes(raw)
    words = ["prepare", "--volumes", tmp_path / "in", "--output", tmp_path / "out", "--space", "native"]
    assert main([str(word) for word in words]) == 2
    assert "1073741824 x 4 x 4 x 1 voxels by its header" in capsys.readouterr().err
