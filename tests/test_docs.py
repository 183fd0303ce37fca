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
from pathlib import Path
from typing import Any

import pytest
import torch

TEXT = (Path(__file__).resolve().parent.parent / "docs" / "how-to" / "plug-in.md").read_text(encoding="utf-8")
#: the code of each section, by its heading.
EXAMPLES = dict(re.findall(r"^## ([^\n]+)\n(?:(?!^## ).)*?```python\n(.*?)```", TEXT, re.DOTALL | re.MULTILINE))


def run(code: str) -> dict[str, Any]:
    """The names that a script leaves behind."""
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(code, "docs/how-to/plug-in.md", "exec"), names)
    return names


def told_shapes(code: str) -> dict[str, tuple[int, ...]]:
    """Shapes in comments, such as ``# logits (4, 64, 33), codes (4, 64)``, by the name of the tensor."""
    comments = " ".join(re.findall(r"#(.*)", code))
    found = re.findall(r"(\w+) \((\d+(?:, \d+)+)\)", comments)
    return {name: tuple(map(int, shape.split(", "))) for name, shape in found}


def test_every_block_is_an_example_of_its_own_section() -> None:
    assert len(EXAMPLES) == TEXT.count("```python") == TEXT.count("\n## ")


@pytest.mark.parametrize("heading", EXAMPLES)
def test_examples_run_and_tensors_have_the_shapes_told(
    heading: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names = run(EXAMPLES[heading])
    shapes = told_shapes(EXAMPLES[heading])
    assert shapes or "evaluator" in names
    for name, shape in shapes.items():
        assert tuple(names[name].shape) == shape, name
    tensors = [value for value in names.values() if isinstance(value, torch.Tensor) and value.is_floating_point()]
    assert all(tensor.isfinite().all() for tensor in tensors)
    trained = [
        names[name] for name in ("transformer", "unet", "prior") if name in names and "backward" in EXAMPLES[heading]
    ]
    for network in trained:
        assert any(parameter.grad is not None and parameter.grad.any() for parameter in network.parameters())


def test_metrics_of_the_two_evaluations() -> None:
    reports = [run(code)["evaluator"].state.metrics for code in EXAMPLES.values() if "SupervisedEvaluator(" in code]
    assert [set(metrics) for metrics in reports] == [{"mse"}, {"ssim", "usage", "bits"}]
    assert 0 < reports[0]["mse"] < 1
    assert reports[1]["ssim"] < 1
    assert 1 <= reports[1]["usage"] <= 32
    assert reports[1]["bits"] > 0
