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

from collections.abc import Iterator

import numpy as np
from torch.utils.data import DistributedSampler

__all__ = ["ResumableSampler", "mixed_seed"]


def mixed_seed(*numbers: int) -> int:
    """
    One seed of several numbers, such as seed, epoch and item: neighbors of any of them have unrelated seeds.

    Args:
        numbers: whole numbers of at least 0.

    Returns:
        a whole number in 0..2**32 - 1, which PyTorch, NumPy and Python all take.
    """
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


class ResumableSampler(DistributedSampler):
    """
    A shuffled order that depends on (seed, epoch) alone, and that can be entered in its middle.

    A training that was interrupted within an epoch continues with the next batch. It is
    :class:`torch.utils.data.DistributedSampler`, with the same arguments, for one process too: ``num_replicas=1``,
    ``rank=0``. MONAI's engines set the epoch.

    Example:
        >>> sampler = ResumableSampler(range(4), num_replicas=1, rank=0, shuffle=False)
        >>> sampler.skip(3)
        >>> list(sampler), list(sampler)
        ([3], [0, 1, 2, 3])
    """

    _skipped = 0

    def skip(self, number: int) -> None:
        """Leave out the first items of the next pass, and of this pass alone."""
        self._skipped = number

    def __iter__(self) -> Iterator[int]:
        """Indices of the items of this process; called once for each pass."""
        skipped, self._skipped = self._skipped, 0
        return iter(list(super().__iter__())[skipped:])
