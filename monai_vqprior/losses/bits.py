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

import torch
import torch.nn as nn
import torch.nn.functional as F

__all__ = ["BitsPerCodeLoss", "code_bits"]


def code_bits(logits: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """
    Information content of each code under a prior, -log2 p(code), finite for all finite logits.

    Args:
        logits: (B, K, *grid), any floating type.
        codes: (B, *grid), integers in 0..K-1, or -1 for a code that is not to be rated.

    Returns:
        (B, *grid) float32, in bits; 0 for a code that is not rated.
    """
    # Codes as the last axis: in channels_last the logits lie so already, and are not copied.
    rows = logits.float().movedim(1, -1).flatten(0, -2)  # (positions of all grids, K)
    bits = F.cross_entropy(rows, codes.long().flatten(), ignore_index=-1, reduction="none") / math.log(2)
    return bits.view(codes.shape)


class BitsPerCodeLoss(nn.Module):
    """Loss of stage 2: the cross-entropy of the codes in bits a code, so that the loss reads as a rate."""

    def forward(
        self, prediction: torch.Tensor | tuple[torch.Tensor, torch.Tensor], codes: torch.Tensor
    ) -> torch.Tensor:
        """
        Mean over all codes of the grids that logits are given for, those included that are not rated: each code has the
        same weight, whether much or little of its grid is given.

        Args:
            prediction: logits (B, K, *grid); or a pair of those of the first grids (b, K, *grid), or of no code
                (B, 0, *grid), and the bits a code that are spent besides, a scalar, as a
                :class:`~monai_vqprior.networks.HierarchicalPrior` returns in training mode.
            codes: (B, *grid), integers in 0..K-1, or -1 for a code that is not to be rated.

        Returns:
            a scalar, in bits.
        """
        if isinstance(prediction, torch.Tensor):
            return code_bits(prediction, codes).mean()
        logits, besides = prediction
        return besides if logits.shape[1] == 0 else code_bits(logits, codes[: len(logits)]).mean() + besides
