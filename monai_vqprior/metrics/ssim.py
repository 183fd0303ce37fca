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

import torch
from monai.metrics import MultiScaleSSIMMetric
from monai.metrics.regression import RegressionMetric
from monai.utils import MetricReduction

from monai_vqprior.losses import ssim_map
from monai_vqprior.metrics.reduction import reduce_or_nan

__all__ = ["FittingMSSSIMMetric", "MaskedSSIMMetric", "ms_ssim_weights"]

# Wang et al. 2003: the weights of the five scales.
_MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


class _MeanOrNaN(RegressionMetric):
    """A metric whose mean over images without a value is NaN."""

    def aggregate(
        self, reduction: MetricReduction | str | None = None
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """As :meth:`monai.metrics.RegressionMetric.aggregate`, with NaN for a mean over nothing."""
        data = self.get_buffer()
        if not isinstance(data, torch.Tensor):
            raise ValueError(f"{type(self).__name__} has seen no batch.")
        reduced, number = reduce_or_nan(data, reduction or self.reduction)
        return (reduced, number) if self.get_not_nans else reduced


class MaskedSSIMMetric(_MeanOrNaN):
    """
    SSIM over whole images, or over the windows that are centered on the object.

    Without a threshold it is :class:`monai.metrics.SSIMMetric` with its default window, computed more than ten times as
    fast on a CPU. With one, the mean is over the windows whose center pixel is brighter in the target: half of a brain
    slice is black, and a black image reaches an SSIM of 0.32 on it, but of 0.001 over its brain.

    Args:
        threshold: windows count where the target is greater, in units of the images; None for all windows. An image
            without such a pixel has no value (NaN) and is left out of means.
        data_range: largest minus smallest possible value of the images.
        win_size: side of the Gaussian window in pixels.
        sigma: standard deviation of the window in pixels.
        reduction: how to reduce over the images, as in other MONAI metrics.
        get_not_nans: whether ``aggregate`` also returns how many values there were.
    """

    def __init__(
        self,
        threshold: float | None = None,
        data_range: float = 1.0,
        win_size: int = 11,
        sigma: float = 1.5,
        reduction: MetricReduction | str = MetricReduction.MEAN,
        get_not_nans: bool = False,
    ) -> None:
        super().__init__(reduction=reduction, get_not_nans=get_not_nans)
        self.threshold = threshold
        self.data_range = data_range
        self.win_size = win_size
        self.sigma = sigma

    def _compute_metric(self, y_pred: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """SSIM of each image, (B, 1), of predictions and targets (B, C, *spatial)."""
        y_pred, y = torch.as_tensor(y_pred), torch.as_tensor(y)
        similarity = ssim_map(y_pred, y, self.data_range, self.win_size, self.sigma)
        if self.threshold is None:
            return similarity.flatten(1).mean(1, keepdim=True)
        mask = y > self.threshold
        for axis in range(2, y.dim()):
            mask = mask.narrow(axis, self.win_size // 2, similarity.shape[axis])
        total = (similarity * mask).flatten(1).sum(1, keepdim=True)
        return total / mask.flatten(1).sum(1, keepdim=True)


def ms_ssim_weights(size: int, win_size: int = 11, weights: Sequence[float] = _MS_SSIM_WEIGHTS) -> tuple[float, ...]:
    """
    Weights of the scales that :class:`monai.metrics.MultiScaleSSIMMetric` can use on images of a size.

    It takes its five scales only on sides of 176 pixels or more. On smaller images the coarsest scales are left out and
    the other weights scaled to the sum of all.

    Args:
        size: smallest side of the images in pixels.
        win_size: side of the window in pixels.
        weights: of all scales, the finest first.

    Returns:
        one weight a scale, the finest first.

    Raises:
        ValueError: when the image is smaller than one window, or the first weights add up to nothing.
    """
    for scales in range(len(weights), 0, -1):
        fits_last_scale = size // 2 ** (scales - 1) >= win_size
        accepted_by_monai = size // max(1, scales - 1) ** 2 > win_size - 1
        if fits_last_scale and accepted_by_monai:
            kept = tuple(weights[:scales])
            if scales == len(weights):
                return kept
            if sum(kept) == 0:
                raise ValueError(f"weights of the {scales} scales that fit must not add up to 0, got {kept}.")
            return tuple(weight * sum(weights) / sum(kept) for weight in kept)
    raise ValueError(f"size must be at least the window of {win_size} pixels, got {size}.")


class FittingMSSSIMMetric(_MeanOrNaN, MultiScaleSSIMMetric):
    """
    :class:`monai.metrics.MultiScaleSSIMMetric` with as many scales as the images have room for.

    Its arguments are the same; of ``weights`` the coarsest are left out where there is no room for them, and the others
    scaled to the sum of all (:func:`ms_ssim_weights`).
    """

    def _compute_metric(self, y_pred: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        told = self.weights
        self.weights = ms_ssim_weights(min(y.shape[2:]), max(self.kernel_size), told)
        try:
            return super()._compute_metric(torch.as_tensor(y_pred), torch.as_tensor(y))
        finally:
            self.weights = told  # for images of another size
