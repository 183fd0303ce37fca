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

"""Sums over the processes of a distributed training; in a single process each function returns its argument."""

from __future__ import annotations

import torch
import torch.distributed as dist

__all__ = ["only_of_first_process", "several_processes", "sum_over_processes"]


def several_processes() -> bool:
    """Whether the training has more than one process."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def sum_over_processes(tensor: torch.Tensor) -> torch.Tensor:
    """Sum over all processes; overwrites the tensor."""
    if several_processes():
        dist.all_reduce(tensor)
    return tensor


def only_of_first_process(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor in process 0, zeros in the others, so that a sum over processes is the tensor of process 0."""
    return tensor if not several_processes() or dist.get_rank() == 0 else torch.zeros_like(tensor)
