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

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from monai_vqprior.audit import DESCRIPTORS, WORDS, DescribedSlices, Figure, compare_sets, pair_similarities


def slices(number: int, shift: float = 0.0, spread: float = 1.0, of_one: int = 1, seed: int = 0) -> DescribedSlices:
    """Described slices whose features are all normal, several of each subject."""
    rng = np.random.default_rng(seed)

    def values(columns: int) -> np.ndarray:
        heads = np.repeat(rng.normal(0, 0.5, (-(-number // of_one), columns)), of_one, axis=0)[:number]
        return shift + spread * (heads + rng.normal(0, 1, (number, columns)))

    names = None if of_one == 1 else [row // of_one for row in range(number)]
    descriptors = dict(zip(DESCRIPTORS, values(len(DESCRIPTORS)).T, strict=True))
    return DescribedSlices(descriptors, values(6), values(5), names)


TEST = slices(60, of_one=3, seed=1)
REAL = slices(120, of_one=3, seed=2)
RECONSTRUCTIONS = slices(120, shift=0.8, of_one=3, seed=3)


def words(samples: DescribedSlices) -> dict[str, Figure]:
    return {figure.name: figure for figure in compare_sets(samples, TEST, REAL, RECONSTRUCTIONS, num_draws=9)}


def test_samples_like_real_slices_are_as_good() -> None:
    figures = words(slices(60))
    alike = [figure.word == WORDS[0] for figure in figures.values()]
    assert np.mean(alike) > 0.6
    assert np.mean([figure.p_value > 0.1 for figure in figures.values()]) > 0.6


def test_samples_like_reconstructions_are_called_so() -> None:
    figures = words(slices(60, shift=0.5))
    assert figures["frechet_encodings"].word == WORDS[1]
    assert figures["classifier_texture"].word == WORDS[1]
    assert figures["frechet_encodings"].p_value == 1 / 10
    assert not [figure.name for figure in figures.values() if figure.word == WORDS[2] and "frechet" in figure.name]


def test_samples_far_from_both_are_told_apart() -> None:
    figures = words(slices(60, shift=4))
    assert {figure.word for name, figure in figures.items() if name != "recall_anatomy"} == {WORDS[2]}
    for figure in figures.values():
        assert figure.real.low <= figure.real.value <= figure.real.high
        assert figure.better == ("higher" if figure.name.split("_")[0] in ("density", "coverage", "precision", "recall")
                                 else "lower")  # fmt: skip


def test_samples_without_diversity_cover_little() -> None:
    figures = words(slices(60, spread=0.1))
    assert figures["coverage_encodings"].word == figures["recall_encodings"].word == WORDS[2]
    assert figures["precision_encodings"].word == WORDS[0]


def test_pairs_of_samples_that_repeat_one_another() -> None:
    rng = np.random.default_rng(0)
    noise = torch.as_tensor(rng.integers(0, 256, (12, 1, 24, 24)).astype(np.uint8))
    one = noise[:1].repeat(12, 1, 1, 1)
    assert pair_similarities(noise, pairs=20).max() < 0.5
    assert pair_similarities(one, pairs=20) == pytest.approx(np.ones(20), abs=1e-5)
    pairs = (pair_similarities(one, pairs=20), pair_similarities(noise, pairs=20), pair_similarities(noise, pairs=20))
    figure = compare_sets(slices(20), TEST, REAL, RECONSTRUCTIONS, pairs, num_draws=1)[-1]
    assert (figure.name, figure.word) == ("pair_similarity", WORDS[2])


def test_similarity_of_a_pair_is_scikit_images() -> None:
    """Images of 20 pixels have room for one scale, which is SSIM."""
    rng = np.random.default_rng(0)
    one = rng.integers(0, 256, (20, 20)).astype(np.uint8)
    other = np.clip(one + rng.normal(0, 40, one.shape), 0, 255).astype(np.uint8)
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1, "full": True}
    expected = structural_similarity(one / 255, other / 255, **options)[1][5:-5, 5:-5].mean()
    found = pair_similarities(torch.as_tensor(np.stack([one, other]))[:, None], pairs=3)
    assert found == pytest.approx(np.full(3, expected), abs=1e-3)


def test_pairs_are_of_two_subjects() -> None:
    rng = np.random.default_rng(0)
    heads = torch.as_tensor(rng.integers(0, 256, (3, 1, 24, 24)).astype(np.uint8)).repeat_interleave(5, 0)
    found = pair_similarities(heads, [row // 5 for row in range(15)], pairs=30)
    assert len(found) == 30
    assert found.max() < 0.5
    assert len(pair_similarities(heads[:5], ["one"] * 5, pairs=30)) == 0


def test_too_few_slices() -> None:
    with pytest.raises(ValueError, match="two samples and four real slices"):
        compare_sets(slices(1), TEST, REAL, RECONSTRUCTIONS)
