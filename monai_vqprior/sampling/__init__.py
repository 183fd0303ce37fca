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

from monai_vqprior.sampling.conditioning import Conditioning
from monai_vqprior.sampling.grid_sampler import GridSampler
from monai_vqprior.sampling.prior_parts import SampledAttention, SampledLayer, SampledMirror, SampledPrior

__all__ = ["Conditioning", "GridSampler", "SampledAttention", "SampledLayer", "SampledMirror", "SampledPrior"]
