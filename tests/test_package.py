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

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy so that nothing is left in the checkout."""
    source = tmp_path_factory.mktemp("source") / "copy"
    leave = shutil.ignore_patterns(".*", "build", "dist", "output", "*.egg-info", "__pycache__", "*.pt")
    shutil.copytree(ROOT, source, ignore=leave)
    target = source.parent / "wheels"
    words = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*words, "-w", target, source], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return next(target.glob("*.whl"))


def test_the_wheel_carries_the_bundle(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for path in sorted((ROOT / "bundle" / "configs").iterdir()):
        assert f"monai_vqprior/bundle/configs/{path.name}" in names
    for name in ("bundle/LICENSE", "bundle/docs/README.md", "bundle/docs/data_license.txt", "py.typed"):
        assert f"monai_vqprior/{name}" in names
    assert not [name for name in names if name.startswith(("tests", "benchmarks", "bundle/"))]


def test_an_installed_package_finds_its_bundle(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    code = "from monai_vqprior.bundles import bundle_root; print(bundle_root() / 'configs' / 'train.json')"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    path = Path(done.stdout.strip())
    assert path == tmp_path / "site" / "monai_vqprior" / "bundle" / "configs" / "train.json"
    assert path.is_file()


def test_importing_the_package_imports_nothing_heavy() -> None:
    heavy = {"torch", "monai", "matplotlib", "onnx", "onnxscript", "onnxruntime", "jsonschema"}
    code = f"import sys, monai_vqprior; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
