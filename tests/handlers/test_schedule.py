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

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ignite.engine import Engine, Events

from monai_vqprior.errors import InputError
from monai_vqprior.handlers import CosineBudget, cosine_budget, cosine_factor


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(cosine_budget, "time", SimpleNamespace(monotonic=clock.monotonic))
    return clock


def optimizer_of(*rates: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([{"params": [torch.zeros(1, requires_grad=True)], "lr": rate} for rate in rates], lr=1.0)


def rates_of(budget: CosineBudget, epochs: int, length: int, clock: Clock | None = None) -> np.ndarray:
    """Learning rates (iterations, groups) of a training whose iterations take 10 seconds each."""
    rates = []

    def step(engine: Engine, batch: None) -> None:
        rates.append([group["lr"] for group in budget.optimizer.param_groups])
        if clock is not None:
            clock.now += 10

    engine = Engine(step)
    budget.attach(engine)
    engine.run([None] * length, max_epochs=epochs)
    return np.array(rates)


class TestCosineFactor:
    @pytest.mark.parametrize("final", [0.0, 0.01, 0.3, 1.0])
    def test_is_torchs_cosine_annealing(self, final: float) -> None:
        optimizer = optimizer_of(1.0)
        theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20, eta_min=final)
        for step in range(21):
            assert cosine_factor(step / 20, final) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)
            optimizer.step()
            theirs.step()

    @settings(deadline=None, derandomize=True)
    @given(st.floats(-1, 2), st.floats(-1, 2), st.floats(0, 1))
    def test_falls_from_one_to_the_final_share(self, one: float, two: float, final: float) -> None:
        early, late = sorted([one, two])
        assert final - 1e-12 <= cosine_factor(late, final) <= cosine_factor(early, final) + 1e-12 <= 1 + 2e-12

    def test_outside_of_the_training(self) -> None:
        assert cosine_factor(-0.5, 0.2) == 1
        assert cosine_factor(1.5, 0.2) == pytest.approx(0.2)


class TestCosineBudgetByEpochs:
    @pytest.mark.parametrize("warmup", [0, 1, 4])
    @pytest.mark.parametrize("final", [0.0, 0.1])
    def test_rates(self, warmup: int, final: float) -> None:
        rates = rates_of(CosineBudget(optimizer_of(0.5, 2.0), warmup_steps=warmup, final=final), epochs=5, length=4)
        steps = np.arange(20)
        factor = final + (1 - final) * (1 + np.cos(np.pi * steps / 20)) / 2
        factor *= np.minimum(1, (steps + 1) / (warmup + 1))
        np.testing.assert_allclose(rates, factor[:, None] * [0.5, 2.0], rtol=1e-12)

    def test_rates_rise_in_the_warm_up_and_fall_after_it(self) -> None:
        rates = rates_of(CosineBudget(optimizer_of(1.0), warmup_steps=5), epochs=10, length=10)[:, 0]
        assert rates[0] < 0.2
        assert (np.diff(rates[:6]) > 0).all()
        assert (np.diff(rates[6:]) < 0).all()

    def test_clock_does_not_matter(self, clock: Clock) -> None:
        rates = rates_of(CosineBudget(optimizer_of(1.0)), epochs=3, length=4, clock=clock)
        assert len(rates) == 12


class TestCosineBudgetByTheClock:
    def test_stops_in_time_inside_an_epoch(self, clock: Clock) -> None:
        rates = rates_of(CosineBudget(optimizer_of(1.0), max_minutes=1, warmup_steps=0, final=0), 1000, 4, clock)
        np.testing.assert_allclose(rates[:, 0], (1 + np.cos(np.pi * np.arange(6) / 6)) / 2, rtol=1e-5)

    def test_epochs_end_a_training_that_reaches_them_first(self, clock: Clock) -> None:
        rates = rates_of(CosineBudget(optimizer_of(1.0), max_minutes=60, warmup_steps=0, final=0), 2, 4, clock)
        np.testing.assert_allclose(rates[:, 0], (1 + np.cos(np.pi * np.arange(8) / 8)) / 2, rtol=1e-12)

    def test_time_before_the_training_does_not_count(self, clock: Clock) -> None:
        budget = CosineBudget(optimizer_of(1.0), max_minutes=1, warmup_steps=0)
        clock.now += 3600
        assert budget.elapsed == 0
        assert len(rates_of(budget, 1000, 4, clock)) == 6

    def test_a_resumed_training_has_the_time_that_is_left(self, clock: Clock) -> None:
        first = CosineBudget(optimizer_of(1.0), max_minutes=1, warmup_steps=0)
        engine = Engine(lambda *_: setattr(clock, "now", clock.now + 10))
        first.attach(engine)
        engine.add_event_handler(Events.ITERATION_COMPLETED(once=4), lambda engine: engine.terminate())
        engine.run([None], max_epochs=1000)
        state = first.state_dict()
        assert state == {"elapsed": 40}

        clock.now += 3600  # the night between
        second = CosineBudget(optimizer_of(1.0), max_minutes=1, warmup_steps=0, final=0)
        second.load_state_dict(state)
        rates = rates_of(second, 1000, 4, clock)[:, 0]
        np.testing.assert_allclose(rates, (1 + np.cos(np.pi * np.array([4, 5]) / 6)) / 2, rtol=1e-2)
        assert second.state_dict() == {"elapsed": 60}

    def test_loading_while_the_clock_runs_starts_it_anew(self, clock: Clock) -> None:
        budget = CosineBudget(optimizer_of(1.0), max_minutes=5)
        budget.start(Engine(lambda *_: None))
        clock.now += 100
        budget.load_state_dict({"elapsed": 30})
        clock.now += 7
        assert budget.elapsed == 37

    @pytest.mark.parametrize("elapsed", [60, 61.5])
    def test_time_is_up_already(self, elapsed: float) -> None:
        budget = CosineBudget(optimizer_of(1.0), max_minutes=1)
        budget.load_state_dict({"elapsed": elapsed})
        assert re.search(r"had its time, 1\.0 minutes: raise --max_minutes", budget.ended() or "")

    def test_a_training_by_epochs_is_never_out_of_time(self) -> None:
        budget = CosineBudget(optimizer_of(1.0))
        budget.load_state_dict({"elapsed": 1e9})
        assert budget.elapsed == 1e9
        assert budget.ended() is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_minutes": 0}, "max_minutes must be positive, got 0"),
        ({"max_minutes": -1.5}, "max_minutes must be positive, got -1.5"),
        ({"max_minutes": float("nan")}, "max_minutes must be positive, got nan"),
        ({"warmup_steps": -1}, "warmup_steps must not be negative and final in 0..1, got -1 and 0.01"),
        ({"final": 1.1}, "got 50 and 1.1"),
        ({"final": -0.1}, "got 50 and -0.1"),
    ],
)
def test_arguments_out_of_range(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        CosineBudget(optimizer_of(1.0), **arguments)
