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
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine, Events
from monai.engines import Evaluator
from monai.handlers import ValidationHandler
from tqdm import tqdm

from monai_vqprior.errors import InputError
from monai_vqprior.handlers import (
    BestWeights,
    CosineBudget,
    EarlyStop,
    FinalValidation,
    TrainingProgress,
    training_progress,
)

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

    def test_a_training_without_any_number_ends_with_an_error(
        self, make_validator: MakeValidator, tmp_path: Path
    ) -> None:
        validator = make_validator([float("nan"), float("inf"), float("nan")])
        trainer = trainer_for(validator)
        best = BestWeights(tmp_path / "model.pt", torch.nn.Linear(1, 1), "score")
        best.attach(validator)
        FinalValidation(validator, 1, best).attach(trainer)
        with pytest.raises(InputError, match=r"no validation gave a finite score, .*model\.pt: lower --learning_rate"):
            trainer.run([None] * LENGTH, max_epochs=3)
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("interval", "validated", "seen"), [(1, 4, [2, 3]), (1, 8, [3]), (2, 0, [2, 3]), (3, 0, [3])]
    )
    def test_a_resumed_training_runs_what_is_owed_first(
        self, make_validator: MakeValidator, interval: int, validated: int, seen: list[int]
    ) -> None:
        """Two epochs were trained; the state tells which iteration was validated."""
        validator = make_validator([0.5] * 9)
        trainer = trainer_for(validator, interval)
        trainer.load_state_dict({"epoch": 2, "epoch_length": LENGTH, "max_epochs": 3})
        final = FinalValidation(validator, interval)
        final.load_state_dict({"validated": validated})
        final.attach(trainer)
        trainer.run([None] * LENGTH, max_epochs=3)
        assert validator.seen == seen
        assert final.state_dict() == {"validated": 3 * LENGTH}


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

    @pytest.mark.parametrize("cuts", [[1, 2, 3, 4, 5], [2], [3]])
    def test_a_resumed_training_stops_where_an_uncut_one_does(
        self, make_validator: MakeValidator, cuts: list[int]
    ) -> None:
        scores = [0.1, 0.2, 0.2, 0.15, 0.3, 0.4]
        stop = EarlyStop(make_validator([]), "score", 2)
        seen: list[int] = []
        for first, last in zip([0, *cuts], [*cuts, 6], strict=True):
            if stop.ended() is not None:
                break
            state = stop.state_dict()
            validator = make_validator(scores[first:])
            trainer = trainer_for(validator)
            stop = EarlyStop(validator, "score", 2)
            stop.attach(trainer)
            if first:
                stop.load_state_dict(state)
                trainer.load_state_dict({"epoch": first, "epoch_length": LENGTH, "max_epochs": last})
            trainer.run([None] * LENGTH, max_epochs=last)
            seen += validator.seen
        assert seen == [1, 2, 3, 4]
        assert "early stopping has ended the run" in (stop.ended() or "")

    def test_what_is_no_number_is_no_improvement(self, make_validator: MakeValidator) -> None:
        nan = float("nan")
        validator = make_validator([nan, 0.2, nan, nan, 0.9])
        trainer = trainer_for(validator)
        EarlyStop(validator, "score", 2).attach(trainer)
        trainer.run([None] * LENGTH, max_epochs=5)
        assert validator.seen == [1, 2, 3, 4]

    def test_a_validation_that_is_run_again_counts_once(self, make_validator: MakeValidator) -> None:
        """Ctrl-C came after it was counted and before it was over."""
        validator = make_validator([0.5, 0.4, 0.4])
        trainer = trainer_for(validator)
        stop = EarlyStop(validator, "score", 2)
        stop.attach(trainer)
        trainer.run([None] * LENGTH, max_epochs=2)
        validator.run(2)
        assert stop.counter == 1

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

    def test_a_mean_over_nothing_has_no_value(
        self, make_validator: MakeValidator, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.run(make_validator([float("nan"), float("inf"), 0.5]), interval=2)
        shown = capsys.readouterr().out.splitlines()
        assert [line.split("score ")[1] for line in shown] == ["no value", "no value", "0.5"]

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
        monkeypatch.setattr(training_progress.idist, "get_rank", lambda: 1)
        self.run(make_validator([0.5] * 6))
        assert capsys.readouterr() == ("", "")
