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

import math
from collections.abc import Sequence
from typing import Any

import torch

from monai_vqprior.errors import InputError, counted
from monai_vqprior.losses import SSIM_WINDOW
from monai_vqprior.runs.processes import Processes
from monai_vqprior.values import SIZE, check_settings

__all__ = [
    "check_counts",
    "check_not_negative",
    "check_num_embeddings",
    "check_settings",
    "check_shares",
    "check_spatial_size",
    "check_trainable",
    "check_window",
    "checked_settings",
]


def check_counts(**counts: int) -> None:
    """
    Refuse numbers of things that are not whole numbers of at least 1.

    Args:
        counts: the numbers, by the names of their options.

    Raises:
        InputError: with the first that is wrong.
    """
    for name, value in counts.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise InputError(f"{name} must be a whole number of at least 1, got {value!r}.")


def check_not_negative(**values: float) -> None:
    """
    Refuse values that are not finite numbers of at least 0.

    Args:
        values: the values, by the names of their options.

    Raises:
        InputError: with the first that is wrong.
    """
    for name, value in values.items():
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < math.inf:
            raise InputError(f"{name} must be a number of at least 0, got {value!r}.")


def checked_settings(**settings: Any) -> dict[str, Any]:
    """
    The settings of a run, each of which is what it must be: the component ``checked`` of a configuration.

    Args:
        settings: values of top-level configuration keys.

    Returns:
        the same values.

    Raises:
        InputError: with the first that is wrong, and for slices that the network cannot encode, where their
            ``spatial_size`` and its ``stride`` are among the settings.
    """
    check_settings(**settings)
    if "stride" in settings:
        check_spatial_size(settings["spatial_size"], settings["stride"])
    return settings


def check_spatial_size(spatial_size: int | Sequence[int], stride: int) -> None:
    """
    Refuse an image size that a network cannot encode, before anything is read.

    Args:
        spatial_size: one number or one an axis.
        stride: pixels that one code stands for along each axis.

    Raises:
        InputError: when a size is not a positive multiple of the stride.
    """
    if spatial_size is None:
        raise InputError(f"spatial_size must be {SIZE.description}, got None.")
    for size in (spatial_size,) if isinstance(spatial_size, int) else spatial_size:
        if size < stride or size % stride:
            below = max(stride, size // stride * stride)
            raise InputError(
                f"spatial_size {size} is not a multiple of the network's stride {stride}: take {below} or "
                f"{below + stride}."
            )


def check_window(spatial_size: int | Sequence[int]) -> None:
    """
    Refuse slices that are smaller than the window of SSIM, before anything is read.

    Args:
        spatial_size: one number or one an axis.

    Raises:
        InputError: when a side is smaller than the window.
    """
    for size in (spatial_size,) if isinstance(spatial_size, int) else spatial_size:
        if size < SSIM_WINDOW:
            raise InputError(
                f"spatial_size {size} is smaller than the window of SSIM, {SSIM_WINDOW} pixels: take larger slices."
            )


def check_shares(processes: Processes, **numbers: int) -> None:
    """
    Refuse to share fewer slices than there are processes, of which some would have none.

    Args:
        processes: those that share the work.
        numbers: how many slices there are, by split.

    Raises:
        InputError: naming the split.
    """
    for split, number in numbers.items():
        if number < processes.size:
            raise InputError(
                f"{processes.size} processes cannot share the {counted(number, 'slice')} of the split {split!r}: "
                "start fewer."
            )


def check_num_embeddings(codebook: Any, num_embeddings: int) -> None:
    """
    Check that a codebook, or a network with one, has the number of codes of metrics and prior.

    Args:
        codebook: with an attribute ``num_embeddings``; another one is not checked.
        num_embeddings: number of codes, K.

    Raises:
        InputError: when it has not.
    """
    number = getattr(codebook, "num_embeddings", num_embeddings)
    if number != num_embeddings:
        raise InputError(
            f"the codebook has {number} codes, but num_embeddings is {num_embeddings}: pass --num_embeddings {number}."
        )


def check_trainable(network: torch.nn.Module) -> None:
    """
    Refuse to train a network that was loaded from TorchScript: its codes do not follow, and no gradient passes them.

    Raises:
        InputError: when it is one.
    """
    if isinstance(network, torch.jit.ScriptModule):
        raise InputError("network_def is TorchScript, which is for use: train the network that it was made of.")
