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

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_vqprior.errors import InputError
from monai_vqprior.networks import FSQCodebook
from monai_vqprior.runs import (
    check_counts,
    check_not_negative,
    check_num_embeddings,
    check_shares,
    check_spatial_size,
    check_window,
)
from monai_vqprior.runs.processes import Processes


class TestCheckSpatialSize:
    @settings(derandomize=True, deadline=None, max_examples=200)
    @given(size=st.integers(-5, 300), stride=st.sampled_from([1, 2, 4, 8, 12]))
    def test_accepts_multiples_and_suggests_the_neighbors(self, size: int, stride: int) -> None:
        multiples = range(stride, 400, stride)
        if size in multiples:
            check_spatial_size(size, stride)
            return
        with pytest.raises(InputError) as raised:
            check_spatial_size(size, stride)
        found = re.search(
            r"spatial_size (-?\d+) is not a multiple .* stride (\d+): take (\d+) or (\d+)", str(raised.value)
        )
        assert found is not None
        below = max([m for m in multiples if m < size], default=stride)
        assert tuple(map(int, found.groups())) == (size, stride, below, below + stride)

    @pytest.mark.parametrize("sizes", [(64, 48), [8, 16, 24], (8,)])
    def test_accepts_one_an_axis(self, sizes: tuple[int, ...] | list[int]) -> None:
        check_spatial_size(sizes, 8)

    @pytest.mark.parametrize("sizes", [(64, 50), [50, 64], (8, 50, 8)])
    def test_refuses_any_axis(self, sizes: tuple[int, ...] | list[int]) -> None:
        with pytest.raises(
            InputError, match="spatial_size 50 is not a multiple of the network's stride 8: take 48 or 56"
        ):
            check_spatial_size(sizes, 8)


@pytest.mark.parametrize("value", [-1, -0.001, float("inf"), float("nan"), "abc", None, True])
def test_check_not_negative_refuses_what_is_not(value: object) -> None:
    check_not_negative(learning_rate=0, other=2.5)
    with pytest.raises(InputError, match=r"learning_rate must be a number of at least 0, got "):
        check_not_negative(other=1.0, learning_rate=value)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [0, -3, 0.5, True, "4", None])
def test_check_counts_refuses_what_is_no_count(value: object) -> None:
    check_counts(batch_size=1, max_epochs=10**6)
    with pytest.raises(InputError, match="batch_size must be a whole number of at least 1"):
        check_counts(max_epochs=1, batch_size=value)  # type: ignore[arg-type]


def test_number_of_codes_that_differs_is_an_error_with_the_option_to_pass() -> None:
    check_num_embeddings(FSQCodebook((8, 8, 8)), 512)
    with pytest.raises(InputError, match=r"has 1000 codes, but num_embeddings is 512: pass --num_embeddings 1000"):
        check_num_embeddings(FSQCodebook((8, 5, 5, 5)), 512)


@pytest.mark.parametrize("size", [10, [11, 8], (4, 64)])
def test_check_window_refuses_slices_without_a_window(size: int | list[int]) -> None:
    check_window(11)
    check_window([11, 64])
    with pytest.raises(InputError, match="is smaller than the window of SSIM, 11 pixels"):
        check_window(size)


def test_check_shares_refuses_more_processes_than_slices() -> None:
    check_shares(Processes(), train=1, validate=1)
    check_shares(Processes(1, 3), train=3, validate=4)
    with pytest.raises(InputError, match="3 processes cannot share the 2 slices of the split 'validate'"):
        check_shares(Processes(1, 3), train=3, validate=2)
