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
"""What prepare does with volumes that cannot be used, with wrong arguments, and with runs that stop."""

from __future__ import annotations

import csv
import gzip
import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

from monai_vqprior.cli import main
from monai_vqprior.data import prepare_volumes, staging
from monai_vqprior.errors import AlreadyDoneError, InputError
from monai_vqprior.volumes import HeadCutter, Registration, Template, spaces

#: arguments that suit volumes of 16 x 20 x 12 mm, which lie in one place already.
SMALL = {"num_slices": 4, "size": 20, "space": "scanner", "progress": False}
SHAPE = (16, 20, 12)
HIDDEN = ".partial-prepare"

Save = Callable[..., Path]


def truncate(path: Path, keep: float = 0.5) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    return path


def files_below(folder: Path) -> dict[str, bytes]:
    """Everything but what an unfinished run has left."""
    files = (path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in files}
    return {name: path.read_bytes() for name, path in names.items() if not name.startswith(HIDDEN)}


def cases_of(folder: Path) -> list[str]:
    with (folder / "subjects.csv").open(newline="") as file:
        return [row["case"] for row in csv.DictReader(file)]


@pytest.fixture
def bad(bids: Path) -> Path:
    return bids / "sub-03" / "anat" / "sub-03_T1w.nii.gz"


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The volumes that are cut, as they are."""
    names: list[str] = []
    original = HeadCutter.__call__

    def noted(self: HeadCutter, path: Path, file: str) -> object:
        names.append(Path(file).name)
        return original(self, path, file)

    monkeypatch.setattr(HeadCutter, "__call__", noted)
    return names


def random_voxels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(1, 1000, shape).astype(np.int16)


def image_without_orientation(path: Path) -> None:
    raw = bytearray(gzip.decompress(path.read_bytes()))
    raw[252:256] = bytes(4)  # qform_code and sform_code
    path.write_bytes(gzip.compress(raw))


def flip_a_bit(path: Path) -> None:
    raw = bytearray(gzip.compress(gzip.decompress(path.read_bytes()), 0))
    raw[len(raw) // 2] ^= 8
    path.write_bytes(raw)


def with_voxels(*voxels: object) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        data = voxels[0] if isinstance(voxels[0], np.ndarray) else np.full(SHAPE, voxels[0], np.float32)
        nibabel.save(nibabel.Nifti1Image(data, np.eye(4)), path)

    return write


#: what is done to a volume, and what is said of it.
DAMAGES: list[tuple[Callable[[Path], object], str]] = [
    (truncate, "cannot be read as a volume"),
    (lambda path: path.write_bytes(b""), "cannot be read as a volume"),
    (lambda path: path.write_text("no volume"), "cannot be read as a volume"),
    (flip_a_bit, "cannot be read as a volume"),
    (image_without_orientation, "does not tell left from right"),
    (with_voxels(random_voxels(*SHAPE, 2)), "holds 2 volumes"),
    (with_voxels(np.nan), "holds NaN or infinity"),
    (with_voxels(0), "is empty"),
    (with_voxels((np.indices(SHAPE)[0] > 8).astype(np.int16)), "nothing to scale"),
    (with_voxels(random_voxels(16, 20, 2)), "of its 4 slices show nothing"),
]


def test_ten_damaged_volumes_have_one_line_each(
    tmp_path: Path, save: Save, brain: Callable[..., np.ndarray], capsys: pytest.CaptureFixture[str], cut: list[str]
) -> None:
    folder = tmp_path / "in"
    for number in range(14):
        path = save(folder / f"sub-{number:02d}_T1w.nii.gz", brain(number))
        if number < len(DAMAGES):
            DAMAGES[number][0](path)
    words = ["prepare", "--volumes", str(folder), "--output", str(tmp_path / "out")]
    words += ["--space", "scanner", "--num_slices", "4", "--size", "20", "--fractions", "1", "0", "0"]
    assert main(words) == 2
    lines = [line for line in capsys.readouterr().err.split("\n") if "sub-" in line and not line.startswith("volumes:")]
    for number, (_, reason) in enumerate(DAMAGES):
        told = [line for line in lines if f"sub-{number:02d}_T1w.nii.gz" in line and "vqprior: error" not in line]
        assert len(told) == 1, lines
        assert reason in told[0]
    assert "10 of 14 volumes cannot be used, the first because: " in lines[-1]
    assert not files_below(tmp_path / "out")
    cut.clear()
    assert main([*words, "--resume", "--skip_bad"]) == 0
    assert len(cases_of(tmp_path / "out")) == 4
    assert len(cut) == 10  # the others were there
    assert "10 volumes left out:" in capsys.readouterr().out
    assert not (tmp_path / "out" / HIDDEN).exists()


def test_a_bad_volume_loses_nothing_of_the_others(bids: Path, bad: Path, tmp_path: Path, cut: list[str]) -> None:
    whole = bad.read_bytes()
    truncate(bad)
    with pytest.raises(InputError, match=r"sub-03_T1w\.nii\.gz.*cannot be read.*--skip_bad"):
        prepare_volumes(bids, tmp_path / "out", **SMALL)
    assert not files_below(tmp_path / "out")
    bad.write_bytes(whole)
    cut.clear()
    prepare_volumes(bids, tmp_path / "out", resume=True, **SMALL)
    assert cut == ["sub-03_T1w.nii.gz"]
    prepare_volumes(bids, tmp_path / "fresh", **SMALL)
    assert files_below(tmp_path / "out") == files_below(tmp_path / "fresh")


def test_where_no_volume_can_be_used_nothing_is_left(tmp_path: Path, save: Save) -> None:
    for number in range(3):
        truncate(save(tmp_path / "in" / f"sub-{number}.nii"))
    with pytest.raises(InputError, match="3 of 3 volumes cannot be used"):
        prepare_volumes(tmp_path / "in", tmp_path / "new" / "out", **SMALL)
    assert not (tmp_path / "new").exists()


def test_a_fault_is_said_without_a_progress_bar_too(
    bids: Path, bad: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    truncate(bad)
    with caplog.at_level(logging.WARNING):
        prepare_volumes(bids, tmp_path / "out", skip_bad=True, fractions={"train": 1.0}, **SMALL)
    assert sum("cannot be read" in message for message in caplog.messages) == 1


def test_skip_bad_leaves_it_out_and_counts_it(bids: Path, bad: Path, tmp_path: Path) -> None:
    truncate(bad)
    summary = prepare_volumes(bids, tmp_path / "out", skip_bad=True, fractions={"train": 1.0}, **SMALL)
    assert cases_of(tmp_path / "out") == ["001", "002", "004", "005", "006", "007"]
    assert len([name for name in files_below(tmp_path / "out") if name.endswith(".png")]) == 6 * 4
    assert (summary.volumes["train"], summary.subjects["train"], summary.slices["train"]) == (6, 5, 24)
    ((file, reason),) = summary.skipped
    assert file == "sub-03/anat/sub-03_T1w.nii.gz"
    assert "cannot be read" in reason
    assert "1 volume left out:" in str(summary)
    assert reason in str(summary)


def test_skip_bad_does_not_leave_a_split_empty(bids: Path, tmp_path: Path) -> None:
    prepare_volumes(bids, tmp_path / "good", **SMALL)
    with (tmp_path / "good" / "subjects.csv").open(newline="") as file:
        (lost,) = {row["file"] for row in csv.DictReader(file) if row["split"] == "test"}
    truncate(bids / lost)
    with pytest.raises(InputError, match="no volume is left for test: 1 of 7 volumes cannot be used"):
        prepare_volumes(bids, tmp_path / "out", skip_bad=True, **SMALL)
    assert not files_below(tmp_path / "out")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 15}, "size must be an even number"),
        ({"num_slices": 0}, "num_slices must be"),
        ({"spacing": -1}, "spacing must be"),
        ({"voxel_size": 0}, "voxel_size must be"),
        ({"space": "talairach"}, "space must be 'template' or 'rigid' or 'native' or 'scanner'"),
        ({"axis": 5}, "axis must be"),
        ({"percentiles": (60, 40)}, "percentiles must be"),
        ({"fractions": {"train": 0.5}}, "sum to 1"),
        ({"fractions": (0.5, 0.4, 0.2)}, "add up to 1"),
        ({"pattern": "*.mgz"}, "holds no volume"),
        ({"subjects_csv": "absent.csv"}, "cannot be read as a table"),
        ({"masks": "/x/*"}, "masks must be a relative glob"),
        ({"space": "rigid", "template": "absent.nii"}, r"absent\.nii does not exist"),
    ],
)
def test_checks_arguments_before_it_writes(bids: Path, tmp_path: Path, arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        prepare_volumes(bids, tmp_path / "out", **{**SMALL, **arguments})
    assert not (tmp_path / "out").exists()


def test_too_few_subjects(tmp_path: Path, save: Save) -> None:
    save(tmp_path / "in" / "a.nii")
    with pytest.raises(InputError, match="1 subject cannot fill the splits"):
        prepare_volumes(tmp_path / "in", tmp_path / "out", **SMALL)


def test_refuses_a_folder_that_is_not_empty(bids: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare_volumes(bids, out, **SMALL)
    before = files_below(out)
    with pytest.raises(InputError, match="is not empty"):
        prepare_volumes(bids, out, seed=1, **SMALL)
    with pytest.raises(AlreadyDoneError, match="is prepared already"):
        prepare_volumes(bids, out, resume=True, **SMALL)
    assert files_below(out) == before


def test_overwrite_replaces_an_earlier_run(bids: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare_volumes(bids, out, **{**SMALL, "num_slices": 6})
    (out / "notes.txt").write_text("kept")
    prepare_volumes(bids, out, seed=1, overwrite=True, fractions={"train": 0.5, "test": 0.5}, **SMALL)
    prepare_volumes(bids, tmp_path / "fresh", seed=1, fractions={"train": 0.5, "test": 0.5}, **SMALL)
    assert (out / "notes.txt").read_text() == "kept"
    (out / "notes.txt").unlink()
    assert files_below(out) == files_below(tmp_path / "fresh")
    assert {path.name for path in out.iterdir()} == {path.name for path in (tmp_path / "fresh").iterdir()}


def test_a_failed_overwrite_keeps_the_earlier_run(bids: Path, bad: Path, tmp_path: Path) -> None:
    prepare_volumes(bids, tmp_path / "out", **SMALL)
    before = files_below(tmp_path / "out")
    truncate(bad)
    with pytest.raises(InputError, match="cannot be read"):
        prepare_volumes(bids, tmp_path / "out", overwrite=True, **SMALL)
    assert files_below(tmp_path / "out") == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupted_run_goes_on(
    bids: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: list[str], error: type[BaseException]
) -> None:
    written, write = [], staging.write_png

    def write_some(path: Path, image: np.ndarray) -> Path:
        written.append(path)
        if len(written) == 10:
            raise error
        return write(path, image)

    monkeypatch.setattr(staging, "write_png", write_some)
    with pytest.raises(error):
        prepare_volumes(bids, tmp_path / "out", **SMALL)
    monkeypatch.setattr(staging, "write_png", write)
    assert not files_below(tmp_path / "out")
    with pytest.raises(InputError, match=r"was begun with spacing 1, not 2: .* or leave out --resume"):
        prepare_volumes(bids, tmp_path / "out", resume=True, **{**SMALL, "spacing": 2})
    cut.clear()
    prepare_volumes(bids, tmp_path / "out", resume=True, **SMALL)
    assert len(cut) == 5  # of 7, two were complete
    cut.clear()
    prepare_volumes(bids, tmp_path / "fresh", resume=True, **SMALL)  # nothing to resume: it begins
    assert len(cut) == 7
    assert files_below(tmp_path / "out") == files_below(tmp_path / "fresh")


def test_a_run_that_stops_at_once_leaves_nothing(bids: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(path: Path, image: np.ndarray) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(staging, "write_png", interrupted)
    (tmp_path / "out").mkdir()
    with pytest.raises(KeyboardInterrupt):
        prepare_volumes(bids, tmp_path / "out", **SMALL)
    assert not any((tmp_path / "out").iterdir())


def test_a_process_that_is_killed_has_a_line(
    bids: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: list[str]
) -> None:
    original = HeadCutter.__call__

    def killed(self: HeadCutter, path: Path, file: str) -> object:
        if "sub-04" in file:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, path, file)

    monkeypatch.setattr(HeadCutter, "__call__", killed)
    with pytest.raises(
        InputError, match=r"a process ended in the middle of its work .*--resume with fewer --num_workers"
    ):
        prepare_volumes(bids, tmp_path / "out", num_workers=1, **SMALL)
    monkeypatch.setattr(HeadCutter, "__call__", original)
    prepare_volumes(bids, tmp_path / "out", resume=True, **SMALL)
    assert len(cases_of(tmp_path / "out")) == 7


def test_without_resume_an_unfinished_run_is_forgotten(bids: Path, bad: Path, tmp_path: Path, cut: list[str]) -> None:
    whole = bad.read_bytes()
    truncate(bad)
    with pytest.raises(InputError):
        prepare_volumes(bids, tmp_path / "out", **SMALL)
    bad.write_bytes(whole)
    cut.clear()
    prepare_volumes(bids, tmp_path / "out", **{**SMALL, "spacing": 2})
    assert len(cut) == 7


def test_a_head_with_a_skull_is_refused(tmp_path: Path) -> None:
    """A ball of 2.9 liters, brighter than air; a mask leaves 1.4 of them."""
    places = np.linalg.norm(np.indices((40, 40, 40)) * 5.0 - 97.5, axis=0)
    for number in range(3):
        head = np.where(places < 88, 400 + number + places, 0).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(head, np.diag([5.0, 5, 5, 1])), _made(tmp_path / f"in/p{number}_T1.nii"))
    arguments = {"num_slices": 2, "size": 32, "voxel_size": 6, "center": 0, "progress": False}
    with pytest.raises(InputError, match=r"p0_T1.nii: it still holds a skull \(3.1 liters .*SynthStrip.*--masks"):
        prepare_volumes(tmp_path / "in", tmp_path / "out", space="native", **arguments)
    summary = prepare_volumes(tmp_path / "in", tmp_path / "out", space="scanner", **{**arguments, "center": None})
    assert sum(summary.volumes.values()) == 3
    mask = nibabel.Nifti1Image((places < 70).astype(np.uint8), np.diag([5.0, 5, 5, 1]))
    for number in range(3):
        nibabel.save(mask, tmp_path / "in" / f"p{number}_T1_mask.nii.gz")
    summary = prepare_volumes(
        tmp_path / "in", tmp_path / "masked", space="native", masks="{name}_mask.nii.gz", **arguments
    )
    assert sum(summary.volumes.values()) == 3


def _made(path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    return path


def test_a_registration_that_failed_is_named_or_left_out(
    bids: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def register(volume: object, template: Template) -> Registration:
        calls.append(volume)
        return Registration(np.eye(4), overlap=0.9, correlation=0.2 if len(calls) == 3 else 0.6)

    calls: list[object] = []
    monkeypatch.setattr(spaces, "register", register)
    arguments = {**SMALL, "space": "template", "center": -20, "voxel_size": 1}
    path = tmp_path / "template.nii"
    voxels = np.zeros((40, 40, 40), np.float32)
    voxels[8:32, 8:32, 8:32] = 50
    affine = np.diag([4.0, 4, 4, 1])
    affine[:3, 3] = -80
    nibabel.save(nibabel.Nifti1Image(voxels, affine), path)
    for volume in bids.rglob("*.nii.gz"):  # where the slices lie
        image = nibabel.load(volume)
        shifted = np.eye(4)
        shifted[:3, 3] = -8, -26, -26
        nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), shifted), volume)
    with pytest.raises(InputError, match=r"sub-03_T1w.nii.gz: its registration to the template failed: it correlates"):
        prepare_volumes(bids, tmp_path / "out", template=path, **arguments)
    calls.clear()
    arguments |= {"skip_bad": True, "fractions": (1, 0, 0)}
    summary = prepare_volumes(bids, tmp_path / "out", template=path, **arguments)
    assert [file for file, _ in summary.skipped] == ["sub-03/anat/sub-03_T1w.nii.gz"]
    assert "correlation with the template 0.60 (0.60 to 0.60)" in str(summary)


def test_a_missing_package_is_named_with_a_way_without_it(
    bids: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "SimpleITK", None)
    assert main(["prepare", "--volumes", str(bids), "--output", str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err.strip()
    assert "\n" not in message
    assert 'needs the package SimpleITK, which is not installed: pip install "monai-vqprior[registration]"' in message
    assert message.endswith("Or pass --space native, which shifts each brain and needs neither.")
    assert not (tmp_path / "out").exists()
