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
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_vqprior.sampling.row_convolution import RowConvolution


def convolved(kernel: torch.Tensor, bias: torch.Tensor, *planes: torch.Tensor) -> torch.Tensor:
    """Planes (B, C, rows, L) row by row, one plane after another by the same convolution: the last (B, D, rows, L)."""
    batch_size, channels, _, length = planes[0].shape
    # Each row of the gate is followed by something else, which is to stay.
    space = kernel.new_full((length * batch_size, len(bias) + 3), 7.0)
    gate, rest = space[:, :-3], space[:, -3:]
    convolution = RowConvolution(kernel, bias, gate, batch_size)
    for x in planes:
        rows = []
        for row, values in enumerate(x.permute(2, 3, 0, 1)):  # (L, B, C)
            convolution.inputs(row).copy_(values.reshape(-1, channels))
            convolution.step(row)
            rows.append(gate.view(length, batch_size, -1).clone())
    assert (rest == 7).all()
    return torch.stack(rows).permute(2, 3, 0, 1)


def dense(kernel: torch.Tensor, bias: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The same by PyTorch's convolution."""
    past = len(kernel) - 1
    return F.conv2d(F.pad(x, [past, past, past, 0]), kernel.permute(3, 2, 0, 1), bias)


def example(past: int, length: int, batch_size: int, rows: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A kernel, a bias, and rows."""
    generator = torch.Generator().manual_seed(0)
    shapes = (past + 1, 2 * past + 1, 3, 5), (5,), (batch_size, 3, rows, length)
    kernel, bias, x = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return kernel, bias, x


class TestRowConvolution:
    @settings(derandomize=True, deadline=None, max_examples=40)
    @given(past=st.integers(1, 3), length=st.integers(1, 9), batch_size=st.integers(1, 3), rows=st.integers(1, 5))
    def test_equals_dense(self, past: int, length: int, batch_size: int, rows: int) -> None:
        kernel, bias, x = example(past, length, batch_size, rows)
        ours = convolved(kernel, bias, x)
        torch.testing.assert_close(ours, dense(kernel, bias, x))

    def test_a_row_passes_several_layers(self) -> None:
        generator = torch.Generator().manual_seed(0)
        kernels = torch.randn(3, 2, 3, 4, 4, generator=generator, dtype=torch.float64)
        biases = torch.randn(3, 4, generator=generator, dtype=torch.float64)
        x = torch.randn(2, 4, 5, 8, generator=generator, dtype=torch.float64)
        gate = kernels.new_zeros(8 * 2, 4)
        layers = [RowConvolution(kernel, bias, gate, 2) for kernel, bias in zip(kernels, biases, strict=True)]
        outcomes = []
        for row, values in enumerate(x.permute(2, 3, 0, 1)):
            gate.copy_(values.reshape(-1, 4))
            for layer in layers:
                layer.inputs(row).copy_(gate)
                layer.step(row)
            outcomes.append(gate.view_as(values).clone())
        expected = x
        for kernel, bias in zip(kernels, biases, strict=True):
            expected = dense(kernel, bias, expected)
        torch.testing.assert_close(torch.stack(outcomes).permute(2, 3, 0, 1), expected)

    def test_row_0_begins_another_plane(self) -> None:
        kernel, bias, x = example(1, 6, 2, rows=3)
        torch.testing.assert_close(convolved(kernel, bias, 100 * x, x), dense(kernel, bias, x))
