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

import logging
from collections.abc import Sequence
from typing import Any

import torch

from monai_vqprior.errors import InputError
from monai_vqprior.metrics import position_log_probabilities
from monai_vqprior.networks import CodeContext, GatedPixelCNN, HierarchicalPrior

__all__ = ["check_grids", "code_vectors", "start_prior", "start_sketches"]

logger = logging.getLogger(__name__)


def code_vectors(autoencoder: Any, num_embeddings: int, needed: bool = False) -> torch.Tensor | None:
    """
    The vectors of an autoencoder's codes, if it has them.

    Args:
        autoencoder: with a ``codebook`` that has a ``decode``, as :class:`~monai_vqprior.networks.AutoencoderVQ` has,
            or with the ``quantizer`` of :class:`monai.networks.nets.VQVAE`; any other network has none.
        num_embeddings: number of codes, K.
        needed: whether a prior cannot do without, since it has a sketch.

    Returns:
        (K, D), or None.

    Raises:
        InputError: when they are needed and missing.
    """
    decode = getattr(getattr(autoencoder, "codebook", None), "decode", None)
    quantizer = getattr(getattr(autoencoder, "quantizer", None), "quantizer", None)
    weight = getattr(getattr(quantizer, "embedding", None), "weight", None)
    if decode is not None:
        device = next(iter(autoencoder.state_dict().values())).device
        return decode(torch.arange(num_embeddings, device=device)[None])[0].T
    if isinstance(weight, torch.Tensor):
        return weight.detach()
    if needed:
        raise InputError(
            f"a sketch is made of the vectors of codes, and {type(autoencoder).__name__} has neither codebook.decode "
            "nor quantizer.quantizer.embedding to tell them: leave out --prior_sketch_block."
        )
    return None


def check_grids(grids: torch.Tensor, spatial_size: Sequence[int], num_embeddings: int, stride: int) -> None:
    """
    Refuse to train a prior on grids that are not what the settings say, as a network of another make has them.

    Args:
        grids: codes (N, *grid) of slices.
        spatial_size: of the slices.
        num_embeddings: number of codes, K.
        stride: pixels that one code stands for along each axis.

    Raises:
        InputError: naming the setting.
    """
    expected = tuple(size // stride for size in spatial_size)
    if tuple(grids.shape[1:]) != expected:
        raise InputError(
            f"the autoencoder makes grids of {tuple(grids.shape[1:])} codes, not {expected}: pass the pixels that one "
            f"of its codes stands for along each axis as --stride, {spatial_size[0] / grids.shape[1]:g}."
        )
    largest = int(grids.max())
    if largest >= num_embeddings:
        raise InputError(
            f"the autoencoder makes code {largest}, but num_embeddings is {num_embeddings}: pass its number."
        )


@torch.no_grad()
def start_prior(
    prior: GatedPixelCNN | HierarchicalPrior, grids: torch.Tensor, vectors: torch.Tensor | None, seed: int = 0
) -> None:
    """
    Initialize a prior with the codebook and with the histograms of the training codes.

    That is the similarity of codes (:meth:`~monai_vqprior.networks.GatedPixelCNN.start_at_codes`), also of those in
    neighboring grids (:meth:`~monai_vqprior.networks.CodeContext.start_at_codes`), where codes occur
    (:meth:`~monai_vqprior.networks.GatedPixelCNN.start_from`, for a network with ``position_logits``), and for a
    hierarchical prior the same of its sketches, once they are fitted to the grids.

    Args:
        prior: a new prior.
        grids: training grids (N, *spatial), integers in 0..K-1.
        vectors: the codes of the codebook, (K, D); None where there are none (:func:`code_vectors`), which leaves
            out which codes look alike.
        seed: seed of the sketches.

    Raises:
        ValueError: when a hierarchical prior is given no vectors.
    """
    if isinstance(prior, HierarchicalPrior):
        if vectors is None:
            raise ValueError("a hierarchical prior needs the vectors of the codes, got None.")
        device = prior.sketch.vectors.device
        prior.sketch.fit(grids.to(device), vectors.to(device), seed)
        start_sketches(prior, grids, seed)
        _start(prior.code_prior, grids, vectors)
        if isinstance(prior.code_prior.context_network, CodeContext):
            prior.code_prior.context_network.start_at_codes(prior.sketch.codebook.embedding, 0)
    else:
        if vectors is None:
            logger.warning("the autoencoder has no vectors of its codes: the prior begins without their similarity")
        _start(prior, grids, vectors)


@torch.no_grad()
def start_sketches(prior: HierarchicalPrior, grids: torch.Tensor, seed: int = 0) -> None:
    """
    Initialize the prior of the sketches, as :func:`start_prior` does, for sketches that are fitted.

    Args:
        prior: of which the prior of the sketches is new.
        grids: as in :func:`start_prior`.
        seed: as in :func:`start_prior`.
    """
    device = prior.sketch.vectors.device
    sketches = torch.cat([prior.sketch(part.to(device)) for part in grids.split(256)])
    start_prior(prior.sketch_prior, sketches, prior.sketch.codebook.embedding, seed)


def _start(prior: GatedPixelCNN, grids: torch.Tensor, vectors: torch.Tensor | None) -> None:
    if vectors is not None:
        prior.start_at_codes(vectors)
        network, number = prior.context_network, len(prior.context_names)
        if isinstance(network, CodeContext):
            for source in range(len(network.sources) - number, len(network.sources)):
                network.start_at_codes(vectors, source)
    if prior.position_logits is not None:
        prior.start_from(position_log_probabilities(grids, prior.num_embeddings))
