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

from collections.abc import Sequence
from functools import lru_cache

import torch

__all__ = ["ssim_map"]


@lru_cache(maxsize=32)
def _window_matrix(size: int, win_size: int, sigma: float, device: torch.device) -> torch.Tensor:
    """
    Gaussian window as a matrix (size - win_size + 1, size) whose rows are the window at each place where it fits.

        g0 g1 g2  0  0
         0 g0 g1 g2  0
         0  0 g0 g1 g2
    """
    with torch.inference_mode(False):  # the matrix is kept, and a later call may need gradients
        offsets = torch.arange(win_size, dtype=torch.float64) - (win_size - 1) / 2
        window = torch.exp(-0.5 * (offsets / sigma) ** 2)
        window /= window.sum()
        places = size - win_size + 1
        matrix = torch.zeros(places, size, dtype=torch.float64)
        for i in range(places):
            matrix[i, i : i + win_size] = window
        return matrix.float().to(device)


def _windowed_mean(images: torch.Tensor, win_size: int, sigma: float) -> torch.Tensor:
    """Gaussian-weighted means (..., *spatial - win_size + 1) over all windows that fit into images (N, C, *spatial)."""
    for axis in range(2, images.dim()):
        matrix = _window_matrix(images.shape[axis], win_size, sigma, images.device)
        images = (images.movedim(axis, -1) @ matrix.t()).movedim(-1, axis)
    return images


def ssim_map(
    prediction: torch.Tensor,
    target: torch.Tensor,
    data_range: float = 1.0,
    win_size: int = 11,
    sigma: float = 1.5,
    k1: float = 0.01,
    k2: float = 0.03,
) -> torch.Tensor:
    """
    Structural similarity of every window that fits into the image, after Wang et al., "Image quality assessment: from
    error visibility to structural similarity" (2004), https://doi.org/10.1109/TIP.2003.819861.

    The mean over the map is what :class:`monai.metrics.SSIMMetric` reports and scikit-image's
    ``structural_similarity(gaussian_weights=True, sigma=1.5, use_sample_covariance=False)``. The Gaussian window is
    separable, and one axis of it is a small matrix product, which a CPU does more than ten times as fast as the
    11 x 11 convolution of one channel, forward and backward; ``benchmarks/ssim.py`` measures it.

    Args:
        prediction: (B, C, *spatial), two or three spatial dimensions.
        target: (B, C, *spatial).
        data_range: largest minus smallest possible value.
        win_size: side of the window in pixels.
        sigma: standard deviation of the Gaussian window in pixels.
        k1: stabilizes the comparison of means.
        k2: stabilizes the comparison of variances.

    Returns:
        (B, C, *spatial - win_size + 1), float32; index i along an axis is the window centered on i + win_size // 2.

    Raises:
        ValueError: when the shapes differ or a side is smaller than the window.
    """
    if prediction.shape != target.shape:
        raise ValueError(f"prediction and target must have one shape, got {_of(prediction)} and {_of(target)}.")
    if min(target.shape[2:]) < win_size:
        raise ValueError(f"every side must be at least the window of {win_size} pixels, got {_of(target)}.")
    with torch.autocast(device_type=target.device.type, enabled=False):
        x, y = prediction.float(), target.float()
        moments = torch.cat([x, y, x * x, y * y, x * y])  # one pass of the window over all five
        mean_x, mean_y, mean_xx, mean_yy, mean_xy = _windowed_mean(moments, win_size, sigma).chunk(5)
        c1, c2 = (k1 * data_range) ** 2, (k2 * data_range) ** 2
        product, squares = mean_x * mean_y, mean_x.square() + mean_y.square()
        luminance = (2 * product + c1) / (squares + c1)
        structure = (2 * (mean_xy - product) + c2) / (mean_xx + mean_yy - squares + c2)
        return luminance * structure


def _of(tensor: torch.Tensor) -> Sequence[int]:
    return tuple(tensor.shape)
