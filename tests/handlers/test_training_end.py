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
import torch
from ignite.engine import Engine, Events
from monai.engines import Evaluator
from monai.handlers import ValidationHandler
from tqdm import tqdm

from monai_vqprior.errors import InputError
from monai_vqprior.handlers import CosineBudget, EarlyStop, FinalValidation, TrainingProgress, schedule

MakeValidator = Callable[[Sequence[float]], Evaluator]
LENGTH = 4


def trainer_for(validator: Evaluator, interval: int = 1) -> Engine:
    """A training engine that does nothing and validates each ``interval`` epochs."""
    trainer = Engine(lambda engine, batch: {"loss": torch.tensor(0.25)})
    ValidationHandler(interval, validator).attach(trainer)
    return trainer


def stop_at(trainer: Engine, iteration: int) -> None:
    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=iteration), lambda engine: engine.terminate())


class TestFinalValidation:
    @pytest.mark.parametrize(
        ("interval", "epochs", "stop", "seen"),
        [
            (1, 3, None, [1, 2, 3]),
            (2, 4, None, [2, 4]),
            (2, 5, None, [2, 4, 5]),
            (3, 2, None, [2]),
            (1, 9, 2 * LENGTH + 1, [1, 2, 3]),  # stopped inside the third epoch
            (2, 9, 2 * LENGTH + 3, [2, 3]),
            (1, 9, 2, [1]),
        ],
    )
    def test_validates_the_last_epoch_once(
        self, make_validator: MakeValidator, interval: int, epochs: int, stop: int | None, seen: list[int]
    ) -> None:
        validator = make_validator([0.5] * 9)
        trainer = trainer_for(validator, interval)
        FinalValidation(validator).attach(trainer)
        if stop is not None:
            stop_at(trainer, stop)
        trainer.run([None] * LENGTH, max_epochs=epochs)
        assert validator.seen == seen


class TestEarlyStop:
    @pytest.mark.parametrize(
        ("scores", "patience", "smaller_is_better", "epochs"),
        [
            ([0.1, 0.2, 0.2, 0.15, 0.3, 0.4], 2, False, 4),
            ([0.1, 0.2, 0.2, 0.3, 0.3, 0.2], 2, False, 6),
            ([0.1, 0.2, 0.1, 0.3, 0.2, 0.2], 1, False, 3),
            ([0.4, 0.3, 0.3, 0.35, 0.2, 0.1], 2, True, 4),
            ([0.6, 0.5, 0.4, 0.3, 0.2, 0.1], 1, True, 6),
            ([0.6, 0.5, 0.4, 0.3, 0.2, 0.1], 0, False, 6),
        ],
    )
    def test_stops_after_so_many_validations_without_improvement(
        self,
        make_validator: MakeValidator,
        scores: list[float],
        patience: int,
        smaller_is_better: bool,
        epochs: int,
    ) -> None:
        validator = make_validator(scores)
        trainer = trainer_for(validator)
        EarlyStop(validator, "score", patience, smaller_is_better).attach(trainer)
        trainer.run([None] * LENGTH, max_epochs=6)
        assert validator.seen == list(range(1, epochs + 1))

    def test_negative_patience(self, make_validator: MakeValidator) -> None:
        with pytest.raises(InputError, match="patience must not be negative, got -1"):
            EarlyStop(make_validator([]), "score", -1)


class TestTrainingProgress:
    @pytest.fixture(autouse=True)
    def _no_open_bar(self) -> None:
        """Bars are found in a class variable of tqdm while they are open."""
        assert not tqdm._instances

    def run(self, validator: Evaluator, interval: int = 1, stop: int | None = None) -> None:
        trainer = trainer_for(validator, interval)
        budget = CosineBudget(torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0))
        budget.attach(trainer)
        TrainingProgress(budget, validator, "vqvae").attach(trainer)
        if stop is not None:
            stop_at(trainer, stop)
        trainer.run([None] * LENGTH, max_epochs=6)

    def test_prints_a_line_a_validation(
        self, make_validator: MakeValidator, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.run(make_validator([0.5, 0.91234567, 12]), interval=2)
        output, shown = capsys.readouterr()
        assert output.splitlines() == [
            "vqvae epoch 2: score 0.5",
            "vqvae epoch 4: score 0.9123",
            "vqvae epoch 6: score 12",
        ]
        assert "vqvae 100%" in shown  # the bar goes to the other stream

    @pytest.mark.parametrize("stop", [None, LENGTH + 1])
    def test_closes_its_bar(
        self, make_validator: MakeValidator, capsys: pytest.CaptureFixture[str], stop: int | None
    ) -> None:
        self.run(make_validator([0.5] * 6), stop=stop)
        assert not tqdm._instances
        assert capsys.readouterr().err.endswith("\n")

    def test_shows_epoch_loss_and_share(
        self, make_validator: MakeValidator, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shown: list[tuple[float, str]] = []
        update = tqdm.update

        def spy(bar: tqdm, step: float) -> None:
            update(bar, step)
            shown.append((bar.n, bar.postfix))

        monkeypatch.setattr(tqdm, "update", spy)
        self.run(make_validator([0.5] * 6))
        # 6 epochs of 4 iterations: what was done before each, and the end.
        expected = [(pytest.approx(i / 24), f"epoch {i // 4 + 1}, loss 0.2500") for i in range(24)]
        assert shown == [*expected, (pytest.approx(1), "epoch 6, loss 0.2500")]

    def test_only_process_0_shows_anything(
        self, make_validator: MakeValidator, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(schedule.idist, "get_rank", lambda: 1)
        self.run(make_validator([0.5] * 6))
        assert capsys.readouterr() == ("", "")
