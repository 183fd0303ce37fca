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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from monai_vqprior.errors import InputError
from monai_vqprior.transforms.pictures import bands, is_deep, open_slice, read_values

__all__ = ["EIGHT_BITS", "find_max_value"]

#: the value that is white where no slice has more than 8 bits.
EIGHT_BITS = 255
# Bits that scanners and their converters store.
_DEPTHS = (8, 10, 12, 14, 16)
# Floating-point values may be so much over 1: they were rounded.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class _Largest:
    """The largest value of a picture of more than 8 bits."""

    path: str
    value: float
    of_floats: bool


def find_max_value(paths: Sequence[str | Path], num_threads: int = 4) -> tuple[float, str]:
    """
    Find the value that is white in the slices of a data set, for :class:`~monai_vqprior.transforms.LoadSlice`.

    A file of 16 bits does not record whether 10, 12, 14 or all of them are in use; the largest value of all slices
    shows it.

    Args:
        paths: all slices of the data set, of every split.
        num_threads: threads that read slices.

    Returns:
        the value and the reason for it. The value is 255 and the reason empty where no slice has more than 8 bits; it
        is 2 to the power of 8, 10, 12, 14 or 16, minus 1, for integers, and 1 for floating point.

    Raises:
        InputError: when the slices do not determine it: floating-point values above 1, integers of more than 16 bits,
            or both kinds. Files that cannot be read are passed over, as they are refused when the data set is read.
    """
    with ThreadPoolExecutor(num_threads) as pool:
        found = [largest for largest in pool.map(_largest, paths) if largest is not None]
    if not found:
        return EIGHT_BITS, ""
    top = max(found, key=lambda largest: largest.value)
    other = next((largest for largest in found if largest.of_floats != top.of_floats), None)
    if other is not None:
        raise InputError(
            f"{top.path} and {other.path} are of integers and of floating point, so that no value is white in both: "
            "save them in one type, or pass --max_value."
        )
    told = f"{len(found)} of {len(paths)} slices have more than 8 bits, and their largest value is {top.value:g}"
    if top.of_floats:
        if top.value > 1 + _ROUNDING:
            raise InputError(
                f"{top.path} holds floating-point values up to {top.value:g}, more than 1: pass the value that is "
                "white in your slices as --max_value."
            )
        return 1, told
    white = next((2**depth - 1 for depth in _DEPTHS if top.value < 2**depth), None)
    if white is None:
        raise InputError(
            f"{top.path} holds values up to {top.value:g}, more than 16 bits: pass the value that is white in your "
            "slices as --max_value."
        )
    return white, f"{told} ({top.path})"


def _largest(path: str | Path) -> _Largest | None:
    """The largest value of a picture; None for 8 bits, where it is of no use, and for files that cannot be read."""
    try:
        with open_slice(path) as image:
            if not is_deep(image):
                return None
            found = [read_values(band, image, path).max() for _, band in bands(image)]
    except InputError:  # whoever reads the slices refuses it, or leaves it out
        return None
    return _Largest(str(path), float(max(found)), found[0].dtype.kind == "f")
