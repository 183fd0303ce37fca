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
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents

from monai_vqprior.errors import InputError, counted

__all__ = ["FiniteSteps"]

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
                "epoch %d: skipped %s, as loss or gradient was not finite, with %s",
                engine.state.epoch,
                counted(self._skipped, "step"),
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
