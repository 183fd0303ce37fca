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

from monai_vqprior.metrics.bootstrap import Interval, bootstrap_interval, subject_rows
from monai_vqprior.metrics.codes import (
    BitsPerCodeMetric,
    bits_at_positions,
    count_codes,
    histogram_bits,
    perplexity,
    position_histogram_bits,
    position_histogram_bits_of,
    position_log_probabilities,
)
from monai_vqprior.metrics.nearest_images import nearest_distances, nearest_images
from monai_vqprior.metrics.ssim import FittingMSSSIMMetric, MaskedSSIMMetric, ms_ssim_weights
from monai_vqprior.transforms.unit_range import BRAIN_THRESHOLD

__all__ = [
    "BRAIN_THRESHOLD",
    "BitsPerCodeMetric",
    "FittingMSSSIMMetric",
    "Interval",
    "MaskedSSIMMetric",
    "bits_at_positions",
    "bootstrap_interval",
    "count_codes",
    "histogram_bits",
    "ms_ssim_weights",
    "nearest_distances",
    "nearest_images",
    "perplexity",
    "position_histogram_bits",
    "position_histogram_bits_of",
    "position_log_probabilities",
    "subject_rows",
]
