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

from typing import Any

__all__ = ["STUDY"]

CODEBOOK = "codebook"
NETWORK = "network_def#_target_"
LOSS = "train#loss"

#: designs of the autoencoder, each a change to the bundle's train.json.
STUDY: dict[str, dict[str, Any]] = {
    "default": {},
    # codebooks
    "codebook: without entropy loss": {f"{CODEBOOK}#entropy_weight": 0.0},
    "codebook: entropy loss 0.1": {f"{CODEBOOK}#entropy_weight": 0.1},
    "codebook: cosine": {f"{CODEBOOK}#_target_": "monai_vqprior.networks.CosineCodebook"},
    "codebook: FSQ (8, 8, 8)": {CODEBOOK: {"_target_": "monai_vqprior.networks.FSQCodebook", "levels": [8, 8, 8]}},
    "codebook: rotation trick": {f"{CODEBOOK}#gradient": {"_target_": "monai_vqprior.networks.RotationTrick"}},
    "codebook: background left out": {"background": 0.02},
    "codes: length 4": {"embedding_dim": 4},
    "codes: length 16": {"embedding_dim": 16},
    "codes: length 32": {"embedding_dim": 32},
    "codes: 256": {"num_embeddings": 256},
    "codes: 1024": {"num_embeddings": 1024},
    "codes: 4096": {"num_embeddings": 4096},
    # equal bits in another place
    "grid: 64 x 64 of 5 codes": {"patch_size": 2, "num_embeddings": 5},
    "grid: 16 x 16 of 4096 codes": {"patch_size": 8, "num_embeddings": 4096},
    "grid: residual, 32 x 16 codes": {
        CODEBOOK: {"_target_": "benchmarks.designs.ResidualCodebook", "first": 32, "second": 16}
    },
    "grid: two levels, 108 and 512 codes": {
        NETWORK: "benchmarks.designs.TwoLevelVQ",
        "network_def#top": 512,
        "num_embeddings": 108,
        "validate#additional_metrics#codes_used#num_embeddings": 620,
        "validate#additional_metrics#perplexity#num_embeddings": 620,
    },
    # the network
    "network: width 32": {"channels": [32]},
    "network: width 96": {"channels": [96]},
    "network: width 128": {"channels": [128]},
    "network: 1 block, then 2": {"num_encoder_blocks": 1, "num_decoder_blocks": 2},
    "network: 4 blocks, then 8": {"num_encoder_blocks": 4, "num_decoder_blocks": 8},
    "network: two levels, 32 and 64 wide": {
        "patch_size": 2,
        "channels": [32, 64],
        "num_encoder_blocks": 1,
        "num_decoder_blocks": [1, 2],
    },
    "network: two levels, 32 and 128 wide": {
        "patch_size": 2,
        "channels": [32, 128],
        "num_encoder_blocks": [1, 2],
        "num_decoder_blocks": [1, 3],
    },
    "network: global context": {NETWORK: "benchmarks.designs.ContextVQ"},
    "network: attention": {NETWORK: "benchmarks.designs.AttentionVQ"},
    "network: no normalization": {NETWORK: "benchmarks.designs.OtherNormVQ", "network_def#norm": "none"},
    "network: one group a norm": {NETWORK: "benchmarks.designs.OtherNormVQ", "network_def#norm": "layer"},
    "stem: patchify": {NETWORK: "benchmarks.designs.OtherResamplingVQ", "network_def#down": "patchify"},
    "stem: strided": {NETWORK: "benchmarks.designs.OtherResamplingVQ", "network_def#down": "strided"},
    "up-sampling: transposed": {NETWORK: "benchmarks.designs.OtherResamplingVQ", "network_def#up": "transposed"},
    "up-sampling: nearest": {NETWORK: "benchmarks.designs.OtherResamplingVQ", "network_def#up": "nearest"},
    "network: no encoder blocks": {"num_encoder_blocks": 0},
    # the loss
    "loss: without predictability": {"predictability_weight": 0.0},
    "loss: predictability 0.006": {"predictability_weight": 0.006},
    "loss: L1": {f"{LOSS}#ssim_weight": 0.0},
    "loss: SSIM": {f"{LOSS}#l1_weight": 0.0},
    "loss: L1 and SSIM": {f"{LOSS}#ssim_weight": 1.0, f"{CODEBOOK}#entropy_weight": 0.02},
    "loss: L1 and 4 x SSIM": {f"{LOSS}#ssim_weight": 4.0},
    "loss: and spectral": {
        f"{LOSS}#_target_": "benchmarks.designs.SpectralTokenizerLoss",
        f"{LOSS}#spectral_weight": 1.0,
    },
}
