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

import contextlib
import hashlib
import logging
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from monai_vqprior.data import SliceDataset
from monai_vqprior.files import atomic_path
from monai_vqprior.inferers.tokenizer import encode_grids, encode_images
from monai_vqprior.runs import fingerprint

__all__ = ["cached_grids", "grids_of_rows", "keep_grids", "remove_old"]

logger = logging.getLogger(__name__)

# Files of a kind in a folder at most. Those that were not used for longest are removed, such as those of a network that
# is gone.
_MOST_FILES = 4
_NAME = re.compile(r"[0-9a-f]{16}_[0-9a-f]{16}_[a-z]+\.pt|[0-9a-f]{16}_[a-z]+\.json")


def cached_grids(
    network: Any,
    dataset: SliceDataset,
    folder: str | os.PathLike[str],
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> torch.Tensor:
    """
    Code grids of all slices of a data set, computed once for an autoencoder and these slices, and kept in a folder.

    The name of the file is made of the fingerprints of the weights and of the pixels, so other weights or slices are
    encoded anew. A GPU may choose another code than a CPU where two are equally near: the type of device counts too.
    The four files that were used last stay. Another process may go on with one that is removed: it has read it, or
    encodes the slices again.

    Args:
        network: a network with the interface of MONAI's VQVAE.
        dataset: slices; augmentation is not applied.
        folder: where the codes are kept; made if need be.
        device: where to compute.
        progress: show a progress bar.

    Returns:
        (N, *grid) int32, on the CPU.
    """
    path = _path(network, dataset, folder, device)
    grids = _read(path, len(dataset))
    if grids is None:
        grids = encode_grids(network, dataset, device, progress=progress)
        _write(path, grids)
    remove_old(path)
    return grids


def keep_grids(
    network: Any,
    dataset: SliceDataset,
    grids: torch.Tensor,
    folder: str | os.PathLike[str],
    device: torch.device | str = "cpu",
) -> None:
    """
    Keep the code grids of all slices of a data set that were computed elsewhere, for :func:`cached_grids`.

    Args:
        network: see :func:`cached_grids`.
        dataset: likewise.
        grids: (N, *grid) integers.
        folder: see :func:`cached_grids`.
        device: where they were computed.
    """
    path = _path(network, dataset, folder, device)
    _write(path, grids)
    remove_old(path)


def grids_of_rows(
    network: Any,
    dataset: SliceDataset,
    rows: np.ndarray,
    folder: str | os.PathLike[str] | None = None,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> torch.Tensor:
    """
    Code grids of some slices of a data set. Those that the folder does not have are computed, and not kept.

    Args:
        network: see :func:`cached_grids`.
        dataset: likewise.
        rows: (n,) integers.
        folder: see :func:`cached_grids`; None for no folder.
        device: where to compute.
        progress: show a progress bar.

    Returns:
        (n, *grid) int32, on the CPU.
    """
    if folder is not None:
        path = _path(network, dataset, folder, device)
        grids = _read(path, len(dataset))
        if grids is not None:
            remove_old(path)
            return grids[torch.as_tensor(rows)]
    return encode_images(network, dataset.images[rows], device, progress=progress)


def _path(network: Any, dataset: SliceDataset, folder: str | os.PathLike[str], device: torch.device | str) -> Path:
    """The file of the codes of a data set."""
    pixels = hashlib.sha256(repr(tuple(dataset.images.shape)).encode() + dataset.images.numpy().tobytes())
    return Path(folder) / f"{fingerprint(network)}_{pixels.hexdigest()[:16]}_{torch.device(device).type}.pt"


def _write(path: Path, grids: torch.Tensor) -> None:
    with atomic_path(path) as temporary:
        torch.save(grids.to("cpu", torch.int32), temporary)


def _read(path: Path, number: int) -> torch.Tensor | None:
    """The codes in a file; None where there is none, or it does not hold as many grids of codes."""
    try:
        grids = torch.load(path, weights_only=True)
    except FileNotFoundError:
        return None
    except Exception:  # torch raises nearly anything about a damaged file
        grids = None
    whole = isinstance(grids, torch.Tensor) and grids.dtype == torch.int32
    if whole and grids.dim() > 1 and len(grids) == number:
        return grids
    logger.warning("%s is damaged: the slices are encoded again", path)
    return None


def remove_old(used: Path) -> None:
    """Note that a file of the cache was used, and remove those of its kind that were not for longest."""
    # Processes share the folder: a file may be gone already, or be one that this user may not change.
    with contextlib.suppress(OSError):
        used.touch()
        files = [path for path in used.parent.glob(f"*{used.suffix}") if _NAME.fullmatch(path.name)]
        others = [path for path in files if path != used]
        for path in sorted(others, key=lambda path: path.stat().st_mtime_ns, reverse=True)[_MOST_FILES - 1 :]:
            path.unlink()
