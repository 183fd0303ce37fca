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

from monai_vqprior.audit.condition_response import fluid_share, rank_correlation, value_of_neighbors
from monai_vqprior.audit.descriptors import ANATOMY, DESCRIPTORS, coarse_pictures, describe
from monai_vqprior.audit.fidelity import (
    WORDS,
    DescribedSlices,
    Figure,
    compare_sets,
    describe_slices,
    pair_similarities,
)
from monai_vqprior.audit.matching import Matches, match_images
from monai_vqprior.audit.newness import (
    CopyThreshold,
    copy_threshold,
    local_ratios,
    membership,
    percentiles,
    recognized,
    recognized_by_chance,
    share_below,
    subject_means,
)
from monai_vqprior.audit.real_features import Overlap, RealFeatures, kernel_discrepancy, overlap
from monai_vqprior.audit.two_samples import (
    area_under_curve,
    classifier_auc,
    frechet_distance,
    ks_distance,
    true_positive_rate,
)
from monai_vqprior.audit.verdict import THRESHOLDS, VERDICTS, Verdict, judge_newness, share_interval

__all__ = [
    "ANATOMY",
    "DESCRIPTORS",
    "THRESHOLDS",
    "VERDICTS",
    "WORDS",
    "CopyThreshold",
    "DescribedSlices",
    "Figure",
    "Matches",
    "Overlap",
    "RealFeatures",
    "Verdict",
    "area_under_curve",
    "classifier_auc",
    "coarse_pictures",
    "compare_sets",
    "copy_threshold",
    "describe",
    "describe_slices",
    "fluid_share",
    "frechet_distance",
    "judge_newness",
    "kernel_discrepancy",
    "ks_distance",
    "local_ratios",
    "match_images",
    "membership",
    "overlap",
    "pair_similarities",
    "percentiles",
    "rank_correlation",
    "recognized",
    "recognized_by_chance",
    "share_below",
    "share_interval",
    "subject_means",
    "true_positive_rate",
    "value_of_neighbors",
]
