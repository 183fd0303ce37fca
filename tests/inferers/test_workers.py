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

import os
from collections.abc import Callable, Iterator

import pytest
import torch

from monai_vqprior.errors import InputError
from monai_vqprior.inferers import VQPriorInferer
from monai_vqprior.networks import GatedPixelCNN
from monai_vqprior.sampling.workers import map_in_workers

MakePrior = Callable[..., GatedPixelCNN]

# What PyTorch says on a machine with fewer cores than workers.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """What workers compute with."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def process_and_square(number: int) -> torch.Tensor:
    return torch.tensor([os.getpid(), number**2, torch.get_num_threads()])


def fail_at_3(number: int) -> torch.Tensor:
    if number == 3:
        raise ZeroDivisionError("three")
    return torch.tensor(number)


class TestMapInWorkers:
    def test_results_are_in_order_and_of_other_processes(self) -> None:
        results = torch.stack(list(map_in_workers(process_and_square, range(7), 2)))
        processes, squares, threads = results.t().tolist()
        assert squares == [0, 1, 4, 9, 16, 25, 36]
        assert len(set(processes)) == 2
        assert os.getpid() not in processes
        assert set(threads) == {1}

    def test_no_more_workers_than_items(self) -> None:
        (result,) = map_in_workers(process_and_square, [3], 2)
        assert result[1] == 9

    def test_nothing_to_do(self) -> None:
        assert list(map_in_workers(process_and_square, [], 2)) == []

    def test_an_error_is_raised_here(self) -> None:
        with pytest.raises(ZeroDivisionError, match="three"):
            list(map_in_workers(fail_at_3, range(5), 2))

    def test_random_state_stays(self) -> None:
        state = torch.get_rng_state()
        list(map_in_workers(process_and_square, range(2), 1))
        assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.usefixtures("one_thread")
class TestSamplesAreThoseOfOneProcess:
    @pytest.mark.parametrize("num_workers", [1, 2])
    def test_plainly(self, make_prior: MakePrior, num_workers: int) -> None:
        prior, asked = make_prior(), [9, 0, 4, 3, 0]
        expected = VQPriorInferer(tile_size=2).sample(prior, asked, seed=1)
        assert torch.equal(VQPriorInferer(tile_size=2, num_workers=num_workers).sample(prior, asked, seed=1), expected)

    def test_with_rows_of_conditions_and_given_codes(self, make_prior: MakePrior) -> None:
        prior = make_prior(num_classes=[3], num_values=1, spatial_size=(3, 3))
        generator = torch.Generator().manual_seed(0)
        rows = {
            "labels": torch.tensor([[0], [2], [-1], [1], [0]]),
            "values": torch.rand(5, 1, generator=generator),
            "given": torch.randint(prior.num_embeddings, (5, 3, 3), generator=generator),
            "mask": torch.rand(5, 3, 3, generator=generator) < 0.3,
        }
        asked = [4, 1, 1, 0, 7]
        settings = {"tile_size": 2, "guidance_scale": 2.0, "top_p": 0.9}
        expected = VQPriorInferer(**settings).sample(prior, asked, **rows)
        assert torch.equal(VQPriorInferer(**settings, num_workers=2).sample(prior, asked, **rows), expected)

    def test_tile_by_tile(self, make_prior: MakePrior) -> None:
        prior, asked = make_prior(), [5, 0, 2, 4]
        expected = VQPriorInferer(tile_size=2).sample(prior, asked)
        tiles = list(VQPriorInferer(tile_size=2, num_workers=2).sample_tiles(prior, asked))
        assert [rows for rows, _ in tiles] == [[1], [2], [0, 3]]
        for rows, grids in tiles:
            assert torch.equal(grids, expected[rows])

    @pytest.mark.parametrize("num_workers", [0, 2])
    def test_every_position_is_told(self, make_prior: MakePrior, num_workers: int) -> None:
        told: list[None] = []
        inferer = VQPriorInferer(tile_size=2, num_workers=num_workers)
        inferer.sample(make_prior(spatial_size=(3, 4)), range(6), on_position=lambda: told.append(None))
        assert len(told) == 3 * 12


@pytest.mark.parametrize("num_workers", [-1, 1.5, "2"])
def test_wrong_number(num_workers: object) -> None:
    with pytest.raises(InputError, match="num_workers must be a whole number of at least 0"):
        VQPriorInferer(num_workers=num_workers)  # type: ignore[arg-type]


def test_workers_are_for_a_cpu(make_prior: MakePrior) -> None:
    with pytest.raises(InputError, match="num_workers must be 0 on meta"):
        VQPriorInferer(num_workers=2).sample(make_prior().to("meta"), range(2))
