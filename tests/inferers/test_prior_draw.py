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

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import softmax
from scipy.stats import chisquare

from monai_vqprior.errors import InputError
from monai_vqprior.inferers import VQPriorInferer, keep_top_p, sample_uniforms

LARGEST_BELOW_ONE = float(np.nextafter(1, 0))
any_logits = arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 9)), elements=st.floats(-30, 30, width=32))
any_uniform = st.floats(0, LARGEST_BELOW_ONE)


def frequencies(inferer: VQPriorInferer, logits: np.ndarray, number: int = 20_000) -> np.ndarray:
    """How often each code comes of so many draws with random numbers."""
    uniforms = torch.from_numpy(np.random.default_rng(0).random(number))
    codes = inferer.draw(torch.from_numpy(logits).expand(number, -1), uniforms)
    assert codes.dtype == torch.int64
    return np.bincount(codes.numpy(), minlength=len(logits))


class TestDraw:
    @settings(deadline=None, derandomize=True)
    @given(any_logits, any_uniform, st.floats(0.1, 10))
    def test_inverts_the_cumulative_distribution(self, logits: np.ndarray, uniform: float, temperature: float) -> None:
        codes = VQPriorInferer(temperature).draw(
            torch.from_numpy(logits), torch.full((len(logits),), uniform, dtype=torch.float64)
        )
        probabilities = softmax(logits.astype(np.float64) / temperature, axis=1)
        upper = np.cumsum(probabilities, axis=1)
        for row, code in enumerate(codes.tolist()):
            assert upper[row, code] - probabilities[row, code] - 1e-12 <= uniform <= upper[row, code] + 1e-12

    def test_is_numpys_search(self) -> None:
        rng = np.random.default_rng(3)
        logits, uniforms = rng.normal(0, 2, (500, 11)), rng.random(500)
        upper = np.cumsum(softmax(logits, axis=1), axis=1)
        expected = [np.searchsorted(row, u, side="right") for row, u in zip(upper, uniforms, strict=True)]
        codes = VQPriorInferer().draw(torch.from_numpy(logits), torch.from_numpy(uniforms))
        assert codes.tolist() == expected

    @pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
    def test_frequencies_are_the_probabilities(self, temperature: float) -> None:
        logits = np.array([1.0, -0.5, 0.3, 2.0, -1.5])
        expected = softmax(logits / temperature)
        seen = frequencies(VQPriorInferer(temperature), logits)
        assert chisquare(seen, expected * seen.sum()).pvalue > 0.01
        if temperature != 1:
            assert chisquare(seen, softmax(logits) * seen.sum()).pvalue < 1e-6

    @pytest.mark.parametrize("k", [1, 2, 4, 5, 9])
    def test_top_k_keeps_the_most_probable_in_proportion(self, k: int) -> None:
        logits = np.array([1.0, -0.5, 0.3, 2.0, 0.6])
        kept = np.argsort(-logits)[:k]
        number = 10_000
        uniforms = (torch.arange(number, dtype=torch.float64) + 0.5) / number
        codes = VQPriorInferer(top_k=k).draw(torch.from_numpy(logits).expand(number, -1), uniforms)
        seen = np.bincount(codes, minlength=5)
        assert set(np.flatnonzero(seen)) == set(kept)
        assert np.abs(seen[kept] - number * softmax(logits[kept])).max() < 1

    @pytest.mark.parametrize("k", [1, 2, 3])
    def test_top_k_draws_from_no_more_codes_when_some_are_equally_probable(self, k: int) -> None:
        # Logits of half precision are often equal.
        seen = frequencies(VQPriorInferer(top_k=k), np.array([0.5, 2.0, 2.0, 2.0, -1.0]), number=1000)
        assert (seen > 0).sum() == k
        assert not seen[[0, 4]].any()

    @settings(deadline=None, derandomize=True)
    @given(any_logits, st.floats(0.01, 1), st.floats(0.2, 5), st.integers(1, 9))
    def test_top_p_keeps_the_fewest_codes_that_reach_it(
        self, logits: np.ndarray, p: float, temperature: float, k: int
    ) -> None:
        """By hand: temperature, then top-k, then the nucleus of what is left, then its cumulative distribution."""
        inferer = VQPriorInferer(temperature, top_k=k, top_p=p)
        uniforms = np.linspace(0, LARGEST_BELOW_ONE, 23)
        for row in logits:
            codes = inferer.draw(torch.from_numpy(row).expand(23, -1), torch.from_numpy(uniforms))
            # Of equal codes PyTorch's top-k keeps any, so here the lowest is allowed to be any of its equals.
            order = np.argsort(-row, kind="stable")
            left = softmax(row[order][:k].astype(np.float64) / temperature)
            number = int(np.argmax(np.cumsum(left) >= p - 1e-9)) + 1
            weights = softmax(row.astype(np.float64) / temperature)
            allowed = weights >= weights[order[number - 1]] * (1 - 1e-4)  # equally probable, but for rounding
            drawn = np.unique(codes.numpy())
            assert allowed[drawn].all()
            # Rounding may let in the code after one that reaches p all but exactly.
            assert len(drawn) <= number + (np.cumsum(left)[number - 1] < p + 1e-9)

    @pytest.mark.parametrize(
        ("p", "kept"),
        [
            (1e-9, [3]),
            (0.4, [3]),
            (0.41, [0, 3]),
            (0.7, [0, 3]),
            (0.75, [0, 3, 4]),
            (0.98, [0, 1, 3, 4]),
            (1.0, range(5)),
        ],
    )
    def test_nucleus_by_hand(self, p: float, kept: Sequence[int]) -> None:
        probabilities = np.array([0.3, 0.08, 0.02, 0.4, 0.2])
        number = 10_000
        uniforms = (torch.arange(number, dtype=torch.float64) + 0.5) / number
        logits = torch.from_numpy(np.log(probabilities))
        seen = np.bincount(VQPriorInferer(top_p=p - 1e-12).draw(logits.expand(number, -1), uniforms), minlength=5)
        assert np.flatnonzero(seen).tolist() == list(kept)
        share = probabilities[list(kept)]
        assert np.abs(seen[list(kept)] - number * share / share.sum()).max() <= 1

    def test_nucleus_is_that_of_the_top_k(self) -> None:
        """0.4 of 1 is not half, but half of the 0.8 that the top two have."""
        logits = torch.tensor([0.4, 0.4, 0.1, 0.1], dtype=torch.float64).log()[None]
        last = torch.tensor([LARGEST_BELOW_ONE], dtype=torch.float64)
        assert VQPriorInferer(top_p=0.45).draw(logits, last).item() == 1
        assert VQPriorInferer(top_p=0.45, top_k=2).draw(logits, last).item() == 0

    def test_nucleus_of_equals_takes_the_first(self) -> None:
        seen = keep_top_p(torch.full((1, 8), 0.125, dtype=torch.float64), 0.3) > 0
        assert seen.tolist() == [[True] * 3 + [False] * 5]

    @pytest.mark.parametrize("settings", [{}, {"temperature": 2.0}, {"top_k": 2}, {"top_p": 0.5}])
    def test_leaves_the_logits_as_they_are(self, settings: dict[str, float]) -> None:
        logits = torch.randn(3, 5, dtype=torch.float64, generator=torch.manual_seed(0))
        before = logits.clone()
        VQPriorInferer(**settings).draw(logits, torch.rand(3, dtype=torch.float64))
        assert torch.equal(logits, before)

    @settings(deadline=None, derandomize=True)
    @given(st.sets(st.integers(0, 7), min_size=1), st.sampled_from([0.0, 1e-300, 0.25, 0.5, LARGEST_BELOW_ONE]))
    def test_never_draws_a_code_of_no_probability(self, possible: set[int], uniform: float) -> None:
        logits = torch.full((1, 8), -torch.inf)
        logits[0, list(possible)] = torch.linspace(-1, 1, len(possible))
        code = VQPriorInferer().draw(logits, torch.tensor([uniform], dtype=torch.float64))
        assert code.item() in possible

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
    def test_works_in_float64_whatever_the_logits(self, dtype: torch.dtype) -> None:
        logits = torch.zeros(4, 1000, dtype=dtype)
        uniforms = torch.tensor([0.0, 0.2505, 0.9985, LARGEST_BELOW_ONE], dtype=torch.float64)
        assert VQPriorInferer().draw(logits, uniforms).tolist() == [0, 250, 998, 999]


class TestSampleUniforms:
    def test_depend_on_seed_and_index_alone(self) -> None:
        whole = {(seed, index): sample_uniforms(seed, index, 16) for seed in (0, 1) for index in (0, 1, 255)}
        np.random.default_rng().random(3)
        torch.rand(3)
        for (seed, index), expected in reversed(whole.items()):
            assert np.array_equal(sample_uniforms(seed, index, 16), expected)
            assert np.array_equal(sample_uniforms(seed, index, 5), expected[:5])
        assert len(np.unique(np.concatenate(list(whole.values())))) == 6 * 16

    def test_are_uniform(self) -> None:
        drawn = np.concatenate([sample_uniforms(7, index, 100) for index in range(100)])
        assert drawn.dtype == np.float64
        assert drawn.min() >= 0
        assert drawn.max() < 1
        assert chisquare(np.histogram(drawn, bins=20, range=(0, 1))[0]).pvalue > 0.01

    def test_of_neighbors_are_not_related(self) -> None:
        drawn = np.stack([sample_uniforms(seed, index, 500) for seed in (0, 1, 2) for index in (0, 1, 2)])
        correlation = np.corrcoef(drawn) - np.eye(9)
        assert np.abs(correlation).max() < 0.2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": 0.0}, "temperature must be positive, got 0.0"),
        ({"temperature": -1.0}, "temperature must be positive, got -1.0"),
        ({"temperature": float("nan")}, "temperature must be positive, got nan"),
        ({"sketch_temperature": 0.0}, "sketch_temperature must be positive, got 0.0"),
        ({"sketch_temperature": float("nan")}, "sketch_temperature must be positive, got nan"),
        ({"top_k": 0}, "top_k must be at least 1, got 0"),
        ({"tile_size": 0}, "tile_size must be at least 1, got 0"),
        ({"top_p": 0.0}, "top_p must be above 0 and at most 1, got 0.0"),
        ({"top_p": 1.01}, "top_p must be above 0 and at most 1, got 1.01"),
        ({"top_p": float("nan")}, "top_p must be above 0 and at most 1, got nan"),
        ({"guidance_scale": -0.5}, "guidance_scale must be a number of at least 0, got -0.5"),
        ({"guidance_scale": float("inf")}, "guidance_scale must be a number of at least 0, got inf"),
        ({"guidance_scale": float("nan")}, "guidance_scale must be a number of at least 0, got nan"),
    ],
)
def test_arguments_out_of_range(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        VQPriorInferer(**arguments)
