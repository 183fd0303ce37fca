# Copyright (c) monai_vqprior contributors
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.fl.client import MonaiAlgo
from monai.fl.utils.constants import ExtraItems, FlStatistics, ModelType, WeightType
from monai.fl.utils.exchange_object import ExchangeObject

from .conftest import SMALL, SMALL_PRIOR

# The bundle as a client of a federation, by MONAI's client: what a server sends it, and what it answers.

# MONAI says of every configuration that comes from a server that it can run code
pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore:executing the bundle config under:UserWarning"),
]


def client(bundle: Path, options: dict[str, Any], **arguments: Any) -> MonaiAlgo:
    """A client that has joined."""
    algorithm = MonaiAlgo(bundle_root=bundle.name, train_kwargs={**options}, eval_kwargs={**options}, **arguments)
    algorithm.initialize({ExtraItems.CLIENT_NAME: "site-1", ExtraItems.APP_ROOT: str(bundle.parent)})
    return algorithm


def weights_of(algorithm: MonaiAlgo) -> dict[str, np.ndarray]:
    """Weights of a client's network as a server has them."""
    assert algorithm.trainer is not None
    return {name: value.numpy().copy() for name, value in algorithm.trainer.network.state_dict().items()}


def test_rounds(bundle: Path, phantom: Path, tmp_path: Path) -> None:
    best = tmp_path / "models" / "model.pt"
    options = {"dataset_dir": str(phantom), "output_dir": str(tmp_path), **SMALL}
    algorithm = client(bundle, options, best_model_filepath=str(best))
    trainer: Any = algorithm.trainer
    rates: list[float] = []
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda engine: rates.append(engine.optimizer.param_groups[0]["lr"])
    )
    ours: Any = algorithm.train_workflow

    weights = weights_of(algorithm)
    for number in (1, 2):
        algorithm.train(ExchangeObject(weights=weights))
        assert trainer.state.epoch == number
        answer = algorithm.get_weights()
        assert answer.weight_type == WeightType.WEIGHT_DIFF
        assert answer.statistics[FlStatistics.NUM_EXECUTED_ITERATIONS] == trainer.state.epoch_length
        # A server with one client adds what it has learned.
        weights = {name: weights[name] + answer.weights[name].numpy() for name in weights}
        now = weights_of(algorithm)
        for name, value in weights.items():
            np.testing.assert_allclose(value, now[name], rtol=1e-5, atol=1e-5, err_msg=name)
        assert weights["codebook.started"] == 1
        # Evaluation measures what the server sends, on the validation split, as the client has done itself.
        kept = best.read_bytes()
        measured = dict(algorithm.evaluate(ExchangeObject(weights=weights)).metrics)
        assert measured["ssim"] == pytest.approx(ours.evaluator.state.metrics["ssim"], abs=1e-4)
        untrained = {name: np.zeros_like(value) for name, value in weights.items()}
        assert algorithm.evaluate(ExchangeObject(weights=untrained)).metrics["ssim"] < measured["ssim"]
        assert best.read_bytes() == kept

    # Each round has a whole schedule of its own: 50 steps of warm-up altogether, and half a cosine.
    steps = trainer.state.epoch_length
    peak = ours.parser.get_parsed_content("learning_rate")
    np.testing.assert_allclose([rates[0], rates[steps]], [peak / 51, peak * (steps + 1) / 51], rtol=1e-6)
    assert rates[steps - 1] < rates[steps] / 4

    sent = algorithm.get_weights({ExtraItems.MODEL_TYPE: ModelType.BEST_MODEL}).weights
    saved = torch.load(best, weights_only=True)
    assert all(torch.equal(sent[name], saved[name]) for name in saved)
    algorithm.finalize()


def test_round_of_the_prior(bundle: Path, phantom: Path, tmp_path: Path) -> None:
    stack = ["configs/train.json", "configs/train_prior.json"]
    options = {"dataset_dir": str(phantom), "output_dir": str(tmp_path), **SMALL, **SMALL_PRIOR}
    options |= {"ckpt": str(bundle / "models" / "model.pt"), "conditions": ["slice"]}
    algorithm = client(
        bundle,
        options,
        send_weight_diff=False,
        config_train_filename=stack,
        config_evaluate_filename=[*stack, "configs/evaluate.json"],
    )
    ours: Any = algorithm.train_workflow
    algorithm.train(ExchangeObject(weights=weights_of(algorithm)))
    answer = algorithm.get_weights()
    assert answer.weight_type == WeightType.WEIGHTS
    metrics = algorithm.evaluate(ExchangeObject(weights=answer.weights)).metrics
    assert metrics["bits_per_code"] == pytest.approx(ours.evaluator.state.metrics["bits_per_code"], abs=1e-4)
    algorithm.finalize()
