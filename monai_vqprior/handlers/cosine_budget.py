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
import time
from collections.abc import Mapping
from typing import Any, cast

import ignite.distributed as idist
from ignite.engine import Engine, Events
from torch.optim import Optimizer

from monai_vqprior.errors import InputError

__all__ = ["CosineBudget", "cosine_factor"]


def cosine_factor(progress: float, final: float = 0.0) -> float:
    """Half a cosine from 1 at progress 0 down to ``final`` at progress 1."""
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))


class CosineBudget:
    """
    Learning rate with linear warm-up and cosine decay that ends when the training does: by epochs, or by the clock.

    With ``max_minutes`` the decay follows the wall clock and the training stops when the time is up, wherever in an
    epoch that is; time spent before an interruption counts. :class:`ignite.handlers.TimeLimit` counts
    from its construction, in whole seconds, and has no schedule. In distributed training process 0 has the clock.

    An engine that is run again for more epochs, as a federated client is round by round, has a decay for each run: at
    the end of the first it is where the learning rate is near 0.

    Args:
        optimizer: whose learning rates to set; its present ones are the peaks.
        max_minutes: length of the training in minutes; None for the engine's ``max_epochs``. When both are given, the
            one that is reached first ends the training.
        warmup_steps: iterations in which the learning rate rises from near 0.
        final: share of the peak that is left at the end.

    Raises:
        ValueError: when an argument is out of its range.
    """

    def __init__(
        self, optimizer: Optimizer, max_minutes: float | None = None, warmup_steps: int = 50, final: float = 0.01
    ) -> None:
        if max_minutes is not None and not max_minutes > 0:
            raise InputError(f"max_minutes must be positive, got {max_minutes}.")
        if warmup_steps < 0 or not 0 <= final <= 1:
            raise InputError(f"warmup_steps must not be negative and final in 0..1, got {warmup_steps} and {final}.")
        self.optimizer = optimizer
        self.max_seconds = None if max_minutes is None else 60.0 * max_minutes
        self.warmup_steps = warmup_steps
        self.final = final
        self.peaks = [group["lr"] for group in optimizer.param_groups]
        #: how much of the training is done, 0 to 1, as of the last iteration; the same in all processes.
        self.done = 0.0
        self._elapsed_before = 0.0
        self._started: float | None = None
        self._iterations_before = 0

    def attach(self, engine: Engine) -> None:
        """Attach to the training engine."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_STARTED, self)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.stop_in_time)

    def start(self, engine: Engine) -> None:
        """Start the clock, and a new decay where the engine has run before; a run resumed from a file keeps its own."""
        if self._started is not None:
            self._iterations_before = engine.state.iteration
        self._started = time.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds of training, those before a resumption included."""
        return self._elapsed_before + (0.0 if self._started is None else time.monotonic() - self._started)

    def progress(self, engine: Engine) -> float:
        """How much of the training is done, from 0; 1 or more at its end. All processes must ask together."""
        done = 0.0
        state = engine.state
        if state.max_epochs is not None and state.epoch_length:
            before = self._iterations_before
            done = (state.iteration - 1 - before) / (state.max_epochs * state.epoch_length - before)
        if self.max_seconds is not None:
            elapsed = self.elapsed
            if idist.get_world_size() > 1:
                elapsed = float(cast(float, idist.broadcast(elapsed, src=0)))
            done = max(done, elapsed / self.max_seconds)
        return done

    def __call__(self, engine: Engine) -> None:
        """Set the learning rates for the iteration that starts."""
        warmup = min(1.0, engine.state.iteration / (self.warmup_steps + 1))
        self.done = min(1.0, self.progress(engine))
        factor = warmup * cosine_factor(self.done, self.final)
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * factor

    def stop_in_time(self, engine: Engine) -> None:
        """Stop the training when the time is up."""
        if self.max_seconds is not None and self.progress(engine) >= 1:
            engine.terminate()

    def ended(self) -> str | None:
        """Why a training that is resumed from this state is over; None while it has time left."""
        if self.max_seconds is not None and self._elapsed_before >= self.max_seconds:
            return f"the run has had its time, {self._elapsed_before / 60:.1f} minutes: raise --max_minutes to go on"
        return None

    def state_dict(self) -> dict[str, Any]:
        """The seconds of training so far."""
        return {"elapsed": self.elapsed}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a number of seconds; the clock starts anew."""
        self._elapsed_before = float(state["elapsed"])
        self._started = time.monotonic() if self._started is not None else None
