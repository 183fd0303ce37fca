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

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from monai_vqprior.networks.codebook import CosineCodebook, EMACodebook

pytestmark = pytest.mark.integration

STEPS = 5


@dataclass(frozen=True)
class Training:
    """What two processes train on: images of each in each step, and what masks and accumulation there are."""

    batches: tuple[tuple[int, int], ...] = ((2, 2), (3, 3), (2, 2), (3, 1), (1, 2))  # the last are uneven
    #: with masks, in each step the process all of whose images are background, or None.
    background: tuple[int | None, ...] | None = None
    accumulation_steps: int = 1


TRAININGS = {
    "uneven batches": Training(),
    "masks": Training(background=(1, None, 0, None, 1)),
    "masks, the first process all background at first": Training(background=(0, None, 1, None, None)),
    "empty batches": Training(batches=((2, 0), (3, 3), (0, 2), (3, 1), (1, 0))),
    "empty batches, the first process at first": Training(batches=((0, 2), (3, 3), (2, 0), (3, 1), (1, 2))),
    "no images at all in one step": Training(batches=((2, 2), (0, 0), (2, 2), (3, 1), (1, 2))),
    "accumulation": Training(accumulation_steps=2),
    "accumulation and masks": Training(accumulation_steps=2, background=(None, 0, 1, None, 0)),
}
ACCUMULATING = [name for name, training in TRAININGS.items() if training.accumulation_steps > 1]


def batch(rank: int, step: int, training: Training) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Images (B, 3, 6, 6) and mask of a process; from step 2 on the data is elsewhere, so that codes die."""
    rng = np.random.default_rng([rank, step])
    number = training.batches[step][rank]
    z = torch.from_numpy(rng.normal(20 * (step >= 2), 1 + rank, (number, 3, 6, 6)).astype(np.float32))
    if training.background is None:
        return z, None
    return z, torch.from_numpy(rng.random((number, 6, 6)) < 0.6 * (training.background[step] != rank))


def fresh(kind: type[EMACodebook], training: Training) -> EMACodebook:
    """Starts from data and revives; the quick decay lets codes die within two steps."""
    return kind(32, 3, decay=0.1, revival_threshold=0.05, accumulation_steps=training.accumulation_steps)


def started(kind: type[EMACodebook], training: Training) -> EMACodebook:
    """Starts at given codes and does not revive: no draw is made."""
    codes = torch.from_numpy(np.random.default_rng(0).normal(0, 1, (8, 3)).astype(np.float32))
    codes /= codes.norm(dim=1, keepdim=True)
    codebook = kind(8, 3, decay=0.5, revival_threshold=0, accumulation_steps=training.accumulation_steps)
    codebook.load_state_dict(
        {"embedding": codes, "embedding_sum": codes, "cluster_size": torch.ones(8), "started": torch.tensor(True)}
    )
    return codebook


KINDS = {"EMACodebook": EMACodebook, "CosineCodebook": CosineCodebook}
CODEBOOKS = [(start, kind) for start in ("fresh", "started") for kind in KINDS]

#: what a process had and did in one step: the state of its codebook, the loss, and how often it called all_reduce.
Record = dict[str, Any]
#: by start, kind of codebook, training, and step.
Records = dict[tuple[str, str, str, int], Record]


def records_of(rank: int) -> Iterator[tuple[tuple[str, str, str, int], Record]]:
    """Train all codebooks on all trainings."""
    calls = []
    all_reduce = dist.all_reduce

    def counted(tensor: torch.Tensor) -> None:
        calls.append(tensor.shape)
        all_reduce(tensor)

    dist.all_reduce = counted
    for start, kind in CODEBOOKS:
        for name, training in TRAININGS.items():
            torch.manual_seed(rank)  # each process draws differently
            codebook = globals()[start](KINDS[kind], training)
            for step in range(STEPS):
                calls.clear()
                _, _, loss = codebook(*batch(rank, step, training))
                state = {key: value.clone() for key, value in codebook.state_dict().items()}
                yield (start, kind, name, step), {"state": state, "loss": loss, "messages": len(calls)}


def worker(rank: int, folder: Path) -> None:
    """What each process runs."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=(folder / "meet").as_uri(), rank=rank, world_size=2)
    torch.save(dict(records_of(rank)), folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def records(two_processes: Callable[[str], Path]) -> list[Records]:
    """The records of each of two processes; this file is the program that they run."""
    folder = two_processes(__file__)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("name", TRAININGS)
@pytest.mark.parametrize(("start", "kind"), CODEBOOKS)
def test_codebooks_are_bitwise_equal_on_all_processes(records: list[Records], start: str, kind: str, name: str) -> None:
    for step in range(STEPS):
        first, second = (record[start, kind, name, step] for record in records)
        assert first["state"].keys() == second["state"].keys()
        for key, value in first["state"].items():
            assert torch.isfinite(value).all(), (step, key)
            assert torch.equal(value, second["state"][key]), (step, key)
        assert torch.isfinite(first["loss"])
        assert torch.isfinite(second["loss"])


@pytest.mark.parametrize("name", TRAININGS)
@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_equal_one_on_the_joined_batch(records: list[Records], kind: str, name: str) -> None:
    training = TRAININGS[name]
    codebook = started(KINDS[kind], training)
    for step in range(STEPS):
        (z0, mask0), (z1, mask1) = (batch(rank, step, training) for rank in range(2))
        codebook(torch.cat([z0, z1]), None if mask0 is None or mask1 is None else torch.cat([mask0, mask1]))
        for key, value in codebook.state_dict().items():
            torch.testing.assert_close(
                records[1]["started", kind, name, step]["state"][key], value, rtol=1e-5, atol=1e-5
            )


@pytest.mark.parametrize("name", TRAININGS)
@pytest.mark.parametrize(("start", "kind"), CODEBOOKS)
def test_one_message_a_step_and_one_for_the_start(records: list[Records], start: str, kind: str, name: str) -> None:
    many = TRAININGS[name].accumulation_steps
    expected = [int((step + 1) % many == 0) for step in range(STEPS)]
    if start == "fresh":
        first = next(step for step in range(STEPS) if TRAININGS[name].batches[step][0] > 0)
        for step in range(first + 1):  # the start waits for images of the first process
            expected[step] += 1
    for record in records:
        assert [record[start, kind, name, step]["messages"] for step in range(STEPS)] == expected


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [name for name in TRAININGS if name not in ACCUMULATING])
def test_dead_codes_are_revived_by_vectors_of_the_first_process(records: list[Records], kind: str, name: str) -> None:
    # Without a revival the codes would stay at two or three sites: those few whose cells the data moved into.
    codes = records[0]["fresh", kind, name, STEPS - 1]["state"]["embedding"]
    assert (codes.mean(1) > (10 if kind == "EMACodebook" else 0.5)).all()
    assert len(torch.unique(codes, dim=0)) > 16


@pytest.mark.parametrize("name", ACCUMULATING)
@pytest.mark.parametrize("kind", KINDS)
def test_start_takes_vectors_of_the_first_process(records: list[Records], kind: str, name: str) -> None:
    z, mask = batch(0, 0, TRAININGS[name])
    vectors = z.movedim(1, -1).reshape(-1, 3)
    if mask is not None:
        vectors = vectors[mask.flatten()]
    if kind == "CosineCodebook":
        vectors = vectors / vectors.norm(dim=1, keepdim=True)
    # In the first step, codes that accumulate have not moved from the start.
    codes = records[1]["fresh", kind, name, 0]["state"]["embedding"]
    differences = (codes[:, None] - vectors[None]).abs().amax(2)  # (K, N)
    assert (differences.amin(1) < 1e-5).all()


if __name__ == "__main__":
    worker(int(sys.argv[1]), Path(sys.argv[2]))
