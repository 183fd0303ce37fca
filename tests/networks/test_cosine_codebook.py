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

from monai_vqprior.networks import CosineCodebook


def unit(vectors: np.ndarray) -> np.ndarray:
    """Directions of vectors (N, D), float64."""
    return vectors / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)


def as_image(vectors: np.ndarray) -> torch.Tensor:
    """(N, D) -> (1, D, N, 1)."""
    return torch.from_numpy(vectors.astype(np.float32)).t()[None, :, :, None].contiguous()


def as_vectors(image: torch.Tensor) -> np.ndarray:
    """(1, D, N, 1) -> (N, D)."""
    return image.detach()[0, :, :, 0].t().numpy()


def codebook_at(codes: np.ndarray, **options: float) -> CosineCodebook:
    """A codebook in training mode that has come to these codes (K, D) of length 1, with running counts of 1."""
    codebook = CosineCodebook(*codes.shape, **options)
    start = torch.from_numpy(codes.astype(np.float32))
    codebook.load_state_dict(
        {
            "embedding": start,
            "embedding_sum": start,
            "cluster_size": torch.ones(len(codes)),
            "started": torch.tensor(True),
        }
    )
    return codebook.train()


def random_codes(number: int, dim: int) -> np.ndarray:
    return unit(np.random.default_rng(0).normal(size=(number, dim)))


def random_vectors(number: int, dim: int, seed: int = 1) -> np.ndarray:
    """Vectors of lengths from a thousandth to a thousand."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(number, dim)) * 10 ** rng.uniform(-3, 3, (number, 1))).astype(np.float32)


def assert_unit_length(codebook: CosineCodebook) -> None:
    np.testing.assert_allclose(codebook.embedding.norm(dim=1).numpy(), 1, atol=1e-5)


# the nearest code


@pytest.mark.parametrize(("k", "dim"), [(2, 2), (37, 5), (300, 8)])
def test_nearest_code_has_the_largest_cosine(k: int, dim: int) -> None:
    codes, vectors = random_codes(k, dim), random_vectors(500, dim)
    indices = codebook_at(codes).encode(as_image(vectors)).flatten().numpy()
    cosines = unit(vectors) @ codes.T
    two = np.sort(cosines, 1)[:, -2:]
    clear = two[:, 1] - two[:, 0] > 1e-4
    assert clear.mean() > 0.95
    np.testing.assert_array_equal(indices[clear], cosines.argmax(1)[clear])


@pytest.mark.parametrize("factor", [7, 1e-3, 1e4])
def test_the_length_of_a_vector_does_not_matter(factor: float) -> None:
    codebook = codebook_at(random_codes(64, 5))
    z = as_image(random_vectors(500, 5))
    assert torch.equal(codebook.encode(z), codebook.encode(factor * z))
    for result, expected in zip(codebook.quantize(factor * z), codebook.quantize(z), strict=True):
        torch.testing.assert_close(result, expected)


# quantization and its gradient


@pytest.mark.parametrize("method", ["quantize", "forward"])
@pytest.mark.parametrize("grid", [(4, 5), (3, 4, 5)])
def test_quantized_indices_and_loss_by_numpy(method: str, grid: tuple[int, ...]) -> None:
    codes = random_codes(16, 3)
    codebook = codebook_at(codes, commitment_cost=0.7)
    z = torch.from_numpy(np.random.default_rng(1).normal(0, 5, (2, 3, *grid)).astype(np.float32))
    quantized, indices, loss = getattr(codebook, method)(z)
    vectors = unit(np.moveaxis(z.numpy(), 1, -1).reshape(-1, 3))
    expected = (vectors @ codes.T).argmax(1)
    np.testing.assert_array_equal(indices.numpy(), expected.reshape(2, *grid))
    target = np.moveaxis(codes[expected].reshape(2, *grid, 3), -1, 1)
    np.testing.assert_allclose(quantized.numpy(), target, atol=1e-6)
    assert loss.item() == pytest.approx(0.7 * np.mean((vectors - codes[expected]) ** 2), rel=1e-4)


@pytest.mark.parametrize("method", ["quantize", "forward"])
def test_gradient_passes_through_the_normalization(method: str) -> None:
    codes, vectors = random_codes(16, 3), random_vectors(40, 3)
    weight = np.random.default_rng(2).normal(size=vectors.shape)
    z = as_image(vectors).requires_grad_()
    quantized, indices, loss = getattr(codebook_at(codes, commitment_cost=0.7), method)(z)
    ((quantized * as_image(weight)).sum() + loss).backward()
    # At the direction e of a vector v: straight through, plus the commitment; at v: (I - e e') / |v| of it.
    directions = unit(vectors)
    at_direction = weight + 0.7 * 2 * (directions - codes[indices.flatten().numpy()]) / vectors.size
    along = (at_direction * directions).sum(1, keepdims=True)
    expected = (at_direction - along * directions) / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert z.grad is not None
    np.testing.assert_allclose(as_vectors(z.grad), expected, rtol=1e-3, atol=1e-6 * np.abs(expected).max())


# the moving averages


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.99])
def test_codes_follow_the_running_averages_of_directions(decay: float) -> None:
    codes = random_codes(8, 4)
    codebook = codebook_at(codes, decay=decay, revival_threshold=0)
    sums, sizes = codes.copy(), np.ones(len(codes))
    for step in range(8):
        vectors = random_vectors(200, 4, seed=step)
        codebook(as_image(vectors))
        directions = unit(vectors)
        nearest = (directions @ codes.T).argmax(1)
        for k in range(len(codes)):
            members = directions[nearest == k]
            sums[k] = decay * sums[k] + (1 - decay) * members.sum(0)
            sizes[k] = decay * sizes[k] + (1 - decay) * len(members)
        codes = unit(sums)
        np.testing.assert_allclose(codebook.embedding.numpy(), codes, atol=1e-5)
        np.testing.assert_allclose(codebook.cluster_size.numpy(), sizes, rtol=1e-5)


def test_vectors_that_cancel_out_leave_their_code_where_it_is() -> None:
    # Both vectors are as near to one code as to the other; among equals the first is taken.
    codes = np.array([[1, 0, 0], [-1, 0, 0]])
    codebook = codebook_at(codes, decay=0, revival_threshold=0)
    _, indices, _ = codebook(as_image(np.array([[0, 1, 0], [0, -1, 0]])))
    assert indices.flatten().tolist() == [0, 0]
    assert codebook.cluster_size.tolist() == [2, 0]
    np.testing.assert_array_equal(codebook.embedding.numpy(), codes)


# length 1, always


@pytest.mark.parametrize("training", [True, False])
def test_codes_have_length_one_before_the_start(training: bool) -> None:
    torch.manual_seed(0)
    codebook = CosineCodebook(64, 5).train(training)
    assert_unit_length(codebook)
    quantized, _, _ = codebook.quantize(as_image(random_vectors(100, 5)))
    np.testing.assert_allclose(np.linalg.norm(as_vectors(quantized), axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("revival_threshold", [0.0, 0.05])
@pytest.mark.parametrize("decay", [0.1, 0.9])
def test_codes_and_quantized_vectors_have_length_one_in_every_step(decay: float, revival_threshold: float) -> None:
    torch.manual_seed(0)
    codebook = CosineCodebook(64, 5, decay=decay, revival_threshold=revival_threshold)
    for step in range(40):
        vectors = random_vectors(100, 5, seed=step)
        vectors[:, 0] += 1e3 * (step >= 20)  # the data moves, so that codes die
        quantized, _, _ = codebook(as_image(vectors))
        assert_unit_length(codebook)
        np.testing.assert_allclose(np.linalg.norm(as_vectors(quantized), axis=1), 1, atol=1e-5)


def test_revived_code_is_the_direction_of_a_vector() -> None:
    torch.manual_seed(0)
    codebook = codebook_at(np.array([[1, 0, 0], [-1, 0, 0]]), decay=0.5)
    rng = np.random.default_rng(0)
    vectors = np.array([[5, 0, 0], [0, 0, 300]]).repeat(100, 0) + rng.normal(0, 0.01, (200, 3))
    vectors[:, 0] = np.abs(vectors[:, 0])  # all are nearer to the first code
    for _ in range(20):
        codebook(as_image(vectors))
        assert_unit_length(codebook)
    np.testing.assert_allclose(np.sort(codebook.embedding.numpy(), 0), [[0, 0, 0], [1, 0, 1]], atol=0.02)


# robustness


def test_vectors_of_no_length_leave_everything_finite() -> None:
    torch.manual_seed(0)
    codebook = codebook_at(random_codes(16, 3), decay=0.5)
    vectors = random_vectors(50, 3)
    vectors[::2] = 0
    z = as_image(vectors).requires_grad_()
    for _ in range(5):
        quantized, _, loss = codebook(z)
        (quantized.sum() + loss).backward()
    assert z.grad is not None
    for tensor in (quantized, loss, z.grad, *codebook.state_dict().values()):
        assert torch.isfinite(tensor).all()
    assert_unit_length(codebook)


def test_all_codes_are_used_on_blobs_of_directions() -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    centers = unit(rng.normal(size=(64, 8)))
    directions = centers[np.arange(2048) % 64] + rng.normal(0, 0.02, (2048, 8))
    vectors = directions * 10 ** rng.uniform(-2, 2, (2048, 1))
    codebook = CosineCodebook(64, 8, decay=0.8)
    for _ in range(40):
        codebook(as_image(vectors))
    used = torch.bincount(codebook.encode(as_image(vectors)).flatten(), minlength=64)
    assert (used > 0).all()
