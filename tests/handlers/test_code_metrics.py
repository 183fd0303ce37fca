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

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from ignite.exceptions import NotComputableError
from ignite.metrics import Metric
from monai.engines import SupervisedEvaluator
from monai.handlers import from_engine
from monai.transforms import FlattenSubKeysd
from scipy.special import log_softmax
from scipy.stats import entropy

from monai_vqprior.engines import PrepareBatchCodes
from monai_vqprior.handlers import BitsPerCode, CodebookPerplexity, CodebookUsage

NUM_CODES = 12
BATCHES = (3, 1, 2)
GRIDS = [(4, 5), (2, 3, 4), (7,)]


def grids(shape: tuple[int, ...], seed: int = 0) -> list[np.ndarray]:
    """Batches of unequal size of code grids; codes 0 and 11 never occur, the others unequally often."""
    rng = np.random.default_rng(seed)
    weights = np.arange(1, NUM_CODES - 1, dtype=float)
    return [rng.choice(np.arange(1, NUM_CODES - 1), (n, *shape), p=weights / weights.sum()) for n in BATCHES]


def run(metric: Metric, batches: Sequence[Any]) -> Engine:
    """Attach a metric as ``value`` to a plain engine whose output is the batch, and run it."""
    engine = Engine(lambda _, batch: batch)
    metric.attach(engine, "value")
    engine.run(batches)
    return engine


def logits_for(codes: np.ndarray, seed: int = 0) -> np.ndarray:
    """Random logits (B, K, *grid)."""
    return np.random.default_rng(seed).normal(0, 2, (len(codes), NUM_CODES, *codes.shape[1:]))


def bits_of_images(logits: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Mean of -log2 p over each grid, (B,)."""
    chosen = np.take_along_axis(log_softmax(logits, axis=1), codes[:, None], axis=1)
    return -chosen.reshape(len(codes), -1).mean(1) / np.log(2)


@pytest.mark.parametrize("shape", GRIDS)
def test_bits_per_code_is_the_mean_over_grids(shape: tuple[int, ...]) -> None:
    batches = [(logits_for(codes, seed), codes) for seed, codes in enumerate(grids(shape))]
    expected = np.concatenate([bits_of_images(*batch) for batch in batches])
    engine = run(BitsPerCode(), [tuple(map(torch.from_numpy, batch)) for batch in batches])
    assert engine.state.metrics["value"] == pytest.approx(expected.mean(), abs=1e-5)
    np.testing.assert_allclose(engine.state.metric_details["value"][:, 0], expected, atol=1e-5)


def test_a_prior_that_knows_nothing_needs_the_logarithm_of_the_number_of_codes() -> None:
    codes = torch.from_numpy(grids((4, 5))[0])
    engine = run(BitsPerCode(), [(torch.full((3, NUM_CODES, 4, 5), 7.0), codes)])
    assert engine.state.metrics["value"] == pytest.approx(np.log2(NUM_CODES), abs=1e-5)


class LogitsOf(torch.nn.Module):
    """A prior with given logits at each position, (K, *grid)."""

    def __init__(self, logits: np.ndarray) -> None:
        super().__init__()
        self.logits = torch.from_numpy(logits).float()

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        return self.logits.expand(len(codes), *self.logits.shape)


@pytest.mark.parametrize("decollate", [False, True])
def test_bits_per_code_in_monais_evaluator(decollate: bool) -> None:
    batches = grids((4, 5))
    logits = logits_for(batches[0])[0]
    evaluator = SupervisedEvaluator(
        device="cpu",
        val_data_loader=[{"codes": torch.from_numpy(codes)} for codes in batches],
        network=LogitsOf(logits),
        prepare_batch=PrepareBatchCodes(),
        key_val_metric={"bits": BitsPerCode(output_transform=from_engine(["pred", "label"]))},
        decollate=decollate,
    )
    evaluator.run()
    joined = np.concatenate(batches)
    expected = bits_of_images(np.broadcast_to(logits, (len(joined), *logits.shape)), joined)
    assert evaluator.state.metrics["bits"] == pytest.approx(expected.mean(), abs=1e-5)


@pytest.mark.parametrize("shape", GRIDS)
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_usage_and_perplexity_are_those_of_the_whole_split(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    batches = grids(shape)
    tensors = [torch.from_numpy(codes).to(dtype) for codes in batches]
    joined = np.concatenate(batches)
    usage = run(CodebookUsage(NUM_CODES), tensors).state.metrics["value"]
    assert usage == len(np.unique(joined))
    assert isinstance(usage, int)
    expected = np.exp(entropy(np.bincount(joined.ravel())))
    of_batches = [np.exp(entropy(np.bincount(codes.ravel()))) for codes in batches]
    assert abs(expected - np.mean(of_batches)) > 0.1
    assert run(CodebookPerplexity(NUM_CODES), tensors).state.metrics["value"] == pytest.approx(expected, rel=1e-9)


def test_usage_and_perplexity_read_the_engines_output() -> None:
    codes = torch.tensor([[0, 5, 5, 5]])
    for metric, expected in ((CodebookUsage, 2), (CodebookPerplexity, 4 / 3**0.75)):
        engine = run(metric(NUM_CODES, output_transform=lambda output: output["codes"]), [{"codes": codes}])
        assert engine.state.metrics["value"] == pytest.approx(expected)


@pytest.mark.parametrize(("metric", "expected"), [(CodebookUsage, 8), (CodebookPerplexity, 8.0)])
def test_all_codes_alike(metric: type[CodebookUsage], expected: float) -> None:
    engine = run(metric(8), [torch.arange(8).view(1, 2, 4), torch.arange(8).view(2, 4)])
    assert engine.state.metrics["value"] == pytest.approx(expected)


@pytest.mark.parametrize("metric", [CodebookUsage, CodebookPerplexity])
def test_another_run_starts_anew(metric: type[CodebookUsage]) -> None:
    engine = Engine(lambda _, batch: batch)
    metric(8).attach(engine, "value")
    engine.run([torch.arange(8)])
    engine.run([torch.tensor([3, 3, 3])])
    assert engine.state.metrics["value"] == 1


@pytest.mark.parametrize("metric", [CodebookUsage, CodebookPerplexity])
def test_nothing_seen(metric: type[CodebookUsage]) -> None:
    with pytest.raises(NotComputableError, match=f"{metric.__name__} has seen no codes"):
        metric(8).compute()


class Codes(torch.nn.Module):
    """Hands on the codes of a batch as ``codes`` of a dictionary."""

    def forward(self, codes: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"codes": codes}


@pytest.mark.parametrize("decollate", [False, True])
@pytest.mark.parametrize("shape", GRIDS)
@pytest.mark.parametrize("output_transform", [from_engine("codes"), from_engine(["codes"])], ids=["word", "list"])
def test_codes_by_from_engine(decollate: bool, shape: tuple[int, ...], output_transform: Any) -> None:
    """As MONAI's handlers take them, decollated batches too; two grids in a batch are no prediction and target."""
    batches = [*grids(shape), grids(shape, 1)[2]]
    evaluator = SupervisedEvaluator(
        device="cpu",
        val_data_loader=[{"grid": torch.from_numpy(codes)} for codes in batches],
        network=Codes(),
        prepare_batch=PrepareBatchCodes("grid"),
        postprocessing=FlattenSubKeysd("pred"),
        key_val_metric={"usage": CodebookUsage(NUM_CODES, output_transform)},
        additional_metrics={"perplexity": CodebookPerplexity(NUM_CODES, output_transform)},
        decollate=decollate,
    )
    evaluator.run()
    joined = np.concatenate([codes.ravel() for codes in batches])
    assert evaluator.state.metrics["usage"] == len(np.unique(joined))
    assert evaluator.state.metrics["perplexity"] == pytest.approx(np.exp(entropy(np.bincount(joined))), rel=1e-9)


def test_codes_in_arrays_and_nested_lists() -> None:
    codes = grids((4, 5))
    nested = [(codes[0], [torch.from_numpy(codes[1])])]
    assert run(CodebookUsage(NUM_CODES), nested).state.metrics["value"] == len(np.unique(np.concatenate(codes[:2])))
