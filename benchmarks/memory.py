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
from collections.abc import Callable
from pathlib import Path

__all__ = ["peak_megabytes"]


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
