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

from monai_vqprior.data.condition_table import ConditionTable
from monai_vqprior.data.conditions import Conditions, fit_condition, without_distributions
from monai_vqprior.data.datasets import CodeGridDataset, SliceDataset, mean_image
from monai_vqprior.data.given_codes import GivenCodes, random_holes
from monai_vqprior.data.masked_slices import MaskedSlices, load_masks
from monai_vqprior.data.phantom import PHANTOM_LABELS, PhantomSlice, phantom_slice, write_phantom
from monai_vqprior.data.prepare import PrepareSummary, prepare_volumes, read_subject_table
from monai_vqprior.data.resumable_sampler import ResumableSampler, mixed_seed
from monai_vqprior.data.slices import SliceFolder
from monai_vqprior.data.stacks import neighbor_names, scan_numbers, slices_below, stack_height
from monai_vqprior.data.volumes import find_volumes, load_volume, volume_slices

__all__ = [
    "PHANTOM_LABELS",
    "CodeGridDataset",
    "ConditionTable",
    "Conditions",
    "GivenCodes",
    "MaskedSlices",
    "PhantomSlice",
    "PrepareSummary",
    "ResumableSampler",
    "SliceDataset",
    "SliceFolder",
    "find_volumes",
    "fit_condition",
    "load_masks",
    "load_volume",
    "mean_image",
    "mixed_seed",
    "neighbor_names",
    "phantom_slice",
    "prepare_volumes",
    "random_holes",
    "read_subject_table",
    "scan_numbers",
    "slices_below",
    "stack_height",
    "volume_slices",
    "without_distributions",
    "write_phantom",
]
