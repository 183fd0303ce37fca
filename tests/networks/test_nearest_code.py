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

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from monai_vqprior.networks.codebook import nearest_code


def squared_distances(vectors: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """(N, K) in float64, by the definition."""
    return ((vectors.astype(np.float64)[:, None] - codes.astype(np.float64)[None]) ** 2).sum(2)


@pytest.mark.parametrize("number", [1, 7, 9000])
@pytest.mark.parametrize(("k", "dim"), [(2, 1), (37, 5), (300, 8), (900, 3)])
def test_nearest_code_is_that_of_a_brute_force_search(number: int, k: int, dim: int) -> None:
    rng = np.random.default_rng(number + k)
    vectors = rng.normal(0, 2, (number, dim)).astype(np.float32)
    codes = rng.normal(0, 2, (k, dim)).astype(np.float32)
    indices = nearest_code(torch.from_numpy(vectors), torch.from_numpy(codes)).numpy()
    expected = squared_distances(vectors, codes)
    assert indices.shape == (number,)
    np.testing.assert_allclose(expected[np.arange(number), indices], expected.min(1), atol=1e-4)
    two = np.sort(expected, 1)[:, :2]
    clear = two[:, 1] - two[:, 0] > 1e-3
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(indices[clear], expected.argmin(1)[clear])


@settings(derandomize=True, deadline=None, max_examples=60)
@given(data=st.data(), dim=st.integers(1, 4))
def test_nearest_code_among_ties_is_one_of_the_nearest(data: st.DataObject, dim: int) -> None:
    # Small integers: float32 is exact, and there are many ties.
    numbers = st.integers(-3, 3)
    number, k = data.draw(array_shapes(min_dims=2, max_dims=2, max_side=12))
    vectors = data.draw(arrays(np.float32, (number, dim), elements=numbers))
    codes = data.draw(arrays(np.float32, (k, dim), elements=numbers))
    indices = nearest_code(torch.from_numpy(vectors), torch.from_numpy(codes))
    expected = squared_distances(vectors, codes)
    np.testing.assert_array_equal(expected[np.arange(number), indices.numpy()], expected.min(1))


@settings(derandomize=True, deadline=None, max_examples=60)
@given(data=st.data(), dim=st.integers(1, 4), distances_at_once=st.integers(1, 300))
def test_nearest_code_is_the_same_for_any_number_of_distances_at_once(
    data: st.DataObject, dim: int, distances_at_once: int
) -> None:
    # Small integers again; among equals, the first is taken.
    numbers = st.integers(-3, 3)
    number, k = data.draw(array_shapes(min_dims=2, max_dims=2, max_side=40))
    vectors = data.draw(arrays(np.float32, (number, dim), elements=numbers))
    codes = data.draw(arrays(np.float32, (k, dim), elements=numbers))
    indices = nearest_code(torch.from_numpy(vectors), torch.from_numpy(codes), distances_at_once)
    np.testing.assert_array_equal(indices.numpy(), squared_distances(vectors, codes).argmin(1))


def test_no_vector_has_no_nearest_code() -> None:
    indices = nearest_code(torch.zeros(0, 3), torch.zeros(5, 3))
    assert indices.shape == (0,)
    assert indices.dtype == torch.int64
