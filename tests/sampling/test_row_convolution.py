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

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_vqprior.sampling.row_convolution import (
    DirectRowConvolution,
    RowConvolution,
    WinogradRowConvolution,
    row_convolutions,
)

Kind = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, int], RowConvolution]


def convolved(kind: Kind, kernel: torch.Tensor, bias: torch.Tensor, *planes: torch.Tensor) -> torch.Tensor:
    """Planes (B, C, rows, L) row by row, one plane after another by the same convolution: the last (B, D, rows, L)."""
    batch_size, channels, _, length = planes[0].shape
    # Each row of the gate is followed by something else, which is to stay.
    space = kernel.new_full((length * batch_size, len(bias) + 3), 7.0)
    gate, rest = space[:, :-3], space[:, -3:]
    convolution = kind(kernel, bias, gate, batch_size)
    for x in planes:
        rows = []
        for row, values in enumerate(x.permute(2, 3, 0, 1)):  # (L, B, C)
            convolution.inputs(row).copy_(values[convolution.order].reshape(-1, channels))
            convolution.step(row)
            outputs = gate.new_empty(length, batch_size, len(bias))
            outputs[convolution.order] = gate.view(length, batch_size, -1)
            rows.append(outputs)
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
    def test_direct_equals_dense(self, past: int, length: int, batch_size: int, rows: int) -> None:
        kernel, bias, x = example(past, length, batch_size, rows)
        ours = convolved(DirectRowConvolution, kernel, bias, x)
        torch.testing.assert_close(ours, dense(kernel, bias, x))

    @settings(derandomize=True, deadline=None, max_examples=30)
    @given(pairs=st.integers(1, 5), batch_size=st.integers(1, 3), rows=st.integers(1, 5))
    def test_winograd_equals_dense(self, pairs: int, batch_size: int, rows: int) -> None:
        kernel, bias, x = example(1, 2 * pairs, batch_size, rows)
        ours = convolved(WinogradRowConvolution, kernel, bias, x)
        torch.testing.assert_close(ours, dense(kernel, bias, x))

    @pytest.mark.parametrize("batch_size", [2, 16])  # direct, and Winograd's with a room for all layers
    def test_a_row_passes_several_layers(self, batch_size: int) -> None:
        generator = torch.Generator().manual_seed(0)
        kernels = torch.randn(3, 2, 3, 4, 4, generator=generator, dtype=torch.float64)
        biases = torch.randn(3, 4, generator=generator, dtype=torch.float64)
        x = torch.randn(batch_size, 4, 5, 8, generator=generator, dtype=torch.float64)
        gate = kernels.new_zeros(8 * batch_size, 4)
        layers = row_convolutions(list(kernels), list(biases), gate, batch_size)
        outcomes = []
        for row, values in enumerate(x.permute(2, 3, 0, 1)):
            gate.copy_(values[layers[0].order].reshape(-1, 4))
            for layer in layers:
                layer.inputs(row).copy_(gate)
                layer.step(row)
            outcome = torch.empty_like(values)
            outcome[layers[0].order] = gate.view_as(values)
            outcomes.append(outcome)
        expected = x
        for kernel, bias in zip(kernels, biases, strict=True):
            expected = dense(kernel, bias, expected)
        torch.testing.assert_close(torch.stack(outcomes).permute(2, 3, 0, 1), expected)

    @pytest.mark.parametrize("kind", [DirectRowConvolution, WinogradRowConvolution])
    def test_row_0_begins_another_plane(self, kind: Kind) -> None:
        kernel, bias, x = example(1, 6, 2, rows=3)
        torch.testing.assert_close(convolved(kind, kernel, bias, 100 * x, x), dense(kernel, bias, x))

    def test_winograd_in_float32_is_about_as_exact_as_direct(self) -> None:
        """At the size of a real prior: both within a few roundings of the sum of 768 products in float64."""
        generator = torch.Generator().manual_seed(0)
        kernel = torch.randn(2, 3, 128, 256, generator=generator) / 768**0.5
        bias, x = torch.randn(256, generator=generator), torch.randn(4, 128, 8, 32, generator=generator)
        exact = dense(kernel.double(), bias.double(), x.double())
        errors = [
            float((convolved(kind, kernel, bias, x).double() - exact).abs().max())
            for kind in (DirectRowConvolution, WinogradRowConvolution)
        ]
        assert max(errors) < 1e-5
        assert errors[1] < 4 * errors[0]

    @pytest.mark.parametrize(
        ("past", "length", "batch_size", "kind"),
        [
            (1, 32, 32, WinogradRowConvolution),
            (1, 32, 1, DirectRowConvolution),  # too few products to save
            (1, 31, 32, DirectRowConvolution),  # a position without a partner
            (2, 32, 32, DirectRowConvolution),  # five taps
        ],
    )
    def test_choice(self, past: int, length: int, batch_size: int, kind: type) -> None:
        kernel, bias, _ = example(past, length, batch_size)
        (layer,) = row_convolutions([kernel], [bias], torch.zeros(length * batch_size, 5), batch_size)
        assert isinstance(layer, kind)

    @pytest.mark.parametrize(("past", "length"), [(1, 5), (2, 6)])
    def test_winograd_refuses_what_has_no_pairs_of_three_taps(self, past: int, length: int) -> None:
        kernel, bias, _ = example(past, length, 1)
        with pytest.raises(ValueError, match="2 x 3 taps and the row pairs"):
            WinogradRowConvolution(kernel, bias, torch.zeros(length, 5), 1)
