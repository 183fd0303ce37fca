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
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from monai_vqprior.networks.codebook import EMACodebook

#: images of each process in each step; the last batches are uneven, as at the end of an epoch.
BATCHES = [(2, 2), (3, 3), (2, 2), (3, 1), (1, 2)]
STEPS = len(BATCHES)


def images(rank: int, step: int) -> torch.Tensor:
    """A batch (B, 3, 6, 6) of process ``rank``; from step 2 on the data is elsewhere, so that codes die."""
    rng = np.random.default_rng([rank, step])
    batch = rng.normal(20 * (step >= 2), 1 + rank, (BATCHES[step][rank], 3, 6, 6))
    return torch.from_numpy(batch.astype(np.float32))


def fresh() -> EMACodebook:
    """Starts from data and revives; the quick decay lets codes die within two steps."""
    return EMACodebook(32, 3, decay=0.1, revival_threshold=0.05)


def started() -> EMACodebook:
    """Starts at given codes and does not revive: no draw is made."""
    codes = torch.from_numpy(np.random.default_rng(0).normal(0, 1, (8, 3)).astype(np.float32))
    codebook = EMACodebook(8, 3, decay=0.5, revival_threshold=0)
    codebook.load_state_dict(
        {"embedding": codes, "embedding_sum": codes, "cluster_size": torch.ones(8), "started": torch.tensor(True)}
    )
    return codebook


def worker(rank: int, folder: Path) -> None:
    """What each process runs: train both codebooks on its own batches and save their states after each step."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=(folder / "meet").as_uri(), rank=rank, world_size=2)
    states = {}
    for make in (fresh, started):
        torch.manual_seed(rank)  # each process draws differently
        codebook = make()
        for step in range(STEPS):
            codebook(images(rank, step))
            states[make.__name__, step] = {name: value.clone() for name, value in codebook.state_dict().items()}
    torch.save(states, folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


States = dict[tuple[str, int], dict[str, torch.Tensor]]


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> list[States]:
    """The states that each of two processes had; this file is the program that they run."""
    folder = tmp_path_factory.mktemp("two_processes")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    runs = [
        subprocess.Popen(
            [sys.executable, __file__, str(rank), str(folder)], env=environment, stderr=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    try:
        errors = [run.communicate(timeout=120)[1] for run in runs]
    finally:
        for run in runs:
            run.kill()
            run.communicate()
    assert [run.returncode for run in runs] == [0, 0], "\n".join(errors)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("name", ["fresh", "started"])
@pytest.mark.parametrize("step", range(STEPS))
def test_codebooks_are_bitwise_equal_on_all_processes(states: list[States], name: str, step: int) -> None:
    first, second = (state[name, step] for state in states)
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert torch.isfinite(value).all(), key
        assert torch.equal(value, second[key]), key


def test_codes_started_from_the_data_of_the_first_process_and_were_revived(states: list[States]) -> None:
    # Without a revival the codes would stay at two or three sites: those few whose cells the data moved into.
    codes = states[0]["fresh", STEPS - 1]["embedding"]
    assert (codes.mean(1) > 10).all()
    assert len(torch.unique(codes, dim=0)) > 16


@pytest.mark.parametrize("step", range(STEPS))
def test_two_processes_equal_one_on_the_joined_batch(states: list[States], step: int) -> None:
    codebook = started()
    for past in range(step + 1):
        codebook(torch.cat([images(0, past), images(1, past)]))
    for key, value in codebook.state_dict().items():
        torch.testing.assert_close(states[1]["started", step][key], value, rtol=1e-5, atol=1e-5)


if __name__ == "__main__":
    worker(int(sys.argv[1]), Path(sys.argv[2]))
