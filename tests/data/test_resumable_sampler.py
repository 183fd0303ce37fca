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

import pytest

from monai_vqprior.data import ResumableSampler, mixed_seed


def make(size: int = 11, **arguments: int | bool) -> ResumableSampler:
    return ResumableSampler(range(size), **({"num_replicas": 1, "rank": 0} | arguments))  # type: ignore[arg-type]


class TestResumableSampler:
    def test_order_depends_on_seed_and_epoch(self) -> None:
        orders = []
        for seed, epoch in ((0, 1), (0, 2), (50, 1), (0, 1)):
            sampler = make(seed=seed)
            sampler.set_epoch(epoch)
            orders.append(list(sampler))
            assert sorted(orders[-1]) == list(range(11))
        assert orders[0] == orders[3]
        assert len({tuple(order) for order in orders}) == 3

    @pytest.mark.parametrize("skipped", [0, 4, 11])
    def test_skips_in_the_next_pass_alone(self, skipped: int) -> None:
        whole = list(make())
        sampler = make()
        sampler.skip(skipped)
        assert list(sampler) == whole[skipped:]
        assert list(sampler) == whole
        assert len(sampler) == 11

    def test_processes_share_the_items(self) -> None:
        parts = [list(make(12, num_replicas=3, rank=rank)) for rank in range(3)]
        assert sorted(item for part in parts for item in part) == list(range(12))


def test_neighboring_numbers_have_unrelated_seeds() -> None:
    seeds = {mixed_seed(a, b, c) for a in range(10) for b in range(10) for c in range(10)}
    assert len(seeds) == 1000
    assert mixed_seed(1, 2) == mixed_seed(1, 2) != mixed_seed(2, 1)
