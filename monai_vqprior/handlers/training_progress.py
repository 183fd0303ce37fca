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
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from monai.engines import Evaluator
from tqdm import tqdm

from monai_vqprior.handlers.cosine_budget import CosineBudget

__all__ = ["TrainingProgress"]


class TrainingProgress:
    """
    A progress bar over the whole training, by epochs or by the clock, and a line for each validation.

    Args:
        schedule: the schedule, which has the completed share of the training.
        validator: the validating engine, whose metrics are printed.
        description: the word before the bar.
    """

    def __init__(self, schedule: CosineBudget, validator: Evaluator, description: str = "") -> None:
        self.schedule = schedule
        self.validator = validator
        self.description = description
        self._bar: tqdm | None = None

    def attach(self, engine: Engine) -> None:
        """Attach to the training engine; only process 0 shows anything."""
        if idist.get_rank() != 0:
            return
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self.finish)
        self.validator.add_event_handler(Events.COMPLETED, self.report)

    def start(self, engine: Engine) -> None:
        """Show the bar."""
        layout = "{desc} {percentage:3.0f}%|{bar}| [{elapsed}<{remaining}{postfix}]"
        self._bar = tqdm(total=1.0, desc=self.description, bar_format=layout, dynamic_ncols=True)

    def __call__(self, engine: Engine) -> None:
        """Advance the bar."""
        if self._bar is not None:
            output: Any = engine.state.output
            loss = (output[0] if isinstance(output, list) else output)["loss"]  # decollated, or as the step left it
            value = float(loss.detach() if isinstance(loss, torch.Tensor) else loss)
            self._bar.set_postfix_str(f"epoch {engine.state.epoch}, loss {value:.4f}", refresh=False)
            self._bar.update(self.schedule.done - self._bar.n)

    def report(self, engine: Engine) -> None:
        """Print the metrics of a validation above the bar."""
        values = ", ".join(f"{name} {_shown(value)}" for name, value in engine.state.metrics.items())
        tqdm.write(f"{self.description} epoch {engine.state.epoch}: {values}")

    def finish(self, engine: Engine) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.update(1.0 - self._bar.n)
            self._bar.close()


def _shown(value: float) -> str:
    """A metric as text; "no value" for a mean over nothing, such as the brain SSIM of black slices."""
    return f"{value:.4g}" if math.isfinite(value) else "no value"
