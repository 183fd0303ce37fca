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

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from monai.bundle import ConfigParser

from monai_vqprior.networks import CosineCodebook, EMACodebook, FSQCodebook, RotationTrick, StraightThrough

PATHS = [pytest.param(path, id=type(path).__name__) for path in (StraightThrough(), RotationTrick())]
Path = StraightThrough | RotationTrick


def rotation(vector: np.ndarray, code: np.ndarray) -> np.ndarray:
    """The matrix (D, D) of the paper that turns the direction of the vector into that of the code, in float64."""
    e, q = vector / np.linalg.norm(vector), code / np.linalg.norm(code)
    r = (e + q) / np.linalg.norm(e + q)
    return np.eye(len(vector)) - 2 * np.outer(r, r) + 2 * np.outer(q, e)


def turned_back(vectors: np.ndarray, codes: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    """Gradients (N, D) that the rotation trick hands to the vectors, by one explicit matrix a vector."""
    rows = zip(vectors.astype(np.float64), codes.astype(np.float64), gradients.astype(np.float64), strict=True)
    return np.stack([np.linalg.norm(c) / np.linalg.norm(v) * rotation(v, c).T @ g for v, c, g in rows])


def gradient_through(path: Path, vectors: np.ndarray, codes: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    leaf = torch.tensor(vectors, dtype=torch.float32, requires_grad=True)
    path(leaf, torch.tensor(codes, dtype=torch.float32)).backward(torch.tensor(gradients, dtype=torch.float32))
    assert leaf.grad is not None
    return leaf.grad.numpy()


# the reference: these four properties have one solution


@pytest.mark.parametrize("dim", [2, 3, 8])
def test_matrix_of_the_reference_is_the_rotation_in_the_plane_of_vector_and_code(dim: int) -> None:
    vector, code, other = np.random.default_rng(dim).normal(size=(3, dim))
    matrix = rotation(vector, code)
    plane, _ = np.linalg.qr(np.stack([vector, code], 1))
    beside = other - plane @ (plane.T @ other)
    np.testing.assert_allclose(matrix @ (vector / np.linalg.norm(vector)), code / np.linalg.norm(code), atol=1e-12)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(dim), atol=1e-12)
    np.testing.assert_allclose(matrix @ beside, beside, atol=1e-12)
    assert np.linalg.det(matrix) == pytest.approx(1)


# both paths


@pytest.mark.parametrize("path", PATHS)
def test_value_is_the_codes_and_the_codes_have_no_gradient(path: Path) -> None:
    rng = np.random.default_rng(0)
    vectors, codes = (torch.from_numpy(rng.normal(size=(50, 5)).astype(np.float32)) for _ in range(2))
    vectors.requires_grad_()
    codes.requires_grad_()
    value = path(vectors, codes)
    assert torch.equal(value, codes)
    value.sum().backward()
    assert vectors.grad is not None
    assert codes.grad is None


@pytest.mark.parametrize("dim", [1, 3, 8])
def test_straight_through_hands_on_the_gradient_as_it_is(dim: int) -> None:
    vectors, codes, gradients = np.random.default_rng(dim).normal(size=(3, 50, dim)).astype(np.float32)
    np.testing.assert_array_equal(gradient_through(StraightThrough(), vectors, codes, gradients), gradients)


@pytest.mark.parametrize("dim", [2, 3, 8, 64])
def test_rotation_trick_equals_explicit_matrices(dim: int) -> None:
    vectors, codes, gradients = np.random.default_rng(dim).normal(size=(3, 200, dim)).astype(np.float32)
    directions = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (vectors, codes)]
    turns = np.linalg.norm(directions[0] + directions[1], axis=1) > 0.01  # the others are nearly opposite
    assert turns.sum() >= 195
    vectors, codes, gradients = vectors[turns], codes[turns], gradients[turns]
    found = gradient_through(RotationTrick(), vectors, codes, gradients)
    np.testing.assert_allclose(found, turned_back(vectors, codes, gradients), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("vector", "code", "gradient", "expected"),
    [
        pytest.param([2, 0], [0, 6], [1, 0], [0, -3], id="right angle, gradient along the vector"),
        pytest.param([2, 0], [0, 6], [0, 1], [3, 0], id="right angle, gradient along the code"),
        pytest.param([0, 6], [2, 0], [1, 0], [0, 1 / 3], id="right angle the other way"),
        pytest.param([1, 0], [2, 2], [1, 1], [4, 0], id="half a right angle"),
        pytest.param([3, 1], [3, 1], [5, 7], [5, 7], id="at its code"),
        pytest.param([3, 1], [6, 2], [5, 7], [10, 14], id="same direction"),
        pytest.param([1, 0, 0], [0, 2, 0], [0, 0, 1], [0, 0, 2], id="gradient across the turn"),
    ],
)
def test_rotation_trick_by_hand(
    vector: list[float], code: list[float], gradient: list[float], expected: list[float]
) -> None:
    found = gradient_through(RotationTrick(), np.array([vector]), np.array([code]), np.array([gradient]))
    np.testing.assert_allclose(found, [expected], atol=1e-5)


@pytest.mark.parametrize(
    ("vector", "code"),
    [
        pytest.param([0, 0, 0], [1, 2, 3], id="vector of no length"),
        pytest.param([1, 2, 3], [0, 0, 0], id="code of no length"),
        pytest.param([0, 0, 0], [0, 0, 0], id="neither has a length"),
        pytest.param([1, 2, 3], [-1, -2, -3], id="opposite"),
        pytest.param([1, 2, 3], [-0.1, -0.2, -0.3], id="opposite, of another length"),
    ],
)
def test_rotation_trick_goes_straight_through_where_there_is_no_rotation(
    vector: list[float], code: list[float]
) -> None:
    # The rows beside it are turned as ever.
    vectors, codes, gradients = np.random.default_rng(0).normal(size=(3, 3, 3)).astype(np.float32)
    vectors[1], codes[1] = vector, code
    found = gradient_through(RotationTrick(), vectors, codes, gradients)
    np.testing.assert_array_equal(found[1], gradients[1])
    beside = [0, 2]
    expected = turned_back(vectors[beside], codes[beside], gradients[beside])
    np.testing.assert_allclose(found[beside], expected, rtol=1e-3, atol=1e-4)


@settings(derandomize=True, deadline=None, max_examples=100)
@given(data=st.data(), dim=st.integers(1, 6))
def test_rotation_trick_scales_a_gradient_as_the_vector_is_scaled(data: st.DataObject, dim: int) -> None:
    vector, code, gradient = data.draw(arrays(np.float32, (3, 1, dim), elements=st.floats(-5, 5, width=32)))
    lengths = [np.linalg.norm(x) for x in (vector, code)]
    assume(min(lengths) > 0.01)
    assume((vector @ code.T).item() > -0.999 * lengths[0] * lengths[1])
    found = gradient_through(RotationTrick(), vector, code, gradient)
    expected = lengths[1] / lengths[0] * np.linalg.norm(gradient)
    assert np.linalg.norm(found) == pytest.approx(expected, rel=1e-3, abs=1e-5)


# in the codebooks


def as_vectors(name: str, z: torch.Tensor) -> torch.Tensor:
    """What each codebook compares with its codes, (N, D), of encoder output (B, D, H, W)."""
    vectors = z.movedim(1, -1).reshape(-1, z.shape[1])
    if name == "CosineCodebook":
        return vectors / vectors.norm(dim=1, keepdim=True)
    if name == "FSQCodebook":
        return vectors.tanh() * (LEVELS - 0.002) / (LEVELS - 1)
    return vectors


LEVELS = torch.tensor([8, 5, 3])
CODEBOOKS: list[tuple[type, dict[str, Any]]] = [
    (EMACodebook, {"num_embeddings": 16, "embedding_dim": 3}),
    (CosineCodebook, {"num_embeddings": 16, "embedding_dim": 3}),
    (FSQCodebook, {"levels": LEVELS.tolist()}),
]


@pytest.mark.parametrize("path", [None, "StraightThrough", "RotationTrick"])
@pytest.mark.parametrize(("kind", "options"), CODEBOOKS)
def test_codebook_of_a_configuration_uses_the_path_it_names(
    kind: type, options: dict[str, Any], path: str | None
) -> None:
    torch.manual_seed(0)
    config: dict[str, Any] = {"_target_": f"monai_vqprior.networks.{kind.__name__}", **options}
    if path is not None:
        config["gradient"] = {"_target_": f"monai_vqprior.networks.{path}"}
    codebook = ConfigParser({"codebook": config}).get_parsed_content("codebook")
    assert isinstance(codebook, kind)
    assert f"gradient={path or 'StraightThrough'}()" in repr(codebook)

    z = torch.randn(2, 3, 4, 5, requires_grad=True)
    weight = torch.randn(2, 3, 4, 5)
    quantized, indices, _ = codebook.quantize(z)
    assert torch.equal(quantized, codebook.decode(indices))
    (found,) = torch.autograd.grad((quantized * weight).sum(), z)

    # The same in float64: what the path gives to the vectors, and autograd from the vectors to z.
    z64 = z.detach().double().requires_grad_()
    vectors = as_vectors(kind.__name__, z64)
    gradients = weight.movedim(1, -1).reshape(-1, 3).double()
    if path == "RotationTrick":
        codes = quantized.detach().movedim(1, -1).reshape(-1, 3)
        gradients = torch.from_numpy(turned_back(vectors.detach().numpy(), codes.numpy(), gradients.numpy()))
    (expected,) = torch.autograd.grad(vectors, z64, gradients)
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-4)
