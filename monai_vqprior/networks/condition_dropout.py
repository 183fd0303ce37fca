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

__all__ = ["drop_conditions", "drop_contexts"]


def drop_conditions(
    labels: torch.Tensor | None, values: torch.Tensor | None, probability: float
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """
    Withhold conditions at random, so that one network learns every mixture of them, and none at all.

    All conditions of a grid are withheld at once with the probability given; and each of several on its own with the
    same. Knowing the unconditional distribution too is what classifier-free guidance needs: Ho and Salimans,
    "Classifier-Free Diffusion Guidance" (2022), https://arxiv.org/abs/2207.12598.

    Args:
        labels: (B, number of labels), -1 where a class is missing, or None.
        values: (B, number of values), NaN where a value is missing, or None.
        probability: in [0, 1).

    Returns:
        labels and values with -1 and NaN where they were withheld; new tensors.
    """
    given = [tensor for tensor in (labels, values) if tensor is not None]
    number = sum(tensor.shape[1] for tensor in given)
    if probability <= 0 or number == 0:
        return labels, values
    batch, device = len(given[0]), given[0].device
    dropped = (torch.rand(batch, 1, device=device) < probability).expand(batch, number)
    if number > 1:  # for one condition, on its own and all at once are the same
        dropped = dropped | (torch.rand(batch, number, device=device) < probability)
    split = 0 if labels is None else labels.shape[1]
    if labels is not None:
        labels = labels.masked_fill(dropped[:, :split], -1)
    if values is not None:
        values = values.masked_fill(dropped[:, split:], torch.nan)
    return labels, values


def drop_contexts(known: torch.Tensor, probability: float) -> torch.Tensor:
    """
    Withhold spatial contexts at random.

    Args:
        known: (B,) bool, which grids have a context.
        probability: in [0, 1).

    Returns:
        (B,) bool, which grids keep it; a new tensor where any may lose it.
    """
    if probability <= 0:
        return known
    return known & (torch.rand(len(known), device=known.device) >= probability)
