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
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy.special import log_softmax
from scipy.stats import entropy

from monai_vqprior.metrics import (
    BitsPerCodeMetric,
    count_codes,
    histogram_bits,
    perplexity,
    position_histogram_bits,
    position_log_probabilities,
)

properties = settings(derandomize=True, deadline=None, max_examples=60)


def random_grids(*shape: int, num_embeddings: int = 6, seed: int = 0) -> torch.Tensor:
    """Grids whose codes depend on the position, so that knowing the position helps."""
    rng = np.random.default_rng(seed)
    favorites = np.random.default_rng(99).integers(0, num_embeddings, shape[1:])
    codes = np.where(rng.random(shape) < 0.6, favorites, rng.integers(0, num_embeddings, shape))
    return torch.from_numpy(codes)


def histogram_by_hand(train: torch.Tensor, num_embeddings: int) -> list[float]:
    counts = Counter(train.flatten().tolist())
    return [(counts[code] + 1) / (train.numel() + num_embeddings) for code in range(num_embeddings)]


class TestCountCodes:
    @properties
    @given(codes=arrays(np.int64, array_shapes(min_dims=1, max_dims=4, max_side=5), elements=st.integers(0, 9)))
    def test_counts(self, codes: np.ndarray) -> None:
        counts = count_codes(torch.from_numpy(codes), 10)
        assert counts.dtype == torch.int64
        expected = Counter(codes.flatten().tolist())
        assert counts.tolist() == [expected[code] for code in range(10)]

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
    def test_other_integers(self, dtype: torch.dtype) -> None:
        assert count_codes(torch.tensor([[0, 3], [3, 1]], dtype=dtype), 5).tolist() == [1, 1, 0, 2, 0]


class TestPerplexity:
    @properties
    @given(counts=st.lists(st.integers(0, 10**6), min_size=1, max_size=20).filter(any))
    def test_is_the_exponential_of_the_entropy(self, counts: list[int]) -> None:
        value = perplexity(torch.tensor(counts))
        assert isinstance(value, float)
        assert value == pytest.approx(math.exp(entropy(counts)), rel=1e-9)
        assert 1 - 1e-9 <= value <= sum(count > 0 for count in counts) + 1e-9

    @pytest.mark.parametrize(("counts", "expected"), [([7, 7, 7, 7], 4), ([0, 5, 0], 1), ([3, 0, 3], 2)])
    def test_counts_the_codes_that_are_used_alike(self, counts: list[int], expected: float) -> None:
        assert perplexity(torch.tensor(counts)) == pytest.approx(expected)

    @pytest.mark.parametrize("counts", [torch.zeros(4), torch.zeros(0)])
    def test_refuses_nothing(self, counts: torch.Tensor) -> None:
        with pytest.raises(ValueError, match="perplexity needs at least one code, got none"):
            perplexity(counts)


class TestHistograms:
    @pytest.mark.parametrize("grid", [(4, 3), (2, 2, 2)])
    def test_one_histogram(self, grid: tuple[int, ...]) -> None:
        train, test = random_grids(9, *grid), random_grids(5, *grid, seed=1)
        table = histogram_by_hand(train, 6)
        expected = -sum(math.log2(table[code]) for code in test.flatten().tolist()) / test.numel()
        assert histogram_bits(train, test, 6) == pytest.approx(expected, rel=1e-9)

    @pytest.mark.parametrize("pseudo_count", [64.0, 1.0, 0.5])
    @pytest.mark.parametrize("grid", [(4, 3), (2, 2, 2)])
    def test_a_histogram_for_each_position(self, grid: tuple[int, ...], pseudo_count: float) -> None:
        train, test = random_grids(9, *grid), random_grids(5, *grid, seed=1)
        table = histogram_by_hand(train, 6)
        total = 0.0
        for position in np.ndindex(*grid):
            seen = [int(one[position]) for one in train]
            for one in test:
                code = int(one[position])
                total -= math.log2((seen.count(code) + pseudo_count * table[code]) / (len(train) + pseudo_count))
        assert position_histogram_bits(train, test, 6, pseudo_count) == pytest.approx(total / test.numel(), rel=1e-9)

    def test_log_probabilities_of_a_position_sum_to_one(self) -> None:
        train, test = random_grids(9, 2, 3, 2), random_grids(5, 2, 3, 2, seed=1)
        log_probabilities = position_log_probabilities(train, 6)
        assert log_probabilities.shape == (6, 2, 3, 2)
        torch.testing.assert_close(log_probabilities.exp().sum(0), torch.ones(2, 3, 2, dtype=torch.float64))
        bits = torch.nn.functional.nll_loss(log_probabilities.expand(5, -1, -1, -1, -1), test) / math.log(2)
        assert position_histogram_bits(train, test, 6) == pytest.approx(bits.item(), rel=1e-9)

    def test_the_default_is_64_codes(self) -> None:
        train, test = random_grids(9, 4, 3), random_grids(5, 4, 3, seed=1)
        assert position_histogram_bits(train, test, 6) == position_histogram_bits(train, test, 6, 64)

    def test_position_helps_where_there_are_grids_enough(self) -> None:
        train, test = random_grids(400, 4, 4), random_grids(50, 4, 4, seed=1)
        by_position, overall = position_histogram_bits(train, test, 6), histogram_bits(train, test, 6)
        assert by_position < overall - 0.2
        # The favorite has 2/3 and each other code 1/15: no prior can do better than their entropy.
        assert by_position > entropy([10] + [1] * 5, base=2) - 0.1

    def test_codes_never_seen_cost_a_finite_number_of_bits(self) -> None:
        train, test = torch.zeros(3, 2, 2, dtype=torch.long), torch.full((2, 2, 2), 3)
        assert histogram_bits(train, test, 4) == pytest.approx(math.log2(16))  # 1 of 12 + 4
        # 3 codes of 0 and 64 from the histogram above, in which code 3 has 1/16: 4 of 67
        assert position_histogram_bits(train, test, 4) == pytest.approx(math.log2(67 / 4))

    def test_integers_of_any_type(self) -> None:
        train, test = random_grids(9, 4, 3), random_grids(5, 4, 3, seed=1)
        for function in (histogram_bits, position_histogram_bits):
            assert function(train.to(torch.uint8), test.to(torch.int16), 6) == function(train, test, 6)


class TestBitsPerCodeMetric:
    def case(self, count: int = 7) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
        """Logits (N, 6, 4, 3), codes (N, 4, 3), and the mean bits of each grid in double precision."""
        logits = torch.randn(count, 6, 4, 3, generator=torch.Generator().manual_seed(0))
        codes = random_grids(count, 4, 3)
        probabilities = log_softmax(logits.double().numpy(), axis=1)
        bits = -np.take_along_axis(probabilities, codes.numpy()[:, None], axis=1) / math.log(2)
        return logits, codes, bits.mean((1, 2, 3))

    @pytest.mark.parametrize("sizes", [[7], [1] * 7, [4, 2, 1], [1, 6]])
    def test_batches_of_any_size_average_over_grids(self, sizes: list[int]) -> None:
        logits, codes, expected = self.case()
        metric = BitsPerCodeMetric()
        for one, other in zip(logits.split(sizes), codes.split(sizes), strict=True):
            metric(one, other)
        mean = metric.aggregate()
        assert mean.numel() == 1
        assert mean.item() == pytest.approx(expected.mean(), rel=1e-5)
        assert metric.aggregate().item() == mean.item()

    def test_one_value_a_grid(self) -> None:
        logits, codes, expected = self.case()
        values = BitsPerCodeMetric()(logits, codes)
        assert values.shape == (7, 1)
        np.testing.assert_allclose(values[:, 0], expected, rtol=1e-5)

    def test_reset_forgets(self) -> None:
        logits, codes, expected = self.case()
        metric = BitsPerCodeMetric()
        metric(100 * logits[:3], codes[:3])
        metric.reset()
        metric(logits[3:], codes[3:])
        assert metric.aggregate().item() == pytest.approx(expected[3:].mean(), rel=1e-5)

    def test_needs_codes_and_a_batch(self) -> None:
        logits, _, _ = self.case()
        with pytest.raises(ValueError, match="needs the codes beside the logits"):
            BitsPerCodeMetric()(logits)
        with pytest.raises(ValueError, match="has seen no batch"):
            BitsPerCodeMetric().aggregate()
