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

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
import torch.nn as nn

from monai_vqprior.data import neighbor_names, without_distributions
from monai_vqprior.files import tell
from monai_vqprior.networks import resample_tables, transfer_conditions, transfer_contexts, without_sketches
from monai_vqprior.runs.prior_settings import SINGLE_SLICES
from monai_vqprior.runs.settings import PRIOR_SETTINGS, read_settings, settings_beside
from monai_vqprior.runs.weights import load_weights, read_weights, set_weights, unwrap

__all__ = ["load_pretrained"]


def load_pretrained(
    network: nn.Module,
    path: str | os.PathLike[str],
    settings: Mapping[str, Any] | None = None,
    start_sketches: Callable[[nn.Module], Any] | None = None,
) -> nn.Module:
    """
    Load the weights that fine-tuning starts from, also those of another grid, of another number of sketches, of other
    contexts or other conditions.

    What a prior has learned for each position is resampled to the grid of the network
    (:func:`~monai_vqprior.networks.resample_tables`), and its contexts and conditions become those of the network
    (:func:`~monai_vqprior.networks.transfer_contexts`, :func:`~monai_vqprior.networks.transfer_conditions`). A line
    says so. All else must fit.

    Args:
        network: the network.
        path: a state dictionary, or a checkpoint that holds one under ``model``, with its settings beside it.
        settings: the settings of this training, of which ``conditions`` counts; an autoencoder has none.
        start_sketches: initializes the prior of the sketches of a prior whose number of sketches is another than that
            of the weights (:func:`~monai_vqprior.networks.without_sketches`).

    Returns:
        the network.

    Raises:
        InputError: when the file cannot be read or is of another architecture.
    """
    if isinstance(network, torch.jit.ScriptModule):
        return load_weights(network, path)
    own = unwrap(network).state_dict()
    weights = read_weights(path)
    found = settings_beside(Path(path).parent, PRIOR_SETTINGS)
    told = {} if found is None else read_settings(found, codebooks=None)
    now = (settings or {}).get("conditions")
    changes = []
    weights, new = without_sketches(weights, own)
    like = {key: value for key, value in own.items() if key not in new}
    if new:
        changes.append("the prior of its sketches begins anew, with another number of sketches")
    contexts, grids = _context_names({**SINGLE_SLICES, **told}), list(getattr(unwrap(network), "context_names", ()))
    if now is not None and contexts != grids:
        weights = transfer_contexts(weights, like, contexts, grids)
        changes += _changed("contexts", contexts, grids)
    weights, sizes = resample_tables(weights, like)
    changes += sorted({_resampled(size, own[key].shape[2:]) for key, size in sizes.items()})
    before = told.get("conditions", [])
    if now is not None and without_distributions(before) != without_distributions(now):
        weights = transfer_conditions(weights, like, before, now)
        changes += _changed("conditions", *([condition["name"] for condition in some] for some in (before, now)))
    set_weights(network, weights | new, path)
    if new and start_sketches is not None:
        start_sketches(unwrap(network))
    if changes and idist.get_rank() == 0:
        tell(f"{path} is brought to this training: {'; '.join(changes)}")
    return network


def _resampled(before: Sequence[int], now: Sequence[int]) -> str:
    sizes = [" x ".join(map(str, size)) for size in (before, now)]
    return f"what it has learned for {sizes[0]} positions is resampled to {sizes[1]}"


def _context_names(settings: Mapping[str, Any]) -> list[str]:
    """Names of the grids of the context of a prior."""
    neighbors = neighbor_names(settings["neighbor_slices"] if settings["neighbor_context"] else 0)
    return [*neighbors, *(["given"] if settings["given_context"] else [])]


def _changed(kind: str, before: Sequence[str], now: Sequence[str]) -> list[str]:
    """What becomes of conditions or contexts, in words."""
    lost, new = ([name for name in one if name not in other] for one, other in ((before, now), (now, before)))
    told = {f"the {kind} left out": lost, f"new {kind}": new}
    return [f"{what} {', '.join(which)}" for what, which in told.items() if which]
