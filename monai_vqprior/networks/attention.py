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

import torch
import torch.nn as nn
import torch.nn.functional as F

from monai_vqprior.errors import InputError
from monai_vqprior.networks.scripting import is_scripting

__all__ = ["CausalAttention"]


class CausalAttention(nn.Module):
    """
    Self-attention of every position to itself and all positions before it in raster order, added to its input, as in
    Chen et al., "PixelSNAIL: an improved autoregressive generative model" (2017), https://arxiv.org/abs/1712.09763.

    Between the causal stacks of a prior, where the features of a position depend on the codes before it alone, it lets
    a position look at distant ones at once: the other hemisphere, say. Each position is normalized by itself, since a
    mean over positions would depend on later ones. The last layer starts at zero, so that a new block is the identity.

    :meth:`forward` computes all positions, :meth:`step` the next one from the keys and values of those before.

    Args:
        channels: channels in and out, C.
        num_heads: attention heads.

    Raises:
        ValueError: when the heads do not divide the channels.
    """

    def __init__(self, channels: int, num_heads: int = 4) -> None:
        super().__init__()
        if num_heads < 1 or channels % num_heads != 0:
            raise InputError(f"num_heads must divide the channels, got {num_heads} heads for {channels} channels.")
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, *spatial) -> (B, C, *spatial)."""
        tokens = x.flatten(2).transpose(1, 2)  # (B, N, C)
        query, key, value = self._heads(tokens)
        if is_scripting():
            mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        else:
            mixed = _attend(query, key, value)
        added = self.out(mixed.transpose(1, 2).flatten(2)).to(x.dtype)
        return x + added.transpose(1, 2).reshape(x.shape)

    def start(self, batch_size: int, positions: int) -> torch.Tensor:
        """Cache of a whole grid before its first position: keys and values, (2, B, heads, N, C / heads)."""
        weight = self.qkv.weight
        return weight.new_zeros(2, batch_size, self.num_heads, positions, weight.shape[1] // self.num_heads)

    def step(self, x: torch.Tensor, cache: torch.Tensor, position: int) -> torch.Tensor:
        """
        Compute the next position.

        Args:
            x: its features, (B, C).
            cache: as :meth:`start` made it; the keys and values of this position are written into it.
            position: its place in raster order.

        Returns:
            (B, C).
        """
        query, cache[0, :, :, position : position + 1], cache[1, :, :, position : position + 1] = self._heads(
            x[:, None]
        )
        keys, values = cache[:, :, :, : position + 1]
        mixed = F.scaled_dot_product_attention(query, keys, values)
        return x + self.out(mixed.flatten(1))

    def _heads(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries, keys and values of tokens (B, N, C), each (B, heads, N, C / heads)."""
        qkv = self.qkv(self.norm(tokens)).unflatten(2, (3, self.num_heads, -1))
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        return query, key, value


def _attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """
    Causal attention of (B, heads, N, C / heads); on a CPU in float32 where an autocast would take bfloat16.

    There, torch's kernel for bfloat16 takes six times as long on the 64 positions of a sketch, and no less on the 1024
    of a grid.
    """
    if query.device.type != "cpu" or query.dtype != torch.bfloat16:
        return F.scaled_dot_product_attention(query, key, value, is_causal=True)
    with torch.autocast("cpu", enabled=False):
        mixed = F.scaled_dot_product_attention(query.float(), key.float(), value.float(), is_causal=True)
    return mixed.to(query.dtype)
