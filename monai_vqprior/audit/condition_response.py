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

import numpy as np
import torch
from scipy.ndimage import binary_erosion, binary_fill_holes
from scipy.stats import spearmanr

__all__ = ["fluid_share", "rank_correlation", "value_of_neighbors"]

_NEIGHBORS = 16
_FLUID = 0.3  # darker pixels inside the brain are fluid
_SHELL = 0.06  # of the side: the fluid around the brain and in its folds is nearer to the edge than this


def fluid_share(images: torch.Tensor) -> np.ndarray:
    """
    Share of fluid in the inner brain, which is that of the ventricles.

    Args:
        images: (N, 1, H, W) in 0..1.

    Returns:
        (N,) in 0..1, NaN for an image without a brain.
    """
    shares = []
    for image in images[:, 0].numpy():
        inner = binary_erosion(binary_fill_holes(image > _FLUID), iterations=round(_SHELL * len(image)))
        shares.append(float((image[inner] < _FLUID).mean()) if inner.any() else np.nan)
    return np.array(shares)


def value_of_neighbors(images: torch.Tensor, train: torch.Tensor, values: np.ndarray) -> np.ndarray:
    """
    Mean value of the 16 training images that are nearest to each image.

    Args:
        images: (N, 1, H, W) in 0..1.
        train: (M, 1, H, W) in 0..1.
        values: (M,), of the training images.

    Returns:
        (N,).
    """
    number = min(_NEIGHBORS, len(train))
    nearest = torch.cdist(images.flatten(1), train.flatten(1)).topk(number, largest=False).indices
    return values[nearest.numpy()].mean(1)


def rank_correlation(asked: np.ndarray, measured: np.ndarray) -> float | None:
    """
    Spearman's rank correlation of what was asked for with what was measured.

    Args:
        asked: (N,).
        measured: (N,), NaN where nothing could be measured.

    Returns:
        a number in -1..1; None where one of them does not vary.
    """
    known = np.isfinite(asked) & np.isfinite(measured)
    asked, measured = asked[known], measured[known]
    if len(asked) < 2 or np.ptp(asked) == 0 or np.ptp(measured) == 0:
        return None
    return float(spearmanr(asked, measured).statistic)
