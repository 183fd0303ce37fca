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

import inspect
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.nn as nn
from torch.distributed.rendezvous import rendezvous

from monai_vqprior.errors import InputError

__all__ = ["Processes", "data_parallel", "joined_processes", "single_process", "start_processes"]

# The variables that torchrun sets for the processes that it starts.
_TOLD = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

# How long processes wait for the slowest of them: it may be hours behind, and a process that dies is noticed at once.
_PATIENCE = timedelta(days=30)

# Numbers of the trainings that this process shares with others, one after the other: the same in all of them.
_trainings = itertools.count()


@dataclass(frozen=True)
class Processes:
    """
    The processes that share a piece of work, as one of them sees them.

    Args:
        rank: number of this process.
        size: number of processes.
        group: what they speak through; None when there is but one.
    """

    rank: int = 0
    size: int = 1
    group: dist.ProcessGroup | None = None

    def first(self, work: Callable[[], object]) -> None:
        """
        Run a function in process 0 before the others continue.

        Raises:
            InputError: in all processes, when process 0 raises it.
        """
        error = None
        if self.rank == 0:
            try:
                work()
            except InputError as wrong:
                error = wrong
        if self.group is not None:
            message = [None if error is None else str(error)]
            dist.broadcast_object_list(message, src=0, group=self.group)
            if message[0] is not None and error is None:
                error = InputError(message[0])
        if error is not None:
            try:
                raise error
            finally:
                # Its traceback holds this frame: the two would keep each other alive, and with them the group, whose
                # threads must have ended before the interpreter does.
                del error

    def wait(self) -> None:
        """Go on when all processes have come here."""
        if self.group is not None:
            dist.barrier(self.group)


@contextmanager
def joined_processes() -> Iterator[Processes]:
    """
    The processes that were started together, by ``torchrun`` or with a process group of their own; else this one alone.

    They speak over the CPU, whatever they compute on. A process group that torchrun's processes do not have yet is made
    here and ended with the block.

    Yields:
        the processes.
    """
    made = False
    if dist.is_available() and not dist.is_initialized() and all(name in os.environ for name in _TOLD):
        dist.init_process_group("gloo", timeout=_PATIENCE)
        made = True
    try:
        if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
            yield Processes()
            return
        group = dist.group.WORLD if made else dist.new_group(backend="gloo", timeout=_PATIENCE)
        yield Processes(dist.get_rank(), dist.get_world_size(), group)
    finally:
        if made:
            dist.destroy_process_group()


def single_process() -> Processes:
    """
    This process alone, for what would go wrong if several did it at once.

    Raises:
        InputError: when ``torchrun`` has started more than one.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size > 1:
        raise InputError(
            f"{size} processes were started, and each of them would do the whole work: to train together, add "
            "configs/multi_gpu_train.json as the last configuration; start anything else without torchrun."
        )
    return Processes()


def data_parallel(module: nn.Module, device_ids: Sequence[object] | None = None, **options: Any) -> nn.Module:
    """
    A network that all processes train together, each on its share of a batch. Its codebook sums its own statistics, so
    no buffers are sent at each step.

    Args:
        module: the network.
        device_ids: the GPU of this process, in a list; None on a CPU.
        options: other arguments of :class:`torch.nn.parallel.DistributedDataParallel`.

    Returns:
        the network, wrapped.
    """
    kind = nn.parallel.DistributedDataParallel
    # What the argument is called: PyTorch has given it another name, and warns of the old one.
    known = inspect.signature(kind).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    return kind(module, device_ids=device_ids, **{name: False, **options})


def start_processes(device: str | torch.device) -> Processes:
    """
    Begin a training that the processes of ``torchrun`` share; :func:`torch.distributed.destroy_process_group` ends it.

    An existing process group is used. After one has ended, another can be started.

    Args:
        device: of this process. When it is a GPU, it becomes the current one, and they speak over NCCL, else over gloo.

    Returns:
        the processes.

    Raises:
        InputError: when this process was not started by ``torchrun``, or shares its GPU with another.
    """
    if not all(name in os.environ for name in _TOLD):
        raise InputError(
            "multi_gpu_train.json is for processes that torchrun has started: begin the command with "
            "'torchrun --nproc_per_node 2 -m monai.bundle run', or leave this configuration out."
        )
    device = torch.device(device)
    if device.type == "cuda":
        local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        if local > torch.cuda.device_count():
            raise InputError(
                f"{local} processes were started on a machine with {torch.cuda.device_count()} GPUs: give torchrun "
                "--nproc_per_node with that number."
            )
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        store, rank, size = next(rendezvous("env://"))
        # What an ended group has left in the store would be taken for the addresses of this one.
        store = dist.PrefixStore(f"training {next(_trainings)}", store)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", store=store, rank=rank, world_size=size)
    return Processes(dist.get_rank(), dist.get_world_size(), dist.group.WORLD)
