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

import numpy as np
import pytest
import torch
from monai.utils import set_determinism
from torch import nn

from monai_vqprior.inferers import VQPriorInferer
from monai_vqprior.losses import BitsPerCodeLoss
from monai_vqprior.networks import GatedPixelCNN
from monai_vqprior.networks.condition_dropout import drop_conditions

NAN = math.nan


def dropped(probability: float, labels: int, values: int, batch: int = 20000) -> np.ndarray:
    """Which conditions were withheld, (batch, labels + values)."""
    torch.manual_seed(0)
    given_labels = torch.full((batch, labels), 3) if labels else None
    given_values = torch.full((batch, values), 0.5) if values else None
    kept_labels, kept_values = drop_conditions(given_labels, given_values, probability)
    columns = []
    if kept_labels is not None:
        assert set(kept_labels.unique().tolist()) <= {-1, 3}
        columns.append(kept_labels == -1)
    if kept_values is not None:
        assert ((kept_values == 0.5) | kept_values.isnan()).all()
        columns.append(kept_values.isnan())
    return torch.cat(columns, 1).numpy()


class TestDropConditions:
    @pytest.mark.parametrize("probability", [0.1, 0.3])
    @pytest.mark.parametrize(("labels", "values"), [(1, 0), (0, 1), (1, 1), (2, 0), (1, 2)])
    def test_rates(self, probability: float, labels: int, values: int) -> None:
        """Each on its own, or all at once; within five standard errors."""
        out, number = dropped(probability, labels, values), labels + values
        each = probability if number == 1 else 1 - (1 - probability) ** 2
        everything = probability + (1 - probability) * (probability**number if number > 1 else 0)
        for found, expected in ((out.mean(0), each), (out.all(1).mean(), everything)):
            error = math.sqrt(expected * (1 - expected) / len(out))
            np.testing.assert_allclose(found, expected, atol=5 * error)

    def test_every_mixture_occurs(self) -> None:
        assert len(np.unique(dropped(0.3, 2, 2), axis=0)) == 16

    @pytest.mark.parametrize("probability", [0.0, 0.5])
    def test_what_is_missing_stays_missing_and_the_input_as_it_was(self, probability: float) -> None:
        labels, values = torch.tensor([[0, -1]] * 50), torch.tensor([[NAN]] * 50)
        kept_labels, kept_values = drop_conditions(labels, values, probability)
        assert kept_labels is not None
        assert kept_values is not None
        assert (kept_labels[:, 1] == -1).all()
        assert kept_values.isnan().all()
        assert labels.tolist() == [[0, -1]] * 50

    @pytest.mark.parametrize(
        ("labels", "values"), [(None, None), (torch.zeros(3, 0, dtype=torch.long), torch.zeros(3, 0))]
    )
    def test_nothing_to_withhold_uses_no_random_number(
        self, labels: torch.Tensor | None, values: torch.Tensor | None
    ) -> None:
        state = torch.get_rng_state()
        assert drop_conditions(labels, values, 0.5) == (labels, values)
        assert torch.equal(torch.get_rng_state(), state)


def network(condition_dropout: float = 0.5) -> GatedPixelCNN:
    torch.manual_seed(0)
    return GatedPixelCNN(
        num_embeddings=4, spatial_size=4, channels=16, num_layers=2, kernel_size=3, num_classes=[2], num_values=1,
        condition_dropout=condition_dropout,
    )  # fmt: skip


class TestInTheNetwork:
    codes = torch.zeros(1, 4, 4, dtype=torch.long).expand(40, 4, 4)
    labels, values = torch.ones(40, 1, dtype=torch.long), torch.full((40, 1), 2.0)

    def test_evaluation_never_withholds(self) -> None:
        prior = network().eval()
        with torch.no_grad():
            logits = prior(self.codes, self.labels, self.values)
            assert torch.equal(logits, logits[:1].expand_as(logits))
            assert not torch.allclose(logits, prior(self.codes))
            prior.condition_dropout = 0.0
            assert torch.equal(logits, prior.train()(self.codes, self.labels, self.values))

    def test_training_withholds_differently_each_time_and_alike_with_one_seed(self) -> None:
        prior, logits = network().train(), []
        with torch.no_grad():
            for seed in (3, 3, None):
                if seed is not None:
                    set_determinism(seed)
                logits.append(prior(self.codes, self.labels, self.values))
            set_determinism(None)
            mixtures = [prior.eval()(self.codes[:1], labels, values) for labels in (self.labels[:1], None)
                        for values in (self.values[:1], None)]  # fmt: skip
        assert torch.equal(logits[0], logits[1])
        assert not torch.equal(logits[0], logits[2])
        for row in logits[0]:  # each is one of the four mixtures
            assert sum(torch.allclose(row, mixture[0], atol=1e-6) for mixture in mixtures) == 1

    @pytest.mark.parametrize("probability", [-0.1, 1.0, 2])
    def test_no_probability(self, probability: float) -> None:
        with pytest.raises(
            ValueError, match=f"condition_dropout must be at least 0 and less than 1, got {probability}"
        ):
            network(probability)


def grids(labels: torch.Tensor, values: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Grids (B, 4, 4) whose left half shows the label, 0 or 1, and whose right half the value's sign, as 2 or 3."""
    left = labels[:, 0].view(-1, 1, 1).expand(-1, 4, 2)
    right = 2 + (values[:, 0] > 0).long().view(-1, 1, 1).expand(-1, 4, 2)
    codes = torch.cat([left, right], dim=2)
    noise = torch.randint(4, codes.shape, generator=generator)
    return torch.where(torch.rand(codes.shape, generator=generator) < 0.1, noise, codes)


@pytest.fixture(scope="module")
def learned() -> GatedPixelCNN:
    """A network that was trained on such grids for some three seconds."""
    prior, generator = network(0.2).train(), torch.Generator().manual_seed(1)
    optimizer, loss = torch.optim.Adam(prior.parameters(), 0.02), BitsPerCodeLoss()
    for _ in range(120):
        labels = torch.randint(2, (64, 1), generator=generator)
        values = torch.randn(64, 1, generator=generator)
        codes = grids(labels, values, generator)
        optimizer.zero_grad()
        loss(prior(codes, labels, values), codes).backward()
        nn.utils.clip_grad_norm_(prior.parameters(), 1.0)
        optimizer.step()
    return prior.eval()


class TestWhatWasLearned:
    @pytest.mark.parametrize("label", [0, 1])
    @pytest.mark.parametrize("value", [-1.0, 1.0])
    def test_samples_show_what_was_asked(self, learned: GatedPixelCNN, label: int, value: float) -> None:
        samples = VQPriorInferer().sample(learned, range(32), labels=[label], values=[value])
        assert (samples[..., :2] == label).float().mean() > 0.85  # 0.925 in the data
        assert (samples[..., 2:] == 2 + (value > 0)).float().mean() > 0.85

    @pytest.mark.parametrize("asked", ["label", "value", None])
    def test_what_was_not_asked_varies(self, learned: GatedPixelCNN, asked: str | None) -> None:
        """A whole half is of one kind in each sample, and of both kinds among the samples."""
        samples = VQPriorInferer().sample(
            learned, range(64), labels=[1 if asked == "label" else -1], values=[1.0 if asked == "value" else NAN]
        )
        found = {"label": (samples[..., :2] == 1), "value": (samples[..., 2:] == 3)}
        for kind, hits in found.items():
            share = hits.flatten(1).float().mean(1)  # of each sample
            ones = (share > 0.5).float().mean()
            assert (ones > 0.95) if kind == asked else (0.25 < ones < 0.75)
            assert ((share < 0.3) | (share > 0.7)).float().mean() > 0.9

    def test_a_condition_saves_the_bit_that_it_tells(self, learned: GatedPixelCNN) -> None:
        generator = torch.Generator().manual_seed(2)
        labels = torch.randint(2, (256, 1), generator=generator)
        values = torch.randn(256, 1, generator=generator)
        codes = grids(labels, values, generator)
        rate = VQPriorInferer()
        told = rate.bits(codes, learned, labels, values).flatten(1).sum(1).mean()
        for one_missing in ((None, values), (labels, None)):
            more = rate.bits(codes, learned, *one_missing).flatten(1).sum(1).mean() - told
            assert more == pytest.approx(1.0, abs=0.35)
        assert rate.bits(codes, learned).flatten(1).sum(1).mean() - told == pytest.approx(2.0, abs=0.5)
