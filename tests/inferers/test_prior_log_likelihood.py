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

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn as nn
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from monai.utils.ordering import Ordering
from scipy.special import log_softmax

from monai_vqprior.errors import InputError
from monai_vqprior.inferers import VQPriorInferer, code_log_likelihood, code_map, reading_order
from monai_vqprior.networks import AutoencoderVQ, EMACodebook, GatedPixelCNN

MakePrior = Callable[..., GatedPixelCNN]


def numpy_log_likelihood(prior: nn.Module, codes: np.ndarray, *conditions: torch.Tensor) -> np.ndarray:
    """Logarithm of the probability of each code, (B, *grid)."""
    with torch.no_grad():
        logits = prior(torch.from_numpy(codes.copy()), *conditions)
    return np.take_along_axis(log_softmax(logits.double().numpy(), axis=1), codes[:, None], axis=1)[:, 0]


@pytest.fixture
def codes() -> torch.Tensor:
    return torch.randint(7, (5, 4, 4), generator=torch.manual_seed(0))


class TestCodeLogLikelihood:
    @settings(deadline=None, derandomize=True)
    @given(
        arrays(np.float32, array_shapes(min_dims=3, max_dims=4, max_side=4), elements=st.floats(-1e4, 1e4, width=32)),
        st.integers(0, 3),
    )
    def test_is_scipys(self, logits: np.ndarray, seed: int) -> None:
        shape = (len(logits), *logits.shape[2:])
        codes = np.random.default_rng(seed).integers(logits.shape[1], size=shape)
        values = code_log_likelihood(torch.from_numpy(logits), torch.from_numpy(codes))
        expected = np.take_along_axis(log_softmax(logits.astype(np.float64), axis=1), codes[:, None], axis=1)[:, 0]
        assert values.dtype == torch.float64
        assert values.shape == shape
        np.testing.assert_allclose(values, expected, rtol=1e-12, atol=1e-12)

    @settings(deadline=None, derandomize=True)
    @given(arrays(np.float32, (2, 3, 2, 2), elements=st.floats(allow_nan=False, allow_infinity=False, width=32)))
    def test_is_finite_for_any_finite_logits(self, logits: np.ndarray) -> None:
        for code in range(3):
            values = code_log_likelihood(torch.from_numpy(logits), torch.full((2, 2, 2), code))
            assert values.isfinite().all()
            assert (values <= 0).all()

    def test_of_logits_far_apart(self) -> None:
        """log(softmax) is -inf here, in float64 too."""
        logits = torch.tensor([1e4, 0.0, -1e4]).view(1, 3, 1, 1).expand(1, 3, 1, 3)
        values = code_log_likelihood(logits, torch.tensor([[[0, 1, 2]]]))
        assert values.tolist() == [[[0.0, -1e4, -2e4]]]
        assert logits.double().softmax(1).log().isinf().any()

    def test_of_no_grids(self) -> None:
        assert code_log_likelihood(torch.zeros(0, 3, 2, 2), torch.zeros(0, 2, 2).long()).shape == (0, 2, 2)


class TestLogLikelihood:
    def test_of_codes_and_of_grids(self, make_prior: MakePrior, codes: torch.Tensor) -> None:
        prior = make_prior(num_classes=[3], num_values=1)
        conditions = (torch.tensor([[0], [1], [2], [-1], [0]]), torch.tensor([[0.1], [float("nan")], [3], [0], [-1]]))
        expected = numpy_log_likelihood(prior, codes.numpy(), *conditions)
        values = VQPriorInferer().log_likelihood(codes, prior, *conditions)
        assert not values.requires_grad
        np.testing.assert_allclose(values, expected, atol=1e-5)
        sums = VQPriorInferer().log_likelihood(codes, prior, *conditions, reduction="sum")
        np.testing.assert_allclose(sums, expected.sum((1, 2)), atol=1e-4)
        np.testing.assert_allclose(VQPriorInferer().bits(codes, prior, *conditions), -values / np.log(2), atol=1e-5)

    def test_the_way_of_drawing_does_not_matter(self, make_prior: MakePrior, codes: torch.Tensor) -> None:
        prior = make_prior()
        other = VQPriorInferer(temperature=0.3, top_k=2, top_p=0.5, guidance_scale=4)
        expected = VQPriorInferer().log_likelihood(codes, prior)
        assert torch.equal(other.log_likelihood(codes, prior), expected)

    @pytest.mark.parametrize("orderings", [[()], [(1,)], [(0, 1)], [(), (1,)], [(), (0,), (1,), (0, 1)]], ids=str)
    def test_flips_are_numpys(
        self, make_prior: MakePrior, codes: torch.Tensor, orderings: list[tuple[int, ...]]
    ) -> None:
        """Flip the grid, rate it, flip the values back, and take their mean."""
        prior, images = make_prior(), codes.numpy()
        rated = []
        for axes in orderings:
            dims = tuple(axis + 1 for axis in axes)
            rated.append(np.flip(numpy_log_likelihood(prior, np.flip(images, dims)), dims))
        values = VQPriorInferer().log_likelihood(codes, prior, orderings=orderings)
        np.testing.assert_allclose(values, np.mean(rated, axis=0), atol=1e-5)
        sums = VQPriorInferer().log_likelihood(codes, prior, orderings=orderings, reduction="sum")
        np.testing.assert_allclose(sums, np.mean(rated, axis=0).sum((1, 2)), atol=1e-4)

    def test_three_dimensions(self, make_prior: MakePrior) -> None:
        prior = make_prior(spatial_dims=3, spatial_size=(2, 3, 4))
        codes = torch.randint(7, (2, 2, 3, 4), generator=torch.manual_seed(0))
        values = VQPriorInferer().log_likelihood(codes, prior, orderings=[(0, 2)])
        expected = np.flip(numpy_log_likelihood(prior, np.flip(codes.numpy(), (1, 3))), (1, 3))
        np.testing.assert_allclose(values, expected, atol=1e-5)

    @pytest.mark.parametrize(
        ("arguments", "transform", "back"),
        [
            ({}, lambda x: x, lambda x: x),
            ({"reflected_spatial_dims": (False, True)}, lambda x: np.flip(x, 2), lambda x: np.flip(x, 2)),
            ({"transpositions_axes": ((1, 0),)}, lambda x: x.swapaxes(1, 2), lambda x: x.swapaxes(1, 2)),
            ({"rot90_axes": ((0, 1),)}, lambda x: np.rot90(x, 1, (1, 2)), lambda x: np.rot90(x, -1, (1, 2))),
        ],
        ids=["as it is", "flip", "transposition", "rotation"],
    )
    def test_monais_orderings(
        self,
        make_prior: MakePrior,
        codes: torch.Tensor,
        arguments: dict[str, object],
        transform: Callable[[np.ndarray], np.ndarray],
        back: Callable[[np.ndarray], np.ndarray],
    ) -> None:
        prior = make_prior()
        ordering = Ordering("raster_scan", 2, (1, 4, 4), **arguments)
        values = VQPriorInferer().log_likelihood(codes, prior, orderings=[ordering])
        expected = back(numpy_log_likelihood(prior, transform(codes.numpy())))
        np.testing.assert_allclose(values, expected, atol=1e-5)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"orderings": []}, "orderings must hold at least one ordering, got none"),
            ({"orderings": [(2,)]}, r"an ordering flips distinct axes in 0..1, got \(2,\)"),
            ({"orderings": [(0, 0)]}, r"an ordering flips distinct axes in 0..1, got \(0, 0\)"),
            ({"orderings": [(-1,)]}, r"an ordering flips distinct axes in 0..1, got \(-1,\)"),
            ({"orderings": [Ordering("raster_scan", 2, (1, 4, 5))]}, r"one of 20 positions, the grid is \(4, 4\)"),
            ({"reduction": "mean"}, "reduction must be 'none' or 'sum', got 'mean'"),
        ],
    )
    def test_wrong_arguments(
        self, make_prior: MakePrior, codes: torch.Tensor, arguments: dict[str, object], message: str
    ) -> None:
        with pytest.raises(InputError, match=message):
            VQPriorInferer().log_likelihood(codes, make_prior(), **arguments)


@pytest.mark.parametrize("kind", ["raster_scan", "s_curve", "random"])
def test_reading_order_is_monais(kind: str) -> None:
    ordering = Ordering(kind, 2, (1, 3, 5))
    order = reading_order(ordering, (3, 5))
    sequence = np.arange(15)
    assert order.dtype == torch.int64
    assert np.array_equal(sequence[order.numpy()], ordering(sequence))


class TestCodeMap:
    @pytest.mark.parametrize(
        ("grid", "stride"), [((2, 3), 4), ((3, 2), (2, 5)), ((2, 1, 3), 2), ((2, 2, 2), (1, 2, 3))]
    )
    def test_shows_each_code_on_its_pixels(self, grid: tuple[int, ...], stride: int | tuple[int, ...]) -> None:
        values = torch.randn(2, *grid, generator=torch.manual_seed(0))
        block = np.ones((stride,) * len(grid) if isinstance(stride, int) else stride)
        shown = code_map(values, stride)
        for image, row in zip(shown, values, strict=True):
            assert np.array_equal(image[0], np.kron(row.numpy(), block))
        assert float(shown.mean()) == pytest.approx(float(values.mean()), abs=1e-6)

    def test_has_the_size_of_the_images(self, make_prior: MakePrior, codes: torch.Tensor) -> None:
        network = AutoencoderVQ(channels=(8, 8), patch_size=2, codebook=EMACodebook(7, 4)).eval()
        bits = VQPriorInferer().bits(codes, make_prior())
        with torch.no_grad():
            assert code_map(bits, network.stride).shape == network.decode_samples(codes).shape
