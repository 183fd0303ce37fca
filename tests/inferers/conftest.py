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

from collections.abc import Callable

import pytest
import torch
import torch.nn as nn

from monai_vqprior.networks import GatedPixelCNN

MakePrior = Callable[..., GatedPixelCNN]


class Plain(nn.Module):
    """The same network without a fast way to generate; it notes the sizes of the batches that pass."""

    def __init__(self, network: GatedPixelCNN) -> None:
        super().__init__()
        self.network = network
        self.spatial_size = network.spatial_size
        self.batches: set[int] = set()

    def forward(self, codes: torch.Tensor, **conditions: torch.Tensor) -> torch.Tensor:
        self.batches.add(len(codes))
        return self.network(codes, **conditions)


@pytest.fixture
def make_prior() -> MakePrior:
    """Makes small priors with random weights, whose logits depend on position, codes before and conditions."""

    def make(seed: int = 0, **arguments: object) -> GatedPixelCNN:
        torch.manual_seed(seed)
        settings = {"num_embeddings": 7, "spatial_size": 4, "channels": 8, "num_layers": 2, "kernel_size": 3}
        network = GatedPixelCNN(**(settings | arguments)).eval()
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                if name == "position" or not name.endswith("bias"):
                    parameter.normal_(0, 1 if parameter.dim() < 3 or name == "position" else 0.6)
        return network

    return make


@pytest.fixture
def plain() -> type[Plain]:
    """Makes the plain twin of a prior: the whole network runs for each position."""
    return Plain
