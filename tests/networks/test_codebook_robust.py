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

import copy
import itertools

import pytest
import torch
import torch.nn as nn

from monai_vqprior.networks import AutoencoderVQ, CosineCodebook, EMACodebook, FSQCodebook

# Vectors that are not finite, and networks that are cast to another type.

BAD = [float("nan"), float("inf"), -float("inf"), 1e25]  # the square of the last is not finite


def is_finite(codebook: nn.Module) -> bool:
    return all(bool(buffer.isfinite().all()) for buffer in codebook.buffers())


def vectors_of(seed: int) -> torch.Tensor:
    return torch.randn(2, 3, 6, 5, generator=torch.manual_seed(seed))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("kind", [EMACodebook, CosineCodebook])
def test_bad_vectors_reach_nothing(kind: type[EMACodebook], steps: int, masked: bool) -> None:
    """In the start, the averages, the revivals, and what waits for them."""
    torch.manual_seed(0)
    codebook = kind(16, 3, decay=0.3, revival_threshold=0.3, accumulation_steps=steps).train()
    for step, bad in enumerate(itertools.chain(BAD, BAD)):
        z = vectors_of(step)
        z[0, :, :, :2] = bad
        mask = vectors_of(step + 50)[:, 0] > 0 if masked else None
        codebook(z, mask)
        assert is_finite(codebook), (step, bad)
    assert float(codebook.started) == 1


def test_bad_vectors_count_as_masked_ones() -> None:
    """The averages are those of the other vectors, computed by hand; the running count too."""
    codebook = EMACodebook(2, 1, decay=0.5, revival_threshold=0).train()
    codebook.load_state_dict(
        {
            "embedding": torch.tensor([[0.0], [10.0]]),
            "embedding_sum": torch.tensor([[0.0], [10.0]]),
            "cluster_size": torch.ones(2),
            "started": torch.tensor(1.0),
        }
    )
    codebook(torch.tensor([1.0, 2.0, float("nan"), 11.0, float("inf")])[None, None])
    torch.testing.assert_close(codebook.cluster_size, torch.tensor([1.5, 1.0]))
    torch.testing.assert_close(codebook.embedding_sum, torch.tensor([[1.5], [10.5]]))
    torch.testing.assert_close(codebook.embedding, torch.tensor([[1.0], [10.5]]))


@pytest.mark.parametrize("bad", BAD)
def test_a_batch_without_a_good_vector_starts_nothing(bad: float) -> None:
    codebook = EMACodebook(8, 3).train()
    before = codebook.embedding.clone()
    codebook(torch.full((1, 3, 4, 4), bad))
    assert float(codebook.started) == 0
    torch.testing.assert_close(codebook.embedding, before)
    good = vectors_of(1)
    codebook(good)
    assert float(codebook.started) == 1
    assert is_finite(codebook)


def test_one_bad_image_does_not_spoil_the_network() -> None:
    torch.manual_seed(0)
    network = AutoencoderVQ(channels=(16,), codebook=EMACodebook(16, 4)).train()
    images = torch.rand(4, 1, 32, 32)
    for _ in range(3):
        network(images)
    bad = images.clone()
    bad[0, 0, 3, 3] = float("nan")
    network(bad)
    assert is_finite(network.codebook)
    assert len(network.eval().index_quantize(images).unique()) > 4


@pytest.mark.no_cover
# Dynamo does so itself when it traces an autograd function.
@pytest.mark.filterwarnings("ignore:<class 'torch.autograd.function.Function'> should not be:DeprecationWarning")
def test_compiled_codebook_leaves_bad_vectors_out_too() -> None:
    torch._dynamo.reset()
    eager, compiled = (EMACodebook(16, 3, decay=0.3, revival_threshold=0.1).train() for _ in range(2))
    compiled.load_state_dict(eager.state_dict())
    run = torch.compile(compiled, fullgraph=True, backend="aot_eager")
    for step in range(3):
        z = vectors_of(step)
        z[0, :, 0] = float("nan")
        for call in (eager, run):
            torch.manual_seed(step)
            with torch.no_grad():
                call(z)
        torch.testing.assert_close(dict(compiled.named_buffers()), dict(eager.named_buffers()))
    assert is_finite(compiled)


def test_every_index_of_fsq_is_one_of_a_code() -> None:
    codebook = FSQCodebook((4, 3))
    z = torch.tensor([float("nan"), float("inf"), -float("inf"), 1e30])[None, None].expand(1, 2, 4)
    for indices in (codebook.encode(z), codebook(z)[1]):
        assert indices.tolist() == [[0, 11, 0, 11]]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("codebook", [EMACodebook(32, 3), CosineCodebook(32, 3), FSQCodebook((4, 4, 2))])
def test_a_cast_network_works_and_its_codebook_stays_as_it_was(codebook: nn.Module, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    network = AutoencoderVQ(channels=(16,), codebook=copy.deepcopy(codebook)).train()
    images = torch.rand(2, 1, 32, 32)
    network(images)
    network.eval()
    before = copy.deepcopy(network.codebook).state_dict()
    cast = copy.deepcopy(network).to(dtype)
    for name, buffer in cast.codebook.state_dict().items():
        assert buffer.dtype == torch.float32
        assert torch.equal(buffer, before[name])
    tolerance = {torch.float64: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}[dtype]
    with torch.no_grad():
        codes = network.index_quantize(images)
        decoded = cast.decode_samples(codes)
        assert decoded.dtype == dtype
        torch.testing.assert_close(decoded.float(), network.decode_samples(codes), rtol=0, atol=tolerance)
        assert (cast.index_quantize(images.to(dtype)) == codes).float().mean() > 0.8
        assert cast(images.to(dtype)).dtype == dtype
    cast.train()
    reconstruction, loss = cast(images.to(dtype))
    (reconstruction.float().mean() + loss).backward()
    assert all(parameter.dtype == dtype for parameter in cast.parameters())
    assert is_finite(cast.codebook)
