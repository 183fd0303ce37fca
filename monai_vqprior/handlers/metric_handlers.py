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

from collections.abc import Callable
from typing import Any

import torch
from ignite.exceptions import NotComputableError
from ignite.metrics import Metric
from ignite.metrics.metric import reinit__is_reduced, sync_all_reduce
from monai.handlers import IgniteMetricHandler

from monai_vqprior.metrics import (
    BRAIN_THRESHOLD,
    BitsPerCodeMetric,
    FittingMSSSIMMetric,
    MaskedSSIMMetric,
    count_codes,
    perplexity,
)

__all__ = ["SSIM", "BitsPerCode", "BrainSSIM", "CodebookPerplexity", "CodebookUsage", "MultiScaleSSIM"]


def _identity(output: Any) -> Any:
    return output


class SSIM(IgniteMetricHandler):
    """
    Mean structural similarity over the images of a run: 11-pixel Gaussian window, sigma 1.5, no padding.

    Args:
        data_range: largest minus smallest possible value of the images.
        output_transform: takes the engine's output to a pair (reconstruction, image), each (B, C, *spatial), for
            instance ``monai.handlers.from_engine(["pred", "label"])``.
        save_details: keep the value of every image in ``engine.state.metric_details``.
    """

    def __init__(
        self, data_range: float = 1.0, output_transform: Callable = _identity, save_details: bool = True
    ) -> None:
        super().__init__(MaskedSSIMMetric(None, data_range), None, output_transform, save_details)


class BrainSSIM(IgniteMetricHandler):
    """
    Mean structural similarity over the windows that are centered on brain pixels; see
    :class:`~monai_vqprior.metrics.MaskedSSIMMetric`.

    Args:
        data_range: largest minus smallest possible value of the images.
        threshold: a pixel is brain where the image is greater.
        output_transform: see :class:`SSIM`.
        save_details: see :class:`SSIM`.
    """

    def __init__(
        self,
        data_range: float = 1.0,
        threshold: float = BRAIN_THRESHOLD,
        output_transform: Callable = _identity,
        save_details: bool = True,
    ) -> None:
        super().__init__(MaskedSSIMMetric(threshold, data_range), None, output_transform, save_details)


class MultiScaleSSIM(IgniteMetricHandler):
    """
    Mean multi-scale structural similarity, with as many of the five scales as the images have room for
    (:func:`~monai_vqprior.metrics.ms_ssim_weights`).

    Args:
        spatial_dims: 2 or 3.
        data_range: largest minus smallest possible value of the images.
        output_transform: see :class:`SSIM`.
        save_details: see :class:`SSIM`.
    """

    def __init__(
        self,
        spatial_dims: int = 2,
        data_range: float = 1.0,
        output_transform: Callable = _identity,
        save_details: bool = True,
    ) -> None:
        super().__init__(FittingMSSSIMMetric(spatial_dims, data_range), None, output_transform, save_details)


class BitsPerCode(IgniteMetricHandler):
    """
    Bits a code of a prior, averaged over the grids of a run.

    Args:
        output_transform: takes the engine's output to a pair of logits (B, K, *grid) and codes (B, *grid).
        save_details: see :class:`SSIM`.
    """

    def __init__(self, output_transform: Callable = _identity, save_details: bool = True) -> None:
        super().__init__(BitsPerCodeMetric(), None, output_transform, save_details)


class CodebookUsage(Metric):
    """
    How many of the codes occur in a run, over all of its images and all processes.

    Args:
        num_embeddings: number of codes, K.
        output_transform: takes the engine's output to the codes, integers of any shape: a tensor or an array, or a list
            of them, as there is after decollating, for instance ``monai.handlers.from_engine("codes")``.
    """

    def __init__(self, num_embeddings: int, output_transform: Callable = _identity) -> None:
        self.num_embeddings = num_embeddings
        # Ignite would take a list of grids for pairs of predictions and targets.
        super().__init__(output_transform=output_transform, skip_unrolling=True)

    @reinit__is_reduced
    def reset(self) -> None:
        """Forget the codes seen."""
        self._counts = torch.zeros(self.num_embeddings, dtype=torch.int64)

    @reinit__is_reduced
    def update(self, output: Any) -> None:
        """Count the codes of a batch, or of several in a list."""
        if isinstance(output, (list, tuple)):
            for codes in output:
                self.update(codes)
        else:
            self._counts += count_codes(torch.as_tensor(output).detach().cpu(), self.num_embeddings)

    @sync_all_reduce("_counts")
    def compute(self) -> float:
        """
        Number of codes that occurred.

        Raises:
            ignite.exceptions.NotComputableError: when no code was seen.
        """
        if self._counts.sum() == 0:
            raise NotComputableError(f"{type(self).__name__} has seen no codes.")
        return self._summarize(self._counts)

    def _summarize(self, counts: torch.Tensor) -> float:
        return int((counts > 0).sum())


class CodebookPerplexity(CodebookUsage):
    """
    Effective number of codes in a run, the exponential of the entropy of their frequencies.

    Args:
        num_embeddings: number of codes, K.
        output_transform: takes the engine's output to the codes, integers of any shape.
    """

    def _summarize(self, counts: torch.Tensor) -> float:
        return perplexity(counts)
