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
from collections.abc import Callable

import numpy as np
import pytest
import torch
from monai.engines import SupervisedEvaluator
from monai.handlers import from_engine
from scipy.special import log_softmax
from scipy.stats import chisquare

from monai_vqprior.engines import PrepareBatchCodes
from monai_vqprior.handlers import BitsPerCode
from monai_vqprior.inferers import VQPriorInferer
from monai_vqprior.networks import GatedPixelCNN

MakePrior = Callable[..., GatedPixelCNN]


def all_grids(num_codes: int, size: tuple[int, ...]) -> torch.Tensor:
    """Every grid of a size."""
    return torch.tensor(list(itertools.product(range(num_codes), repeat=int(np.prod(size))))).view(-1, *size)


def numpy_bits(logits: torch.Tensor, codes: torch.Tensor) -> np.ndarray:
    """-log2 p of each code, (B, *grid)."""
    logarithms = log_softmax(logits.detach().double().numpy(), axis=1)
    return -np.take_along_axis(logarithms, codes[:, None].numpy(), axis=1)[:, 0] / np.log(2)


class TestBits:
    @pytest.mark.parametrize("size", [(2, 2), (1, 4), (4, 1), (2, 1, 2)])
    @pytest.mark.parametrize("conditional", [False, True])
    def test_probabilities_of_all_grids_sum_to_one(
        self, make_prior: MakePrior, size: tuple[int, ...], conditional: bool
    ) -> None:
        grids = all_grids(3, size)
        assert len(grids) == 81
        settings = {"num_classes": [2], "num_values": 1} if conditional else {}
        prior = make_prior(num_embeddings=3, spatial_dims=len(size), spatial_size=size, **settings)
        conditions = {"labels": torch.ones(81, 1).long(), "values": torch.full((81, 1), 0.3)} if conditional else {}
        bits = VQPriorInferer().bits(grids, prior, **conditions)
        assert bits.shape == grids.shape
        probabilities = 2.0 ** -bits.double().flatten(1).sum(1).numpy()
        assert probabilities.sum() == pytest.approx(1, abs=1e-5)
        assert probabilities.max() > 5 / 81

    def test_grids_come_as_often_as_the_bits_say(self, make_prior: MakePrior) -> None:
        prior, inferer = make_prior(num_embeddings=3, spatial_size=2), VQPriorInferer(tile_size=4000)
        grids = all_grids(3, (2, 2))
        expected = 4000 * 2.0 ** -inferer.bits(grids, prior).double().flatten(1).sum(1).numpy()
        samples = inferer.sample(prior, range(4000), seed=3)
        numbers = (samples.flatten(1) * torch.tensor([27, 9, 3, 1])).sum(1)
        seen = np.bincount(numbers.numpy(), minlength=81)
        rare = expected < 5  # too rare for the test by themselves
        pooled = [np.append(counts[~rare], counts[rare].sum()) for counts in (seen, expected / expected.sum() * 4000)]
        assert len(pooled[0]) > 10
        assert chisquare(*pooled).pvalue > 0.01

    def test_are_those_of_numpy_and_need_no_gradient(self, make_prior: MakePrior) -> None:
        prior = make_prior(num_classes=[3])
        codes = torch.randint(7, (5, 4, 4), generator=torch.manual_seed(0))
        labels = torch.tensor([[0], [1], [2], [-1], [0]])
        bits = VQPriorInferer().bits(codes, prior, labels)
        assert bits.dtype == torch.float32
        assert not bits.requires_grad
        np.testing.assert_allclose(bits, numpy_bits(prior(codes, labels), codes), atol=1e-4)


class TestInMonaisEvaluator:
    @pytest.mark.parametrize("conditional", [False, True])
    def test_with_bits_per_code(self, make_prior: MakePrior, conditional: bool) -> None:
        codes = torch.randint(7, (5, 4, 4), generator=torch.manual_seed(0))
        data = {
            "codes": codes,
            "dementia": torch.tensor([0, 1, 2, -1, 0]),
            "slice": torch.tensor([0.1, 0.5, float("nan"), 0.9, 0.2]),
        }
        prior = make_prior(num_classes=[3], num_values=1)
        evaluator = SupervisedEvaluator(
            device="cpu",
            val_data_loader=[{key: part[:3] for key, part in data.items()}, {key: x[3:] for key, x in data.items()}],
            network=prior,
            prepare_batch=PrepareBatchCodes("codes", ["dementia"], ["slice"]) if conditional else PrepareBatchCodes(),
            inferer=VQPriorInferer(),
            key_val_metric={"bits_per_code": BitsPerCode(output_transform=from_engine(["pred", "label"]))},
            decollate=False,
        )
        evaluator.run()
        conditions = (data["dementia"][:, None], data["slice"][:, None]) if conditional else ()
        expected = numpy_bits(prior(codes, *conditions), codes)
        assert evaluator.state.metrics["bits_per_code"] == pytest.approx(expected.mean(), abs=1e-4)
        details = evaluator.state.metric_details["bits_per_code"][:, 0]
        np.testing.assert_allclose(details, expected.mean((1, 2)), atol=1e-4)
