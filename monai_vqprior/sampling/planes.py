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

from collections.abc import Sequence

import torch

from monai_vqprior.sampling.prior_parts import SampledLayer

__all__ = ["PlaneStepper"]


class PlaneStepper:
    """
    The first stack of all layers of a prior of three dimensions, one plane after another along its axis.

    Args:
        layers: the layers of a prior.
        conditions: what to add to the gates of each layer, (B, 2C, 1, 1, 1), or None.
    """

    def __init__(self, layers: Sequence[SampledLayer], conditions: Sequence[torch.Tensor | None]) -> None:
        self._layers = layers
        self._conditions = conditions
        self._caches: list[torch.Tensor | None] = [None] * len(layers)

    def step(self, x: torch.Tensor) -> list[torch.Tensor]:
        """
        Pass the next plane through all layers.

        Args:
            x: its input, (B, C, 1, rows, L).

        Returns:
            the link to the stack of rows in each layer, (B, 2C, 1, rows, L).
        """
        links = []
        for i, (layer, condition) in enumerate(zip(self._layers, self._conditions, strict=True)):
            x, link, self._caches[i] = layer.step(0, x, self._caches[i], None, condition)
            links.append(link)
        return links
