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
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from monai.inferers import Inferer
from tqdm import tqdm

from monai_vqprior.data import SliceDataset, random_holes
from monai_vqprior.data.given_codes import MISSING
from monai_vqprior.errors import InputError
from monai_vqprior.transforms import BytesToUnit, fill_from_nearest

__all__ = [
    "ConstantInferer",
    "MixedPrecisionInferer",
    "TokenizerInferer",
    "encode_given",
    "encode_grids",
    "encode_images",
    "encode_views",
]


def _to_float(output: Any) -> Any:
    """Floating-point tensors in a tensor, tuple or dictionary as float32."""
    if isinstance(output, torch.Tensor):
        return output.float() if output.is_floating_point() else output
    if isinstance(output, dict):
        return {key: _to_float(value) for key, value in output.items()}
    return tuple(_to_float(value) for value in output)


def as_channels_last(images: torch.Tensor) -> torch.Tensor:
    """Images (B, C, H, W) laid out as (B, H, W, C), which bfloat16 convolutions want; other tensors unchanged."""
    return images.contiguous(memory_format=torch.channels_last) if images.dim() == 4 else images


class MixedPrecisionInferer(Inferer):
    """
    Run a network under autocast, on any device type, and return its results in float32.

    :class:`monai.engines.SupervisedTrainer` autocasts on CUDA only; this hook serves every device
    and both stages.

    Args:
        dtype: type to autocast to, such as ``torch.bfloat16``; None for no autocast. See
            :func:`monai_vqprior.runs.mixed_precision`.
    """

    def __init__(self, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.dtype = dtype

    def __call__(self, inputs: torch.Tensor, network: Any, *args: Any, **kwargs: Any) -> Any:
        """The output of ``network(inputs, *args, **kwargs)``, tensors as float32."""
        with torch.autocast(inputs.device.type, dtype=self.dtype, enabled=self.dtype is not None):
            return _to_float(network(as_channels_last(inputs), *args, **kwargs))


class TokenizerInferer(Inferer):
    """
    Reconstruct images through their codes, each image encoded once, and rate the codes with a prior if there is one.

    Args:
        prior: network that turns code grids (B, *grid) into logits (B, K, *grid), or None.
        dtype: type to autocast to; None for none.
    """

    def __init__(self, prior: Any = None, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.prior = prior
        self.dtype = dtype

    @torch.no_grad()
    def __call__(self, inputs: torch.Tensor, network: Any, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        """
        Pass images through a network with the interface of MONAI's VQVAE.

        Args:
            inputs: (B, C, *spatial), values in 0..1.
            network: an :class:`~monai_vqprior.networks.AutoencoderVQ` or :class:`monai.networks.nets.VQVAE`.
            args: arguments for the prior.
            kwargs: keyword arguments for the prior.

        Returns:
            ``reconstruction`` (B, C, *spatial) float32 in 0..1, ``codes`` (B, *grid) int64, and with a prior its
            ``logits`` (B, K, *grid) float32. :class:`monai.transforms.FlattenSubKeysd` lifts them into an engine's
            output.
        """
        with torch.autocast(inputs.device.type, dtype=self.dtype, enabled=self.dtype is not None):
            codes = network.index_quantize(as_channels_last(inputs))
            output = {"reconstruction": network.decode_samples(codes).float().clamp(0, 1), "codes": codes}
            if self.prior is not None:
                self.prior.eval()
                output["logits"] = self.prior(codes, *args, **kwargs).float()
        return output


class ConstantInferer(Inferer):
    """
    Answer every image with one and the same: the baseline that a reconstruction has to beat.

    Args:
        image: (C, *spatial); None for a black image.
    """

    def __init__(self, image: torch.Tensor | None = None) -> None:
        super().__init__()
        self.image = image

    def __call__(self, inputs: torch.Tensor, network: Any, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        """``reconstruction``: the image for each of the inputs (B, C, *spatial). The network is not called."""
        if self.image is None:
            return {"reconstruction": torch.zeros_like(inputs)}
        return {"reconstruction": self.image.to(inputs).expand_as(inputs)}


def encode_grids(
    network: Any,
    dataset: SliceDataset,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    batch_size: int = 16,
    progress: bool = True,
) -> torch.Tensor:
    """
    Code grids of all slices of a data set, computed once for all epochs of the prior.

    Args:
        network: a network with the interface of MONAI's VQVAE.
        dataset: slices; augmentation is not applied.
        device: where to compute.
        dtype: type to autocast to; None for none.
        batch_size: slices at a time.
        progress: show a progress bar.

    Returns:
        (N, *grid) int32, on the CPU.
    """
    return encode_images(network, dataset.images, device, dtype, batch_size, progress)


def encode_images(
    network: Any,
    images: torch.Tensor,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    batch_size: int = 16,
    progress: bool = True,
) -> torch.Tensor:
    """
    Code grids of images.

    Args:
        network: a network with the interface of MONAI's VQVAE.
        images: (N, 1, H, W), uint8, or floating point in 0..1.
        device: where to compute.
        dtype: type to autocast to; None for none.
        batch_size: images at a time.
        progress: show a progress bar.

    Returns:
        (N, *grid) int32, on the CPU.
    """
    batches = images.split(batch_size)
    return _encode(network, batches, len(batches), device, dtype, progress)


def encode_views(
    network: Any,
    dataset: SliceDataset,
    num_views: int,
    seed: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    batch_size: int = 16,
    progress: bool = True,
    groups: Sequence[int] | None = None,
) -> torch.Tensor:
    """
    Code grids of several views of each slice, made by the random transforms of its data set.

    Codes cannot be turned or moved as pixels can, so what is to keep a prior from learning its slices by heart has to
    be done before they are encoded.

    Args:
        network: a network with the interface of MONAI's VQVAE.
        dataset: slices, with an augmentation that draws its random numbers as MONAI's ``Compose`` does.
        num_views: views of each slice, V.
        seed: seed of the augmentation: the views of a resumed training are the same.
        device: where to compute.
        dtype: type to autocast to; None for none.
        batch_size: slices at a time.
        progress: show a progress bar.
        groups: a number for each slice; those of one number are changed alike, so that the slices of a scan
            (:func:`~monai_vqprior.data.scan_numbers`) still fit together. None to change each on its own.

    Returns:
        (V, N, *grid) int32, on the CPU.

    Raises:
        ValueError: when the data set has no augmentation, or there is no view to make.
    """
    if dataset.augmentation is None:
        raise ValueError("dataset must have an augmentation to make views of its slices, got none.")
    if not isinstance(num_views, int) or num_views < 1:
        raise InputError(f"num_views (prior_views) must be a whole number of at least 1, got {num_views!r}.")
    before = dataset.seed, dataset.epoch, dataset.groups
    dataset.seed, dataset.groups = seed, groups  # views are like epochs of this seed
    try:
        number = num_views * math.ceil(len(dataset) / batch_size)
        grids = _encode(network, _views(dataset, num_views, batch_size), number, device, dtype, progress)
    finally:
        dataset.seed, dataset.epoch, dataset.groups = before
    return grids.unflatten(0, (num_views, len(dataset)))


def _views(dataset: SliceDataset, num_views: int, batch_size: int) -> Iterator[torch.Tensor]:
    """Batches of augmented images (B, 1, H, W): all slices as they are in epoch 0, then as in epoch 1, and so on."""
    for view in range(num_views):
        dataset.set_epoch(view)
        for chunk in range(0, len(dataset), batch_size):
            indices = range(chunk, min(chunk + batch_size, len(dataset)))
            yield torch.stack([torch.as_tensor(dataset[i]["image"]) for i in indices])


def encode_given(
    network: Any,
    dataset: SliceDataset,
    grids: torch.Tensor,
    num_views: int,
    seed: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    batch_size: int = 16,
    progress: bool = True,
) -> torch.Tensor:
    """
    Codes of what is given of slices with a hole, encoded as a completion encodes them.

    An encoder sees around the pixels of a code, so the codes beside a hole are not those of the whole slice. A prior
    that learned to trust them would be misled.

    Args:
        network: a network with the interface of MONAI's VQVAE.
        dataset: slices; augmentation is not applied.
        grids: their codes, (N, *grid).
        num_views: holes of each slice (:func:`~monai_vqprior.data.random_holes`), V.
        seed: seed of the holes: those of a resumed training are the same.
        device: where to compute.
        dtype: type to autocast to; None for none.
        batch_size: slices at a time.
        progress: show a progress bar.

    Returns:
        (V, N, *grid) int32, on the CPU, -1 in the holes.
    """
    size = tuple(grids.shape[1:])
    draw = torch.Generator().manual_seed(seed)
    holes = torch.cat([random_holes(1, size, draw) for _ in range(num_views * len(grids))])
    holes = holes.unflatten(0, (num_views, len(grids)))  # (V, N, *grid)
    hidden = (
        _hide(images, part)
        for view in holes
        for images, part in zip(dataset.images.split(batch_size), view.split(batch_size), strict=True)
    )
    number = num_views * math.ceil(len(grids) / batch_size)
    codes = _encode(network, hidden, number, device, dtype, progress).view(holes.shape)
    return codes.masked_fill(holes, MISSING)


def _hide(images: torch.Tensor, holes: torch.Tensor) -> torch.Tensor:
    """Images (B, 1, H, W) with the blocks of holes (B, *grid) hidden."""
    for axis in (1, 2):
        holes = holes.repeat_interleave(images.shape[axis + 1] // holes.shape[axis], axis)
    return torch.stack([fill_from_nearest(image, hole[None]) for image, hole in zip(images, holes, strict=True)])


@torch.no_grad()
def _encode(
    network: Any,
    batches: Iterable[torch.Tensor],
    number: int,
    device: torch.device | str,
    dtype: torch.dtype | None,
    progress: bool,
) -> torch.Tensor:
    """Code grids (N, *grid) int32 of a number of batches of images (B, 1, H, W), 8-bit or in 0..1."""
    training = network.training
    network.eval()
    to_unit = BytesToUnit()
    grids = []
    for images in tqdm(batches, "encoding slices", number, disable=not progress, leave=False):
        with torch.autocast(torch.device(device).type, dtype=dtype, enabled=dtype is not None):
            codes = network.index_quantize(as_channels_last(to_unit(images.to(device))))
        grids.append(codes.to("cpu", torch.int32))
    network.train(training)
    return torch.cat(grids)
