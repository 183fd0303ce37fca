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

"""One scale of intensities for a data set and for the networks that were trained on it."""

from __future__ import annotations

import os
from pathlib import Path

import ignite.distributed as idist

from monai_vqprior.data import MaskedSlices, SliceFolder
from monai_vqprior.errors import InputError
from monai_vqprior.files import tell
from monai_vqprior.runs.settings import read_settings, settings_beside
from monai_vqprior.transforms import find_max_value

__all__ = ["check_scale", "slice_scale"]

_KEY = "max_value"


def slice_scale(
    slices: SliceFolder | MaskedSlices, max_value: float | None = None, weights: str | os.PathLike[str] | None = None
) -> float | None:
    """
    The value that is white in slices of more than 8 bits; it is printed where it was found or is a new one.

    Args:
        slices: the data set.
        max_value: the value that the user gave.
        weights: weights that were trained, beside which ``settings.json`` has the value of their training.

    Returns:
        the value that was given, else that of the training, else the one computed from the whole data set
        (:func:`monai_vqprior.transforms.find_max_value`). None for weights that were trained before there was this
        setting: :class:`~monai_vqprior.transforms.LoadSlice` then takes the values that were fixed at that time.

    Raises:
        InputError: when the data set does not determine it, and when the settings cannot be read.
    """
    before = _settings_beside(weights)
    if max_value is not None:
        trained = None if before is None else before.get(_KEY)
        if trained not in (None, max_value):
            _tell(f"white is {max_value:g} in slices of more than 8 bits, but was {trained:g} in the training")
        return max_value
    if before is not None:
        return before.get(_KEY)
    found, reason = find_max_value([item["image"] for item in slices.datalist("all")])
    if reason:
        _tell(f"white is {found:g} in slices of more than 8 bits: {reason}; --max_value sets another value")
    return found


def check_scale(max_value: float | None, weights: str | os.PathLike[str] | None) -> None:
    """
    Refuse to train on with slices that are read on another scale: the codes of the same tissue would be others.

    Args:
        max_value: what :func:`slice_scale` has returned.
        weights: the weights that the training starts from or depends on; None for random ones.

    Raises:
        InputError: when they were trained with another value.
    """
    before = _settings_beside(weights)
    if before is not None and before.get(_KEY) != max_value:
        trained = before.get(_KEY)
        how, advice = (
            ("before there was such a setting", "leave --max_value out")
            if trained is None
            else (f"with {trained:g}", f"pass --max_value {trained:g}")
        )
        raise InputError(f"{weights} was trained {how}, got max_value {max_value}: {advice}, or train anew.")


def _settings_beside(weights: str | os.PathLike[str] | None) -> dict | None:
    """The settings of a training, None where there are none."""
    path = None if weights is None else settings_beside(Path(weights).parent)
    return None if path is None else read_settings(path, codebooks=None)


def _tell(text: str) -> None:
    if idist.get_rank() == 0:  # not once more for each process
        tell(text)
