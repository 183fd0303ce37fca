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
import math
import operator
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch.nn as nn
from ignite.engine import Engine, Events

from monai_vqprior.runs import is_finite, unwrap, write_checkpoint

__all__ = ["BestWeights"]

logger = logging.getLogger(__name__)


class BestWeights:
    """
    Keep the weights of the epoch with the best validation metric, as a plain state dictionary.

    :class:`monai.handlers.CheckpointSaver` forgets its best value when training is resumed, unless it writes it into
    the weights' own file; this handler has a ``state_dict`` that goes with the state of the training
    (:class:`LastState`). A value that is not finite is never the best, nor are weights that are not.

    Args:
        path: file to write.
        network: whose weights.
        metric: name of the metric of the engine that the handler is attached to.
        smaller_is_better: whether the smallest value is the best.
    """

    def __init__(
        self, path: str | os.PathLike[str], network: nn.Module, metric: str, smaller_is_better: bool = False
    ) -> None:
        self.path = Path(path)
        self.network = network
        self.metric = metric
        self.better = operator.lt if smaller_is_better else operator.gt
        self.best: float | None = None

    def attach(self, engine: Engine) -> None:
        """Attach to the validating engine."""
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Save when the metric is better than ever before, or the first that is a number."""
        value = float(engine.state.metrics[self.metric])
        if not math.isfinite(value) or (self.best is not None and not self.better(value, self.best)):
            return
        network = unwrap(self.network)
        if is_finite(network):
            write_checkpoint(self.path, network.state_dict())
            self.best = value

    def state_dict(self) -> dict[str, Any]:
        """The best value so far."""
        return {"best": self.best}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a best value; one that is no number, which earlier versions kept, is none."""
        best = state["best"]
        self.best = best if best is not None and math.isfinite(best) else None
