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

import numpy as np
import pytest
import torch

from monai_vqprior.networks import FSQCodebook

#: numbers of levels, and their product.
CODEBOOKS = [((2,), 2), ((3, 2), 6), ((8, 8, 8), 512), ((8, 5, 5, 5), 1000), ((7, 5, 5, 5, 5), 4375)]
GRIDS = [(6, 7), (3, 4, 5)]


def all_codes(codebook: FSQCodebook) -> tuple[torch.Tensor, np.ndarray]:
    """All indices (1, K, 1) and their codes (K, D)."""
    indices = torch.arange(codebook.num_embeddings)[None, :, None]
    return indices, codebook.decode(indices)[0, :, :, 0].t().numpy()


def random_output(levels: tuple[int, ...], grid: tuple[int, ...], scale: float = 1.0) -> torch.Tensor:
    z = np.random.default_rng(0).normal(0, scale, (2, len(levels), *grid))
    return torch.from_numpy(z.astype(np.float32))


# the codes


def test_codes_of_a_hand_written_codebook() -> None:
    _, codes = all_codes(FSQCodebook((3, 2)))
    np.testing.assert_array_equal(codes, [[-1, -1], [0, -1], [1, -1], [-1, 1], [0, 1], [1, 1]])


@pytest.mark.parametrize(("levels", "number"), CODEBOOKS)
def test_every_code_is_another_and_every_code_is_reached(levels: tuple[int, ...], number: int) -> None:
    codebook = FSQCodebook(levels)
    assert (codebook.num_embeddings, codebook.embedding_dim) == (number, len(levels))
    indices, codes = all_codes(codebook)
    assert len(np.unique(codes, axis=0)) == number
    for channel, level in enumerate(levels):
        np.testing.assert_allclose(np.unique(codes[:, channel]), np.linspace(-1, 1, level), atol=1e-6)
    # L cells of equal width between -1 and 1: their middles lie at (L - 1) / L of the code.
    middles = np.arctanh(codes.astype(np.float64) * (np.array(levels) - 1) / levels)  # (K, D)
    z = torch.from_numpy(middles.T[None, :, :, None])
    assert torch.equal(codebook.encode(z), indices)


@pytest.mark.parametrize("level", range(2, 11))
def test_levels_are_equally_wide_where_the_values_are_bounded(level: int) -> None:
    bounded = np.linspace(-1, 1, 100_001)[1:-1]
    indices = FSQCodebook([level]).encode(torch.from_numpy(np.arctanh(bounded)[None, None])).flatten().numpy()
    assert (np.diff(indices) >= 0).all()
    np.testing.assert_allclose(np.bincount(indices) / len(bounded), np.full(level, 1 / level), rtol=3e-3)


@pytest.mark.parametrize("far", [20.0, 1e30, float("inf")])
@pytest.mark.parametrize("level", [2, 5, 8, 1000])
def test_far_values_are_on_the_outermost_levels(level: int, far: float) -> None:
    codebook = FSQCodebook([level])
    quantized, indices, _ = codebook(torch.tensor([-far, far])[None, None])
    assert indices.tolist() == [[0, level - 1]]
    assert quantized.tolist() == [[[-1, 1]]]


# quantization


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("scale", [0.1, 1, 100])
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(("levels", "number"), CODEBOOKS)
def test_indices_and_quantized_vectors_by_equal_cells(
    levels: tuple[int, ...], number: int, grid: tuple[int, ...], scale: float, training: bool
) -> None:
    codebook = FSQCodebook(levels).train(training)
    z = random_output(levels, grid, scale)
    quantized, indices, loss = codebook(z)
    assert quantized.shape == z.shape
    assert indices.shape == (2, *grid)
    assert (quantized.dtype, indices.dtype) == (torch.float32, torch.int64)
    assert loss.shape == ()
    assert loss.item() == 0
    assert torch.equal(codebook.encode(z), indices)
    assert torch.equal(codebook.decode(indices), quantized)

    many = np.reshape(levels, (-1, *(1 for _ in grid)))
    cells = (np.tanh(z.numpy().astype(np.float64)) + 1) / 2 * many  # 0..L
    steps = np.clip(np.floor(cells), 0, many - 1)
    borders = np.round(cells)
    clear = (np.abs(cells - borders) > 0.01) | (borders == 0) | (borders == many)
    np.testing.assert_allclose(quantized.numpy()[clear], (2 * steps / (many - 1) - 1)[clear], atol=1e-6)
    places = np.cumprod([1, *levels[:-1]]).reshape(many.shape)
    whole = clear.all(1)
    assert whole.mean() > 0.7
    np.testing.assert_array_equal(indices.numpy()[whole], (steps * places).sum(1)[whole])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_floating_types_are_quantized_as_float32(dtype: torch.dtype) -> None:
    codebook = FSQCodebook((8, 5, 3))
    z = random_output((8, 5, 3), (6, 7)).to(dtype)
    for result, expected in zip(codebook(z), codebook(z.float()), strict=True):
        assert result.dtype == expected.dtype
        assert torch.equal(result, expected)
    assert torch.equal(codebook.encode(z), codebook.encode(z.float()))


def test_autocast_changes_nothing() -> None:
    codebook = FSQCodebook((8, 5, 3))
    z = random_output((8, 5, 3), (6, 7))
    expected = (*codebook(z), codebook.encode(z))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        results = (*codebook(z), codebook.encode(z))
    for result, value in zip(results, expected, strict=True):
        assert result.dtype == value.dtype
        assert torch.equal(result, value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("levels", [(8, 5, 3), (2, 2)])
def test_gradient_is_that_of_the_smooth_bound(levels: tuple[int, ...], dtype: torch.dtype) -> None:
    z = random_output(levels, (6, 7)).to(dtype).requires_grad_()
    weight = random_output(levels, (6, 7)).flip(-1)
    quantized, _, loss = FSQCodebook(levels)(z)
    ((quantized * weight).sum() + loss).backward()
    many = np.reshape(levels, (-1, 1, 1))
    # L - 1 steps of 2 / (L - 1), and just not half a step more on both sides, squashed by tanh.
    slope = (many - 0.002) / (many - 1) / np.cosh(z.detach().double().numpy()) ** 2
    assert z.grad is not None
    assert z.grad.dtype == dtype
    expected = weight.numpy() * slope
    np.testing.assert_allclose(z.grad.double().numpy(), expected, rtol=1e-2 if dtype == torch.bfloat16 else 1e-4)


def test_any_mask_is_accepted_and_changes_nothing() -> None:
    codebook = FSQCodebook((8, 5, 3)).train()
    z = random_output((8, 5, 3), (6, 7))
    for mask in (torch.zeros(2, 6, 7, dtype=torch.bool), z[:, 0] > 0):
        for result, expected in zip(codebook(z, mask), codebook(z), strict=True):
            assert torch.equal(result, expected)


def test_an_empty_batch_has_empty_codes() -> None:
    quantized, indices, loss = FSQCodebook((8, 5, 3))(torch.zeros(0, 3, 6, 7))
    assert (quantized.shape, indices.shape, loss.item()) == ((0, 3, 6, 7), (0, 6, 7), 0)


# what it does not have


def test_training_writes_nothing_and_there_is_nothing_to_save() -> None:
    codebook = FSQCodebook((8, 5, 3)).train()
    before = {name: value.clone() for name, value in codebook.named_buffers()}
    for _ in range(3):
        codebook(random_output((8, 5, 3), (6, 7), scale=3))
    for name, value in codebook.named_buffers():
        assert torch.equal(value, before[name]), name
    assert not list(codebook.parameters())
    assert not codebook.state_dict()


@pytest.mark.parametrize("levels", [[], [8, 1], [0], [5, -3, 5]])
def test_bad_levels_are_quoted(levels: list[int]) -> None:
    with pytest.raises(ValueError, match=rf"^levels must .* all at least 2, got {re.escape(str(levels))}\.$"):
        FSQCodebook(levels)
