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

import ast
import re
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import monai_vqprior

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "monai_vqprior"
#: distributions whose modules have another name.
DISTRIBUTIONS = {"PIL": "pillow", "SimpleITK": "simpleitk", "ignite": "pytorch-ignite", "skimage": "scikit-image"}
#: modules of what only some users install.
OPTIONAL = {
    "SimpleITK",
    "nilearn",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "jsonschema",
    "einops",
    "matplotlib",
}


def printed(code: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


def test_importing_the_package_imports_nothing_heavy() -> None:
    heavy = {"torch", "monai", "numpy", "jinja2", "nibabel", "skimage", *OPTIONAL}
    assert printed(f"import sys, monai_vqprior; print(sorted({heavy} & set(sys.modules)))") == "[]"


def test_every_room_opens_without_what_only_some_need() -> None:
    rooms = [*(f"monai_vqprior.{room}" for room in monai_vqprior._ROOMS), "monai_vqprior.cli"]
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({sorted(OPTIONAL)})); import {', '.join(rooms)}; print('open')"
    )
    assert printed(code) == "open"


def required(extras: bool) -> set[str]:
    """Distributions that the package asks for, with or without those of its extras."""
    lines = [line for line in requires("monai-vqprior") or [] if extras or "extra ==" not in line]
    return {re.split(r"[^\w.-]", line)[0].lower() for line in lines}


def imported(statements: list[ast.stmt]) -> set[str]:
    """Distributions outside the standard library that statements import, this package left out."""
    names = set()
    for node in statements:
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return {DISTRIBUTIONS.get(name, name) for name in names - sys.stdlib_module_names - {"monai_vqprior"}}


def test_what_is_imported_is_asked_for() -> None:
    """At the top of a file by the package itself, and elsewhere by the package or an extra."""
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert imported(tree.body) <= required(extras=False), path
        assert imported([node for node in ast.walk(tree) if isinstance(node, ast.stmt)]) <= required(extras=True), path
