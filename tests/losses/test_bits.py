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

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from monai_vqprior.losses import BitsPerCodeLoss, code_bits


def bits_by_hand(logits: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """-log2 softmax in double precision, logits (B, K, *grid) and codes (B, *grid)."""
    logits = logits.astype(np.float64)
    shifted = logits - logits.max(1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return -np.take_along_axis(log_probabilities, codes[:, None], axis=1)[:, 0] / math.log(2)


def random_case(*grid: int, seed: int = 0, scale: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(0, scale, (3, 7, *grid)).astype(np.float32), rng.integers(0, 7, (3, *grid))


class TestCodeBits:
    @pytest.mark.parametrize("scale", [0.1, 3.0, 100.0])
    @pytest.mark.parametrize("grid", [(5,), (4, 6), (3, 2, 4)])
    def test_is_the_logarithm_of_the_probability(self, grid: tuple[int, ...], scale: float) -> None:
        logits, codes = random_case(*grid, scale=scale)
        bits = code_bits(torch.from_numpy(logits), torch.from_numpy(codes))
        assert bits.shape == codes.shape
        assert bits.dtype == torch.float32
        np.testing.assert_allclose(bits, bits_by_hand(logits, codes), rtol=1e-5, atol=1e-5)

    @settings(derandomize=True, deadline=None, max_examples=100)
    @given(
        logits=arrays(
            np.float32, (2, 5, 3), elements=st.floats(-(2.0**100), 2.0**100, width=32) | st.floats(-10, 10, width=32)
        ),
        codes=arrays(np.int64, (2, 3), elements=st.integers(0, 4)),
    )
    def test_is_finite_and_right_for_any_finite_logits(self, logits: np.ndarray, codes: np.ndarray) -> None:
        bits = code_bits(torch.from_numpy(logits), torch.from_numpy(codes))
        assert bits.isfinite().all()
        assert (bits >= 0).all()
        np.testing.assert_allclose(bits, bits_by_hand(logits, codes), rtol=1e-4, atol=1e-4)

    def test_gradient_is_finite_for_huge_logits(self) -> None:
        logits = torch.tensor([[[1e30], [-1e30], [0.0]]], requires_grad=True)
        code_bits(logits, torch.tensor([[1]])).sum().backward()
        assert logits.grad is not None
        # softmax minus one-hot, in bits
        np.testing.assert_allclose(logits.grad[0, :, 0], np.array([1, -1, 0]) / math.log(2), rtol=1e-6)

    @pytest.mark.parametrize("num_embeddings", [2, 64, 512])
    def test_knowing_nothing_costs_the_logarithm_of_the_number_of_codes(self, num_embeddings: int) -> None:
        codes = torch.arange(6).reshape(1, 2, 3) % num_embeddings
        bits = code_bits(torch.full((1, num_embeddings, 2, 3), 5.0), codes)
        np.testing.assert_allclose(bits, math.log2(num_embeddings), rtol=1e-6)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_computes_in_float32(self, dtype: torch.dtype) -> None:
        logits, codes = random_case(4, 4)
        low = torch.from_numpy(logits).to(dtype)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            bits = code_bits(low, torch.from_numpy(codes))
        assert bits.dtype == torch.float32
        np.testing.assert_allclose(bits, bits_by_hand(low.double().numpy(), codes), rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
    def test_codes_of_any_integer_type(self, dtype: torch.dtype) -> None:
        logits, codes = random_case(4, 4)
        bits = code_bits(torch.from_numpy(logits), torch.from_numpy(codes).to(dtype))
        np.testing.assert_allclose(bits, bits_by_hand(logits, codes), rtol=1e-5, atol=1e-5)


def test_bits_per_code_loss_is_the_mean() -> None:
    logits, codes = random_case(4, 6)
    loss = BitsPerCodeLoss()(torch.from_numpy(logits), torch.from_numpy(codes))
    assert loss.shape == ()
    assert loss.item() == pytest.approx(bits_by_hand(logits, codes).mean(), rel=1e-6)


def test_codes_that_are_not_rated_cost_nothing_and_teach_nothing() -> None:
    logits = torch.randn(2, 5, 3, 4, requires_grad=True)
    codes = torch.randint(5, (2, 3, 4))
    target = codes.clone()
    target[0, 1:] = -1
    bits = code_bits(logits, target)
    assert (bits[0, 1:] == 0).all()
    rated = target >= 0
    torch.testing.assert_close(bits[rated], code_bits(logits, codes)[rated])
    loss = BitsPerCodeLoss()(logits, target)
    torch.testing.assert_close(loss, bits.sum() / codes.numel())
    loss.backward()
    assert logits.grad is not None
    assert not logits.grad.movedim(1, -1)[~rated].any()
    assert logits.grad.movedim(1, -1)[rated].any(-1).all()
