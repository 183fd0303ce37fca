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

import statistics
import time
from collections.abc import Callable, Mapping

import torch

__all__ = ["medians_of", "seconds_of"]


def seconds_of(call: Callable[[], object], device: torch.device | None = None) -> float:
    """Seconds that a call takes, on a CUDA device until its work is done."""
    start = time.perf_counter()
    call()
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def medians_of(
    calls: Mapping[str, Callable[[], object]], repeats: int, device: torch.device | None = None
) -> dict[str, float]:
    """
    Median seconds of each call by its name, after one that warms up.

    The calls take turns, so that a busy moment of the machine hits all of them.
    """
    for call in calls.values():
        seconds_of(call, device)
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            times[name].append(seconds_of(call, device))
    return {name: statistics.median(seconds) for name, seconds in times.items()}
