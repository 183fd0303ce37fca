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

from collections.abc import Callable, Sequence

import pytest
from ignite.engine import Engine, Events
from monai.engines import Evaluator

MakeValidator = Callable[[Sequence[float]], Evaluator]


@pytest.fixture
def make_validator() -> MakeValidator:
    """Makes a validating engine whose metric ``score`` takes given values, one a run; ``seen`` lists the epochs."""

    def make(scores: Sequence[float]) -> Evaluator:
        validator = Evaluator(device="cpu", val_data_loader=[None], iteration_update=lambda engine, batch: {})
        validator.seen = []
        left = iter(scores)

        @validator.on(Events.EPOCH_COMPLETED)
        def measure(engine: Engine) -> None:
            validator.seen.append(engine.state.epoch)
            engine.state.metrics["score"] = next(left)

        return validator

    return make
