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

from typing import Any

from monai_vqprior import outputs, runs
from monai_vqprior.engines import former_names
from monai_vqprior.engines.batches import PrepareBatchCodes, PrepareBatchSlices

__all__ = ["PrepareBatchCodes", "PrepareBatchSlices"]


def __getattr__(name: str) -> Any:
    """Names that configurations of users call here, and that are in ``runs`` and ``outputs`` now."""
    for room in (former_names, runs, outputs):
        if name in room.__all__:
            return getattr(room, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
