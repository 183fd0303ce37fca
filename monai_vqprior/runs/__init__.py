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

from monai_vqprior.files import tell
from monai_vqprior.outputs import OutputFolder
from monai_vqprior.runs.checks import (
    check_counts,
    check_not_negative,
    check_num_embeddings,
    check_settings,
    check_shares,
    check_spatial_size,
    check_trainable,
    check_window,
    checked_settings,
)
from monai_vqprior.runs.devices import mixed_precision, select_device
from monai_vqprior.runs.familiarity import (
    POSITION_BITS,
    position_bits,
    position_table,
    read_reference,
    unlike,
    write_reference,
)
from monai_vqprior.runs.inference import InferenceRun, checked_output
from monai_vqprior.runs.lineage import (
    check_conditions,
    check_same_autoencoder,
    check_samples,
    fingerprint,
    has_other_codes,
    tell_of_another_autoencoder,
)
from monai_vqprior.runs.memory import keep_freed_memory
from monai_vqprior.runs.pretrained import load_pretrained
from monai_vqprior.runs.prior_settings import SINGLE_SLICES, find_prior_settings
from monai_vqprior.runs.prior_start import check_grids, code_vectors, start_prior, start_sketches
from monai_vqprior.runs.processes import Processes, data_parallel, joined_processes, single_process, start_processes
from monai_vqprior.runs.settings import (
    AUTOENCODER_SETTINGS,
    PRIOR_SETTINGS,
    REFERENCE,
    component_config,
    read_settings,
    settings_beside,
    write_settings,
)
from monai_vqprior.runs.slice_scale import check_scale, slice_scale
from monai_vqprior.runs.training import PriorTrainingRun, TrainingRun
from monai_vqprior.runs.training_folder import TrainingFolder, state_to_resume
from monai_vqprior.runs.training_log import log_settings, package_versions
from monai_vqprior.runs.weights import (
    find_checkpoint,
    halve_weights,
    is_finite,
    load_weights,
    locate,
    read_checkpoint,
    read_weights,
    unwrap,
    write_checkpoint,
)
from monai_vqprior.runs.whole_heads import check_whole_heads, head_settings

__all__ = [
    "AUTOENCODER_SETTINGS",
    "POSITION_BITS",
    "PRIOR_SETTINGS",
    "REFERENCE",
    "SINGLE_SLICES",
    "InferenceRun",
    "OutputFolder",
    "PriorTrainingRun",
    "Processes",
    "TrainingFolder",
    "TrainingRun",
    "check_conditions",
    "check_counts",
    "check_grids",
    "check_not_negative",
    "check_num_embeddings",
    "check_same_autoencoder",
    "check_samples",
    "check_scale",
    "check_settings",
    "check_shares",
    "check_spatial_size",
    "check_trainable",
    "check_whole_heads",
    "check_window",
    "checked_output",
    "checked_settings",
    "code_vectors",
    "component_config",
    "data_parallel",
    "find_checkpoint",
    "find_prior_settings",
    "fingerprint",
    "halve_weights",
    "has_other_codes",
    "head_settings",
    "is_finite",
    "joined_processes",
    "keep_freed_memory",
    "load_pretrained",
    "load_weights",
    "locate",
    "log_settings",
    "mixed_precision",
    "package_versions",
    "position_bits",
    "position_table",
    "read_checkpoint",
    "read_reference",
    "read_settings",
    "read_weights",
    "select_device",
    "settings_beside",
    "single_process",
    "slice_scale",
    "start_prior",
    "start_processes",
    "start_sketches",
    "state_to_resume",
    "tell",
    "tell_of_another_autoencoder",
    "unlike",
    "unwrap",
    "write_checkpoint",
    "write_reference",
    "write_settings",
]
