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

from collections.abc import Mapping
from typing import Any

from ignite.engine import Engine, Events
from monai.engines import Evaluator

from monai_vqprior.errors import InputError
from monai_vqprior.handlers.best_weights import BestWeights

__all__ = ["FinalValidation"]


class FinalValidation:
    """
    Validate where :class:`monai.handlers.ValidationHandler` leaves a training unmeasured: at its end, when it stops
    inside an epoch or between two intervals, and when it is resumed, where an interruption has cut a validation off.

    Args:
        validator: the validating engine.
        interval: epochs between the validations of the training; None where nothing but the last one may be owed.
        best: keeps the best weights; a training whose validations gave it none ends with an error.
    """

    def __init__(self, validator: Evaluator, interval: int | None = None, best: BestWeights | None = None) -> None:
        self.validator = validator
        self.interval = interval
        self.best = best
        #: iteration of the training at its last whole validation.
        self.validated: int | None = None

    def attach(self, engine: Engine) -> None:
        """Attach to the training engine, before handlers that save what the validation finds."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.COMPLETED, self)
        self.validator.add_event_handler(Events.COMPLETED, lambda validator: self._note(engine))

    def start(self, engine: Engine) -> None:
        """Run the validation of the epoch that a resumed training has ended with, if it is owed."""
        state = engine.state
        if self.interval is None or not state.epoch_length or engine.should_terminate:
            return
        epochs, rest = divmod(state.iteration, state.epoch_length)
        if rest == 0 and epochs % self.interval == 0 and self.owed(engine):
            self.validator.run(epochs)

    def owed(self, engine: Engine) -> bool:
        """Whether the weights of a training that has begun have not been validated."""
        return engine.state.iteration > 0 and self.validated != engine.state.iteration

    def __call__(self, engine: Engine) -> None:
        """
        Validate at the end of the training.

        Raises:
            InputError: when no validation has given a number.
        """
        if self.owed(engine):
            self.validator.run(engine.state.epoch)
        if self.best is not None and self.best.best is None:
            raise InputError(
                f"no validation gave a finite {self.best.metric}, so there are no weights to keep in {self.best.path}: "
                "lower --learning_rate, or look at the slices."
            )

    def _note(self, engine: Engine) -> None:
        self.validated = engine.state.iteration

    def state_dict(self) -> dict[str, Any]:
        """At which iteration the training was validated."""
        return {"validated": self.validated}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self.validated = state["validated"]
