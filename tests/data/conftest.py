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
"""Folders of small volumes, for the tests of finding, reading and preparing them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import small_volumes

OASIS_HEADER = "ID,M/F,Hand,Age,Educ,SES,MMSE,CDR,eTIV,nWBV,ASF,Delay"
OASIS_ROWS = """OAS1_0001_MR1,F,R,74,2,3,29,0,1344,0.743,1.306,N/A
OAS1_0002_MR1,F,R,55,4,1,29,,1147,0.81,1.531,N/A
OAS1_0003_MR1,F,R,73,4,3,27,0.5,1454,0.708,1.207,N/A
OAS1_0061_MR1,F,R,20,,,,,1375,0.854,1.277,N/A
OAS1_0061_MR2,F,R,20,,,,,1369,0.858,1.282,89
OAS1_0308_MR1,M,R,78,3,3,15,2,1401,0.703,1.253,N/A"""


@pytest.fixture
def brain() -> Callable[..., np.ndarray]:
    """``brain(seed, shape)``: random int16 intensities of 1 to 1000 in a box, zero around it."""
    return small_volumes.brain


@pytest.fixture
def save() -> Callable[..., Path]:
    """``save(path, data, affine)`` writes a volume in the format of the suffix, and returns the path."""
    return small_volumes.save


@pytest.fixture
def bids(tmp_path: Path) -> Path:
    """Six subjects with BIDS names, the last one with two sessions."""
    folder = tmp_path / "bids"
    for number in range(1, 6):
        small_volumes.save(folder / f"sub-{number:02d}" / "anat" / f"sub-{number:02d}_T1w.nii.gz")
    for session in ("01", "02"):
        small_volumes.save(folder / "sub-10" / f"ses-{session}" / "anat" / f"sub-10_ses-{session}_T1w.nii.gz")
    return folder


@pytest.fixture
def disc(tmp_path: Path) -> Path:
    """Disc layout of OASIS-1: for each session raw, unmasked and segmented images beside the one that is wanted."""
    folder = tmp_path / "oasis"
    for number, name in enumerate(["0001_MR1", "0002_MR1", "0003_MR1", "0061_MR2", "0061_MR1", "0308_MR1"], start=1):
        session = folder / f"disc{number}" / f"OAS1_{name}"
        prefix = f"{session.name}_mpr_n4_anon_111_t88"
        wanted = small_volumes.save(
            session / "PROCESSED" / "MPRAGE" / "T88_111" / f"{prefix}_masked_gfc.img",
            small_volumes.brain(number)[..., None],
        )
        others = [
            wanted.with_name(f"{prefix}_gfc.img"),
            session / "RAW" / f"{session.name}_mpr-1_anon.img",
            session / "FSL_SEG" / f"{prefix}_masked_gfc_fseg.img",
        ]
        for other in others:
            small_volumes.save(other)
    (folder / "oasis_cross-sectional.csv").write_text(f"{OASIS_HEADER}\n{OASIS_ROWS}\n")
    return folder
