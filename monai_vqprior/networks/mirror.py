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

__all__ = ["MirroredCodes"]


class MirroredCodes(nn.Module):
    """
    What a causal network knows of the mirrored position: the code at the other end of the row, where it comes before.

    The halves of a brain are much alike, and convolutions cannot see from one to the other. Of a position x of a row of
    W codes, this embeds the code at W - 1 - x of the row before, and that of its own row if x lies in the second half.
    The mirrored axis is the last one, in slices from left to right. Both embeddings start at zero.

    Args:
        num_embeddings: number of codes, K.
        channels: channels of the embeddings, C.

    Example:
        >>> MirroredCodes(num_embeddings=16, channels=8)(torch.randint(16, (2, 4, 6))).shape
        torch.Size([2, 8, 4, 6])
    """

    def __init__(self, num_embeddings: int, channels: int) -> None:
        super().__init__()
        # The last one of each stands for a code that is not known, or not there.
        self.same_row = nn.Embedding(num_embeddings + 1, channels)
        self.row_before = nn.Embedding(num_embeddings + 1, channels)
        nn.init.zeros_(self.same_row.weight)
        nn.init.zeros_(self.row_before.weight)

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        """
        Embed the mirrored codes of all positions.

        Args:
            codes: (B, *spatial), integers in 0..K-1.

        Returns:
            (B, C, *spatial); position i depends on codes before i alone.
        """
        unknown = self.same_row.num_embeddings - 1
        mirrored = codes.flip([codes.dim() - 1])
        width = codes.shape[-1]
        place = torch.arange(width, device=codes.device)
        here = torch.where(2 * place > width - 1, mirrored, unknown)
        rows = codes.dim() - 2
        first = torch.full_like(mirrored.narrow(rows, 0, 1), unknown)
        before = torch.cat([first, mirrored.narrow(rows, 0, codes.shape[-2] - 1)], rows)
        return (self.same_row(here) + self.row_before(before)).movedim(-1, 1)

    def start_row(self, before: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor:
        """
        What is known before the first code of a row is drawn: the row before.

        Args:
            before: codes of the row before, (B, W); None for the first row of a plane.
            like: codes of this row, (B, W), for their shape alone.

        Returns:
            (W, B, C), with the embedding of an unknown code for what :meth:`step` adds.
        """
        unknown = self.same_row.num_embeddings - 1
        mirrored = torch.full_like(like, unknown) if before is None else before.flip(1)
        return F.embedding(mirrored.t(), self.row_before.weight) + self.same_row.weight[unknown]

    def step(self, position: int, row: torch.Tensor) -> torch.Tensor | float:
        """
        What is added at a position of a row, once the codes before it are drawn.

        Args:
            position: in the row.
            row: codes (B, W).

        Returns:
            (B, C); 0 in the first half.
        """
        other = row.shape[1] - 1 - position
        if other >= position:
            return 0.0
        return self.same_row(row[:, other]) - self.same_row.weight[-1]
