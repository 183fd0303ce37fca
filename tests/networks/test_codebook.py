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
from functools import partial

import numpy as np
import pytest
import torch
from monai.networks.layers.vector_quantizer import EMAQuantizer

from monai_vqprior.networks.codebook import CosineCodebook, EMACodebook, nearest_code

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


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("grid", GRIDS)
def test_channels_last_memory_changes_nothing(grid: tuple[int, ...], training: bool) -> None:
    z, _ = around_codes(CODES, grid)
    last = z.to(memory_format=torch.channels_last if len(grid) == 2 else torch.channels_last_3d)
    assert not last.is_contiguous()
    contiguous, other = (codebook_at(CODES).train(training) for _ in range(2))
    for result, expected in zip(other(last), contiguous(z), strict=True):
        assert result.shape == expected.shape
        torch.testing.assert_close(result, expected)
    for name, value in other.state_dict().items():
        torch.testing.assert_close(value, contiguous.state_dict()[name])


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


@pytest.mark.parametrize("distances_at_once", [1 << 20, 1000, 1])
def test_training_steps_equal_those_of_a_float64_reference(
    monkeypatch: pytest.MonkeyPatch, distances_at_once: int
) -> None:
    # 80 codes: all, 12 and 1 of the vectors at a time.
    chunked = partial(nearest_code, distances_at_once=distances_at_once)
    monkeypatch.setattr("monai_vqprior.networks.codebook.nearest_code", chunked)
    rng = np.random.default_rng(0)
    codes = rng.normal(0, 1, (80, 4))
    codebook = codebook_at(codes.astype(np.float32), decay=0.8, commitment_cost=0.7, revival_threshold=0)
    sums, sizes = codes.copy(), np.ones(80)
    for _ in range(5):
        vectors = rng.normal(0.2, 1, (2 * 15 * 7, 4)).astype(np.float32)
        weight = rng.normal(0, 1, vectors.shape)
        z, weights = (
            torch.from_numpy(x.astype(np.float32)).view(2, 15, 7, 4).movedim(-1, 1) for x in (vectors, weight)
        )
        z.requires_grad_()
        quantized, indices, loss = codebook(z)
        (found,) = torch.autograd.grad((quantized * weights).sum() + loss, z)

        expected = ((vectors.astype(np.float64)[:, None] - codes[None]) ** 2).sum(2).argmin(1)
        difference = vectors - codes[expected]
        np.testing.assert_array_equal(indices.flatten().numpy(), expected)
        np.testing.assert_allclose(quantized.detach().movedim(1, -1).reshape(-1, 4).numpy(), codes[expected], atol=1e-5)
        assert loss.item() == pytest.approx(0.7 * np.mean(difference**2), rel=1e-5)
        gradient = weight + 0.7 * 2 * difference / difference.size
        np.testing.assert_allclose(found.movedim(1, -1).reshape(-1, 4).numpy(), gradient, atol=1e-5)

        members = np.eye(80)[expected]  # (N, K)
        sums = 0.8 * sums + 0.2 * members.T @ vectors
        sizes = 0.8 * sizes + 0.2 * members.sum(0)
        codes = sums / sizes[:, None]
        np.testing.assert_allclose(codebook.embedding.numpy(), codes, atol=1e-5)
        np.testing.assert_allclose(codebook.cluster_size.numpy(), sizes, rtol=1e-5)


@pytest.mark.parametrize(("decay", "steps"), [(0.0, 1), (0.5, 60), (0.99, 3)])
def test_unused_code_stays_where_it_is_without_revival(decay: float, steps: int) -> None:
    codebook = codebook_at(CODES, decay=decay, revival_threshold=0)
    z, _ = around_codes(CODES[:1], (4, 4))  # uses code 0 alone
    for _ in range(steps):
        codebook(z)
    np.testing.assert_allclose(codebook.embedding[1:].numpy(), CODES[1:], rtol=1e-4)


@pytest.mark.parametrize("revival_threshold", [0.0, 0.02])
def test_codes_stay_among_the_vectors_that_made_them(revival_threshold: float) -> None:
    torch.manual_seed(0)
    vectors = blobs(20, 400, dim=4)
    codebook = EMACodebook(256, 4, decay=0.9, revival_threshold=revival_threshold)
    for _ in range(40):
        codebook(as_image(vectors))
        codes = codebook.embedding.numpy()
        assert (codes >= vectors.min(0) - 1e-3).all()
        assert (codes <= vectors.max(0) + 1e-3).all()


def test_codes_of_the_first_step_do_not_explode_where_those_of_monai_do() -> None:
    torch.manual_seed(0)
    z = as_image(blobs(4, 400, dim=4))
    peer = EMAQuantizer(spatial_dims=2, num_embeddings=256, embedding_dim=4, ddp_sync=False).train()
    codes = peer.embedding.weight.detach().numpy().copy()
    codebook = codebook_at(codes, decay=peer.decay, revival_threshold=0)
    peer(z)
    codebook(z)
    longest = np.linalg.norm(codes, axis=1).max()
    # There, an unused code is divided by the epsilon that smooths its count of none.
    assert peer.embedding.weight.norm(dim=1).max() > 1e4 * longest
    assert codebook.embedding.norm(dim=1).max() < max(longest, z.norm(dim=1).max()) + 1e-3


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


# the entropy loss


def entropy_loss(z: torch.Tensor, codes: np.ndarray) -> float:
    """ln K - H(mean soft assignment) of images (B, D, *grid), in float64, by the definition."""
    vectors = np.moveaxis(z.detach().numpy().astype(np.float64), 1, -1).reshape(-1, codes.shape[1])
    squared = ((vectors[:, None] - codes.astype(np.float64)[None]) ** 2).sum(2)  # (N, K)
    weights = np.exp(-squared / squared.min(1).mean())
    usage = (weights / weights.sum(1, keepdims=True)).mean(0)
    return float(np.log(len(codes)) + (usage * np.log(usage)).sum())


@pytest.mark.parametrize("kind", [EMACodebook, CosineCodebook])
@pytest.mark.parametrize("weight", [0.3, 2.0])
def test_entropy_loss_by_its_definition(kind: type[EMACodebook], weight: float) -> None:
    codes = CODES + 1
    if kind is CosineCodebook:
        codes = codes / np.linalg.norm(codes, axis=1, keepdims=True)
    z, _ = around_codes(codes, (5, 4))
    z = torch.nn.functional.normalize(z, dim=1) if kind is CosineCodebook else z
    losses = []
    for entropy_weight in (weight, 0.0):
        codebook = kind(len(codes), codes.shape[1], entropy_weight=entropy_weight)
        codebook.load_state_dict({**codebook_at(codes).state_dict()})
        losses.append(codebook.train()(z)[2].item())
    assert losses[0] - losses[1] == pytest.approx(weight * entropy_loss(z, codes), abs=1e-5)


@pytest.mark.parametrize("masked", [False, True])
def test_gradient_of_the_entropy_loss_by_its_definition(masked: bool) -> None:
    z, indices = around_codes(CODES, (5, 4))
    mask = torch.from_numpy(indices < 2) if masked else None
    codes = torch.from_numpy(CODES.astype(np.float64))
    expected = z.double().requires_grad_()
    squared = (expected.movedim(1, -1).reshape(-1, 1, codes.shape[1]) - codes).square().sum(2)  # (N, K)
    weights = torch.ones(len(squared)).double() if mask is None else mask.flatten().double()
    usage = weights @ (-squared / squared.min(1).values.mean().detach()).softmax(1) / weights.sum()
    (usage * usage.log()).sum().backward()
    z.requires_grad_()
    codebook_at(CODES, entropy_weight=0.5, commitment_cost=0.0)(z, mask)[2].backward()
    assert expected.grad is not None
    torch.testing.assert_close(z.grad, 0.5 * expected.grad.float(), rtol=1e-4, atol=1e-7)


def test_entropy_loss_is_for_training_alone() -> None:
    z, _ = around_codes(CODES, (5, 4))
    with_loss, without = codebook_at(CODES, entropy_weight=5.0).eval(), codebook_at(CODES).eval()
    assert with_loss(z)[2].item() == with_loss.quantize(z)[2].item() == without(z)[2].item()


def test_entropy_loss_sees_the_followed_vectors_alone() -> None:
    z, indices = around_codes(CODES, (6, 6))
    mask = torch.from_numpy(indices < 2)
    kept = as_image(np.moveaxis(z.numpy(), 1, -1)[mask.numpy()])
    losses = []
    for images, given in ((z, mask), (kept, None)):
        codebook = codebook_at(CODES, entropy_weight=1.0, commitment_cost=0.0)
        losses.append(codebook(images, given)[2].item())
    # The unit of distance is that of all vectors, which are alike in both.
    assert losses[0] == pytest.approx(losses[1], rel=0.05)
    assert losses[0] > 0.5  # half of the codes, or fewer, are used


@pytest.mark.parametrize("entropy_weight", [0.0, 1.0])
def test_entropy_loss_spreads_vectors_over_the_codes(entropy_weight: float) -> None:
    # Four codes in a square, and nearly all vectors near the first.
    codes = 0.7 * np.array([[0, 0], [1, 0], [0, 1], [1, 1]], np.float32)
    vectors = torch.nn.Parameter(as_image(np.random.default_rng(0).normal(-0.1, 0.3, (400, 2))))
    codebook = codebook_at(codes, entropy_weight=entropy_weight, commitment_cost=0.1, decay=0.999, revival_threshold=0)
    optimizer = torch.optim.Adam([vectors], lr=0.05)
    for _ in range(60):
        optimizer.zero_grad()
        codebook(vectors)[2].backward()
        optimizer.step()
    counts = torch.bincount(codebook.encode(vectors).flatten(), minlength=4)
    assert bool(counts.min() > 50) is (entropy_weight > 0), counts


def test_entropy_of_many_vectors_is_estimated_on_some() -> None:
    torch.manual_seed(0)
    z = torch.randn(2, 3, 100, 100)
    codebook = EMACodebook(8, 3, entropy_weight=1.0, commitment_cost=0.0)
    codebook(z)
    codes = codebook.embedding.numpy().copy()
    assert codebook(z)[2].item() == pytest.approx(entropy_loss(z, codes), abs=0.02)


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


# masks


@pytest.mark.parametrize("grid", GRIDS)
def test_masked_vectors_leave_no_trace_in_the_codes(grid: tuple[int, ...]) -> None:
    # From the start through steps that revive, the draws included: as if they had not been there.
    masked, kept = (EMACodebook(16, 3, decay=0.3, revival_threshold=0.1) for _ in range(2))
    rng = np.random.default_rng(0)
    for step in range(12):
        inside = rng.random((8, *grid)) < 0.4
        # Those outside are far from all codes, and would be drawn before all others.
        vectors = rng.normal(10 * (step >= 6), 1, (8, *grid, 3)) + 1000 * ~inside[..., None]
        for codebook, image in ((masked, np.moveaxis(vectors, -1, 1)), (kept, as_image(vectors[inside]).numpy())):
            torch.manual_seed(step)
            mask = torch.from_numpy(inside) if codebook is masked else None
            codebook(torch.from_numpy(image.astype(np.float32)), mask)
        for name, value in masked.state_dict().items():
            torch.testing.assert_close(value, kept.state_dict()[name], rtol=1e-4, atol=1e-4)
    # Where the data has moved, there have been revivals: else the most of the codes were still where it was.
    assert (masked.embedding.mean(1) > 5).all()
    assert len(torch.unique(masked.embedding, dim=0)) > 12


def test_masked_vectors_are_quantized_and_count_in_the_commitment_loss() -> None:
    z, _ = around_codes(CODES, (4, 5))
    mask = torch.from_numpy(np.random.default_rng(0).random((2, 4, 5)) < 0.5)
    results = []
    for given in (mask, torch.zeros_like(mask), None):
        leaf = z.clone().requires_grad_()
        quantized, indices, loss = codebook_at(CODES)(leaf, given)
        results.append((quantized, indices, loss, *torch.autograd.grad(quantized.square().sum() + loss, leaf)))
    for result in results[:2]:
        for value, expected in zip(result, results[2], strict=True):
            assert torch.equal(value, expected)


@pytest.mark.parametrize("revival_threshold", [0.0, 0.5])
@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_codes_stay_where_they_are_when_all_is_masked(decay: float, revival_threshold: float) -> None:
    codebook = codebook_at(CODES, decay=decay, revival_threshold=revival_threshold)
    z, _ = around_codes(CODES[:1], (4, 4))
    for _ in range(5):
        codebook(z, torch.zeros(2, 4, 4, dtype=torch.bool))
    np.testing.assert_allclose(codebook.embedding.numpy(), CODES, rtol=1e-4)
    assert all(torch.isfinite(value).all() for value in codebook.state_dict().values())


def test_start_takes_any_vectors_when_all_is_masked() -> None:
    torch.manual_seed(0)
    vectors = blobs(16, 200, dim=3)
    codebook = EMACodebook(16, 3)
    codebook(as_image(vectors), torch.zeros(1, 200, 1, dtype=torch.bool))
    distances = np.abs(codebook.embedding.numpy()[:, None] - vectors[None]).max(2)  # (K, N)
    np.testing.assert_allclose(distances.min(1), 0, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32])
def test_mask_may_have_another_type(dtype: torch.dtype) -> None:
    z, _ = around_codes(CODES, (4, 5))
    mask = torch.from_numpy(np.random.default_rng(0).random((2, 4, 5)) < 0.5)
    codebook, other = codebook_at(CODES), codebook_at(CODES)
    codebook(z, mask)
    other(z, mask.to(dtype))
    assert_same_state(other, snapshot(codebook))


# accumulated and empty batches


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("steps", [2, 3])
def test_accumulated_batches_equal_one_joined_batch(steps: int, masked: bool) -> None:
    joined = codebook_at(CODES, decay=0.5)
    accumulating = codebook_at(CODES, decay=0.5, accumulation_steps=steps)
    seed = 0
    for _ in range(3):
        before = snapshot(accumulating)
        batches, masks = [], []
        for _ in range(steps):
            assert_same_state(accumulating, before)  # the codes do not move in between
            z, _ = around_codes(CODES, (5, 4), seed=seed)
            mask = torch.from_numpy(np.random.default_rng(seed).random((2, 5, 4)) < 0.7) if masked else None
            expected = accumulating.quantize(z)
            for value, alone in zip(accumulating(z, mask), expected, strict=True):
                assert torch.equal(value, alone)
            batches.append(z)
            masks.append(mask)
            seed += 1
        joined(torch.cat(batches), torch.cat(masks) if masked else None)
        assert not torch.equal(accumulating.embedding, before["embedding"])
        for name, value in accumulating.state_dict().items():
            torch.testing.assert_close(value, joined.state_dict()[name])


def test_accumulating_codebook_starts_in_the_first_batch_and_revives() -> None:
    torch.manual_seed(0)
    vectors = blobs(16, 256, dim=3)
    codebook = EMACodebook(16, 3, decay=0.5, accumulation_steps=2)
    codebook(as_image(vectors))
    started = codebook.embedding.clone()
    codebook.encode(as_image(vectors + 30))
    codebook.eval()(as_image(vectors + 30))  # an evaluation in between counts for nothing
    assert torch.equal(codebook.embedding, started)
    codebook.train()
    for _ in range(41):
        codebook(as_image(vectors + 30))
    used = torch.bincount(codebook.encode(as_image(vectors + 30)).flatten(), minlength=16)
    assert (used > 0).all()


@pytest.mark.parametrize("revival_threshold", [0.0, 0.5])
@pytest.mark.parametrize("decay", [0.0, 0.9])
@pytest.mark.parametrize("grid", GRIDS)
def test_empty_batch_leaves_the_codes_where_they_are(
    grid: tuple[int, ...], decay: float, revival_threshold: float
) -> None:
    codebook = codebook_at(CODES, decay=decay, revival_threshold=revival_threshold)
    z = torch.zeros(0, CODES.shape[1], *grid, requires_grad=True)
    for mask in (None, torch.zeros(0, *grid, dtype=torch.bool)):
        quantized, indices, loss = codebook(z, mask)
        (quantized.sum() + loss).backward()
        assert (quantized.shape, indices.shape, loss.item()) == (z.shape, (0, *grid), 0)
    np.testing.assert_allclose(codebook.embedding.numpy(), CODES, rtol=1e-5)
    assert all(torch.isfinite(value).all() for value in codebook.state_dict().values())


def test_training_goes_on_after_an_empty_first_batch() -> None:
    torch.manual_seed(0)
    vectors = blobs(16, 512, dim=3)
    codebook = EMACodebook(16, 3, decay=0.5)
    codebook(torch.zeros(0, 3, 4, 4))
    for _ in range(60):
        _, _, loss = codebook(as_image(vectors))
        assert all(torch.isfinite(value).all() for value in (loss, *codebook.state_dict().values()))
    used = torch.bincount(codebook.encode(as_image(vectors)).flatten(), minlength=16)
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
        ("entropy_weight", -0.1),
        ("accumulation_steps", 0),
    ],
)
def test_bad_argument_is_quoted(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"{name} must .*, got {value}\."):
        EMACodebook(**{name: value})
