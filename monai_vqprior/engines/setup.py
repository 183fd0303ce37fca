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

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from monai_vqprior.data.files import write_text
from monai_vqprior.errors import InputError

__all__ = ["claim_run", "mixed_precision", "select_device", "write_settings"]


def select_device(name: str | torch.device | None = None) -> torch.device:
    """
    The device to run on.

    Args:
        name: such as ``cpu``, ``cuda`` or ``cuda:1``; None takes the first GPU where there is one, else the CPU.

    Returns:
        the device.

    Raises:
        InputError: when there is no such device.
    """
    if name is None:
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"{name!r} is not a device: pass --device cpu or --device cuda:0.") from error
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise InputError(f"{device} was asked for, but this machine has {count} CUDA devices: pass --device cpu.")
    return device


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


def claim_run(
    output_dir: str | os.PathLike[str], checkpoint: str, last: str, overwrite: bool = False, resume: bool = False
) -> None:
    """
    Make the folder of a training run, and refuse to train over a run that is there already.

    Args:
        output_dir: folder of the run; checkpoints are in its ``models``.
        checkpoint: file name of the best weights, such as ``model.pt``.
        last: file name of the state to resume from, such as ``vqvae_last.pt``.
        overwrite: whether an earlier run may be replaced; its checkpoints of this stage are removed.
        resume: whether to go on with an earlier run.

    Raises:
        InputError: when there is an earlier run and neither is allowed, when both are, and when there is nothing to
            resume.
    """
    models = Path(output_dir) / "models"
    if models.exists() and not models.is_dir():
        raise InputError(f"{models} is a file: give another folder as --output_dir.")
    existing = [models / name for name in (checkpoint, last) if (models / name).exists()]
    if overwrite and resume:
        raise InputError("--overwrite and --resume contradict one another: pass one of them.")
    if resume and not (models / last).is_file():
        raise InputError(f"there is nothing to resume: {models / last} does not exist.")
    if existing and not (overwrite or resume):
        raise InputError(
            f"{existing[0]} exists: this output_dir holds a run already; pass --resume to go on with it, --overwrite to "
            "replace it, or another --output_dir."
        )
    if overwrite:
        for path in existing:
            path.unlink()
    models.mkdir(parents=True, exist_ok=True)


def write_settings(path: str | os.PathLike[str], settings: Mapping[str, Any]) -> None:
    """
    Write down the settings that another command needs in order to rebuild a trained network.

    The ``vqprior`` command reads them from beside the checkpoint, so that ``evaluate`` need not be told the
    ``spatial_size`` that ``train`` was given.

    Args:
        path: JSON file to write; settings of an earlier stage that are not named here are kept.
        settings: values of top-level configuration keys.
    """
    path = Path(path)
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    write_text(path, json.dumps({**before, **settings}, indent=2) + "\n")
