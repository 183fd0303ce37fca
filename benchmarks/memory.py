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

import ctypes
import gc
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

__all__ = ["peak_in_new_process", "peak_megabytes"]

_M_MMAP_THRESHOLD = -3  # of mallopt, from malloc.h of the GNU C library
_MAPPED_BLOCK = 2**16  # bytes, from which on a block is mapped by itself


def _megabytes(field: str) -> float:
    """A field of this process's status: VmRSS, the memory resident now, or VmHWM, its peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise SystemExit(f"/proc/self/status has no {field}: memory is measured on Linux alone.")


def peak_megabytes(step: Callable[[], object]) -> float:
    """Peak of this process's resident memory during a call, beyond what is resident before it; calls twice."""
    step()  # what is asked for once
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # memory that was freed, but not yet handed back, is not in use
    before = _megabytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    step()
    return _megabytes("VmHWM") - before


def peak_in_new_process(make: Callable[..., Callable[[], object]], *arguments: Any) -> float:
    """
    :func:`peak_megabytes` of a call in a process of its own.

    In a process that has made other calls, the allocator holds memory that they have freed. A call may find room in it
    or not, so that the resident memory says little of what the call uses. Here each block is mapped and handed back by
    itself.

    Args:
        make: makes the call of the arguments, in that process; a function at the top of its module.
        arguments: of ``make``; pickled.

    Returns:
        the peak in MB.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_peak_of, make, arguments).result()


def _peak_of(make: Callable[..., Callable[[], object]], arguments: tuple[Any, ...]) -> float:
    call = make(*arguments)
    ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _MAPPED_BLOCK)
    return peak_megabytes(call)
