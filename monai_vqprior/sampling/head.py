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
import torch.nn.functional as F

from monai_vqprior.sampling.folded_gate import weights_of

__all__ = ["HeadStepper"]


class HeadStepper:
    """
    Logits of a position from its features.

    Args:
        head: the head of a prior, with convolutions at 1 and 3.
        skip: the convolution of its skip connections, or None.
        position_logits: what is added to the logits of each position, (1, K, *spatial), or None.
    """

    def __init__(self, head: nn.Sequential, skip: nn.Module | None, position_logits: torch.Tensor | None) -> None:
        (first, self._first_bias), (second, bias) = weights_of(head[1]), weights_of(head[3])
        self._first = first.flatten(1).t()  # (C, C)
        self._second = second.flatten(1).t()  # (C, K)
        added = bias[None] if position_logits is None else bias + position_logits[0].flatten(1).t()
        self._bias = added.contiguous()  # (positions or 1, K)
        self._skip: torch.Tensor | None = None
        if skip is not None:
            weight, skip_bias = weights_of(skip)
            channels = len(weight)
            parts = weight.flatten(1).t().unflatten(0, (-1, channels))  # (layers, C, C)
            # The gated features of a layer are negative, and the 1 behind them brings in the bias.
            biases = torch.zeros_like(parts[:, :1])
            biases[0] = skip_bias
            self._skip = torch.cat([-parts, biases], 1).flatten(0, 1)  # (layers * (C + 1), C)

    def step(self, position: int, features: torch.Tensor, gated: torch.Tensor) -> torch.Tensor:
        """
        Logits of a position.

        Args:
            position: its place in raster order.
            features: of the last layer, (B, C).
            gated: :attr:`PositionStepper.gated`.

        Returns:
            (B, K).
        """
        x = features if self._skip is None else torch.addmm(features, gated, self._skip)
        x = F.silu(torch.addmm(self._first_bias, F.silu(x), self._first))
        return torch.addmm(self._bias[position if len(self._bias) > 1 else 0], x, self._second)
