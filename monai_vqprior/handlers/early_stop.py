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

import math
from collections.abc import Mapping
from typing import Any

from ignite.engine import Engine, Events
from monai.engines import Evaluator

from monai_vqprior.errors import InputError

__all__ = ["EarlyStop"]


class EarlyStop:
    """
    Stop a training when validation has not improved for some time; attached to the trainer, in a configuration
    it needs no reference back to it as :class:`monai.handlers.EarlyStopHandler` does. It has a state, so that a
    training that is resumed again and again stops where an uncut one does. What is not finite is no improvement.

    Args:
        validator: the validating engine.
        metric: name of its metric.
        patience: validations without improvement after which to stop; 0 never stops.
        smaller_is_better: whether smaller values are improvements.
    """

    def __init__(self, validator: Evaluator, metric: str, patience: int = 0, smaller_is_better: bool = False) -> None:
        if patience < 0:
            raise InputError(f"patience must not be negative, got {patience}.")
        self.validator = validator
        self.metric = metric
        self.patience = patience
        self.sign = -1.0 if smaller_is_better else 1.0
        self.counter = 0
        self.best: float | None = None
        self._counted: int | None = None

    def attach(self, engine: Engine) -> None:
        """Attach to the training engine."""
        if self.patience:
            self.validator.add_event_handler(Events.EPOCH_COMPLETED, lambda validator: self(engine))

    def __call__(self, engine: Engine) -> None:
        """Count a validation of the training engine, and stop it when there were enough."""
        # A validation that was interrupted after it was counted is run again, and not counted again.
        if self._counted != engine.state.iteration:
            self._counted = engine.state.iteration
            score = self.score(self.validator)
            if math.isfinite(score) and (self.best is None or score > self.best):
                self.best = score
                self.counter = 0
            else:
                self.counter += 1
        if self.counter >= self.patience:
            engine.terminate()

    def score(self, engine: Engine) -> float:
        """The metric, so that greater is better."""
        return self.sign * float(engine.state.metrics[self.metric])

    def ended(self) -> str | None:
        """Why a training that is resumed from this state has ended; None when it has not."""
        if self.patience and self.counter >= self.patience:
            return (
                f"early stopping has ended the run, after {self.counter} validations without improvement: raise "
                "--early_stop to go on"
            )
        return None

    def state_dict(self) -> dict[str, Any]:
        """The best score, and the validations since."""
        return {"best": self.best, "counter": self.counter, "counted": self._counted}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self.best, self.counter, self._counted = (state[name] for name in ("best", "counter", "counted"))
