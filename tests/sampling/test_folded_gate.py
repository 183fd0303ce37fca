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

from monai_vqprior.sampling.folded_gate import gate_scale, matrix_and_1, out_matrix, through_gate


@torch.no_grad()
def test_folded_gate_and_convolution_are_those_of_a_gated_layer() -> None:
    torch.manual_seed(0)
    channels, number = 5, 7
    gate = torch.randn(number, 2 * channels, dtype=torch.float64)
    out = torch.nn.Conv2d(channels, channels, 1).double()
    passed = gate[:, :channels].tanh() * gate[:, channels:].sigmoid()
    expected = out(passed[:, :, None, None])[:, :, 0, 0]

    features = matrix_and_1(number, channels, gate)
    scaled = gate * gate_scale(gate[0])
    through_gate(scaled, *scaled.chunk(2, dim=1), features[:, :-1])
    torch.testing.assert_close(features[:, :-1], -passed)
    torch.testing.assert_close(features @ out_matrix(out), expected)
