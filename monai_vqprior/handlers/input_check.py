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
import os
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
import torch.nn as nn
from ignite.engine import Engine, Events

from monai_vqprior.handlers.best_weights import BestWeights
from monai_vqprior.runs import (
    AUTOENCODER_SETTINGS,
    POSITION_BITS,
    PRIOR_SETTINGS,
    locate,
    position_bits,
    position_table,
    read_reference,
    unlike,
    unwrap,
    write_reference,
)

__all__ = ["InputCheck", "ValidationReference"]

logger = logging.getLogger(__name__)


class ValidationReference:
    """
    Write down beside the best weights what the slices of the validation split come to, for :class:`InputCheck`.

    Args:
        path: the settings of the network.
        best: keeps the best weights; it is attached before.
        prior: a prior with a histogram of each position; None while an autoencoder is trained.
        grids: the code grids (N, *grid) of the validation split, for that histogram.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        best: BestWeights,
        prior: nn.Module | None = None,
        grids: torch.Tensor | None = None,
    ) -> None:
        self.path = Path(path)
        self.best = best
        self.prior = prior
        self.grids = grids

    def attach(self, engine: Engine) -> None:
        """Attach to the validating engine."""
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Write, when the weights of this validation are the best so far."""
        if float(engine.state.metrics[self.best.metric]) != self.best.best or idist.get_rank() != 0:
            return
        values: dict[str, torch.Tensor] = dict(getattr(engine.state, "metric_details", {}))
        if self.prior is not None and self.grids is not None:
            values |= position_bits(position_table(unwrap(self.prior).state_dict()), self.grids)
        write_reference(self.path, values)


class InputCheck:
    """
    Warn when the slices of a run are unlike those that the networks were trained on.

    The median over the slices is compared with what the slices of the validation split came to
    (:class:`ValidationReference`): by SSIM, by bits a code where the run has a prior, else by the bits of the histogram
    of each position, which needs no prior but its weights. So rotated slices, whose reconstructions are good, are found
    too. Weights that say nothing of the validation split are not checked by it.

    Args:
        autoencoder: the weights of the autoencoder.
        prior: the weights of the prior that rates the slices in this run; None where none does, and the histogram of
            the one beside the autoencoder is used, where there is one.
    """

    def __init__(self, autoencoder: str | os.PathLike[str], prior: str | os.PathLike[str] | None = None) -> None:
        found = locate("prior.pt", [Path(autoencoder).parent]) if prior is None else Path(prior)
        self.reference = read_reference(autoencoder, AUTOENCODER_SETTINGS)
        self._table: torch.Tensor | None = None
        if found is not None:
            self.reference = {**self.reference, **read_reference(found, PRIOR_SETTINGS)}
            if prior is None and POSITION_BITS in self.reference:
                self._table = position_table(found)
        self._bits: list[torch.Tensor] = []

    def attach(self, engine: Engine) -> None:
        """Attach to an engine whose output has the ``codes`` (B, *grid) of the slices, behind its metrics."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._bits.clear)
        if self._table is not None:
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._rate)
        engine.add_event_handler(Events.COMPLETED, self)

    def _rate(self, engine: Engine) -> None:
        output: Any = engine.state.output
        self._bits += (bits.cpu() for bits in position_bits(self._table, output["codes"]).values())

    def __call__(self, engine: Engine) -> None:
        """Compare, and warn in one line."""
        values: dict[str, torch.Tensor] = dict(getattr(engine.state, "metric_details", {}))
        if self._bits:
            values[POSITION_BITS] = torch.cat(self._bits)
        told = unlike(values, self.reference)
        if told:
            logger.warning(
                "these slices are unlike those of the training: median %s. Are they of the same contrast, orientation "
                "and place, without skull, on black?",
                "; ".join(told),
            )
