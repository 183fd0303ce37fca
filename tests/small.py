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
"""Settings of networks so small that tests train them in a second, on the slices of the fixture ``phantom``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["AUTOENCODER", "ON_CPU", "PRIOR", "QUICK", "words"]

ON_CPU: dict[str, Any] = {"device": "cpu", "amp": False}
AUTOENCODER: dict[str, Any] = {"spatial_size": 32, "channels": [8], "num_embeddings": 16, "embedding_dim": 4}
PRIOR: dict[str, Any] = {
    "prior_channels": 8,
    "prior_layers": 2,
    "prior_kernel_size": 3,
    "prior_sketch_block": 4,
    "prior_sketch_codes": 8,
    "prior_sketch_channels": 8,
    "prior_sketch_layers": 2,
    "prior_sketch_levels": 1,
    "prior_sketch_mirror": True,
}
#: both stages, an epoch each
QUICK: dict[str, Any] = {**ON_CPU, **AUTOENCODER, **PRIOR, "max_epochs": 1}


def words(settings: Mapping[str, Any]) -> list[str]:
    """Settings as the words of a command line."""
    return [word for key, value in settings.items() for word in (f"--{key}", str(value))]
