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

import platform

import pytest
from warm_python import run_python

from monai_vqprior.runs import keep_freed_memory

pytestmark = pytest.mark.integration

# Twelve blocks of 4 MB, as a training step of a small network asks for and frees; page faults of the last of 20 rounds.
# The library adapts its thresholds to what was freed before, perhaps by an import; so they are set to where it begins.
FAULTS = """
import ctypes, resource, sys, torch
from monai_vqprior.runs import keep_freed_memory
for parameter in (-1, -3):  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
    assert ctypes.CDLL(None).mallopt(parameter, 128 * 1024)
kept = keep_freed_memory() if sys.argv[1] == "keep" else None
for _ in range(20):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [torch.zeros(1_000_000) for _ in range(12)]
    del blocks
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
#: what says that somebody has chosen how memory is handed out.
CHOICES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD")


def faults(how: str, **variables: str) -> tuple[str, int]:
    """What the function returned and the page faults of a round, in a process of its own."""
    done = run_python(["-c", FAULTS, how], **dict.fromkeys(CHOICES, "") | variables)
    assert done.returncode == 0, done.stderr
    kept, number = done.stdout.split()
    return kept, int(number)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only the GNU C library is asked to keep memory")
class TestKeepFreedMemory:
    def test_freed_memory_is_used_again(self) -> None:
        _, without = faults("leave")
        kept, number = faults("keep")
        assert kept == "True"
        assert without > 1000  # the twelve blocks are 12,000 pages of 4 KB
        assert number < without / 20

    def test_leaves_what_somebody_chose(self) -> None:
        kept, number = faults("keep", MALLOC_TRIM_THRESHOLD_="0", MALLOC_MMAP_THRESHOLD_="65536")
        assert kept == "False"
        assert number > 1000


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert keep_freed_memory() is False
