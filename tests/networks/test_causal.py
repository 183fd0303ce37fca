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
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_vqprior.networks.causal import CausalConv, GatedLayer, shift

SIZES = {2: (5, 7), 3: (4, 3, 5)}
CONVOLVE = {2: F.conv2d, 3: F.conv3d}
#: each axis of two and of three dimensions.
AXES = [(2, 0), (2, 1), (3, 0), (3, 1), (3, 2)]


def features(spatial_dims: int, channels: int = 3, size: tuple[int, ...] | None = None, seed: int = 0) -> torch.Tensor:
    """(2, channels, *size) in float64."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.normal(size=(2, channels, *(SIZES[spatial_dims] if size is None else size))))


def layer(spatial_dims: int, axis: int, kernel_size: int, in_channels: int = 3, out_channels: int = 4) -> CausalConv:
    torch.manual_seed(0)
    return CausalConv(spatial_dims, axis, in_channels, out_channels, kernel_size).double()


def dense(conv: CausalConv, x: torch.Tensor, kernel_size: int) -> torch.Tensor:
    """The same by a full convolution that keeps the size, its kernel zero wherever ``conv`` must not look."""
    weight = conv.conv.weight.detach()
    spatial_dims = weight.dim() - 2
    half = kernel_size // 2
    seen = [slice(half, half + 1)] * conv.axis + [slice(0, half + 1)]
    full = torch.zeros(*weight.shape[:2], *[kernel_size] * spatial_dims, dtype=weight.dtype)
    full[(slice(None), slice(None), *seen)] = weight
    return CONVOLVE[spatial_dims](x, full, conv.conv.bias.detach(), padding=half)


def by_steps(conv: CausalConv, x: torch.Tensor) -> torch.Tensor:
    """The output put together from one step for each slice."""
    dim = conv.axis + 2
    slices = x.split(1, dim)
    cache = conv.start(slices[0])
    outputs = []
    for part in slices:
        output, cache = conv.step(part, cache)
        assert output.shape[dim] == 1
        outputs.append(output)
    return torch.cat(outputs, dim)


# shift


def test_shift_by_hand() -> None:
    x = torch.tensor([[[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]]])
    assert shift(x, 0).tolist() == [[[[0, 0, 0], [1, 2, 3]]]]
    assert shift(x, 1).tolist() == [[[[0, 1, 2], [0, 4, 5]]]]


@pytest.mark.parametrize(("spatial_dims", "axis"), AXES)
def test_shift_moves_one_step_on(spatial_dims: int, axis: int) -> None:
    x = features(spatial_dims)
    expected = np.roll(x.numpy(), 1, axis + 2)
    np.moveaxis(expected, axis + 2, 0)[0] = 0
    np.testing.assert_array_equal(shift(x, axis).numpy(), expected)


def test_shift_of_size_one_leaves_zeros() -> None:
    assert not shift(torch.ones(2, 3, 1, 4), 0).any()


# causal convolution


@pytest.mark.parametrize(("spatial_dims", "axis"), AXES)
@pytest.mark.parametrize("kernel_size", [3, 5, 7])
def test_forward_is_a_masked_full_convolution(spatial_dims: int, axis: int, kernel_size: int) -> None:
    conv = layer(spatial_dims, axis, kernel_size)
    x = features(spatial_dims)
    output = conv(x)
    assert output.shape == (2, 4, *SIZES[spatial_dims])
    torch.testing.assert_close(output, dense(conv, x, kernel_size))


@pytest.mark.parametrize(("spatial_dims", "axis"), AXES)
def test_weights_that_exist_are_those_of_the_docstring(spatial_dims: int, axis: int) -> None:
    kernel = layer(spatial_dims, axis, 5).conv.weight.shape[2:]
    expected = {(2, 0): (3, 5), (2, 1): (1, 3), (3, 0): (3, 5, 5), (3, 1): (1, 3, 5), (3, 2): (1, 1, 3)}
    assert tuple(kernel) == expected[spatial_dims, axis]


@settings(derandomize=True, deadline=None, max_examples=40)
@given(data=st.data(), axes=st.sampled_from(AXES), kernel_size=st.sampled_from([3, 5]))
def test_steps_and_forward_agree_with_the_dense_twin(
    data: st.DataObject, axes: tuple[int, int], kernel_size: int
) -> None:
    # Sides down to one position, below the size of the kernel.
    spatial_dims, axis = axes
    size = data.draw(st.tuples(*[st.integers(1, 6)] * spatial_dims))
    conv = layer(spatial_dims, axis, kernel_size)
    x = features(spatial_dims, size=size)
    expected = dense(conv, x, kernel_size)
    torch.testing.assert_close(conv(x), expected)
    torch.testing.assert_close(by_steps(conv, x), expected)


@pytest.mark.parametrize(("spatial_dims", "axis"), AXES)
def test_output_ignores_what_comes_after(spatial_dims: int, axis: int) -> None:
    conv = layer(spatial_dims, axis, 5)
    x = features(spatial_dims)
    changed = x.clone()
    changed.select(axis + 2, 2).normal_()
    difference = (conv(changed) - conv(x)).abs().amax(1).movedim(axis + 1, 0)  # slices along the axis first
    assert difference[:2].max() < 1e-12
    assert difference[2].max() > 1e-3


def test_step_leaves_the_cache_that_it_was_given() -> None:
    conv = layer(2, 0, 5)
    x = features(2).narrow(2, 0, 1)
    cache = conv.start(x)
    before = cache.clone()
    conv.step(x, cache)
    assert torch.equal(cache, before)


@pytest.mark.parametrize(("spatial_dims", "axis"), [(2, 2), (2, -1), (3, 3)])
def test_axis_that_is_not_there(spatial_dims: int, axis: int) -> None:
    with pytest.raises(ValueError, match=rf"axis must be in 0\.\.{spatial_dims - 1}, got {axis}"):
        CausalConv(spatial_dims, axis, 1, 1, 3)


@pytest.mark.parametrize("kernel_size", [1, 2, 4, 0, -3])
def test_kernel_size_that_is_even_or_too_small(kernel_size: int) -> None:
    with pytest.raises(ValueError, match=f"kernel_size must be odd and at least 3, got {kernel_size}"):
        CausalConv(2, 0, 1, 1, kernel_size)


# gated layer


def pointwise(conv: torch.nn.Module, x: np.ndarray) -> np.ndarray:
    """A 1x1 convolution by the definition: a matrix on the channels."""
    weight = conv.weight.detach().numpy()
    bias = conv.bias.detach().numpy().reshape(-1, *[1] * (x.ndim - 2))
    return np.einsum("oi,bi...->bo...", weight.reshape(weight.shape[:2]), x) + bias


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("conditional", [True, False])
def test_gated_layer_by_its_formula(spatial_dims: int, conditional: bool) -> None:
    torch.manual_seed(0)
    channels = 4
    gated = GatedLayer(spatial_dims, channels, kernel_size=3).double()
    stacks = [features(spatial_dims, channels, seed=axis) for axis in range(spatial_dims)]
    condition = features(spatial_dims, 2 * channels, size=(1,) * spatial_dims) if conditional else None
    outputs, last_passed = gated(stacks, condition)
    assert len(outputs) == spatial_dims
    above: np.ndarray | None = None
    for axis, (x, output) in enumerate(zip(stacks, outputs, strict=True)):
        gate = dense(gated.convs[axis], x, 3).numpy()
        if above is not None:
            gate = gate + pointwise(gated.links[axis - 1], above)
        if condition is not None:
            gate = gate + condition.numpy()
        passed = np.tanh(gate[:, :channels]) / (1 + np.exp(-gate[:, channels:]))
        np.testing.assert_allclose(output.detach().numpy(), x.numpy() + pointwise(gated.outs[axis], passed), atol=1e-10)
        above = gate
    np.testing.assert_allclose(last_passed.detach().numpy(), passed, atol=1e-10)


@pytest.mark.parametrize("training", [True, False])
def test_dropout_of_gated_features_acts_in_training_only(training: bool) -> None:
    torch.manual_seed(0)
    gated = GatedLayer(2, 4, kernel_size=3, dropout=0.5).double().train(training)
    stacks = [features(2, 4), features(2, 4)]
    first, second = gated(stacks)[0][1], gated(stacks)[0][1]
    assert torch.equal(first, second) is not training
