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

import pytest
import torch
import torch.nn as nn

from monai_vqprior.networks import CosineCodebook, EMACodebook, FSQCodebook, RotationTrick, StraightThrough

pytestmark = [pytest.mark.integration, pytest.mark.no_cover]  # of the compiler, which is Python, too

KINDS = [EMACodebook, CosineCodebook, FSQCodebook]
Codebook = EMACodebook | FSQCodebook
Path = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
#: dynamo does so itself when it traces an autograd function.
FUNCTION_OF_DYNAMO = "ignore:<class 'torch.autograd.function.Function'> should not be instantiated:DeprecationWarning"


def codebook_of(kind: type[Codebook], gradient: Path | None = None) -> Codebook:
    """A codebook of 3 channels; the quick decay and the high threshold let it revive codes in each step."""
    torch.manual_seed(0)
    if issubclass(kind, FSQCodebook):
        return FSQCodebook((8, 5, 3), gradient)
    return kind(16, 3, decay=0.3, revival_threshold=0.1, gradient=gradient)


def trained(kind: type[Codebook]) -> Codebook:
    codebook = codebook_of(kind).train()
    for step in range(3):
        codebook(images(step))
    return codebook.eval()


def images(seed: int) -> torch.Tensor:
    torch.manual_seed(seed)
    return torch.randn(2, 3, 6, 5) + 5 * (seed >= 2)  # the data moves, so that codes die


@pytest.mark.filterwarnings(FUNCTION_OF_DYNAMO)
@pytest.mark.parametrize(
    ("kind", "path", "masked"),
    [(EMACodebook, StraightThrough, False), (CosineCodebook, RotationTrick, True), (FSQCodebook, RotationTrick, False)],
)
def test_compiled_codebook_equals_the_eager_one(kind: type[Codebook], path: type, masked: bool) -> None:
    torch._dynamo.reset()
    eager, compiled = (codebook_of(kind, path()).train() for _ in range(2))
    run = torch.compile(compiled, fullgraph=True, backend="aot_eager")
    for step in range(4):  # the first of them starts the codes, the others revive some
        mask = images(step)[:, 0] > images(step)[:, 1] if masked else None
        results = []
        for call in (eager, run):
            z = images(step).requires_grad_()
            quantized, indices, loss = call(z, mask)
            (quantized.pow(3).sum() + loss).backward()
            results.append((quantized, indices, loss, z.grad))
        torch.testing.assert_close(results[1], results[0])
        torch.testing.assert_close(dict(compiled.named_buffers()), dict(eager.named_buffers()))
    eager.eval()
    compiled.eval()
    torch.testing.assert_close(run(images(9)), eager(images(9)))
    torch.testing.assert_close(dict(compiled.named_buffers()), dict(eager.named_buffers()))


@pytest.mark.filterwarnings(FUNCTION_OF_DYNAMO)
def test_compiled_codebook_accumulates() -> None:
    torch._dynamo.reset()
    eager, compiled = (
        EMACodebook(16, 3, decay=0.3, revival_threshold=0.1, accumulation_steps=2).train() for _ in range(2)
    )
    run = torch.compile(compiled, fullgraph=True, backend="aot_eager")
    for step in range(4):
        for call in (eager, run):
            call(images(step))
        torch.testing.assert_close(dict(compiled.named_buffers()), dict(eager.named_buffers()))


class Coder(nn.Module):
    """Encoder output to indices, and those to codes."""

    def __init__(self, codebook: Codebook) -> None:
        super().__init__()
        self.codebook = codebook

    def forward(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        indices = self.codebook.encode(z)
        return indices, self.codebook.decode(indices)


@pytest.mark.parametrize("kind", KINDS)
def test_scripted_codebook_equals_the_eager_one(kind: type[Codebook]) -> None:
    codebook = trained(kind)
    z = images(2)
    torch.testing.assert_close(torch.jit.script(codebook)(z), codebook(z))
    coder = Coder(codebook)
    torch.testing.assert_close(torch.jit.script(coder)(z), coder(z), rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_exported_program_equals_the_eager_one_for_any_number_of_images(kind: type[Codebook]) -> None:
    coder = Coder(trained(kind))
    program = torch.export.export(coder, (images(2),), dynamic_shapes={"z": {0: torch.export.Dim("batch")}})
    for z in (images(2), torch.cat([images(3), images(4)])):
        torch.testing.assert_close(program.module()(z), coder(z), rtol=0, atol=0)
