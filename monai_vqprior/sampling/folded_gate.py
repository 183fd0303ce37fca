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

"""
The gate of a layer with its factors, signs and biases folded into the matrices around it.

tanh(x) = 2 sigmoid(2x) - 1 makes of both nonlinearities of a gate one sigmoid, which a CPU computes faster than a tanh.
With content x and control y, tanh(x) sigmoid(y) = sigmoid(y) (2 sigmoid(2x) - 1). So what goes into the gate is scaled
by :func:`gate_scale`, :func:`through_gate` computes the negative of what passes, and the matrices of
:func:`out_matrix` have the other sign. A constant 1 behind the features brings in the bias.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn as nn

__all__ = ["gate_scale", "matrix_and_1", "out_matrix", "through_gate", "weights_of"]

#: float32 numbers in a cache line; a matrix product is some percent slower where rows begin within one.
_CACHE_LINE = 16


def weights_of(conv: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of a convolution of any dimensions."""
    return cast(torch.Tensor, conv.weight), cast(torch.Tensor, conv.bias)


def gate_scale(bias: torch.Tensor) -> torch.Tensor:
    """2 for the content, whose sigmoid then makes a tanh, and 1 for the control: (2C,) like the bias of a gate."""
    scale = torch.ones_like(bias)
    scale[: len(bias) // 2] = 2
    return scale


def out_matrix(conv: nn.Module) -> torch.Tensor:
    """The 1x1 convolution after a gate, (C + 1, C), for the negative of what passed the gate with a 1 behind it."""
    weight, bias = weights_of(conv)
    return torch.cat([-weight.flatten(1).t(), bias[None]])


def matrix_and_1(rows: int, columns: int, like: torch.Tensor) -> torch.Tensor:
    """(rows, columns + 1) with a 1 at the end of each row, and each row on a cache line of its own."""
    matrix = like.new_zeros(rows, columns + _CACHE_LINE)[:, : columns + 1]
    matrix[:, columns] = 1
    return matrix


def through_gate(gate: torch.Tensor, content: torch.Tensor, control: torch.Tensor, features: torch.Tensor) -> None:
    """
    Let content pass as far as the control lets it through.

    Args:
        gate: scaled by :func:`gate_scale`, (N, 2C); overwritten.
        content: its first half, a view.
        control: its second half, a view.
        features: where the negative of what passes goes, (N, C).
    """
    gate.sigmoid_()
    torch.addcmul(control, content, control, value=-2, out=features)
