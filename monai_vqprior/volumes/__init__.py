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

from monai_vqprior.volumes.geometry import Slab, Volume, crop, cut_slices, resample, resample_to_cubes, restore_slices
from monai_vqprior.volumes.heads import CutHead, HeadCutter, Intensities
from monai_vqprior.volumes.layouts import Choice, choose_volumes
from monai_vqprior.volumes.normalization import blacken, correct_bias, scale_by_percentiles, scale_by_white_matter
from monai_vqprior.volumes.placement import SPACES, Placement, read_placement, write_placement
from monai_vqprior.volumes.reading import read_volume
from monai_vqprior.volumes.registration import Registration, register, rigid_part
from monai_vqprior.volumes.skull import apply_mask, find_mask, sign_of_skull
from monai_vqprior.volumes.spaces import Placed, place
from monai_vqprior.volumes.template import Template, load_template

__all__ = [
    "SPACES",
    "Choice",
    "CutHead",
    "HeadCutter",
    "Intensities",
    "Placed",
    "Placement",
    "Registration",
    "Slab",
    "Template",
    "Volume",
    "apply_mask",
    "blacken",
    "choose_volumes",
    "correct_bias",
    "crop",
    "cut_slices",
    "find_mask",
    "load_template",
    "place",
    "read_placement",
    "read_volume",
    "register",
    "resample",
    "resample_to_cubes",
    "restore_slices",
    "rigid_part",
    "scale_by_percentiles",
    "scale_by_white_matter",
    "sign_of_skull",
    "write_placement",
]
