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

from monai_vqprior.engines.batches import PrepareBatchCodes, PrepareBatchSlices
from monai_vqprior.engines.checkpoints import (
    check_same_autoencoder,
    find_checkpoint,
    fingerprint,
    has_other_codes,
    load_weights,
    read_checkpoint,
    read_weights,
    tell_of_another_autoencoder,
    unwrap,
)
from monai_vqprior.engines.memory import keep_freed_memory
from monai_vqprior.engines.priors import check_grids, code_vectors, start_prior
from monai_vqprior.engines.processes import Processes, data_parallel, joined_processes, single_process, start_processes
from monai_vqprior.engines.scale import check_scale, slice_scale
from monai_vqprior.engines.settings import check_conditions, component_config, read_settings, write_settings
from monai_vqprior.engines.setup import (
    check_counts,
    check_not_negative,
    check_num_embeddings,
    check_output,
    check_run,
    check_settings,
    check_shares,
    check_spatial_size,
    check_trainable,
    check_window,
    check_writable,
    claim_run,
    log_folder,
    mixed_precision,
    select_device,
    state_to_resume,
    tell,
)

__all__ = [
    "PrepareBatchCodes",
    "PrepareBatchSlices",
    "Processes",
    "check_conditions",
    "check_counts",
    "check_grids",
    "check_not_negative",
    "check_num_embeddings",
    "check_output",
    "check_run",
    "check_same_autoencoder",
    "check_scale",
    "check_settings",
    "check_shares",
    "check_spatial_size",
    "check_trainable",
    "check_window",
    "check_writable",
    "claim_run",
    "code_vectors",
    "component_config",
    "data_parallel",
    "find_checkpoint",
    "fingerprint",
    "has_other_codes",
    "joined_processes",
    "keep_freed_memory",
    "load_weights",
    "log_folder",
    "mixed_precision",
    "read_checkpoint",
    "read_settings",
    "read_weights",
    "select_device",
    "single_process",
    "slice_scale",
    "start_prior",
    "start_processes",
    "state_to_resume",
    "tell",
    "tell_of_another_autoencoder",
    "unwrap",
    "write_settings",
]
