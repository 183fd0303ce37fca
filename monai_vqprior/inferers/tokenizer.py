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

from typing import Any

import torch
from monai.inferers import Inferer
from tqdm import tqdm

from monai_vqprior.data import SliceDataset
from monai_vqprior.transforms import BytesToUnit

__all__ = ["ConstantInferer", "MixedPrecisionInferer", "TokenizerInferer", "encode_grids"]


def _to_float(output: Any) -> Any:
    """Floating-point tensors in a tensor, tuple or dictionary as float32."""
    if isinstance(output, torch.Tensor):
        return output.float() if output.is_floating_point() else output
    if isinstance(output, dict):
        return {key: _to_float(value) for key, value in output.items()}
    return tuple(_to_float(value) for value in output)


def _as_channels_last(images: torch.Tensor) -> torch.Tensor:
    """Images (B, C, H, W) laid out as (B, H, W, C), which bfloat16 convolutions want; other tensors unchanged."""
    return images.contiguous(memory_format=torch.channels_last) if images.dim() == 4 else images


class MixedPrecisionInferer(Inferer):
    """
    Run a network under autocast, on any device type, and return its results in float32.

    :class:`monai.engines.SupervisedTrainer` autocasts on CUDA only; this hook serves every device
    and both stages.

    Args:
        dtype: type to autocast to, such as ``torch.bfloat16``; None for no autocast. See
            :func:`monai_vqprior.engines.mixed_precision`.
    """

    def __init__(self, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.dtype = dtype

    def __call__(self, inputs: torch.Tensor, network: Any, *args: Any, **kwargs: Any) -> Any:
        """The output of ``network(inputs, *args, **kwargs)``, tensors as float32."""
        with torch.autocast(inputs.device.type, dtype=self.dtype, enabled=self.dtype is not None):
            return _to_float(network(_as_channels_last(inputs), *args, **kwargs))


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
            codes = network.index_quantize(_as_channels_last(inputs))
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


@torch.no_grad()
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
    training = network.training
    network.eval()
    to_unit = BytesToUnit()
    grids = []
    for images in tqdm(dataset.images.split(batch_size), "encoding slices", disable=not progress, leave=False):
        with torch.autocast(torch.device(device).type, dtype=dtype, enabled=dtype is not None):
            codes = network.index_quantize(_as_channels_last(to_unit(images.to(device))))
        grids.append(codes.to("cpu", torch.int32))
    network.train(training)
    return torch.cat(grids)
