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

from collections.abc import Sequence

__all__ = ["axis_ranges"]


def axis_ranges(value: float | Sequence[float], num_axes: int) -> list[tuple[float, float]]:
    """
    The range of a random change as :class:`monai.transforms.RandAffine` wants it, the same for each axis.

    MONAI takes a list as one entry an axis, and a single number as that of the first axis alone.

    Args:
        value: the largest change in both directions, or the lowest and the highest one.
        num_axes: axes that are changed, each on its own; 1 for a rotation in the plane.

    Returns:
        lowest and highest change of each axis.

    Example:
        >>> axis_ranges(0.05, 2)
        [(-0.05, 0.05), (-0.05, 0.05)]
        >>> axis_ranges([-0.1, 0.2], 1)
        [(-0.1, 0.2)]
    """
    low, high = value if isinstance(value, Sequence) else (-value, value)
    return [(low, high)] * num_axes
