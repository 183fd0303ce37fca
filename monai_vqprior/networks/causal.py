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

from typing import cast

import torch
import torch.nn as nn
import torch.nn.functional as F
from monai.networks.layers.factories import Conv

from monai_vqprior.errors import InputError

__all__ = ["CausalConv", "GatedLayer", "shift"]


def shift(x: torch.Tensor, axis: int) -> torch.Tensor:
    """
    Move everything one step on along a spatial axis: what stood at i stands at i + 1, and zeros come in at 0.

    Args:
        x: (B, C, *spatial).
        axis: spatial axis, 0 for the first one after the channels.

    Returns:
        (B, C, *spatial).
    """
    dim = axis + 2
    zeros = torch.zeros_like(x.narrow(dim, 0, 1))
    return torch.cat([zeros, x.narrow(dim, 0, x.shape[dim] - 1)], dim)


class CausalConv(nn.Module):
    """
    Convolution that looks back along one axis and both ways along the axes after it.

    The kernel has size 1 along the axes before ``axis``, covers the present and ``kernel_size // 2`` steps of the past
    along ``axis``, and ``kernel_size`` positions along the axes after it. Only these weights exist; nothing is masked.
    For kernel size 5 in two dimensions, ``X`` being the present position::

        axis 0 (a row at a time)     axis 1 (a position at a time)
            o o o o o
            o o o o o
            o o X o o                    o o X

    :meth:`forward` computes all positions, :meth:`step` the next slice along ``axis`` from a cache of the last ones.

    Args:
        spatial_dims: 2 or 3.
        axis: the spatial axis that is time to this convolution.
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: odd size of the full kernel that this one is the causal part of.

    Raises:
        ValueError: when the axis is not one of the spatial axes or the kernel size is not odd and at least 3.
    """

    def __init__(self, spatial_dims: int, axis: int, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        if not 0 <= axis < spatial_dims:
            raise InputError(f"axis must be in 0..{spatial_dims - 1}, got {axis}.")
        if kernel_size < 3 or kernel_size % 2 == 0:
            raise InputError(f"kernel_size must be odd and at least 3, got {kernel_size}.")
        self.axis = axis
        self.past = kernel_size // 2
        later = spatial_dims - axis - 1
        kernel = [1] * axis + [self.past + 1] + [kernel_size] * later
        # F.pad counts from the last axis, two numbers an axis.
        self._pad_later = [self.past, self.past] * later
        self._pad_all = [*self._pad_later, self.past, 0]
        self.conv = Conv[Conv.CONV, spatial_dims](in_channels, out_channels, kernel)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C_in, *spatial) -> (B, C_out, *spatial)."""
        return self.conv(F.pad(x, self._pad_all))

    def start(self, x: torch.Tensor) -> torch.Tensor:
        """
        Cache before the first slice: ``kernel_size // 2`` slices of zeros.

        Args:
            x: a slice (B, C_in, *spatial) of size 1 along ``axis``, for its shape, type and device.

        Returns:
            the cache to hand to the first :meth:`step`.
        """
        sizes = list(x.shape)
        sizes[self.axis + 2] = self.past
        return F.pad(x.new_zeros(sizes), self._pad_later)

    def step(self, x: torch.Tensor, cache: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Compute the next slice along ``axis``.

        Args:
            x: the new slice of the input, (B, C_in, *spatial) of size 1 along ``axis``.
            cache: what :meth:`start` or the last step returned.

        Returns:
            the slice of the output, (B, C_out, *spatial) of size 1 along ``axis``, and the cache for the next step.
        """
        dim = self.axis + 2
        window = torch.cat([cache, F.pad(x, self._pad_later)], dim)
        return self.conv(window), window.narrow(dim, 1, self.past)


class GatedLayer(nn.Module):
    """
    One layer of all causal stacks: one stack for each spatial axis, after figure 2 of van den Oord et al.,
    "Conditional Image Generation with PixelCNN Decoders" (2016), https://arxiv.org/abs/1606.05328.

    In two dimensions stack 0 is the paper's vertical stack and stack 1 its horizontal one; in three a depth stack comes
    before them. Each stack computes::

        gate = causal convolution of its own features + 1x1 convolution of the gate of the stack before + condition
        features + 1x1 convolution of tanh(gate[:C]) * sigmoid(gate[C:])

    The stacks read inputs that are shifted by one along their own axis, so that at position (r, c) stack 0 knows the
    rows before r in full width, and stack 1 adds the positions before c of row r: together all that came before, with
    no blind spot and nothing of the present.

    Args:
        spatial_dims: 2 or 3.
        channels: channels of every stack, C.
        kernel_size: odd size of the kernels.
        dropout: probability that a gated feature is dropped.
        last: nothing follows but the last stack's features; the other stacks then have no 1x1 convolution at their end.
    """

    def __init__(
        self, spatial_dims: int, channels: int, kernel_size: int, dropout: float = 0.0, last: bool = False
    ) -> None:
        super().__init__()
        pointwise = Conv[Conv.CONV, spatial_dims]
        axes = range(spatial_dims)
        self.convs = nn.ModuleList(CausalConv(spatial_dims, i, channels, 2 * channels, kernel_size) for i in axes)
        # No stack reads the gate of the last one.
        links = [pointwise(2 * channels, 2 * channels, 1) for _ in axes[1:]]
        self.links = nn.ModuleList([*links, nn.Identity()])
        self.outs = nn.ModuleList(
            nn.Identity() if last and axis < spatial_dims - 1 else pointwise(channels, channels, 1) for axis in axes
        )
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, stacks: list[torch.Tensor], condition: torch.Tensor | None = None
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """
        Compute the layer at all positions.

        Args:
            stacks: the features of each stack, each (B, C, *spatial).
            condition: (B, 2C, 1, ...) to add to every gate, or None.

        Returns:
            the new features of each stack, each (B, C, *spatial), and what passed the gate of the last stack,
            (B, C, *spatial), for a skip connection.
        """
        features: list[torch.Tensor] = []
        gated = stacks[0]
        link: torch.Tensor | None = None
        for axis, (conv, tell_next, out) in enumerate(zip(self.convs, self.links, self.outs)):  # noqa: B905 (TorchScript)
            gate = self.add_context(conv(stacks[axis]), link, condition)
            gated = self.through_gate(gate)
            features.append(stacks[axis] + out(gated))
            link = tell_next(gate)
        return features, gated

    def step(
        self,
        axis: int,
        x: torch.Tensor,
        cache: torch.Tensor | None,
        link: torch.Tensor | None,
        condition: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """
        Compute the next slice of one stack along its axis.

        Args:
            axis: which stack.
            x: its features in the slice, (B, C, *spatial) of size 1 along ``axis``.
            cache: what the last step returned, or None before the first slice.
            link: what the stack before says to this one in the slice, (B, 2C, *spatial), or None for the first stack.
            condition: (B, 2C, 1, ...) to add to the gate, or None.

        Returns:
            the new features, the link to the stack after it, (B, 2C, *spatial), and the cache for the next step.
        """
        conv = cast(CausalConv, self.convs[axis])
        gate, cache = conv.step(x, conv.start(x) if cache is None else cache)
        gate = self.add_context(gate, link, condition)
        return x + self.outs[axis](self.through_gate(gate)), self.links[axis](gate), cache

    @staticmethod
    def add_context(gate: torch.Tensor, link: torch.Tensor | None, condition: torch.Tensor | None) -> torch.Tensor:
        """Add what the stack before and the condition have to say to a gate (B, 2C, *spatial)."""
        if link is not None:
            gate = gate + link
        if condition is not None:
            gate = gate + condition
        return gate

    def through_gate(self, gate: torch.Tensor) -> torch.Tensor:
        """(B, 2C, *spatial) -> (B, C, *spatial): the first half as far as the second one lets it through."""
        content, control = gate.chunk(2, dim=1)
        return self.dropout(torch.tanh(content) * torch.sigmoid(control))
