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

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from monai_vqprior.errors import InputError
from monai_vqprior.files import read_json, write_text
from monai_vqprior.inferers.code_cache import remove_old
from monai_vqprior.inferers.features import rate_grids
from monai_vqprior.runs import fingerprint

__all__ = ["cached_bits", "keep_bits"]

logger = logging.getLogger(__name__)

# Slices of a file at most. Those that were rated first are removed.
_MOST_SLICES = 2**16
_MOST_BYTES = 2**23


def cached_bits(
    prior: Any,
    grids: torch.Tensor,
    data: Sequence[Mapping[str, Any]],
    folder: str | os.PathLike[str],
    label_keys: Sequence[str] = (),
    value_keys: Sequence[str] = (),
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> torch.Tensor:
    """
    Mean bits per code of each grid under a prior, computed once for a grid and its conditions, and kept in a folder.

    The name of the file is made of the fingerprint of the weights of the prior and of the type of device. A grid is
    found by its codes and its conditions. So nothing is taken for what it is not: other weights, other codes and other
    conditions are rated anew.

    Args:
        prior: see :func:`rate_grids`.
        grids: (N, *grid) integers.
        data: for each grid a dictionary with its conditions.
        folder: where the bits are kept; made if need be.
        label_keys: see :func:`rate_grids`.
        value_keys: likewise.
        device: where to compute.
        progress: show a progress bar.

    Returns:
        (N,) float64, on the CPU.
    """
    path = _path(prior, folder, device)
    names = _names(grids, data, (*label_keys, *value_keys))
    kept = _read(path)
    missing = [row for row, name in enumerate(names) if name not in kept]
    if missing:
        items = [data[row] for row in missing]
        bits = rate_grids(prior, grids[missing], items, label_keys, value_keys, device, progress=progress)
        kept.update(zip([names[row] for row in missing], bits.tolist(), strict=True))
        _write(path, kept)
    remove_old(path)
    return torch.tensor([kept[name] for name in names], dtype=torch.float64)


def keep_bits(
    prior: Any,
    grids: torch.Tensor,
    data: Sequence[Mapping[str, Any]],
    bits: torch.Tensor,
    folder: str | os.PathLike[str],
    label_keys: Sequence[str] = (),
    value_keys: Sequence[str] = (),
    device: torch.device | str = "cpu",
) -> None:
    """
    Keep bits per code that were computed elsewhere, without mixed precision, for :func:`cached_bits`.

    Args:
        prior: see :func:`cached_bits`.
        grids: likewise.
        data: likewise.
        bits: (N,), the mean bits per code of each grid.
        folder: see :func:`cached_bits`.
        label_keys: likewise.
        value_keys: likewise.
        device: where they were computed.
    """
    path = _path(prior, folder, device)
    names = _names(grids, data, (*label_keys, *value_keys))
    _write(path, _read(path) | dict(zip(names, bits.tolist(), strict=True)))
    remove_old(path)


def _path(prior: Any, folder: str | os.PathLike[str], device: torch.device | str) -> Path:
    """The file of the bits under a prior."""
    return Path(folder) / f"{fingerprint(prior)}_{torch.device(device).type}.json"


def _names(grids: torch.Tensor, data: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> list[str]:
    """What each grid is kept under: 16 hexadecimal digits of its codes and its conditions."""
    names = []
    for grid, item in zip(grids.to("cpu", torch.int32), data, strict=True):
        conditions = [(key, float(item[key])) for key in keys]
        digest = hashlib.sha256(repr((tuple(grid.shape), conditions)).encode() + grid.numpy().tobytes())
        names.append(digest.hexdigest()[:16])
    return names


def _read(path: Path) -> dict[str, float]:
    """The bits in a file; none where there is none, or it is damaged."""
    if not path.is_file():
        return {}
    try:
        content = read_json(path, most_bytes=_MOST_BYTES)
    except InputError:
        content = {"": None}
    if all(isinstance(bits, float) for bits in content.values()):
        return content
    logger.warning("%s is damaged: the codes are rated again", path)
    return {}


def _write(path: Path, kept: Mapping[str, float]) -> None:
    write_text(path, json.dumps(dict(list(kept.items())[-_MOST_SLICES:])) + "\n")
