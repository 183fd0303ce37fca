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

"""
The seam to TorchScript, which PyTorch has deprecated and the checks of MONAI's model zoo still use.

A scripted network is for use, not for training: no code follows, no gradient passes, nothing is dropped, and no
autocast is on. What the networks do for TorchScript goes by the names of this module, so that it can be removed in one
step: the branches under :func:`is_scripting` and the decorators ``export``. With them go what says TorchScript in a
comment or docstring: ``zip`` without ``strict``, annotations of buffers in ``__init__``, ignored attributes of
codebooks, ``fold`` and ``unfold``, and the texts of sizes in errors.
"""

from __future__ import annotations

import torch

__all__ = ["chunk_rows", "export", "is_exported", "is_scripting"]

#: decorates a method that a scripted network keeps besides ``forward``.
export = torch.jit.export

#: True in code that TorchScript compiles. The compiler knows this function and skips the branch that is not taken.
is_scripting = torch.jit.is_scripting

# A compiler unrolls a loop over chunks: not more than this many.
_UNROLLED_CHUNKS = 8


def is_exported() -> bool:
    """Whether the network is recorded by an exporter, and so will be used but not trained."""
    if is_scripting():
        return True
    return torch.jit.is_tracing() or torch.compiler.is_exporting()


def chunk_rows(number: int, rows: int) -> int:
    """How many of ``number`` rows a loop over chunks takes at a time: ``rows``, or more where it becomes a graph."""
    if is_scripting():
        return rows
    if torch.compiler.is_exporting():
        return number
    if torch.compiler.is_compiling():
        return max(rows, -(-number // _UNROLLED_CHUNKS))
    return rows
