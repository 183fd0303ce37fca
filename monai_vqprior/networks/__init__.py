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

from monai_vqprior.networks.attention import CausalAttention
from monai_vqprior.networks.autoencoder import AutoencoderVQ, PreactivationBlock
from monai_vqprior.networks.causal import CausalConv, GatedLayer
from monai_vqprior.networks.codebook import CosineCodebook, EMACodebook
from monai_vqprior.networks.context import CodeContext
from monai_vqprior.networks.fsq import FSQCodebook
from monai_vqprior.networks.gradients import RotationTrick, StraightThrough
from monai_vqprior.networks.hierarchical import HierarchicalPrior, make_prior, make_sketch_prior
from monai_vqprior.networks.mirror import MirroredCodes
from monai_vqprior.networks.pixelcnn import GatedPixelCNN
from monai_vqprior.networks.predictability import unpredicted_share
from monai_vqprior.networks.sketch import CodeSketch
from monai_vqprior.networks.transfer import resample_tables, transfer_conditions, transfer_contexts, without_sketches

__all__ = [
    "AutoencoderVQ",
    "CausalAttention",
    "CausalConv",
    "CodeContext",
    "CodeSketch",
    "CosineCodebook",
    "EMACodebook",
    "FSQCodebook",
    "GatedLayer",
    "GatedPixelCNN",
    "HierarchicalPrior",
    "MirroredCodes",
    "PreactivationBlock",
    "RotationTrick",
    "StraightThrough",
    "make_prior",
    "make_sketch_prior",
    "resample_tables",
    "transfer_conditions",
    "transfer_contexts",
    "unpredicted_share",
    "without_sketches",
]
