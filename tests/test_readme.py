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

import doctest
import importlib
import pkgutil
import re
import shlex
from pathlib import Path

import pytest

import monai_vqprior
from monai_vqprior.bundles import bundle_root, load_configs
from monai_vqprior.cli import _knows
from monai_vqprior.options import command_parser

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    path.relative_to(ROOT).as_posix()
    for folder in ("docs", "docs/api")
    for path in sorted((ROOT / folder).glob("*.md"))
]
DOCUMENTS = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", *PAGES, "bundle/docs/README.md"]
MODULES = [
    module.name
    for module in pkgutil.walk_packages(monai_vqprior.__path__, "monai_vqprior.")
    if not module.name.endswith("__main__") and not module.name.startswith("monai_vqprior.bundle.")
]


def shell_commands(document: str) -> list[str]:
    """Commands of the shell blocks of a document, continued lines joined and comments left out."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / document).read_text(encoding="utf-8"), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.split(" # ")[0].strip() for line in lines if line.strip() and not line.startswith("#")]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    path = ROOT / document
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
        assert target.startswith("http") or (path.parent / target).exists(), f"{document}: {target}"


def test_make_has_the_targets_that_documents_name() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    commands = [line for document in DOCUMENTS for line in shell_commands(document) if line.startswith("make ")]
    assert {"make demo", "make test"} <= set(commands)
    for command in commands:
        assert f"\n{command.split()[1]}:" in makefile, command


def test_vqprior_commands_of_documents_parse() -> None:
    """Every option in a document is one of the command's, or a key of its configurations."""
    commands = [line for document in DOCUMENTS for line in shell_commands(document) if line.startswith("vqprior ")]
    assert len(commands) >= 6
    stacks = (["train.json"], ["train.json", "train_prior.json"], ["inference.json", "sample.json"])
    configs = [load_configs(bundle_root(), stack) for stack in stacks]
    for command in commands:
        words = ["1" if word in ("DIR", "FILE") else word for word in shlex.split(command)[1:]]
        if words[0] in ("train", "evaluate", "reconstruct") and "--dataset_dir" not in words:
            words += ["--dataset_dir", "1"]
        _, rest = command_parser().parse_known_args(words)
        overrides = {word[2:]: None for word in rest if word.startswith("--")}
        for key in overrides:
            assert any(_knows(config, key, overrides) for config in configs), f"{command}: --{key}"


def test_configurations_of_documents_exist() -> None:
    for document in DOCUMENTS:
        text = (ROOT / document).read_text(encoding="utf-8")
        for name in re.findall(r"`?(?:bundle/configs/)?([a-z_]+\.json)", text):
            outputs = {"metrics.json", "settings.json", "metadata.json", "phantom.json", "samples.json", "splits.json"}
            assert name in outputs or (ROOT / "bundle" / "configs" / name).is_file(), f"{document}: {name}"


def test_the_version_is_told_once_and_listed() -> None:
    version = monai_vqprior.__version__
    assert f"## {version}\n" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f'"version": "{version}"' in (ROOT / "bundle" / "configs" / "metadata.json").read_text(encoding="utf-8")


def test_every_module_has_a_page() -> None:
    text = "".join((ROOT / page).read_text(encoding="utf-8") for page in PAGES)
    for module in [*monai_vqprior._ROOMS, "bundles", "errors", "files"]:
        assert f".. automodule:: monai_vqprior.{module}\n" in text, module


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0
