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

"""Which slices lie on one another: the stack of a scan, from its lowest slice to its highest."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from monai_vqprior.data.slices import SliceFolder
from monai_vqprior.errors import InputError

__all__ = ["NEIGHBOR", "neighbor_names", "scan_numbers", "slices_below", "stack_height"]

#: the grid of a context that is the slice below.
NEIGHBOR = "neighbor"


def neighbor_names(number: int) -> list[str]:
    """
    Names of the grids of a context that are slices below, from the nearest on: ``neighbor``, ``neighbor_2``.

    Args:
        number: how many there are.
    """
    return [NEIGHBOR, *(f"{NEIGHBOR}_{distance}" for distance in range(2, number + 1))][:number]


def slices_below(slices: SliceFolder, items: Sequence[Mapping[str, Any]]) -> torch.Tensor:
    """
    The slice below each slice: the next lower one of the same subject, session and scan.

    Where a slice between them is missing there is none. How far apart slices lie is the most frequent distance of their
    numbers, so a scan of which every second slice was kept has neighbors too.

    Args:
        slices: the data set.
        items: slices of it, as :meth:`SliceFolder.datalist` describes them.

    Returns:
        (N,) int64, the number of an item for each item, -1 where there is none.

    Raises:
        InputError: when no slice has one.
    """
    scans = [slices.scan_of(item["image"]) for item in items]
    order = sorted(range(len(items)), key=lambda i: (scans[i], items[i]["index"]))
    pairs = [(low, high) for low, high in itertools.pairwise(order) if scans[low] == scans[high]]
    steps = {(low, high): items[high]["index"] - items[low]["index"] for low, high in pairs}
    counts = Counter(step for step in steps.values() if step > 0)
    if not counts:
        raise InputError(
            f"no slice in {slices.dataset_dir} has another one of its scan below it: --neighbor_context needs several "
            "slices a subject, with their numbers in the names of the files."
        )
    usual = counts.most_common(1)[0][0]
    below = torch.full((len(items),), -1)
    for (low, high), step in steps.items():
        if step == usual:
            below[high] = low
    return below


def scan_numbers(slices: SliceFolder, items: Sequence[Mapping[str, Any]]) -> list[int]:
    """
    A number for each scan.

    Args:
        slices: the data set.
        items: slices of it.

    Returns:
        the number of its scan for each item, in the order in which scans occur.
    """
    numbers: dict[str, int] = {}
    return [numbers.setdefault(slices.scan_of(item["image"]), len(numbers)) for item in items]


def stack_height(slices: SliceFolder, items: Sequence[Mapping[str, Any]]) -> int:
    """
    Slices of a scan, the most frequent number.

    Args:
        slices: the data set.
        items: slices of it.
    """
    counts = Counter(scan_numbers(slices, items)).values()
    return Counter(counts).most_common(1)[0][0]
