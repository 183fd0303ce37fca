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

from itertools import product

import numpy as np
import pytest
import torch

from monai_vqprior.networks import unpredicted_share

GRIDS = {2: (9, 12), 3: (5, 6, 7)}


def smooth_encodings(spatial_dims: int) -> torch.Tensor:
    """Encodings (3, 2, *grid) that neighbors tell a part of: running sums of noise along each axis, and noise."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(3, 2, *GRIDS[spatial_dims]))
    for axis in range(2, z.ndim):
        z = z + 0.8 * np.roll(z, 1, axis)
    return torch.from_numpy((z + 0.5 * rng.normal(size=z.shape)).astype(np.float32))


def weights_for(encodings: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(1).random((len(encodings), *encodings.shape[2:])).astype(np.float32))


def rows(encodings: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Encodings (N, D) and what is known of each, (N, 1 + D * neighbors) with a constant, gathered one by one."""
    z = encodings.double().numpy()
    grid = z.shape[2:]
    here = (0,) * len(grid)
    steps = [step for step in product((-1, 0, 1), repeat=len(grid)) if step < here]  # those before in raster order
    targets, known = [], []
    for b in range(len(z)):
        for place in np.ndindex(grid):
            values = [1.0]
            for step in steps:
                there = tuple(p + s for p, s in zip(place, step, strict=True))
                inside = all(0 <= t < side for t, side in zip(there, grid, strict=True))
                values += list(z[(b, slice(None), *there)]) if inside else [0.0] * z.shape[1]
            targets.append(z[(b, slice(None), *place)])
            known.append(values)
    return np.array(targets), np.array(known)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_share_is_that_of_weighted_least_squares(spatial_dims: int) -> None:
    encodings = smooth_encodings(spatial_dims)
    weights = weights_for(encodings)
    targets, known = rows(encodings)
    w = weights.double().numpy().reshape(-1, 1)
    fit = np.linalg.lstsq(np.sqrt(w) * known, np.sqrt(w) * targets, rcond=None)[0]
    mean = (w * targets).sum(0) / w.sum()
    expected = (w * (targets - known @ fit) ** 2).sum() / (w * (targets - mean) ** 2).sum()
    assert 0.1 < expected < 0.9
    assert unpredicted_share(encodings, weights).item() == pytest.approx(expected, rel=1e-4)


def test_gradient_is_that_of_the_optimum() -> None:
    """By finite differences of NumPy's fit, which finds its coefficients anew."""
    encodings = smooth_encodings(2).requires_grad_()
    weights = torch.ones(3, *GRIDS[2])
    unpredicted_share(encodings, weights).backward()
    assert encodings.grad is not None
    step = 1e-4
    for place in [(0, 0, 0, 0), (1, 1, 4, 7), (2, 0, 8, 11)]:
        shares = []
        for sign in (-1, 1):
            moved = encodings.detach().double()
            moved[place] += sign * step
            targets, known = rows(moved)
            fit = np.linalg.lstsq(known, targets, rcond=None)[0]
            shares.append(((targets - known @ fit) ** 2).sum() / ((targets - targets.mean(0)) ** 2).sum())
        assert encodings.grad[place].item() == pytest.approx((shares[1] - shares[0]) / (2 * step), rel=0.02, abs=2e-6)


def test_neighbors_are_those_before() -> None:
    """Each row repeats its first value: known from the left, but for the first column."""
    repeated = torch.randn(8, 1, 6, 1, generator=torch.Generator().manual_seed(0)).expand(8, 1, 6, 6)
    weights = torch.ones(8, 6, 6)
    weights[..., 0] = 0
    assert unpredicted_share(repeated, weights) < 1e-3
    noise = torch.randn(64, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    assert unpredicted_share(noise, torch.ones(64, 6, 6)) > 0.98


@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_scale_does_not_matter(factor: float) -> None:
    encodings = smooth_encodings(2)
    weights = weights_for(encodings)
    share = unpredicted_share(encodings, weights)
    assert unpredicted_share(factor * encodings, weights).item() == pytest.approx(share.item(), rel=1e-4)


@pytest.mark.parametrize("counted", [0, 1, 3])
def test_a_batch_of_next_to_nothing_but_background(counted: int) -> None:
    """Fewer encodings than coefficients: a finite loss with a finite gradient."""
    encodings = smooth_encodings(2).requires_grad_()
    weights = torch.zeros(3, *GRIDS[2], dtype=torch.bool)
    weights.view(-1)[40 : 40 + counted] = True
    loss = unpredicted_share(encodings, weights).log()
    loss.backward()
    assert encodings.grad is not None
    assert loss.isfinite()
    assert encodings.grad.isfinite().all()
    if counted == 0:
        assert loss == 0


def test_under_autocast_in_float32() -> None:
    encodings = smooth_encodings(2)
    weights = weights_for(encodings)
    share = unpredicted_share(encodings, weights)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(unpredicted_share(encodings, weights), share)
