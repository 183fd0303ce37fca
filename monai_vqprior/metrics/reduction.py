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

import torch
from monai.metrics.utils import do_metric_reduction
from monai.utils import MetricReduction

__all__ = ["reduce_or_nan"]

_MEANS = (
    MetricReduction.MEAN, MetricReduction.MEAN_BATCH, MetricReduction.MEAN_CHANNEL
)  # fmt: skip


def reduce_or_nan(data: torch.Tensor, reduction: MetricReduction | str) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Reduce a metric over images and channels as MONAI does, with NaN for a mean over nothing, which MONAI gives as 0.

    Args:
        data: (N, C), NaN where an image has no value.
        reduction: as in :class:`monai.metrics.RegressionMetric`.

    Returns:
        the reduced values, and how many values each is of.
    """
    reduced, number = do_metric_reduction(data, reduction)
    if MetricReduction(reduction) in _MEANS:
        reduced = torch.where(number > 0, reduced, torch.nan)
    return reduced, number
