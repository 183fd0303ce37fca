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

from monai_vqprior.networks.codebook import EMACodebook

#: a codebook small enough to see which vector belongs to which code.
CODES = np.array([[0, 0, 0, 0, 0], [3, 3, 3, 3, 3], [0, 2, 0, 2, 0], [-1, 0, 4, 0, -1]], np.float32)
GRIDS = [(2, 3), (2, 3, 2)]


def codebook_at(codes: np.ndarray, count: float = 1.0, **options: float) -> EMACodebook:
    """A codebook in training mode that has come to these codes (K, D), with running counts alike."""
    codebook = EMACodebook(codes.shape[0], codes.shape[1], **options)
    start = torch.from_numpy(codes)
    counts = torch.full((len(codes),), count)
    codebook.load_state_dict(
        {"embedding": start, "embedding_sum": start * count, "cluster_size": counts, "started": torch.tensor(True)}
    )
    return codebook.train()


def as_image(vectors: np.ndarray) -> torch.Tensor:
    """(N, D) -> (1, D, N, 1)."""
    return torch.from_numpy(vectors.astype(np.float32)).t()[None, :, :, None].contiguous()


def around_codes(
    codes: np.ndarray, grid: tuple[int, ...], noise: float = 0.3, seed: int = 0
) -> tuple[torch.Tensor, np.ndarray]:
    """Images (2, D, *grid) of noisy codes that all occur, and the indices (2, *grid) of the codes."""
    rng = np.random.default_rng(seed)
    number = 2 * int(np.prod(grid))
    indices = rng.permutation(np.arange(number) % len(codes)).reshape(2, *grid)
    vectors = codes[indices] + rng.uniform(-noise, noise, (*indices.shape, codes.shape[1]))
    return torch.from_numpy(np.moveaxis(vectors, -1, 1).astype(np.float32)), indices


def blobs(clusters: int, number: int, dim: int, spread: float = 0.05, seed: int = 0) -> np.ndarray:
    """(number, dim) vectors in tight clusters that are used alike."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(0, 3, (clusters, dim))
    return (centers[np.arange(number) % clusters] + rng.normal(0, spread, (number, dim))).astype(np.float32)


def snapshot(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def assert_same_state(module: torch.nn.Module, expected: dict[str, torch.Tensor]) -> None:
    for name, value in module.state_dict().items():
        assert torch.equal(value, expected[name]), name


# indices and codes


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_encode_and_decode_a_hand_written_codebook(grid: tuple[int, ...], dtype: torch.dtype) -> None:
    codebook = codebook_at(CODES)
    z, expected = around_codes(CODES, grid)
    indices = codebook.encode(z.to(dtype))
    assert indices.dtype == torch.int64
    np.testing.assert_array_equal(indices.numpy(), expected)
    codes = codebook.decode(indices)
    assert codes.dtype == torch.float32
    np.testing.assert_array_equal(codes.numpy(), np.moveaxis(CODES[expected], -1, 1))


# quantization and its gradient


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("method", ["quantize", "forward"])
@pytest.mark.parametrize("training", [True, False])
def test_quantized_indices_and_loss_by_hand(grid: tuple[int, ...], method: str, training: bool) -> None:
    codebook = codebook_at(CODES, commitment_cost=0.7).train(training)
    z, expected = around_codes(CODES, grid)
    quantized, indices, loss = getattr(codebook, method)(z)
    target = np.moveaxis(CODES[expected], -1, 1)
    np.testing.assert_array_equal(indices.numpy(), expected)
    np.testing.assert_allclose(quantized.detach().numpy(), target, atol=1e-6)
    assert loss.shape == ()
    np.testing.assert_allclose(loss.item(), 0.7 * np.mean((z.numpy().astype(np.float64) - target) ** 2), rtol=1e-5)


@pytest.mark.parametrize("method", ["quantize", "forward"])
@pytest.mark.parametrize("cost", [0.0, 0.25, 2.0])
def test_gradient_is_the_identity_plus_the_commitment(method: str, cost: float) -> None:
    codebook = codebook_at(CODES, commitment_cost=cost)
    z, indices = around_codes(CODES, (2, 3))
    weight = np.random.default_rng(1).normal(size=z.shape)
    z.requires_grad_()
    quantized, _, loss = getattr(codebook, method)(z)
    ((quantized * torch.from_numpy(weight).float()).sum() + loss).backward()
    commitment = cost * 2 * (z.detach().numpy() - np.moveaxis(CODES[indices], -1, 1)) / z.numel()
    assert z.grad is not None
    np.testing.assert_allclose(z.grad.numpy(), weight + commitment, atol=1e-5)


# the moving averages


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("revival_threshold", [0.0, 0.01])
def test_codes_follow_the_running_averages(decay: float, revival_threshold: float) -> None:
    # Every code is used in every step, so that none is dead.
    codebook = codebook_at(CODES, decay=decay, revival_threshold=revival_threshold)
    sizes = np.ones(len(CODES))
    sums = CODES.astype(np.float64)
    for step in range(6):
        z, indices = around_codes(CODES, (5, 4), noise=0.2, seed=step)
        codebook(z + 0.05 * step)
        vectors = np.moveaxis(z.numpy() + 0.05 * step, 1, -1).reshape(-1, CODES.shape[1])
        for k in range(len(CODES)):
            members = vectors[indices.ravel() == k]
            sizes[k] = decay * sizes[k] + (1 - decay) * len(members)
            sums[k] = decay * sums[k] + (1 - decay) * members.sum(0)
        np.testing.assert_allclose(codebook.embedding.numpy(), sums / sizes[:, None], atol=1e-5)
    assert np.abs(codebook.embedding.numpy() - CODES).max() > 0.01


@pytest.mark.parametrize(("decay", "steps"), [(0.0, 1), (0.5, 60), (0.99, 3)])
def test_unused_code_stays_where_it_is_without_revival(decay: float, steps: int) -> None:
    codebook = codebook_at(CODES, decay=decay, revival_threshold=0)
    z, _ = around_codes(CODES[:1], (4, 4))  # uses code 0 alone
    for _ in range(steps):
        codebook(z)
    np.testing.assert_allclose(codebook.embedding[1:].numpy(), CODES[1:], rtol=1e-4)


@pytest.mark.parametrize("revival_threshold", [0.0, 0.02])
def test_codes_stay_among_the_vectors_that_made_them(revival_threshold: float) -> None:
    # MONAI's EMAQuantizer multiplies the norm of unused codes by 1e5 in its first step.
    torch.manual_seed(0)
    vectors = blobs(20, 400, dim=4)
    codebook = EMACodebook(256, 4, decay=0.9, revival_threshold=revival_threshold)
    for _ in range(40):
        codebook(as_image(vectors))
        codes = codebook.embedding.numpy()
        assert (codes >= vectors.min(0) - 1e-3).all()
        assert (codes <= vectors.max(0) + 1e-3).all()


def test_buffers_are_float32_and_equal_under_autocast() -> None:
    # Counts of thousands: sums in bfloat16 would be wrong in their third digit.
    vectors = blobs(3, 6000, dim=8, spread=1.0)
    states = []
    for enabled in (True, False):
        torch.manual_seed(0)
        codebook = EMACodebook(16, 8, decay=0.9)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            for _ in range(5):
                quantized, _, loss = codebook(as_image(vectors))
        assert quantized.dtype == loss.dtype == torch.float32
        states.append(snapshot(codebook))
    assert_same_state(codebook, states[0])
    assert all(states[0][name].dtype == torch.float32 for name in ("embedding", "embedding_sum", "cluster_size"))


# the start


@pytest.mark.parametrize("k", [2, 3, 5, 8, 12, 16, 100])
def test_start_puts_all_codes_on_vectors_of_the_batch(k: int) -> None:
    torch.manual_seed(k)
    vectors = np.random.default_rng(k).normal(5, 2, (200, 3)).astype(np.float32)
    codebook = EMACodebook(k, 3, decay=1 - 1e-7)  # too slow to leave the start
    codebook(as_image(vectors))
    distances = np.abs(codebook.embedding.numpy()[:, None] - vectors[None]).max(2)  # (K, N)
    np.testing.assert_allclose(distances.min(1), 0, atol=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_start_spreads_the_codes(seed: int) -> None:
    # Two far clusters, and near each five vectors of a thousand: uniform draws would miss those, and so would draws
    # that look at the distance to the first code alone.
    torch.manual_seed(seed)
    vectors = np.random.default_rng(seed).normal(0, 0.1, (1000, 3)).astype(np.float32)
    vectors[::2, 0] += 100
    vectors[:10, 1] += 10
    codebook = EMACodebook(32, 3)
    quantized, _, _ = codebook(as_image(vectors))
    worst = ((quantized[0, :, :, 0].t().numpy() - vectors) ** 2).sum(1).max()
    assert worst < 1


def test_start_with_fewer_vectors_than_codes() -> None:
    torch.manual_seed(0)
    vectors = np.eye(3, dtype=np.float32)
    codebook = EMACodebook(64, 3)
    quantized, _, loss = codebook(as_image(vectors))
    np.testing.assert_allclose(quantized[0, :, :, 0].t().numpy(), vectors, atol=1e-6)
    assert loss.item() == pytest.approx(0, abs=1e-8)
    assert torch.isfinite(codebook.embedding).all()


def test_start_happens_once() -> None:
    torch.manual_seed(0)
    codebook = EMACodebook(16, 3, decay=0.9999)
    near = as_image(np.random.default_rng(0).normal(0, 1, (100, 3)))
    codebook(near)
    codebook(near + 100)
    assert codebook.embedding.abs().max() < 50


# revival


def one_dead_code(**options: float) -> tuple[EMACodebook, np.ndarray, np.ndarray]:
    """A codebook whose code 1 nothing uses, vectors close to code 0, and vectors on both sides that it serves badly."""
    codebook = codebook_at(np.array([[0, 0], [100, 0]], np.float32), count=270, decay=0.9, **options)
    rng = np.random.default_rng(0)
    near = rng.normal(0, 0.01, (500, 2)).astype(np.float32)
    sides = np.array([[0, 10], [0, -10]]).repeat(20, 0)
    return codebook, near, (sides + rng.normal(0, 0.01, sides.shape)).astype(np.float32)


def revive(codebook: EMACodebook, near: np.ndarray, far: np.ndarray) -> None:
    """Train until code 1 has moved."""
    for _ in range(100):
        if codebook.embedding[1, 0] < 50:
            return
        codebook(as_image(np.concatenate([near, far])))
    raise AssertionError("code 1 was not revived")


def test_dead_code_is_revived_far_from_the_code_of_its_vector() -> None:
    torch.manual_seed(0)
    codebook, near, far = one_dead_code()
    revive(codebook, near, far)
    np.testing.assert_allclose(codebook.embedding[1].abs().numpy(), [0, 10], atol=0.05)
    np.testing.assert_allclose(codebook.embedding[0].numpy(), [0, 0], atol=0.05)


@pytest.mark.parametrize("threshold", [0.02, 0.05, 0.3])
def test_revived_code_outlives_the_update_that_follows(threshold: float) -> None:
    torch.manual_seed(0)
    codebook, near, far = one_dead_code(revival_threshold=threshold)
    revive(codebook, near, far)
    revived = codebook.embedding[1].clone()
    codebook(as_image(near))  # a step that does not use it
    np.testing.assert_allclose(codebook.embedding[1].numpy(), revived.numpy(), atol=1e-4)


def test_revival_can_be_turned_off() -> None:
    codebook, near, far = one_dead_code(revival_threshold=0)
    for _ in range(60):
        codebook(as_image(np.concatenate([near, far])))
    np.testing.assert_allclose(codebook.embedding[1].numpy(), [100, 0], rtol=1e-4)


def test_codes_in_use_are_not_revived() -> None:
    codebook = codebook_at(CODES, decay=0.9, revival_threshold=0.02)
    z, expected = around_codes(CODES, (8, 8), noise=0.1)
    for _ in range(20):
        codebook(z)
    np.testing.assert_array_equal(codebook.encode(z).numpy(), expected)


def test_all_codes_are_used_after_the_data_moved() -> None:
    torch.manual_seed(0)
    vectors = blobs(64, 2048, dim=4)
    codebook = EMACodebook(64, 4, decay=0.8)
    codebook(as_image(vectors))
    for _ in range(60):
        codebook(as_image(vectors + 30))  # most of the codes now lie behind others
    used = torch.bincount(codebook.encode(as_image(vectors + 30)).flatten(), minlength=64)
    assert (used > 0).all()


# what must not write, and what is kept


@pytest.mark.parametrize("started", [True, False])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda codebook, z: codebook.encode(z), id="encode"),
        pytest.param(lambda codebook, z: codebook.quantize(z), id="quantize"),
        pytest.param(lambda codebook, z: codebook.decode(codebook.encode(z)), id="decode"),
        pytest.param(lambda codebook, z: codebook.eval()(z), id="forward in evaluation"),
    ],
)
def test_only_the_training_forward_writes(
    call: Callable[[EMACodebook, torch.Tensor], object], training: bool, started: bool
) -> None:
    torch.manual_seed(0)
    codebook = codebook_at(CODES) if started else EMACodebook(*CODES.shape)
    codebook.train(training)
    before = snapshot(codebook)
    call(codebook, around_codes(CODES, (4, 4))[0] + 1)
    assert_same_state(codebook, before)


def test_loaded_codebook_goes_on_where_the_saved_one_stopped() -> None:
    torch.manual_seed(0)
    vectors = blobs(16, 512, dim=3, spread=0.5)
    saved = EMACodebook(16, 3, revival_threshold=0)
    saved(as_image(vectors))
    loaded = EMACodebook(16, 3, revival_threshold=0)
    loaded.load_state_dict(saved.state_dict())
    for codebook in (saved, loaded):
        codebook(as_image(vectors + 0.3))
    assert_same_state(loaded, snapshot(saved))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_embeddings", 1),
        ("embedding_dim", 0),
        ("decay", 1.0),
        ("decay", -0.1),
        ("commitment_cost", -0.5),
        ("revival_threshold", -0.01),
        ("revival_threshold", 1.0),
    ],
)
def test_bad_argument_is_quoted(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"{name} must .*, got {value}\."):
        EMACodebook(**{name: value})
