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
"""Networks of random weights for tests of what draws with them."""

from __future__ import annotations

from typing import Any

import torch

from monai_vqprior.networks import AutoencoderVQ, EMACodebook, GatedPixelCNN

__all__ = ["random_networks"]


def random_networks(**options: Any) -> tuple[AutoencoderVQ, GatedPixelCNN]:
    """An autoencoder and a prior of 3 x 4 codes of 12, with weights so large that conditions and contexts matter."""
    torch.manual_seed(0)
    autoencoder = AutoencoderVQ(channels=(8,), codebook=EMACodebook(12, 4)).eval()
    prior = GatedPixelCNN(num_embeddings=12, spatial_size=(3, 4), channels=8, num_layers=2, kernel_size=3, **options)
    with torch.no_grad():
        for network in (autoencoder, prior):
            for name, parameter in network.named_parameters():
                if not name.endswith("bias"):
                    parameter.normal_(0, 0.5)
    return autoencoder, prior
