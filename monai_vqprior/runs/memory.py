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
import os
import platform

__all__ = ["keep_freed_memory"]

# Parameters of mallopt, from malloc.h of the GNU C library.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT_BLOCK = 2**25  # bytes; larger ones, such as a data set, are handed back at once
_KEPT_TOTAL = 2**30  # bytes
#: with one of these somebody has chosen how memory is handed out.
_CHOICES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD")


def keep_freed_memory() -> bool:
    """
    Have the C library keep memory that this process frees, up to 1 GiB, for what the process asks for next.

    The GNU C library returns memory of some megabytes to the system as soon as it is free. A training step on a CPU
    frees all of its activations and asks for the same again, and the system then fills thousands of pages with zeros.
    Blocks above 32 MiB are handed back as before.

    Nothing is changed with another C library, or where an environment variable of the allocator, or a library loaded
    before all others, says that somebody has chosen already.

    Returns:
        whether freed memory is kept.
    """
    if platform.libc_ver()[0] != "glibc" or any(os.environ.get(name) for name in _CHOICES):
        return False
    library = ctypes.CDLL(None)
    return bool(library.mallopt(_M_MMAP_THRESHOLD, _KEPT_BLOCK) and library.mallopt(_M_TRIM_THRESHOLD, _KEPT_TOTAL))
