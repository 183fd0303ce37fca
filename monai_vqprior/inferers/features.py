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

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from monai.data import DataLoader
from tqdm import tqdm

from monai_vqprior.data import CodeGridDataset
from monai_vqprior.engines import PrepareBatchCodes
from monai_vqprior.inferers.prior import VQPriorInferer
from monai_vqprior.inferers.tokenizer import as_channels_last, encode_images
from monai_vqprior.transforms import BytesToUnit, UnitToBytes

__all__ = ["decode_grids", "pooled_encodings", "rate_grids", "reconstruct_images"]

_POOLED = 4  # side of the grid that encodings are averaged to


def pooled_encodings(
    network: Any, images: torch.Tensor, device: torch.device | str = "cpu", batch_size: int = 16, progress: bool = True
) -> torch.Tensor:
    """
    Features of images: the encodings of an autoencoder before quantization, averaged over a grid of 4 x 4 regions.

    Args:
        network: a network with the interface of MONAI's VQVAE.
        images: (N, 1, H, W) uint8.
        device: where to compute.
        batch_size: images at a time.
        progress: show a progress bar.

    Returns:
        (N, D * 16) float32, on the CPU.
    """

    to_unit = BytesToUnit()

    def pooled(batch: torch.Tensor) -> torch.Tensor:
        encodings = network.encode(as_channels_last(to_unit(batch)))
        return F.adaptive_avg_pool2d(encodings.float(), _POOLED).flatten(1)

    return _mapped(network, pooled, images, device, batch_size, "encoding images" if progress else None)


def reconstruct_images(
    network: Any, images: torch.Tensor, device: torch.device | str = "cpu", batch_size: int = 16, progress: bool = True
) -> torch.Tensor:
    """
    Images after the autoencoder, encoded to codes and decoded.

    Args:
        network: a network with the interface of MONAI's VQVAE.
        images: (N, 1, H, W) uint8.
        device: where to compute.
        batch_size: images at a time.
        progress: show a progress bar.

    Returns:
        (N, 1, H, W) uint8, on the CPU.
    """
    grids = encode_images(network, images, device, batch_size=batch_size, progress=progress)
    return decode_grids(network, grids, device, batch_size, progress)


def decode_grids(
    network: Any, grids: torch.Tensor, device: torch.device | str = "cpu", batch_size: int = 16, progress: bool = True
) -> torch.Tensor:
    """
    Images of code grids.

    Args:
        network: a network with the interface of MONAI's VQVAE.
        grids: (N, *grid) integers.
        device: where to compute.
        batch_size: images at a time.
        progress: show a progress bar.

    Returns:
        (N, 1, H, W) uint8, on the CPU.
    """
    to_bytes = UnitToBytes()

    def decoded(batch: torch.Tensor) -> torch.Tensor:
        return to_bytes(network.decode_samples(batch))

    return _mapped(network, decoded, grids.long(), device, batch_size, "decoding" if progress else None)


@torch.no_grad()
def _mapped(
    network: Any,
    function: Callable[[torch.Tensor], torch.Tensor],
    inputs: torch.Tensor,
    device: torch.device | str,
    batch_size: int,
    told: str | None,
) -> torch.Tensor:
    """A function of batches, for all inputs, by a network in evaluation mode."""
    training = network.training
    network.eval()
    batches = tqdm(inputs.split(batch_size), told, disable=told is None, leave=False)
    results = [function(batch.to(device)).cpu() for batch in batches]
    network.train(training)
    return torch.cat(results)


def rate_grids(
    prior: Any,
    grids: torch.Tensor,
    data: Sequence[Mapping[str, Any]],
    label_keys: Sequence[str] = (),
    value_keys: Sequence[str] = (),
    device: torch.device | str = "cpu",
    batch_size: int = 16,
    progress: bool = True,
) -> torch.Tensor:
    """
    Mean bits per code of each grid under a prior.

    Args:
        prior: see :meth:`monai_vqprior.inferers.VQPriorInferer.bits`.
        grids: (N, *grid) integers.
        data: for each grid a dictionary with its conditions.
        label_keys: see :class:`~monai_vqprior.engines.PrepareBatchCodes`.
        value_keys: likewise.
        device: where to compute.
        batch_size: grids at a time.
        progress: show a progress bar.

    Returns:
        (N,) float64, on the CPU.
    """
    prior.eval()
    inferer, prepare = VQPriorInferer(), PrepareBatchCodes(label_keys=label_keys, value_keys=value_keys)
    kept = [{key: item[key] for key in (*label_keys, *value_keys)} for item in data]
    bits = []
    loader = DataLoader(CodeGridDataset(grids, kept), batch_size=batch_size)
    for batch in tqdm(loader, "rating codes", disable=not progress, leave=False):
        codes, _, _, conditions = prepare(batch, device)
        bits.append(inferer.bits(codes, prior, **conditions).double().flatten(1).mean(1).cpu())
    return torch.cat(bits)
