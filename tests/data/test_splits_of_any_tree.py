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

"""Whatever tree of folders and names: nobody is in two splits, and every file is used or named."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_vqprior.data import SliceFolder, find_volumes
from monai_vqprior.data.layout import SPLITS
from monai_vqprior.data.names import name_scans
from monai_vqprior.errors import InputError

properties = settings(derandomize=True, deadline=None, max_examples=60)

#: How people name files: the path of a scan without its suffix, of (subject, session, contrast), each counted from 0.
STYLES: dict[str, Callable[[int, int, str], str]] = {
    "bids": lambda s, v, c: f"sub-{s:02d}/ses-{v}/anat/sub-{s:02d}_ses-{v}_run-01_{c}",
    "bids, flat": lambda s, v, c: f"sub-{s:02d}_ses-{v}_{c}",
    "oasis": lambda s, v, c: f"OAS2_RAW_PART{v}/OAS2_{s:04d}_MR{v}/RAW/mpr-{len(c)}",
    "oasis, flat": lambda s, v, c: f"OAS1_{s:04d}_MR{v}_{c}",
    "adni": lambda s, v, c: (
        f"{s:03d}_S_{s:04d}/{c}/200{v}-04-18_08_20_30.0/I{s}{v}{len(c)}/ADNI_{s:03d}_S_{s:04d}_MR_{c}"
    ),
    "patients": lambda s, v, c: f"patient{s}/visit{v}/{c}",
    "patients, contrast first": lambda s, v, c: f"{c}/P{s:02d}_v{v}",
    "people": lambda s, v, c: f"{'abcdefgh'[s] * 4}/2019-01-{v + 10}/{c}/scan",
    "tcga": lambda s, v, c: f"TCGA_CS_49{s:02d}_1996090{v + 1}/TCGA_CS_49{s:02d}_1996090{v + 1}_{c}",
    "brats": lambda s, v, c: f"HGG/BraTS19_CBICA_A{'BCDEFGHI'[s]}Z_{v}/BraTS19_CBICA_A{'BCDEFGHI'[s]}Z_{v}_{c}",
    "numbers": lambda s, v, c: f"{s:03d}/{v}/{c}",
    "ids": lambda s, v, c: f"AB{s}7_{v}_{c}",
    "ids, sides": lambda s, v, c: f"AB{s}7_{('left', 'right')[v % 2]}_{c}",
    "dicom": lambda s, v, c: f"PA{s:06d}/ST{v:06d}/SE{len(c):06d}/{c}",
    "groups": lambda s, v, c: f"{('healthy', 'AD', 'train')[s % 3]}/case_{s}_{c}_{v}",
    "visits in the name": lambda s, v, c: f"study/X{s}Y_visit{v}/{c}",
}
JUNK = ("notes.txt", "a.dcm", "b.mnc.gz", "masks/x.png", "masks/x.nii", "p_seg.png", "p_seg.nii.gz", "._y.png", "z.gif")


def pictures_of(draw: Callable[..., object]) -> dict[str, int]:
    """Paths without suffix, each with its subject, which the style alone knows."""
    style = STYLES[str(draw(st.sampled_from(sorted(STYLES))))]
    top = draw(st.sampled_from(["", "data/", "my study/raw/"]))
    contrasts = draw(st.lists(st.sampled_from(["t1", "T2", "flair", "T1w"]), min_size=1, max_size=2, unique_by=len))
    subjects = draw(st.lists(st.integers(0, 7), min_size=3, max_size=6, unique=True))
    paths: dict[str, int] = {}
    for subject in subjects:  # type: ignore[attr-defined]
        for session in range(draw(st.integers(1, 3))):  # type: ignore[call-overload]
            for contrast in contrasts:  # type: ignore[attr-defined]
                paths[f"{top}{style(subject, session, contrast)}"] = subject
    return paths


@st.composite
def trees(draw: Callable[..., object]) -> dict[str, int]:
    return pictures_of(draw)


def deal(data: SliceFolder) -> dict[str, list[dict[str, Any]]]:
    """The slices of each split; none where it is refused, which names files or what it took for subjects."""
    try:
        return {split: data.datalist(split) for split in SPLITS}
    except InputError as error:
        told = str(error)
    assert "nothing tells for certain" in told or "they were found by" in told
    return {}


def fill(folder: Path, names: list[str]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


@properties
@given(tree=trees(), junk=st.sets(st.sampled_from(JUNK)), slices=st.integers(1, 3), seed=st.integers(0, 3))
def test_slices(tree: dict[str, int], junk: set[str], slices: int, seed: int) -> None:
    subject_of = {f"{path}_{number}.png": subject for path, subject in tree.items() for number in range(slices)}
    handler = Messages()
    with tempfile.TemporaryDirectory() as name, handler:
        folder = Path(name)
        fill(folder, [*subject_of, *junk])
        data = SliceFolder(folder, seed)
        items = deal(data)
        if not items:
            return
        used = {Path(item["image"]).relative_to(folder).as_posix() for some in items.values() for item in some}
        assert used == set(subject_of)
        splits: dict[int, set[str]] = {}
        for split, some in items.items():
            for item in some:
                splits.setdefault(subject_of[Path(item["image"]).relative_to(folder).as_posix()], set()).add(split)
        assert all(len(found) == 1 for found in splits.values()), splits
        # The number of a slice is its place in its scan.
        for some in items.values():
            for item in some:
                assert item["index"] == int(Path(item["image"]).stem.rpartition("_")[2])
                assert Path(item["image"]).stem.rpartition("_")[0] in data.scan_of(item["image"])
    assert bool(handler.text) == bool(junk)
    assert_told(handler.text, junk)


@properties
@given(tree=trees(), junk=st.sets(st.sampled_from(JUNK)))
def test_volumes(tree: dict[str, int], junk: set[str]) -> None:
    handler = Messages()
    with tempfile.TemporaryDirectory() as name, handler:
        folder = Path(name)
        fill(folder, [*(f"{path}.nii.gz" for path in tree), *junk])
        found = [path.relative_to(folder) for path in find_volumes(folder)]
    named = {path.as_posix().removesuffix(".nii.gz") for path in found}
    others = tree.keys() - named  # of BIDS and OASIS-2 one scan of a session is taken
    assert named <= tree.keys()
    assert {tree[name] for name in named} == set(tree.values())
    naming = name_scans(found, volumes=True)
    if not naming.untold:
        called: dict[int, set[str]] = {}
        for path, subject in zip(found, naming.subjects, strict=True):
            called.setdefault(tree[path.as_posix().removesuffix(".nii.gz")], set()).add(subject)
        assert all(len(some) == 1 for some in called.values()), called  # one name, so that one split
    assert_told(handler.text, (junk - {"._y.png"}) | others)


def assert_told(text: str, junk: set[str]) -> None:
    """Every file that is not used is counted, and each kind has an example in the one line."""
    assert sum(int(part.split(" (")[0]) for part in text.split(": ")[2:] if part[0].isdigit()) == len(junk)


class Messages(logging.Handler):
    """The warnings of the package, in one line each."""

    text = ""

    def emit(self, record: logging.LogRecord) -> None:
        assert not self.text  # one line in all
        self.text = record.getMessage()

    def __enter__(self) -> None:
        logging.getLogger("monai_vqprior").addHandler(self)

    def __exit__(self, *error: object) -> None:
        logging.getLogger("monai_vqprior").removeHandler(self)


@pytest.mark.parametrize("style", STYLES)
def test_no_style_is_refused(style: str) -> None:
    """Of these, where each person has two sessions of two contrasts, nothing is refused, and each has a name."""
    paths = [Path(f"{STYLES[style](s, v, c)}_5.png") for s in range(5) for v in range(2) for c in ("t1", "flair")]
    naming = name_scans(paths)
    assert not naming.untold
    assert naming.count == 5
    volumes = name_scans([path.with_name(path.name.replace("_5.png", ".nii.gz")) for path in paths], volumes=True)
    assert not volumes.untold
    assert volumes.count == 5
