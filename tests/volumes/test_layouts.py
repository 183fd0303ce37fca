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

from pathlib import Path, PurePosixPath

import pytest

from monai_vqprior.volumes import choose_volumes
from monai_vqprior.volumes.layouts import find_participants, is_volume, name_of

# What each layout has, and what is to be taken of it.
DATA_SETS = {
    "BIDS": (
        [
            "sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz",
            "sub-01/ses-1/anat/sub-01_ses-1_run-2_T1w.nii.gz",
            "sub-01/ses-1/anat/sub-01_ses-1_T2w.nii.gz",
            "sub-01/ses-1/func/sub-01_ses-1_task-rest_bold.nii.gz",
            "sub-01/ses-2/anat/sub-01_ses-2_acq-mprage_run-10_T1w.nii.gz",
            "sub-01/ses-2/anat/sub-01_ses-2_acq-mprage_run-9_T1w.nii.gz",
            "sub-02/anat/sub-02_T1w.NII.GZ",
            "sub-02/anat/sub-02_T1w_defacemask.nii.gz",
            "derivatives/fmriprep/sub-02/anat/sub-02_desc-preproc_T1w.nii.gz",
            "derivatives/freesurfer/sub-02/mri/brain.mgz",
            "sourcedata/sub-02/sub-02_T1w.nii",
        ],
        [
            "sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz",
            "sub-01/ses-2/anat/sub-01_ses-2_acq-mprage_run-9_T1w.nii.gz",
            "sub-02/anat/sub-02_T1w.NII.GZ",
        ],
    ),
    "FreeSurfer": (
        [
            "bert/mri/brain.mgz",
            "bert/mri/T1.mgz",
            "bert/mri/aseg.mgz",
            "bert/mri/orig/001.mgz",
            "ernie/mri/brainmask.mgz",
            "ernie/mri/norm.mgz",
            "fsaverage/mri/brain.mgz",
        ],
        ["bert/mri/brain.mgz", "ernie/mri/brainmask.mgz"],
    ),
    "OASIS-1": (
        [
            "disc1/OAS1_0001_MR1/PROCESSED/MPRAGE/T88_111/OAS1_0001_MR1_mpr_n4_anon_111_t88_gfc.img",
            "disc1/OAS1_0001_MR1/PROCESSED/MPRAGE/T88_111/OAS1_0001_MR1_mpr_n4_anon_111_t88_masked_gfc.img",
            "disc1/OAS1_0001_MR1/FSL_SEG/OAS1_0001_MR1_mpr_n4_anon_111_t88_masked_gfc_fseg.img",
            "disc1/OAS1_0001_MR1/RAW/OAS1_0001_MR1_mpr-1_anon.img",
            "disc1/OAS1_0002_MR1/PROCESSED/MPRAGE/T88_111/OAS1_0002_MR1_mpr_n4_anon_111_t88_masked_gfc.img",
        ],
        [
            "disc1/OAS1_0001_MR1/PROCESSED/MPRAGE/T88_111/OAS1_0001_MR1_mpr_n4_anon_111_t88_masked_gfc.img",
            "disc1/OAS1_0002_MR1/PROCESSED/MPRAGE/T88_111/OAS1_0002_MR1_mpr_n4_anon_111_t88_masked_gfc.img",
        ],
    ),
    "OASIS-2": (
        [f"OAS2_RAW_PART1/OAS2_0001_MR{visit}/RAW/mpr-{scan}.nifti.img" for visit in (1, 2) for scan in (2, 1, 10)],
        [f"OAS2_RAW_PART1/OAS2_0001_MR{visit}/RAW/mpr-1.nifti.img" for visit in (1, 2)],
    ),
    "fsl_anat": (
        [
            f"{subject}.anat/{name}.nii.gz"
            for subject in ("p1", "p2")
            for name in ("T1", "T1_biascorr", "T1_biascorr_brain", "T1_biascorr_brain_mask", "T1_to_MNI_lin")
        ],
        ["p1.anat/T1_biascorr_brain.nii.gz", "p2.anat/T1_biascorr_brain.nii.gz"],
    ),
    "ANTs": (
        [
            "p1_BrainExtractionBrain.nii.gz",
            "p1_BrainExtractionMask.nii.gz",
            "p1_BrainExtractionPrior0GenericAffine.nii.gz",
            "p2ExtractedBrain0N4.nii.gz",
            "p2BrainExtractionBrain.nii.gz",
            "p2BrainSegmentationPosteriors1.nii.gz",
            "p2CorticalThickness.nii.gz",
        ],
        ["p1_BrainExtractionBrain.nii.gz", "p2ExtractedBrain0N4.nii.gz"],
    ),
    "flat": (
        ["a.nii", "b.NII.GZ", "b_brain.nii.gz", "b_brain_mask.nii.gz", "c.img", "d_bet.nii.gz", "d_seg.nii"],
        ["a.nii", "b_brain.nii.gz", "c.img", "d_bet.nii.gz"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("layout", DATA_SETS)
def test_layouts(layout: str) -> None:
    names, wanted = DATA_SETS[layout]
    choice = choose_volumes(map(PurePosixPath, names))
    assert choice.layout == layout
    assert [path.as_posix() for path in choice.taken] == wanted
    left_out = [name for some in choice.left_out.values() for name in some]
    assert sorted(left_out + wanted) == sorted(names), "each file is taken or named, once"


def test_what_is_left_out_is_told() -> None:
    choice = choose_volumes(map(PurePosixPath, DATA_SETS["BIDS"][0]))
    assert {what: len(names) for what, names in choice.left_out.items()} == {
        "masks, segmentations and fields": 1,
        "other scans of the same session": 2,
        "images of other contrasts": 2,
        "files in derivatives": 2,
        "files in sourcedata": 1,
    }


def test_one_volume_of_any_name_is_taken() -> None:
    assert choose_volumes([PurePosixPath("scan.nii")]).taken == [PurePosixPath("scan.nii")]
    # nothing but derivatives: the user has named their folder's parent, and there is nothing else
    only = PurePosixPath("derivatives/strip/sub-01/sub-01_T1w.nii.gz")
    assert choose_volumes([only]).taken == [only]


@pytest.mark.parametrize("name", ["x.nii", "x.NII.GZ", "x.img", "x.Img.gz", "x.mgz", "x.MGH"])
def test_names_of_volumes(name: str) -> None:
    assert is_volume(name)
    assert name_of(name) == "x"
    assert not is_volume(f"._{name}")
    assert not is_volume(f"{name}.json")


def test_participants(tmp_path: Path) -> None:
    assert find_participants(tmp_path) is None
    (tmp_path / "Participants.TSV").write_text("participant_id\tage\n")
    assert find_participants(tmp_path) == tmp_path / "Participants.TSV"
