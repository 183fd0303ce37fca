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

import errno
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
import torch.nn as nn
from ignite.engine import Engine, Events
from monai.engines import Evaluator, SupervisedTrainer
from monai.handlers import ValidationHandler

from monai_vqprior.engines import PrepareBatchSlices
from monai_vqprior.errors import AlreadyDoneError, InputError
from monai_vqprior.handlers import BestWeights, CosineBudget, FinalValidation, LastState

MakeValidator = Callable[[Sequence[float]], Evaluator]
BATCHES = [{"image": batch} for batch in torch.rand(3, 4, 1, 6, 6, generator=torch.manual_seed(5))]
SCORES = (0.3, 0.7, 0.5, 0.6, 0.1)


class Training:
    """A small training with everything that a resumption has to bring back; the order of its data is fixed."""

    def __init__(self, folder: Path, validator: Evaluator, max_epochs: int = 4, resume: bool = False, width: int = 4):
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.SiLU(), nn.Conv2d(width, 1, 1))
        optimizer = torch.optim.AdamW(self.network.parameters(), lr=0.05)
        schedule = CosineBudget(optimizer, warmup_steps=3)
        self.best = BestWeights(folder / "model.pt", self.network, "score")
        self.best.attach(validator)
        objects = {"model": self.network, "optimizer": optimizer, "schedule": schedule, "best": self.best}
        self.trainer = SupervisedTrainer(
            device="cpu",
            max_epochs=max_epochs,
            train_data_loader=BATCHES,
            network=self.network,
            optimizer=optimizer,
            loss_function=nn.MSELoss(),
            prepare_batch=PrepareBatchSlices(),
            train_handlers=[
                LastState(folder / "last.pt", objects, resume),
                schedule,
                ValidationHandler(1, validator),
                FinalValidation(validator),
            ],
            decollate=False,
        )

    def run(self, failure: BaseException | None = None, at: int | None = None) -> Training:
        """Train; if a failure is given, it happens when iteration ``at`` starts."""
        if failure is not None:

            @self.trainer.on(Events.ITERATION_STARTED(once=at))
            def fail(engine: Engine) -> None:
                raise failure

        self.trainer.run()
        return self

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        return self.network.state_dict()


def assert_same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> None:
    assert one.keys() == two.keys()
    for key, value in one.items():
        assert torch.equal(value, two[key]), key


class TestBestWeights:
    @pytest.mark.parametrize(
        ("smaller_is_better", "expected"),
        [(False, [0.3, 0.7, 0.7, 0.7, 0.7]), (True, [0.3, 0.3, 0.3, 0.3, 0.1])],
    )
    def test_keeps_the_weights_of_the_best_validation(
        self, tmp_path: Path, make_validator: MakeValidator, smaller_is_better: bool, expected: list[float]
    ) -> None:
        network = nn.Linear(1, 1, bias=False)
        best = BestWeights(tmp_path / "models" / "model.pt", network, "score", smaller_is_better)
        validator = make_validator(SCORES)
        best.attach(validator)
        for epoch, score in enumerate(SCORES, 1):
            nn.init.constant_(network.weight, score)
            validator.run(epoch)
            kept = torch.load(tmp_path / "models" / "model.pt", weights_only=True)
            assert list(kept) == ["weight"]
            assert kept["weight"].item() == pytest.approx(expected[epoch - 1])
            assert best.state_dict() == {"best": expected[epoch - 1]}
        assert [path.name for path in tmp_path.rglob("*.pt")] == ["model.pt"]

    @pytest.mark.parametrize(("score", "saved"), [(0.6, False), (0.7, False), (0.8, True)])
    def test_goes_on_from_its_state(
        self, tmp_path: Path, make_validator: MakeValidator, score: float, saved: bool
    ) -> None:
        best = BestWeights(tmp_path / "model.pt", nn.Linear(1, 1), "score")
        best.load_state_dict({"best": 0.7})
        validator = make_validator([score])
        best.attach(validator)
        validator.run(1)
        assert (tmp_path / "model.pt").exists() == saved

    def test_what_is_no_number_is_never_the_best(self, tmp_path: Path, make_validator: MakeValidator) -> None:
        network = nn.Linear(1, 1, bias=False)
        best = BestWeights(tmp_path / "model.pt", network, "score")
        validator = make_validator([float("nan"), float("inf"), 0.5, float("nan"), 0.9, 0.4])
        best.attach(validator)
        for epoch, expected in enumerate([None, None, 3.0, 3.0, 3.0, 3.0], 1):
            # In the fifth the metric is fine, and the weights are not.
            nn.init.constant_(network.weight, float("inf") if epoch == 5 else epoch)
            validator.run(epoch)
            path = tmp_path / "model.pt"
            kept = torch.load(path, weights_only=True)["weight"].item() if path.exists() else None
            assert kept == expected
        assert best.state_dict() == {"best": 0.5}
        best.load_state_dict({"best": float("nan")})
        assert best.best is None

    def test_only_process_0_writes(
        self, tmp_path: Path, make_validator: MakeValidator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("monai_vqprior.runs.weights.idist.get_rank", lambda: 1)
        best = BestWeights(tmp_path / "model.pt", nn.Linear(1, 1), "score")
        validator = make_validator([0.5])
        best.attach(validator)
        validator.run(1)
        assert best.best == 0.5
        assert not list(tmp_path.iterdir())


class TestLastState:
    def test_a_training_that_was_cut_off_ends_like_one_that_was_not(
        self, tmp_path: Path, make_validator: MakeValidator
    ) -> None:
        whole = Training(tmp_path / "whole", make_validator(SCORES)).run()
        with pytest.raises(RuntimeError, match="power cut"):
            Training(tmp_path / "cut", make_validator(SCORES)).run(RuntimeError("power cut"), at=7)
        state = torch.load(tmp_path / "cut" / "last.pt", weights_only=True)
        assert state["trainer"]["iteration"] == 6
        validator = make_validator(SCORES[2:])
        resumed = Training(tmp_path / "cut", validator, resume=True).run()
        assert validator.seen == [3, 4]
        assert resumed.trainer.state.iteration == 12
        assert_same(resumed.weights, whole.weights)
        assert resumed.best.best == 0.7
        for name in ("model.pt", "last.pt"):
            kept = [torch.load(tmp_path / run / name, weights_only=True) for run in ("cut", "whole")]
            assert_same(*(x["model"] if name == "last.pt" else x for x in kept))

    def test_a_finished_training_goes_on_when_it_gets_more_epochs(
        self, tmp_path: Path, make_validator: MakeValidator
    ) -> None:
        Training(tmp_path, make_validator(SCORES), max_epochs=2).run()
        validator = make_validator(SCORES[2:])
        longer = Training(tmp_path, validator, max_epochs=4, resume=True).run()
        assert validator.seen == [3, 4]
        assert longer.trainer.state.max_epochs == 4

    @pytest.mark.parametrize("at", [4, 7])
    def test_state_knows_the_validation_of_its_own_epoch(
        self, tmp_path: Path, make_validator: MakeValidator, at: int
    ) -> None:
        # Otherwise a resumed training replaces better weights by worse ones.
        with pytest.raises(RuntimeError):
            Training(tmp_path, make_validator([0.9, 0.95])).run(RuntimeError("power cut"), at=at)
        state = torch.load(tmp_path / "last.pt", weights_only=True)
        assert state["best"]["best"] == {4: 0.9, 7: 0.95}[at]

    def test_state_knows_the_final_validation(self, tmp_path: Path, make_validator: MakeValidator) -> None:
        training = Training(tmp_path, make_validator([0.4, 0.8]))
        training.trainer.add_event_handler(Events.ITERATION_COMPLETED(once=5), lambda engine: engine.terminate())
        training.run()
        state = torch.load(tmp_path / "last.pt", weights_only=True)
        assert state["trainer"]["iteration"] == 5
        assert state["best"]["best"] == 0.8

    def test_an_interruption_is_saved_and_raised_again(self, tmp_path: Path, make_validator: MakeValidator) -> None:
        training = Training(tmp_path, make_validator(SCORES))
        with pytest.raises(KeyboardInterrupt):
            training.run(KeyboardInterrupt(), at=5)
        state = torch.load(tmp_path / "last.pt", weights_only=True)
        assert state["trainer"]["iteration"] == 4  # the fifth step was not made
        assert_same(state["model"], training.weights)
        resumed = Training(tmp_path, make_validator(SCORES[1:]), resume=True).run()
        assert resumed.trainer.state.epoch == 4

    def test_another_error_is_raised_again_and_leaves_the_last_state(
        self, tmp_path: Path, make_validator: MakeValidator
    ) -> None:
        error = ArithmeticError("loss is not a number")
        with pytest.raises(ArithmeticError) as caught:
            Training(tmp_path, make_validator(SCORES)).run(error, at=5)
        assert caught.value is error
        assert torch.load(tmp_path / "last.pt", weights_only=True)["trainer"]["iteration"] == 3

    @pytest.mark.parametrize("max_epochs", [2, 1])
    def test_all_epochs_are_done(self, tmp_path: Path, make_validator: MakeValidator, max_epochs: int) -> None:
        Training(tmp_path, make_validator(SCORES), max_epochs=2).run()
        before = (tmp_path / "last.pt").read_bytes()
        with pytest.raises(AlreadyDoneError, match="has had 2 epochs: raise --max_epochs to go on"):
            Training(tmp_path, make_validator(SCORES), max_epochs=max_epochs, resume=True).run()
        assert (tmp_path / "last.pt").read_bytes() == before

    def test_what_its_objects_say_is_passed_on(self, tmp_path: Path, make_validator: MakeValidator) -> None:
        Training(tmp_path, make_validator(SCORES), max_epochs=1).run()
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        schedule = CosineBudget(optimizer, max_minutes=1e-9)  # shorter than the training was
        engine = Engine(lambda *_: None)
        LastState(tmp_path / "last.pt", {"schedule": schedule}, resume=True).attach(engine)
        with pytest.raises(AlreadyDoneError, match="the run has had its time"):
            engine.run([None])

    @pytest.mark.parametrize("part", ["model", "optimizer", "trainer"])
    @pytest.mark.parametrize("content", [3, "text", [], None])
    def test_state_that_is_none(
        self, tmp_path: Path, make_validator: MakeValidator, part: str, content: object
    ) -> None:
        Training(tmp_path, make_validator(SCORES), max_epochs=1).run()
        state = torch.load(tmp_path / "last.pt", weights_only=True)
        assert part in state
        torch.save({**state, part: content}, tmp_path / "last.pt")
        with pytest.raises(InputError, match=r"last\.pt "):
            Training(tmp_path, make_validator(SCORES), max_epochs=2, resume=True).run()

    def test_state_of_another_network(self, tmp_path: Path, make_validator: MakeValidator) -> None:
        Training(tmp_path, make_validator(SCORES), max_epochs=1).run()
        with pytest.raises(InputError, match=r"last.pt does not fit this training .*resume with the settings"):
            Training(tmp_path, make_validator(SCORES), resume=True, width=8).run()

    @pytest.mark.parametrize("content", [{"model": {}}, ["no state"], b"no checkpoint"])
    def test_file_that_is_no_state(self, tmp_path: Path, make_validator: MakeValidator, content: object) -> None:
        if isinstance(content, bytes):
            (tmp_path / "last.pt").write_bytes(content)
        else:
            torch.save(content, tmp_path / "last.pt")
        with pytest.raises(InputError, match=r"last\.pt"):
            Training(tmp_path, make_validator(SCORES), resume=True).run()

    def test_keeps_the_state_of_an_earlier_iteration(self, tmp_path: Path, make_validator: MakeValidator) -> None:
        Training(tmp_path, make_validator(SCORES), max_epochs=1).run()
        assert not (tmp_path / "last_before.pt").exists()
        Training(tmp_path, make_validator(SCORES), max_epochs=3, resume=True).run()
        states = [torch.load(tmp_path / name, weights_only=True) for name in ("last.pt", "last_before.pt")]
        assert [state["trainer"]["iteration"] for state in states] == [9, 6]

    def test_goes_on_with_the_state_before_when_the_last_is_missing(
        self, tmp_path: Path, make_validator: MakeValidator, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A kill may come between moving the one and writing the other."""
        Training(tmp_path, make_validator(SCORES), max_epochs=2).run()
        (tmp_path / "last.pt").unlink()
        validator = make_validator(SCORES[1:])
        Training(tmp_path, validator, max_epochs=2, resume=True).run()
        assert validator.seen == [2]
        assert "last.pt is missing: going on with" in caplog.text

    def test_a_full_disk_leaves_the_state_before(
        self, tmp_path: Path, make_validator: MakeValidator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        Training(tmp_path, make_validator(SCORES), max_epochs=1).run()
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

        def full(path: Path, content: object) -> int:
            path.open("wb").close()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(Path, "write_bytes", full)
        with pytest.raises(InputError, match=r"(model|last)\.pt cannot be written \(No space left on device\)"):
            Training(tmp_path, make_validator(SCORES[1:]), max_epochs=2, resume=True).run()
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before

    def test_weights_that_are_not_finite_are_not_saved(self, tmp_path: Path, make_validator: MakeValidator) -> None:
        training = Training(tmp_path, make_validator(SCORES))

        @training.trainer.on(Events.EPOCH_COMPLETED(once=2))
        def spoil(engine: Engine) -> None:
            nn.init.constant_(training.network[0].weight, float("inf"))

        with pytest.raises(
            InputError, match=r"weights of the model are not finite any more, .*last\.pt stays as it was"
        ):
            training.run()
        state = torch.load(tmp_path / "last.pt", weights_only=True)
        assert state["trainer"]["iteration"] == 3
        assert all(bool(tensor.isfinite().all()) for tensor in state["model"].values())

    def test_batches_of_another_number(self, tmp_path: Path, make_validator: MakeValidator) -> None:
        Training(tmp_path, make_validator(SCORES), max_epochs=1).run()
        training = Training(tmp_path, make_validator(SCORES), resume=True)
        training.trainer.state.epoch_length = 5
        with pytest.raises(InputError, match=r"epochs of 3 batches, these have 5: resume with .* batch_size"):
            training.run()

    def test_a_state_of_an_earlier_version_goes_on(
        self, tmp_path: Path, make_validator: MakeValidator, caplog: pytest.LogCaptureFixture
    ) -> None:
        Training(tmp_path, make_validator(SCORES), max_epochs=1).run()
        state = torch.load(tmp_path / "last.pt", weights_only=True)
        del state["best"]
        torch.save(state, tmp_path / "last.pt")
        resumed = Training(tmp_path, make_validator(SCORES[1:]), max_epochs=2, resume=True).run()
        assert resumed.best.best == 0.7
        assert "is of an earlier version: it goes on without its best" in caplog.text
