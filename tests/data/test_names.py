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

from pathlib import PurePath

import pytest

from monai_vqprior.data.names import Naming, name_scans, stem_of
from monai_vqprior.errors import InputError

BIDS, OASIS, ADNI = (f"the names of {name}" for name in ("BIDS", "OASIS", "ADNI"))
PATIENTS = "numbered names"
FOLDERS = "folders"
FILES = "names of files"


def names(*paths: str, volumes: bool = False, pattern: str | None = None) -> Naming:
    return name_scans([PurePath(path) for path in paths], volumes, pattern)


# The rule, and the subject, session and slice number that a person reads in each path; all paths of a row are of one
# data set.
SLICES: list[tuple[str, dict[str, tuple[str, int | None]]]] = [
    (PATIENTS, {"case_441_slice_0.nii.png": ("case_441", 0), "case_2_slice_31.nii.png": ("case_2", 31)}),
    (
        OASIS,
        {
            "OAS1_0061_MR1_slice_7.png": ("OAS1_0061", 7),
            "OAS1_0061_MR2/slice_004.png": ("OAS1_0061", 4),
            "Non Demented/OAS1_0028_MR1_mpr-1_100.jpg": ("OAS1_0028", 100),
            "OAS1_0028_MR1_mpr-2.jpg": ("OAS1_0028", None),
            "x/OAS2_0007_MR1-3.png": ("OAS2_0007", None),
            "OAS30001_MR_d0129/anat2/12.png": ("OAS30001", 12),
        },
    ),
    (
        BIDS,
        {
            "sub-01/ses-02/anat/sub-01_ses-02_run-01_T1w_17.png": ("sub-01", 17),
            "sub-01/ses-03/anat/sub-01_ses-03_run-01_T1w.png": ("sub-01", None),
            "derivatives/x/sub-a2_slice-3.tif": ("sub-a2", 3),
        },
    ),
    (
        ADNI,
        {
            "ADNI_002_S_0295_MR_MPRAGE_br_raw_20060418193538653_1_S13408_I13722_45.png": ("002_S_0295", 45),
            "ADNI/002_S_0413/MPRAGE/2006-05-02_12_31_52.0/I14437/33.png": ("002_S_0413", 33),
        },
    ),
    (
        PATIENTS,
        {
            "patient7/slice_003.png": ("patient7", 3),
            "healthy/patient8/visit2/t1/12.png": ("patient8", 12),
            "t2/P09_run-1_4.png": ("P09", 4),
            "t1/P09_run-1_4.png": ("P09", 4),
        },
    ),
    (PATIENTS, {"ill/patient1_1.png": ("patient1", 1), "well/patient2_1.png": ("patient2", 1)}),
    (
        FOLDERS,
        {
            "TCGA_CS_4901_19960909/TCGA_CS_4901_19960909_12.tif": ("TCGA_CS_4901", 12),
            "TCGA_CS_4902_19960909/TCGA_CS_4902_19960909_1.tif": ("TCGA_CS_4902", 1),
        },
    ),
    (
        FOLDERS,
        {
            "data/smith/2019-01-01/t1/001.png": ("smith", 1),
            "data/smith/2020-01-01/flair/001.png": ("smith", 1),
            "data/jones/2019-01-01/t1/001.png": ("jones", 1),
        },
    ),
    (
        FOLDERS,  # that of the person, not the name that several share
        {"smith/case_1_slice_0.png": ("smith", 0), "jones/case_1_slice_0.png": ("jones", 0)},
    ),
    (
        FOLDERS,
        {
            "PA01/ST01/SE01/IM0001.png": ("PA01", 1),
            "PA02/ST01/SE01/IM-0001-0012.png": ("PA02", 12),
            "100307/T1w/7.png": ("100307", 7),
        },
    ),
    (FILES, {"TCGA_CS_4901_19960909_1.tif": ("TCGA_CS_4901", 1), "TCGA_CS_4902_19960909_1.tif": ("TCGA_CS_4902", 1)}),
    (
        FILES,
        {
            "train/AB12_1_t1_30.png": ("AB12", 30),
            "test/AB12_2_t2_30.png": ("AB12", 30),
            "test/CD34_left_30.png": ("CD34", 30),
            "train/CD34_right_30.png": ("CD34", 30),
        },
    ),
    (FILES, {"brats_001_t1_77.png": ("brats_001", 77), "brats_002_flair_77.png": ("brats_002", 77)}),
    (FILES, {"AB12_t1.png": ("AB12", None), "AB12_t2.png": ("AB12", None), "CD34_t1.png": ("CD34", None)}),
]


@pytest.mark.parametrize(("rule", "told"), SLICES)
def test_subjects_and_numbers_of_slices(rule: str, told: dict[str, tuple[str, int | None]]) -> None:
    naming = names(*told)
    assert [(name.subject, name.index) for name in naming.names] == list(told.values())
    assert naming.rule.startswith(rule)
    assert not naming.untold


VOLUMES: list[tuple[str, dict[str, tuple[str, str]]]] = [
    (
        OASIS,
        {
            "OAS2_RAW_PART1/OAS2_0001_MR1/RAW/mpr-1.nifti.img": ("OAS2_0001", "OAS2_0001_MR1"),
            "OAS2_RAW_PART1/OAS2_0001_MR2/RAW/mpr-1.nifti.img": ("OAS2_0001", "OAS2_0001_MR2"),
            "OAS1_0061_MR2_mpr_n4_anon_111_t88_masked_gfc.img": ("OAS1_0061", "OAS1_0061_MR2"),
        },
    ),
    (
        BIDS,
        {
            "sub-01/ses-02/anat/T1w.nii.gz": ("sub-01", "sub-01_ses-02"),
            "sub-OAS30001/ses-d0129/anat/sub-OAS30001_ses-d0129_T1w.nii.gz": ("sub-OAS30001", "sub-OAS30001_ses-d0129"),
        },
    ),
    (
        ADNI,
        {
            "002_S_0295/MPRAGE/2006-04-18_08_20_30.0/I123/a.nii": ("002_S_0295", "002_S_0295_2006-04-18_08_20_30.0"),
            "003_S_0907.nii": ("003_S_0907", "003_S_0907"),
        },
    ),
    (
        FOLDERS,
        {
            "HGG/BraTS19_TCIA01_190_1/BraTS19_TCIA01_190_1_t1.nii.gz": (
                "BraTS19_TCIA01_190",
                "BraTS19_TCIA01_190_1_t1",
            ),
            "LGG/BraTS19_2013_10_1/BraTS19_2013_10_1_t1.nii.gz": ("BraTS19_2013_10", "BraTS19_2013_10_1_t1"),
        },
    ),
    (FOLDERS, {"ann/visit1/t1.nii": ("ann", "ann_visit1"), "bob/visit1/t1.nii": ("bob", "bob_visit1")}),
    (
        FILES,
        {
            "IXI-T1/IXI002-Guys-0828-T1.nii.gz": ("IXI002-Guys-0828", "IXI002-Guys-0828-T1"),
            "IXI-T2/IXI002-Guys-0828-T2.nii.gz": ("IXI002-Guys-0828", "IXI002-Guys-0828-T2"),
            "IXI-T1/IXI012-HH-1211-T1.nii.gz": ("IXI012-HH-1211", "IXI012-HH-1211-T1"),
        },
    ),
    (
        FILES,
        {
            "BraTS-GLI-00000-000-t1n.nii.gz": ("BraTS-GLI-00000", "BraTS-GLI-00000-000-t1n"),
            "BraTS-GLI-00000-001-t1n.nii.gz": ("BraTS-GLI-00000", "BraTS-GLI-00000-001-t1n"),
            "BraTS-GLI-00002-000-t1n.nii.gz": ("BraTS-GLI-00002", "BraTS-GLI-00002-000-t1n"),
        },
    ),
    (FILES, {"a.nii": ("a", "a"), "b.nii.gz": ("b", "b"), "001.img": ("001", "001")}),
]


@pytest.mark.parametrize(("rule", "told"), VOLUMES)
def test_subjects_and_sessions_of_volumes(rule: str, told: dict[str, tuple[str, str]]) -> None:
    naming = names(*told, volumes=True)
    assert [(name.subject, name.session) for name in naming.names] == list(told.values())
    assert naming.rule.startswith(rule)
    assert not naming.untold


@pytest.mark.parametrize(
    ("paths", "untold", "volumes"),
    [
        (["scan1.png", "scan2.png"], 2, False),
        (["1.png", "2.png"], 2, False),
        (["t1/slice_1.png", "t2/slice_1.png"], 2, False),
        (["yes/Y1.jpg", "no/1 no.jpeg"], 2, False),
        (["Mild Dementia/26 (19).jpg", "MildDemented/mildDem0.jpg", "Non_Demented/26 (19).jpg"], 3, False),
        (["glioma/Te-gl_0010.jpg", "notumor/Te-no_0010.jpg", "meningioma_tumor/Te-me_0010.jpg"], 3, False),
        (["case_1_slice_0.png", "other.png"], 1, False),
        # The same people in three versions, or people of the same names?
        (["noisy/case_1_2.png", "clean/case_1_2.png", "clean/case_2_2.png"], 3, False),
        (["T1.nii", "T2.nii"], 2, True),
        (["mpr-1.img", "mpr-2.img", "AB12.img"], 2, True),
    ],
)
def test_where_nothing_tells(paths: list[str], untold: int, volumes: bool) -> None:
    naming = names(*paths, volumes=volumes)
    assert len(naming.untold) == untold
    assert set(naming.untold) <= set(naming.subjects)  # each is a subject of its own
    with pytest.raises(InputError, match=rf"the subject of {untold} of the {len(paths)} files in DIR, such as"):
        naming.check_told("DIR")


@pytest.mark.parametrize("pattern", [r"^(\w+?)_", r"(?:)(?P<subject>[a-z]+)\d*_\d+\.png$", r"([^/_]+)_\d+\.png$"])
def test_a_pattern_goes_first(pattern: str) -> None:
    naming = names("ab_1.png", "cd_1.png", pattern=pattern)
    assert naming.subjects == ["ab", "cd"]
    assert naming.rule == f"--subject_pattern {pattern}"
    assert [name.index for name in naming.names] == [1, 1]


@pytest.mark.parametrize(("pattern", "count"), [("(x)", 0), ("(a)", 1), (r"a(\d*)", 0)])
def test_a_pattern_that_does_not_match_each_path(pattern: str, count: int) -> None:
    with pytest.raises(InputError, match=rf"finds the subject of {count} of the 2 files in DIR, and none in \w/1\.png"):
        name_scans([PurePath("a/1.png"), PurePath("b/1.png")], False, pattern, "DIR")


def test_scans_of_a_person_are_told_apart() -> None:
    naming = names("sub-01_ses-1_t1_1.png", "sub-01_ses-1_t1_2.png", "sub-01_ses-1_t2_1.png", "sub-01_ses-2_t1_1.png")
    scans = [name.scan for name in naming.names]
    assert scans[0] == scans[1]
    assert len(set(scans)) == 3


def test_one_line_tells_the_rule() -> None:
    paths = [PurePath(f"p{number}/{slice}.png") for number in (3, 1, 2, 4) for slice in (1, 2)]
    told = name_scans(paths).told(paths)
    assert told == "4 subjects by numbered names (patient7, case_441): p3 (p3/1.png), p1 (p1/1.png), p2 (p2/1.png), ..."


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("mpr-1.nifti.img", "mpr-1"),
        ("a.b.nii.gz", "a.b"),
        ("case_1.nii.PNG", "case_1"),
        ("patient.7.nii", "patient.7"),
        ("a.txt", "a.txt"),
    ],
)
def test_suffixes(name: str, stem: str) -> None:
    assert stem_of(name) == stem
