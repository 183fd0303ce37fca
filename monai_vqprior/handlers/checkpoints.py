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
import operator
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
import torch.nn as nn
from ignite.engine import Engine, Events

from monai_vqprior.engines import read_checkpoint, unwrap
from monai_vqprior.errors import AlreadyDoneError, InputError
from monai_vqprior.files import atomic_path

__all__ = ["BestWeights", "LastState"]


def _save(path: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint from process 0, under a temporary name first."""
    if idist.get_rank() == 0:
        with atomic_path(path) as temporary:
            torch.save(content, temporary)


class BestWeights:
    """
    Keep the weights of the epoch with the best validation metric, as a plain state dictionary.

    :class:`monai.handlers.CheckpointSaver` forgets its best value when training is resumed, unless it writes it into
    the weights' own file; this handler has a ``state_dict`` that goes with the state of the training
    (:class:`LastState`).

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
        if self.best is None or math.isnan(self.best) or self.better(value, self.best):
            _save(self.path, unwrap(self.network).state_dict())
            self.best = value

    def state_dict(self) -> dict[str, Any]:
        """The best value so far."""
        return {"best": self.best}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a best value."""
        self.best = state["best"]


class LastState:
    """
    Keep the whole state of a training, so that it can be resumed where it stopped.

    Written at the end of each epoch, at the end of the training, and when Ctrl-C interrupts it, which is raised again.
    Attach it before all other handlers: what it loads, they may need when the training starts. It saves after them, so
    that the file holds what the validation of its epoch has changed.

    Args:
        path: file to write.
        objects: what to save beside the engine, by name; each has ``state_dict`` and ``load_state_dict``.
        resume: load the file when the training starts, and go on from there.
    """

    def __init__(self, path: str | os.PathLike[str], objects: Mapping[str, Any], resume: bool = False) -> None:
        self.path = Path(path)
        self.objects = {name: unwrap(x) if isinstance(x, nn.Module) else x for name, x in objects.items()}
        self.resume = resume

    def attach(self, engine: Engine) -> None:
        """Attach to the training engine."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self.interrupted)

    def start(self, engine: Engine) -> None:
        """Load where the training is resumed; attach what saves, last because all others are attached by now."""
        if self.resume:
            self.load(engine)
        for event in (Events.EPOCH_COMPLETED, Events.COMPLETED):
            if not engine.has_event_handler(self, event):
                engine.add_event_handler(event, self)

    def __call__(self, engine: Engine) -> None:
        """Save."""
        objects = {**self.objects, "trainer": engine}
        _save(self.path, {name: dict(thing.state_dict()) for name, thing in objects.items()})

    def load(self, engine: Engine) -> None:
        """
        Load, and keep the engine's own ``max_epochs``.

        Raises:
            InputError: when the file is of another network.
            AlreadyDoneError: when the training has had all its epochs.
        """
        content = read_checkpoint(self.path)
        max_epochs = engine.state.max_epochs
        try:
            for name, thing in self.objects.items():
                thing.load_state_dict(content[name])
            engine.load_state_dict(content["trainer"])
        except (KeyError, RuntimeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"{self.path} does not fit this training ({str(error).splitlines()[0]}): resume with the settings that "
                "it was started with."
            ) from error
        engine.state.max_epochs = max_epochs
        if max_epochs is not None and engine.state.epoch >= max_epochs:
            raise AlreadyDoneError(
                f"the run in {self.path} has had {engine.state.epoch} epochs: raise --max_epochs to go on."
            )

    def interrupted(self, engine: Engine, error: BaseException) -> None:
        """Save when a person interrupts, and raise again whatever it was."""
        if isinstance(error, KeyboardInterrupt):
            self(engine)
        raise error
