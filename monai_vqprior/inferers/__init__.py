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

from monai_vqprior.inferers.bits_cache import cached_bits, keep_bits
from monai_vqprior.inferers.code_cache import cached_grids, grids_of_rows, keep_grids
from monai_vqprior.inferers.features import decode_grids, pooled_encodings, rate_grids, reconstruct_images
from monai_vqprior.inferers.likelihood import code_log_likelihood, code_map, reading_order
from monai_vqprior.inferers.prior import VQPriorInferer, num_draws
from monai_vqprior.inferers.tokenizer import (
    ConstantInferer,
    MixedPrecisionInferer,
    TokenizerInferer,
    encode_given,
    encode_grids,
    encode_images,
    encode_views,
)
from monai_vqprior.sampling.draws import draw_codes, guide, keep_top_k, keep_top_p, sample_uniforms

__all__ = [
    "ConstantInferer",
    "MixedPrecisionInferer",
    "TokenizerInferer",
    "VQPriorInferer",
    "cached_bits",
    "cached_grids",
    "code_log_likelihood",
    "code_map",
    "decode_grids",
    "draw_codes",
    "encode_given",
    "encode_grids",
    "encode_images",
    "encode_views",
    "grids_of_rows",
    "guide",
    "keep_bits",
    "keep_grids",
    "keep_top_k",
    "keep_top_p",
    "num_draws",
    "pooled_encodings",
    "rate_grids",
    "reading_order",
    "reconstruct_images",
    "sample_uniforms",
]
