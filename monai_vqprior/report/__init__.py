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

from monai_vqprior.report.audit import audit_status, write_audit
from monai_vqprior.report.by_subject import bits_of_baselines, statistics_by_subject, write_slice_table
from monai_vqprior.report.codecs import codec_baselines
from monai_vqprior.report.completions import write_completions
from monai_vqprior.report.drawn_heads import write_volumes
from monai_vqprior.report.evaluation_pictures import evaluation_files, write_evaluation_pictures
from monai_vqprior.report.metrics import code_baselines, slice_bits, summarize, write_metrics
from monai_vqprior.report.neighbors import read_samples, write_neighbors
from monai_vqprior.report.page import write_report
from monai_vqprior.report.reconstructed_volumes import find_cutting, reconstruct_volumes
from monai_vqprior.report.reference import store_reference
from monai_vqprior.report.samples import write_samples

__all__ = [
    "audit_status",
    "bits_of_baselines",
    "code_baselines",
    "codec_baselines",
    "evaluation_files",
    "find_cutting",
    "read_samples",
    "reconstruct_volumes",
    "slice_bits",
    "statistics_by_subject",
    "store_reference",
    "summarize",
    "write_audit",
    "write_completions",
    "write_evaluation_pictures",
    "write_metrics",
    "write_neighbors",
    "write_report",
    "write_samples",
    "write_slice_table",
    "write_volumes",
]
