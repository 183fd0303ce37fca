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

from monai_vqprior.transforms.io import LoadSlice, LoadSliced
from monai_vqprior.transforms.masks import LoadMask, fill_from_nearest
from monai_vqprior.transforms.ranges import axis_ranges
from monai_vqprior.transforms.scale import EIGHT_BITS, find_max_value
from monai_vqprior.transforms.unit_range import BytesToUnit, BytesToUnitd, UnitToBytes

__all__ = [
    "EIGHT_BITS",
    "BytesToUnit",
    "BytesToUnitd",
    "LoadMask",
    "LoadSlice",
    "LoadSliced",
    "UnitToBytes",
    "axis_ranges",
    "fill_from_nearest",
    "find_max_value",
]
