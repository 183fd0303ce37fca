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
import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data.utils import set_rnd
from monai.engines.utils import IterationEvents
from torch.utils.data import DataLoader

from monai_vqprior.data import mixed_seed
from monai_vqprior.errors import InputError

__all__ = ["FiniteSteps", "StepSeeds"]

logger = logging.getLogger(__name__)

# Names of files in a message.
_NAMES = 6


class FiniteSteps:
    """
    Skip the steps whose loss or gradient is not finite, and end a training that makes no others.

    Attached to a :class:`monai.engines.SupervisedTrainer`. After the backward pass the gradients of such a step are
    removed, so that the optimizer leaves weights, moments and weight decay alone. All processes skip it together. One
    line an epoch counts skipped steps. :class:`ignite.handlers.TerminateOnNan` ends a training at the first one, when
    the weights are lost already.

    An engine with a gradient scaler is left alone: the scaler skips such steps itself.

    Args:
        patience: steps in a row that may be skipped; the last of them ends the training.

    Raises:
        InputError: when ``patience`` is not positive.
    """

    def __init__(self, patience: int = 10) -> None:
        if patience < 1:
            raise InputError(f"patience must be at least 1, got {patience}.")
        self.patience = patience
        #: steps skipped since one that was not.
        self.in_a_row = 0
        self._skipped = 0
        self._names: dict[str, None] = {}

    def attach(self, engine: Engine) -> None:
        """Attach to the training engine."""
        if getattr(engine, "scaler", None) is None:
            engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)
            engine.add_event_handler(Events.EPOCH_COMPLETED | Events.COMPLETED, self.report)

    def __call__(self, engine: Any) -> None:
        """
        Look at the step between its backward pass and the optimizer.

        Raises:
            InputError: after too many skipped steps in a row.
        """
        if self._is_finite(engine):
            self.in_a_row = 0
            return
        engine.optimizer.zero_grad(set_to_none=True)
        self.in_a_row += 1
        self._skipped += 1
        names = _names_of(engine.state.batch)
        self._names.update(dict.fromkeys(names))
        if self.in_a_row >= self.patience:
            raise InputError(
                f"{self.in_a_row} steps in a row had a loss or gradient that is not finite, the last of them with "
                f"{_listed(names)}: lower --learning_rate, or look at these files."
            )

    def _is_finite(self, engine: Any) -> bool:
        """Whether loss and gradients of this step are finite, in all processes."""
        parameters = chain.from_iterable(group["params"] for group in engine.optimizer.param_groups)
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        size = norm + engine.state.output["loss"].detach()
        if idist.get_world_size() > 1:
            # Gradients are those of all processes, losses are their own.
            size = idist.all_reduce(size)
        return math.isfinite(float(size))

    def report(self, engine: Engine) -> None:
        """Tell of the steps that were skipped since the last report."""
        if self._skipped and idist.get_rank() == 0:
            logger.warning(
                "epoch %d: %d steps were skipped, as loss or gradient was not finite, with %s",
                engine.state.epoch,
                self._skipped,
                _listed(list(self._names)),
            )
        self._skipped = 0
        self._names.clear()

    def state_dict(self) -> dict[str, Any]:
        """How many steps in a row have been skipped."""
        return {"in_a_row": self.in_a_row}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self.in_a_row = int(state["in_a_row"])


def _names_of(batch: Any) -> list[str]:
    """Names of the files of a batch, from all processes."""
    known = batch if isinstance(batch, Mapping) else {}
    own: Sequence[Any] = known.get("path", known.get("image", ()))
    names = [name for name in own if isinstance(name, str)] if isinstance(own, (list, tuple)) else []
    if idist.get_world_size() > 1:
        # One text a process: ignite gathers texts.
        names = [name for text in _gathered("\n".join(names)) for name in text.split("\n") if name]
    return names


def _gathered(text: str) -> Iterator[str]:
    """A text of each process."""
    everything: Any = idist.all_gather(text)
    yield from everything


def _listed(names: Sequence[str]) -> str:
    """Some names, and how many there are beside them."""
    if not names:
        return "files that the data set does not name"
    more = f" and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
    return ", ".join(names[:_NAMES]) + more


class StepSeeds:
    """
    Seed all random numbers of a training by where it is, so that a resumed run draws what an uncut one draws.

    PyTorch, NumPy and Python are seeded before each batch is fetched and again before each step by (seed, process,
    iteration): what codebook, dropout and withheld conditions draw depends on nothing that happened before. The data
    set is given the epoch, if it has ``set_epoch`` as :class:`~monai_vqprior.data.SliceDataset`. The random
    transforms of any other data set are seeded at the beginning of each epoch.

    Args:
        seed: seed of the training.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def attach(self, engine: Any) -> None:
        """
        Attach to the training engine.

        Raises:
            InputError: when the data loader keeps its workers, whose copies of the data set would stay in one epoch.
        """
        loader = getattr(engine, "data_loader", None)
        if isinstance(loader, DataLoader):
            if loader.persistent_workers:
                raise InputError("persistent_workers would repeat the augmentation of one epoch: leave it false.")
            if loader.generator is None:
                # Of its own: to begin a pass would draw from PyTorch's generator, and a resumed run begins more often.
                loader.generator = torch.Generator()
            engine.add_event_handler(Events.EPOCH_STARTED, self.start_epoch, loader)
        engine.add_event_handler(Events.EPOCH_STARTED | Events.GET_BATCH_STARTED, self, 0)
        engine.add_event_handler(Events.GET_BATCH_COMPLETED, self, 1)

    def start_epoch(self, engine: Engine, loader: DataLoader) -> None:
        """Seed what serves the whole epoch: the data set and the workers."""
        seed = mixed_seed(self.seed, idist.get_rank(), engine.state.epoch)
        if loader.generator is not None:
            loader.generator.manual_seed(seed)
        if hasattr(loader.dataset, "set_epoch"):
            loader.dataset.set_epoch(engine.state.epoch)
        else:
            set_rnd(loader.dataset, seed)

    def __call__(self, engine: Engine, purpose: int) -> None:
        """Seed for the next iteration: for its batch (0), for its step (1)."""
        # The engine counts the iteration after the batch is there.
        seed = mixed_seed(self.seed, idist.get_rank(), engine.state.iteration + 1, purpose)
        # ignite.utils.manual_seed does the same, and looks for torch_xla each time.
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002, transforms of others use the generator that all share
        random.seed(seed)
