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

import os

import torch

from monai_vqprior.errors import InputError

__all__ = ["mixed_precision", "select_device"]


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
