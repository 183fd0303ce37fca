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

from monai_vqprior.metrics import position_log_probabilities
from monai_vqprior.networks import GatedPixelCNN, HierarchicalPrior

__all__ = ["start_prior"]


@torch.no_grad()
def start_prior(
    prior: GatedPixelCNN | HierarchicalPrior, grids: torch.Tensor, vectors: torch.Tensor, seed: int = 0
) -> None:
    """
    Let the training of a prior begin with what is known before its first step.

    That is which codes look alike (:meth:`~monai_vqprior.networks.GatedPixelCNN.start_at_codes`), where codes occur
    (:meth:`~monai_vqprior.networks.GatedPixelCNN.start_from`, for a network with ``position_logits``), and for a
    hierarchical prior the same of its sketches, once they are fitted to the grids.

    Args:
        prior: a new prior.
        grids: training grids (N, *spatial), integers in 0..K-1.
        vectors: the codes of the codebook, (K, D).
        seed: seed of the sketches.
    """
    if isinstance(prior, HierarchicalPrior):
        device = prior.sketch.vectors.device
        prior.sketch.fit(grids.to(device), vectors.to(device), seed)
        sketches = torch.cat([prior.sketch(part.to(device)) for part in grids.split(256)])
        _start(prior.sketch_prior, sketches, prior.sketch.codebook.embedding)
        _start(prior.code_prior, grids, vectors)
    else:
        _start(prior, grids, vectors)


def _start(prior: GatedPixelCNN, grids: torch.Tensor, vectors: torch.Tensor) -> None:
    prior.start_at_codes(vectors)
    if prior.position_logits is not None:
        prior.start_from(position_log_probabilities(grids, prior.num_embeddings))
