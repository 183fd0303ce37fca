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

import pytest
import torch

from monai_vqprior.networks import GatedLayer
from monai_vqprior.sampling.planes import PlaneStepper

CHANNELS = 4


def layers(number: int, kernel_size: int) -> list[GatedLayer]:
    torch.manual_seed(0)
    made = [GatedLayer(3, CHANNELS, kernel_size, last=i == number - 1).double().eval() for i in range(number)]
    for parameter in (p for layer in made for p in layer.parameters()):
        torch.nn.init.normal_(parameter, 0, 0.4)
    return made


@pytest.mark.parametrize("kernel_size", [3, 5])
@pytest.mark.parametrize("conditional", [False, True])
@torch.no_grad()
def test_links_of_all_planes_are_those_of_the_dense_stack(kernel_size: int, conditional: bool) -> None:
    stack = layers(3, kernel_size)
    x = torch.randn(2, CHANNELS, 5, 3, 4, dtype=torch.float64)
    condition = torch.randn(2, 2 * CHANNELS, 1, 1, 1, dtype=torch.float64) if conditional else None
    stepper = PlaneStepper(stack, [condition] * len(stack))
    planes = [stepper.step(plane) for plane in x.split(1, dim=2)]

    features = x
    for i, layer in enumerate(stack):
        gate = layer.convs[0](features)
        gate = gate if condition is None else gate + condition
        content, control = gate.chunk(2, dim=1)
        features = features + layer.outs[0](content.tanh() * control.sigmoid())
        torch.testing.assert_close(torch.cat([links[i] for links in planes], 2), layer.links[0](gate))
