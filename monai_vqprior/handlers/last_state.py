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
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch.nn as nn
from ignite.engine import Engine, Events
from torch.optim import Optimizer

from monai_vqprior.data import ResumableSampler
from monai_vqprior.errors import AlreadyDoneError, InputError, counted
from monai_vqprior.handlers.interrupts import WholeSteps
from monai_vqprior.runs import is_finite, read_checkpoint, state_to_resume, unwrap, write_checkpoint

__all__ = ["LastState"]

logger = logging.getLogger(__name__)


class LastState:
    """
    Keep the whole state of a training, so that it can be resumed where it stopped.

    Written at the end of each epoch, at the end of the training, and when Ctrl-C interrupts it, which is raised again
    after the step that it finds running. The state of an earlier iteration is kept beside it, as ``*_before.pt``.
    Attach it before all other handlers: what it loads, they may need when the training starts. It saves after them, so
    that the file holds what the validation of its epoch has changed.

    Objects may say more of the training than their state: ``ended()`` why it is over, a sentence or None, and
    ``owed(engine)`` whether its end has not been validated (:class:`FinalValidation`).

    Args:
        path: file to write.
        objects: what to save beside the engine, by name; each has ``state_dict`` and ``load_state_dict``. A state that
            an earlier version wrote may lack what is neither a network nor an optimizer.
        resume: load the file when the training starts for the first time, and continue from there; where there is none,
            the training begins.
    """

    def __init__(self, path: str | os.PathLike[str], objects: Mapping[str, Any], resume: bool = False) -> None:
        self.path = Path(path)
        self.objects: dict[str, Any] = {
            name: unwrap(x) if isinstance(x, nn.Module) else x for name, x in objects.items()
        }
        self.resume = resume
        self._steps = WholeSteps()
        # The last iteration whose step has been made, and the one that the file is of.
        self._iteration = 0
        self._saved: int | None = None

    def attach(self, engine: Engine) -> None:
        """Attach to the training engine."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self.interrupted)

    def start(self, engine: Engine) -> None:
        """Load where the training is resumed; attach what saves, last because all others are attached by now."""
        resume, self.resume = self.resume, False  # an engine that is run again goes on with what it has
        state = state_to_resume(self.path) if resume else None
        if state is not None:
            if state != self.path:
                logger.warning("%s is missing: going on with %s", self.path, state)
            self.load(engine, state)
            self._saved = engine.state.iteration
        self._iteration = engine.state.iteration
        if not engine.has_event_handler(self):
            engine.add_event_handler(Events.EPOCH_COMPLETED | Events.COMPLETED, self)
            engine.add_event_handler(Events.ITERATION_STARTED, lambda engine: self._steps.begin())
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._end_step)

    def _end_step(self, engine: Engine) -> None:
        self._iteration = engine.state.iteration
        self._steps.end()

    def __call__(self, engine: Engine) -> None:
        """
        Save.

        Raises:
            InputError: when weights are not finite, or the file cannot be written.
        """
        for name, thing in self.objects.items():
            if isinstance(thing, nn.Module) and not is_finite(thing):
                raise InputError(
                    f"the weights of the {name} are not finite any more, and {self.path} stays as it was: lower "
                    "--learning_rate."
                )
        content = {name: dict(thing.state_dict()) for name, thing in {**self.objects, "trainer": engine}.items()}
        content["trainer"]["iteration"] = self._iteration
        write_checkpoint(self.path, content, keep_before=self._iteration != self._saved)
        self._saved = self._iteration

    def load(self, engine: Engine, path: Path) -> None:
        """
        Load a state, and keep the engine's own ``max_epochs``.

        Raises:
            InputError: when the file is of another network or other data.
            AlreadyDoneError: when the training is over.
        """
        content = read_checkpoint(path)
        max_epochs, epoch_length = engine.state.max_epochs, engine.state.epoch_length
        try:
            for name, thing in self.objects.items():
                if name in content or isinstance(thing, (nn.Module, Optimizer)):
                    thing.load_state_dict(content[name])
            engine.load_state_dict(content["trainer"])
        except InputError:
            raise
        except (KeyError, RuntimeError, ValueError, TypeError, AttributeError) as error:  # the file may say anything
            told = next(iter(str(error).splitlines()), type(error).__name__)
            raise InputError(
                f"{path} does not fit this training ({told}): resume with the settings that it was started with."
            ) from error
        missing = [name for name in self.objects if name not in content]
        if missing:
            logger.warning("%s is of an earlier version: it goes on without its %s", path, ", ".join(missing))
        engine.state.max_epochs = max_epochs
        reason = self._ended(engine)
        if reason is not None:
            if not any(thing.owed(engine) for thing in self._that_have("owed")):
                raise AlreadyDoneError(f"{reason}.")
            engine.terminate()
        elif epoch_length is not None and epoch_length != engine.state.epoch_length:
            raise InputError(
                f"{path} is of epochs of {engine.state.epoch_length} batches, these have {epoch_length}: resume with "
                "the data set, the batch_size and the number of processes that it was started with."
            )
        _skip_what_was_seen(engine)

    def _ended(self, engine: Engine) -> str | None:
        """Why there is nothing left to train, None while there is."""
        for thing in self._that_have("ended"):
            reason: str | None = thing.ended()
            if reason is not None:
                return reason
        state = engine.state
        if state.max_epochs is not None and state.epoch >= state.max_epochs:
            return f"the run in {self.path} has had {counted(state.epoch, 'epoch')}: raise --max_epochs to go on"
        return None

    def _that_have(self, method: str) -> list[Any]:
        """The objects with more to restore than their state."""
        return [thing for thing in self.objects.values() if hasattr(thing, method)]

    def interrupted(self, engine: Engine, error: BaseException) -> None:
        """Save when a person interrupts, unless in the middle of a step; and raise again whatever it was."""
        self._steps.release()
        if isinstance(error, KeyboardInterrupt) and not self._steps.within:
            self(engine)
        raise error


def _skip_what_was_seen(engine: Any) -> None:
    """Let a resumed epoch begin with the batch that would have come next, where the sampler can skip."""
    loader: Any = getattr(engine, "data_loader", None)
    if engine.state.epoch_length and isinstance(getattr(loader, "sampler", None), ResumableSampler):
        loader.sampler.skip(engine.state.iteration % engine.state.epoch_length * loader.batch_size)
