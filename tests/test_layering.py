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
from collections import Counter
from pathlib import Path

import monai
import pytest

import monai_vqprior

PACKAGE = Path(monai_vqprior.__file__).parent

# Each room may import from itself and from the rooms before it.
ORDER = [
    ["errors", "files", "outputs", "values", "prepare_arguments"],
    ["data", "transforms", "volumes"],
    ["sampling"],
    ["networks"],
    ["losses"],
    ["engines", "inferers", "metrics", "runs"],
    ["audit", "handlers"],
    ["report"],
    ["bundles", "cli", "command_configs", "config_text", "failures", "model_zoo", "overrides", "__main__", "__init__"],
]
LEVEL = {room: level for level, rooms in enumerate(ORDER) for room in rooms}


def imported_rooms(path: Path) -> set[str]:
    """Rooms of the package that a file imports from, wherever in the file."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        rooms |= {name.split(".")[1] for name in names if name.startswith("monai_vqprior.")}
    return rooms


FILES = sorted(path for path in PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_point_upstream(path: Path) -> None:
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    downstream = {other for other in imported_rooms(path) if LEVEL[other] > LEVEL[room]}
    assert not downstream, f"{path.name} of {room} imports from {sorted(downstream)}, which come after it"


def test_no_two_files_have_one_name() -> None:
    """A file is found by its name alone."""
    names = Counter(path.name for path in FILES if path.name != "__init__.py")
    assert [name for name, number in names.items() if number > 1] == []


def public_classes(root: Path) -> set[str]:
    """Names of all public classes at the top level of the files below a folder."""
    texts = [path.read_text(encoding="utf-8") for path in root.rglob("*.py")]
    return {name for text in texts for name in re.findall(r"^class ([A-Za-z]\w*)", text, re.MULTILINE)}


def test_no_class_has_the_name_of_one_of_monai() -> None:
    """MONAI resolves a bare ``_target_`` by scanning every module whose name begins with monai, ours too."""
    ours = public_classes(PACKAGE)
    theirs = public_classes(Path(monai.__file__).parent)
    assert "AutoencoderVQ" in ours
    assert "VQVAE" in theirs
    assert not ours & theirs


def test_every_public_name_exists() -> None:
    for room in monai_vqprior._ROOMS:
        module = getattr(monai_vqprior, room)
        for name in getattr(module, "__all__", []):
            assert hasattr(module, name), f"monai_vqprior.{room} has no {name}"
