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

import contextlib
import gc
import weakref

import pytest
import torch
import torch.distributed as dist

from monai_vqprior.errors import InputError
from monai_vqprior.runs import Processes, data_parallel, joined_processes, unwrap

# Two processes: tests/report/test_samples_resumed.py.


def test_alone() -> None:
    done = []
    with joined_processes() as processes:
        assert processes == Processes(rank=0, size=1, group=None)
        processes.first(lambda: done.append(1))
        processes.wait()
        with pytest.raises(InputError, match="wrong"):
            processes.first(refuse)
    assert done == [1]


def refuse() -> None:
    raise InputError("wrong")


def check_group() -> None:
    assert dist.is_initialized()
    refuse()


def test_one_process_of_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    """A group of one is made, needs nobody, and is gone afterwards, whatever happens."""
    told = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "0"}
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="wrong"), joined_processes() as processes:
        processes.first(check_group)
    assert not dist.is_initialized()


def test_a_refusal_keeps_nothing_alive() -> None:
    """A group that lives until the interpreter ends can abort it: its threads may still hold tensors."""
    processes = Processes()
    alive = weakref.ref(processes)
    gc.disable()
    try:
        with contextlib.suppress(InputError):
            processes.first(refuse)
        del processes
        assert alive() is None
    finally:
        gc.enable()


def test_a_network_that_processes_train_together_warns_of_nothing() -> None:
    """PyTorch has renamed what keeps buffers from being sent, and warns of the old name; warnings are errors here."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        network = data_parallel(torch.nn.BatchNorm1d(2), find_unused_parameters=True)
        assert isinstance(network, torch.nn.parallel.DistributedDataParallel)
        assert not network.broadcast_buffers
        assert network.find_unused_parameters
        assert unwrap(network)(torch.rand(3, 2)).shape == (3, 2)
    finally:
        dist.destroy_process_group()
