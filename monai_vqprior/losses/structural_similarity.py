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

import math
from collections.abc import Sequence
from functools import lru_cache

import torch

__all__ = ["SSIM_WINDOW", "ssim_map"]

#: Side of the window in pixels.
SSIM_WINDOW = 11

#: Most windows along a line that one product computes.
_BLOCK = 128


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
        images = _windowed_mean_along(images.movedim(axis, -1), win_size, sigma).movedim(-1, axis)
    return images


def _windowed_mean_along(lines: torch.Tensor, win_size: int, sigma: float) -> torch.Tensor:
    """
    Gaussian-weighted means (..., L - win_size + 1) over all windows that fit into lines (..., L).

    A long line is cut into blocks, with one product for the windows of each: a product with all of the line would cost
    the more a pixel the longer the line is, most of it with zeros.
    """
    places = lines.shape[-1] - win_size + 1
    parts = math.ceil(places / _BLOCK)
    block = math.ceil(places / parts)
    matrix = _window_matrix(block + win_size - 1, win_size, sigma, lines.device).t()
    means = []
    for first in range(0, places, block):
        size = min(block, places - first)
        means.append(lines.narrow(-1, first, size + win_size - 1) @ matrix[: size + win_size - 1, :size])
    return torch.cat(means, -1) if parts > 1 else means[0]


def ssim_map(
    prediction: torch.Tensor,
    target: torch.Tensor,
    data_range: float = 1.0,
    win_size: int = SSIM_WINDOW,
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
        # Together what depends on the prediction and apart what does not: that needs no gradient.
        mean_x, mean_xx, mean_xy = _windowed_mean(torch.cat([x, x * x, x * y]), win_size, sigma).chunk(3)
        mean_y, mean_yy = _windowed_mean(torch.cat([y, y * y]), win_size, sigma).chunk(2)
        c1, c2 = (k1 * data_range) ** 2, (k2 * data_range) ** 2
        product, squares = mean_x * mean_y, mean_x.square() + mean_y.square()
        luminance = (2 * product + c1) / (squares + c1)
        structure = (2 * (mean_xy - product) + c2) / (mean_xx + mean_yy - squares + c2)
        return luminance * structure


def _of(tensor: torch.Tensor) -> Sequence[int]:
    return tuple(tensor.shape)
