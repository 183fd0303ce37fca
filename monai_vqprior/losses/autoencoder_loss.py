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
import torch.nn as nn

from monai_vqprior.errors import InputError
from monai_vqprior.losses.structural_similarity import ssim_map

__all__ = ["TokenizerLoss"]


class TokenizerLoss(nn.Module):
    """
    Loss of stage 1: weighted L1 distance and structural dissimilarity of the reconstruction, plus the commitment loss.

    It takes what :class:`~monai_vqprior.networks.AutoencoderVQ` and :class:`monai.networks.nets.VQVAE` return in
    training mode, so that a stock :class:`monai.engines.SupervisedTrainer` can call it.

    Args:
        l1_weight: weight of the mean absolute difference.
        ssim_weight: weight of 1 - SSIM (11-pixel Gaussian window, sigma 1.5).
        data_range: largest minus smallest possible value of the images.

    Raises:
        ValueError: when a weight is negative or both are 0.
    """

    def __init__(self, l1_weight: float = 1.0, ssim_weight: float = 1.0, data_range: float = 1.0) -> None:
        super().__init__()
        if l1_weight < 0 or ssim_weight < 0 or l1_weight + ssim_weight == 0:
            raise InputError(f"the weights must not be negative nor both 0, got {l1_weight} and {ssim_weight}.")
        self.l1_weight = l1_weight
        self.ssim_weight = ssim_weight
        self.data_range = data_range

    def forward(self, output: tuple[torch.Tensor, torch.Tensor], target: torch.Tensor) -> torch.Tensor:
        """
        Loss of a batch.

        Args:
            output: reconstruction (B, C, *spatial) and commitment loss (scalar, its weight applied).
            target: the images (B, C, *spatial).

        Returns:
            a scalar.
        """
        reconstruction, commitment = output
        reconstruction, target = reconstruction.float(), target.float()
        loss = commitment + self.l1_weight * (reconstruction - target).abs().mean()
        if self.ssim_weight:
            loss = loss + self.ssim_weight * (1 - ssim_map(reconstruction, target, self.data_range).mean())
        return loss
