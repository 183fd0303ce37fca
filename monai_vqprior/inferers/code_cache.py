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
import logging
import os
from pathlib import Path
from typing import Any

import torch

from monai_vqprior.data import SliceDataset
from monai_vqprior.files import atomic_path
from monai_vqprior.inferers.tokenizer import encode_grids
from monai_vqprior.runs import fingerprint

__all__ = ["cached_grids"]

logger = logging.getLogger(__name__)


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

    Args:
        network: a network with the interface of MONAI's VQVAE.
        dataset: slices; augmentation is not applied.
        folder: where the codes are kept; made if need be.
        device: where to compute.
        progress: show a progress bar.

    Returns:
        (N, *grid) int32, on the CPU.
    """
    pixels = hashlib.sha256(repr(tuple(dataset.images.shape)).encode() + dataset.images.numpy().tobytes())
    kind = torch.device(device).type
    path = Path(folder) / f"{fingerprint(network)}_{pixels.hexdigest()[:16]}_{kind}.pt"
    if path.is_file():
        kept = _read(path, len(dataset))
        if kept is not None:
            return kept
        logger.warning("%s is damaged: the slices are encoded again", path)
    grids = encode_grids(network, dataset, device, progress=progress)
    with atomic_path(path) as temporary:
        torch.save(grids, temporary)
    return grids


def _read(path: Path, number: int) -> torch.Tensor | None:
    """The codes in a file; None where it does not hold as many grids of codes."""
    try:
        grids = torch.load(path, weights_only=True)
    except Exception:  # torch raises nearly anything about a damaged file
        return None
    whole = isinstance(grids, torch.Tensor) and grids.dtype == torch.int32
    return grids if whole and grids.dim() > 1 and len(grids) == number else None
