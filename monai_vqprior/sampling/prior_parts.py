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

"""
What the sampler reads of a prior, such as :class:`~monai_vqprior.networks.GatedPixelCNN`.

The prior calls the sampler, so the sampler cannot import it. These protocols say what both agree on.
"""

from __future__ import annotations

from typing import Protocol, cast

import torch
import torch.nn as nn

from monai_vqprior.sampling.folded_gate import weights_of

__all__ = [
    "SampledAttention",
    "SampledLayer",
    "SampledMirror",
    "SampledPrior",
    "attentions_of",
    "kernel_of",
    "layers_of",
    "mirror_of",
]


class SampledLayer(Protocol):
    """A layer of all causal stacks, such as :class:`~monai_vqprior.networks.GatedLayer`, with lists of their parts."""

    #: causal convolutions of the features, each with the convolution itself as ``conv``.
    convs: nn.ModuleList
    #: 1x1 convolutions of the gate, for the stack after it.
    links: nn.ModuleList
    #: 1x1 convolutions of what passed the gate.
    outs: nn.ModuleList

    def step(
        self,
        axis: int,
        x: torch.Tensor,
        cache: torch.Tensor | None,
        link: torch.Tensor | None,
        condition: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The next slice of one stack."""
        ...


class SampledAttention(Protocol):
    """An attention after a layer, such as :class:`~monai_vqprior.networks.CausalAttention`."""

    def start(self, batch_size: int, positions: int) -> torch.Tensor:
        """A cache for a whole grid."""
        ...

    def step(self, x: torch.Tensor, cache: torch.Tensor, position: int) -> torch.Tensor:
        """The next position."""
        ...


class SampledMirror(Protocol):
    """What a prior knows of the mirrored position, such as :class:`~monai_vqprior.networks.MirroredCodes`."""

    def start_row(self, before: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor:
        """What is known before the first code of a row."""
        ...

    def step(self, position: int, row: torch.Tensor) -> torch.Tensor | float:
        """What is added at the next position."""
        ...


class SampledPrior(Protocol):
    """A prior with one stack for each axis of its grid."""

    spatial_dims: int
    spatial_size: tuple[int, ...]
    #: of the codes, (K, C).
    embedding: nn.Embedding
    #: :class:`SampledMirror`, or None.
    mirror: nn.Module | None
    layers: nn.ModuleList
    #: an attention after each layer, or ``nn.Identity``.
    attentions: nn.ModuleList
    #: SiLU and a 1x1 convolution, twice.
    head: nn.Sequential
    #: 1x1 convolution of what passed the gates of all layers, or None.
    skip: nn.Module | None
    #: logits to add, (1, K, *spatial), or None.
    position_logits: torch.Tensor | None


def layers_of(prior: SampledPrior) -> list[SampledLayer]:
    """The layers of a prior."""
    return [cast(SampledLayer, layer) for layer in prior.layers]


def attentions_of(prior: SampledPrior) -> list[SampledAttention | None]:
    """The attention after each layer of a prior, or None."""
    return [None if isinstance(after, nn.Identity) else cast(SampledAttention, after) for after in prior.attentions]


def mirror_of(prior: SampledPrior) -> SampledMirror | None:
    """What a prior knows of the mirrored position, or None."""
    return None if prior.mirror is None else cast(SampledMirror, prior.mirror)


def kernel_of(layer: SampledLayer, axis: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight (2C, C, ...) and bias (2C,) of the causal convolution of a stack."""
    return weights_of(cast(nn.Module, layer.convs[axis].conv))
