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

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

__all__ = ["map_in_workers"]

Item = TypeVar("Item")


class _Results(Dataset):
    """The results of a function for each item, computed on demand."""

    def __init__(self, function: Callable[[Item], torch.Tensor], items: Sequence[Item]) -> None:
        self.function = function
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, number: int) -> torch.Tensor:
        return self.function(self.items[number])


def map_in_workers(
    function: Callable[[Item], torch.Tensor], items: Sequence[Item], num_workers: int
) -> Iterator[torch.Tensor]:
    """
    Apply a function to each item in processes side by side, as PyTorch's loader of data starts them: with one thread
    each, gone when this process is, and with the error of one of them raised here.

    Args:
        function: makes a tensor on the CPU; must be picklable where processes are not forked.
        items: what to apply it to.
        num_workers: number of processes; no more are started than there are items.

    Returns:
        an iterator over the results, in the order of the items.
    """
    if not items:
        return iter(())
    # A generator of its own: the loader takes a number from it, and the caller's random numbers stay as they are.
    return iter(
        DataLoader(
            _Results(function, items),
            batch_size=None,
            num_workers=min(num_workers, len(items)),
            generator=torch.Generator(),
        )
    )
