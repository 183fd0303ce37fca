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

import itertools
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch

from monai_vqprior.engines.processes import Processes
from monai_vqprior.errors import InputError
from monai_vqprior.files import check_writable, log_folder, path_before, tell
from monai_vqprior.losses import SSIM_WINDOW
from monai_vqprior.values import SIZE, check_settings

__all__ = [
    "check_counts",
    "check_not_negative",
    "check_num_embeddings",
    "check_output",
    "check_run",
    "check_settings",
    "check_shares",
    "check_spatial_size",
    "check_trainable",
    "check_window",
    "check_writable",
    "claim_run",
    "log_folder",
    "mixed_precision",
    "select_device",
    "state_to_resume",
    "tell",
]


def select_device(name: str | torch.device | None = None) -> torch.device:
    """
    The device to run on.

    Args:
        name: such as ``cpu``, ``cuda`` or ``cuda:1``; None takes a GPU where there is one, else the CPU: the first, or
            one for each process that ``torchrun`` has started on the machine.

    Returns:
        the device.

    Raises:
        InputError: when there is no such device.
    """
    if name is None:
        if not torch.cuda.is_available():
            return torch.device("cpu")
        return torch.device(f"cuda:{int(os.environ.get('LOCAL_RANK', 0)) % torch.cuda.device_count()}")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise InputError(f"{name!r} is not a device: pass --device cpu or --device cuda:0.") from error
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise InputError(f"{device} was asked for, but this machine has {count} CUDA devices: pass --device cpu.")
    else:
        _check_device(device)
    return device


def _check_device(device: torch.device) -> None:
    """Refuse a kind of device of PyTorch that this machine or this build does not have."""
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # each kind has words of its own
        raise InputError(f"{device} is no device of this machine: pass --device cpu.") from error


def mixed_precision(device: str | torch.device, wanted: bool = True) -> torch.dtype | None:
    """
    The type to autocast to on a device, None for no autocast.

    bfloat16 where the hardware computes with it. A CPU without (AVX512_BF16, AMX or Arm's BF16) would emulate it
    more slowly than it computes in float32.

    Args:
        device: the device.
        wanted: False for float32 everywhere.

    Returns:
        ``torch.bfloat16`` or None.
    """
    if not wanted:
        return None
    if torch.device(device).type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else None
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    has_bfloat16 = any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "arm_bf16", "bf16"))
    return torch.bfloat16 if has_bfloat16 else None


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
                f"{processes.size} processes cannot share the {number} slices of the split {split!r}: start fewer."
            )


def check_output(path: str | os.PathLike[str], overwrite: bool = False, folder: bool | None = None) -> None:
    """
    Refuse to replace the results of an earlier run, and to begin what could not be written in the end.

    Args:
        path: the file or folder that is going to be written.
        overwrite: whether it may be replaced.
        folder: whether it is a folder that is going to be written (True) or a file (False); None for either.

    Raises:
        InputError: when it exists, a folder being ignored while it is empty, and may not be replaced; when a folder is
            where a file goes or the other way around; and when nothing can be written there.
    """
    path = Path(path)
    holds_something = any(path.iterdir()) if path.is_dir() else path.exists()
    if holds_something and not overwrite:
        raise InputError(f"{path} exists: pass --overwrite to replace it, or another --output_dir.")
    if folder is not None and path.exists() and path.is_dir() != folder:
        kinds = ("folder", "file") if folder else ("file", "folder")
        raise InputError(f"{path} must be a {kinds[0]}, but is a {kinds[1]}: remove it, or give another --output_dir.")
    check_writable(path if path.is_dir() else path.parent)


def state_to_resume(last_state: str | os.PathLike[str]) -> Path | None:
    """
    The state from which a training resumes.

    Args:
        last_state: where the last state is written.

    Returns:
        that file; the state before, where a training was killed between moving the one and writing the other; None
        where no training has begun.
    """
    return next((path for path in (Path(last_state), path_before(last_state)) if path.is_file()), None)


def check_run(
    checkpoint: str | os.PathLike[str],
    last_state: str | os.PathLike[str],
    overwrite: bool = False,
    resume: bool = False,
) -> None:
    """
    Refuse to train over a run that is there already, before anything is read.

    A run has begun when it has a state. To resume one that has not begins it.

    Args:
        checkpoint: file of the best weights.
        last_state: file of the state to resume from.
        overwrite: whether an earlier run may be replaced.
        resume: whether to continue an earlier run.

    Raises:
        InputError: when there is an earlier run and neither is allowed, when both are, and when the folder of a file
            cannot be written to.
    """
    if overwrite and resume:
        raise InputError("--overwrite and --resume contradict one another: pass one of them.")
    state = state_to_resume(last_state)
    if state is not None and not (overwrite or resume):
        found = checkpoint if Path(checkpoint).exists() else state
        raise InputError(
            f"{found} exists: this output_dir holds a run already; pass --resume to go on with it, --overwrite "
            "to replace it, or another --output_dir."
        )
    for place in {Path(checkpoint).parent, Path(last_state).parent}:
        check_writable(place)


def claim_run(
    output_dir: str | os.PathLike[str],
    checkpoint: str | os.PathLike[str],
    last_state: str | os.PathLike[str],
    overwrite: bool = False,
    resume: bool = False,
) -> None:
    """
    Make the folders of a training run, and remove the run that it replaces: after all other checks.

    Weights without a state are moved aside, to ``*_before.pt``: a training that was killed before its first state has
    left them, or someone has put them there.

    Args:
        output_dir: folder of the run.
        checkpoint: see :func:`check_run`.
        last_state: see :func:`check_run`.
        overwrite: whether an earlier run may be replaced; its files are removed.
        resume: whether to continue an earlier run.

    Raises:
        InputError: as :func:`check_run`, and when a folder cannot be made.
    """
    check_run(checkpoint, last_state, overwrite, resume)
    weights, state = Path(checkpoint), Path(last_state)
    try:
        for folder in (Path(output_dir), weights.parent, state.parent):
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{error.filename} cannot be made ({error.strerror}): give another --output_dir.") from error
    if idist.get_rank() != 0:  # one process moves and removes
        return
    if overwrite:
        for path in (weights, path_before(weights), state, path_before(state)):
            path.unlink(missing_ok=True)
    elif weights.is_file() and state_to_resume(state) is None:
        aside = _unused(path_before(weights))
        weights.rename(aside)
        tell(f"{weights} belongs to no training that has begun: moved to {aside}")


def _unused(path: Path) -> Path:
    """The path, or the first one with a number that does not exist."""
    numbered = (path.with_stem(f"{path.stem}_{number}") for number in itertools.count(2))
    return next(candidate for candidate in itertools.chain([path], numbered) if not candidate.exists())


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
