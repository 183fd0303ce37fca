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

import itertools
import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn as nn
from ignite.engine import Events
from monai.engines import SupervisedTrainer
from monai.engines.workflow import Workflow
from torch.utils.data import DataLoader

from monai_vqprior.data import CodeGridDataset, ResumableSampler
from monai_vqprior.engines import PrepareBatchSlices
from monai_vqprior.errors import InputError
from monai_vqprior.handlers import FiniteSteps, StepSeeds

NAN = float("nan")


class Spoiled(nn.Module):
    """A loss that is not finite, or whose gradient is not, in given calls, counted from 1."""

    def __init__(self, bad: set[int], factor: float) -> None:
        super().__init__()
        self.bad, self.factor, self.calls = bad, factor, 0

    def forward(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        loss = (prediction - target).square().mean()
        if self.calls not in self.bad:
            return loss
        # The square root has an infinite gradient at 0, and a value that is fine.
        return loss * self.factor if self.factor else (0 * loss).sqrt()


def trainer_of(bad: set[int], factor: float, handler: FiniteSteps | None, steps: int = 6) -> SupervisedTrainer:
    torch.manual_seed(0)
    network = nn.Conv2d(1, 1, 3, padding=1)
    batches = [{"image": torch.rand(2, 1, 5, 5), "path": [f"a{i}.png", f"b{i}.png"]} for i in range(steps)]
    return SupervisedTrainer(
        device="cpu",
        max_epochs=1,
        train_data_loader=batches,
        network=network,
        optimizer=torch.optim.AdamW(network.parameters(), lr=0.1, weight_decay=0.5, fused=True),
        loss_function=Spoiled(bad, factor),
        prepare_batch=PrepareBatchSlices(),
        train_handlers=[] if handler is None else [handler],
        decollate=False,
        optim_set_to_none=True,
    )


class TestFiniteSteps:
    @pytest.mark.parametrize("factor", [NAN, float("inf"), 0.0])
    def test_a_skipped_step_leaves_everything_alone(self, factor: float) -> None:
        """Weights, moments, step counts and weight decay are those of the step before, and training goes on."""
        trainer = trainer_of({3, 4}, factor, FiniteSteps())
        seen: list[list[torch.Tensor]] = []

        @trainer.on(Events.ITERATION_COMPLETED)
        def remember(engine: Any) -> None:
            state = trainer.optimizer.state_dict()["state"]
            moments = [value for one in state.values() for value in one.values()]
            seen.append([x.clone() for x in [*trainer.network.state_dict().values(), *moments]])

        trainer.run()
        same = [all(torch.equal(a, b) for a, b in zip(*pair, strict=True)) for pair in itertools.pairwise(seen)]
        assert same == [False, True, True, False, False]
        assert all(bool(x.isfinite().all()) for x in seen[-1])

    def test_without_it_one_step_spoils_the_weights(self) -> None:
        trainer = trainer_of({3}, NAN, None)
        trainer.run()
        assert trainer.network.weight.isnan().all()

    def test_too_many_in_a_row_end_the_training(self) -> None:
        trainer = trainer_of({1, 3, 4, 5}, NAN, FiniteSteps(patience=3))
        with pytest.raises(
            InputError, match=r"3 steps in a row .* with a4\.png, b4\.png: lower --learning_rate, or look"
        ):
            trainer.run()
        assert trainer.state.iteration == 5
        assert all(bool(x.isfinite().all()) for x in trainer.network.parameters())

    def test_one_line_tells_of_an_epoch(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING):
            trainer_of({2, 5}, NAN, FiniteSteps()).run()
        lines = [record.getMessage() for record in caplog.records if "skipped" in record.getMessage()]
        assert len(lines) == 1
        assert "epoch 1: skipped 2 steps, as" in lines[0]
        assert "a1.png, b1.png, a4.png, b4.png" in lines[0]

    def test_good_training_is_silent_and_the_same(self, caplog: pytest.LogCaptureFixture) -> None:
        with_handler, without = trainer_of(set(), 1, FiniteSteps()), trainer_of(set(), 1, None)
        with caplog.at_level(logging.WARNING):
            with_handler.run()
        without.run()
        assert not caplog.records
        assert torch.equal(with_handler.network.weight, without.network.weight)

    def test_steps_in_a_row_go_on_after_a_resumption(self) -> None:
        handler = FiniteSteps(patience=3)
        handler.load_state_dict({"in_a_row": 2})
        with pytest.raises(InputError, match="3 steps in a row"):
            trainer_of({1}, NAN, handler).run()
        assert handler.state_dict() == {"in_a_row": 3}

    def test_patience(self) -> None:
        with pytest.raises(InputError, match="patience must be at least 1, got 0"):
            FiniteSteps(0)


class TestStepSeeds:
    def draws(self, epochs: int, start: int = 0, waste: Callable[[], object] = lambda: None) -> dict[int, list[Any]]:
        """Per iteration: the codes of the batch, and what each generator draws in the step."""
        views = torch.arange(6 * 10).reshape(6, 10, 1, 1)
        dataset = CodeGridDataset(torch.arange(100, 110).reshape(10, 1, 1), views=views, seed=7)
        sampler = ResumableSampler(dataset, num_replicas=1, rank=0, seed=7)
        drawn: dict[int, list[Any]] = {}

        def update(engine: Any, batch: Any) -> dict[str, torch.Tensor]:
            waste()
            return {"loss": torch.zeros(1)}

        trainer = Workflow(
            "cpu", epochs, DataLoader(dataset, 2, sampler=sampler), iteration_update=update, decollate=False
        )
        StepSeeds(7).attach(trainer)
        if start:

            @trainer.on(Events.STARTED)
            def enter(engine: Any) -> None:
                engine.load_state_dict({"iteration": start, "epoch_length": 5, "max_epochs": epochs})
                sampler.skip(start % 5 * 2)

        @trainer.on(Events.ITERATION_STARTED)
        def draw(engine: Any) -> None:
            codes = engine.state.batch["codes"].flatten().tolist()
            shared = np.random.random()  # noqa: NPY002
            drawn[engine.state.iteration] = [codes, float(torch.rand(())), shared, random.random()]

        trainer.run()
        return drawn

    @pytest.mark.parametrize("start", [3, 5, 12])
    def test_what_is_drawn_depends_on_the_iteration_alone(self, start: int) -> None:
        whole = self.draws(3)
        resumed = self.draws(3, start, waste=lambda: (torch.rand(3), random.random()))
        assert resumed == {iteration: drawn for iteration, drawn in whole.items() if iteration > start}

    def test_nothing_is_drawn_twice(self) -> None:
        whole = list(self.draws(3).values())
        for draws in zip(*whole, strict=True):
            assert len({str(x) for x in draws}) == 15

    def test_workers_that_stay(self) -> None:
        dataset = CodeGridDataset(torch.zeros(4, 1, 1))
        loader = DataLoader(dataset, num_workers=1, persistent_workers=True)

        class Engine:
            data_loader = loader

        with pytest.raises(InputError, match="persistent_workers would repeat the augmentation of one epoch"):
            StepSeeds().attach(Engine())


def test_file_paths_are_not_asked_of_other_batches(tmp_path: Path) -> None:
    trainer = trainer_of({1}, NAN, FiniteSteps(1))
    for batch in trainer.data_loader:
        del batch["path"]
    with pytest.raises(InputError, match="with files that the data set does not name"):
        trainer.run()
