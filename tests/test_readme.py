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
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import monai_vqprior
from monai_vqprior.bundles import bundle_root, load_configs
from monai_vqprior.cli.options import command_parser
from monai_vqprior.command_configs import fits

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("tutorial", "how-to", "reference", "explanation")
PAGES = [
    path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs").rglob("*.md")) if "_build" not in path.parts
]
STUDIES = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "benchmarks" / "results").glob("*.md"))]
DOCUMENTS = [
    "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", *PAGES, *STUDIES, "bundle/docs/README.md",
]  # fmt: skip
WITH_EXAMPLES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in sorted((ROOT / "monai_vqprior").rglob("*.py"))
    if re.search(r">>> (?!.*# doctest: \+SKIP)", path.read_text(encoding="utf-8"))
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
    tuned = ["train.json", "train_prior.json", "fine_tune.json"]
    stacks = (["train.json"], ["train.json", "train_prior.json"], tuned, ["inference.json", "sample.json"])
    stacks += (["train.json", "train_prior.json", "evaluate.json"],)
    configs = [load_configs(bundle_root(), stack) for stack in stacks]
    for command in commands:
        words = ["1" if word in ("DIR", "FILE") else word for word in shlex.split(command)[1:]]
        if words[0] in ("train", "evaluate", "reconstruct") and "--dataset_dir" not in words:
            words += ["--dataset_dir", "1"]
        _, rest = command_parser().parse_known_args(words)
        overrides = {word[2:]: None for word in rest if word.startswith("--")}
        for key in overrides:
            assert any(fits(config, key, overrides) for config in configs), f"{command}: --{key}"


def test_configurations_of_documents_exist() -> None:
    for document in DOCUMENTS:
        text = (ROOT / document).read_text(encoding="utf-8")
        for name in re.findall(r"(?<!\.)\b(?:bundle/configs/)?([a-z_]+\.json)", text):
            outputs = {"metrics.json", "settings.json", "prior_settings.json", "metadata.json", "phantom.json"}
            outputs |= {"samples.json", "completions.json", "volumes.json", "prepare.json", "splits.json", "gpu.json"}
            outputs |= {"large_files.json", "inference_autoencoder.json", "validate.json"}
            outputs |= {path.name for path in (ROOT / "benchmarks" / "results").glob("*.json")}
            assert name in outputs or (ROOT / "bundle" / "configs" / name).is_file(), f"{document}: {name}"


def test_pictures_of_documents_are_small() -> None:
    """In one channel, and no larger than the model zoo takes a file."""
    pictures = [path for folder in ("docs/pictures", "bundle/docs") for path in (ROOT / folder).glob("*.png")]
    assert pictures
    for path in pictures:
        with Image.open(path) as picture:
            assert picture.mode in ("L", "P", "1"), path.name
        assert path.stat().st_size <= 2**20, path.name


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 600


def test_ten_lines_of_python() -> None:
    """The example of the README runs, and its tensors have the shapes in its comments."""
    script = (
        (ROOT / "README.md").read_text(encoding="utf-8").split("<!-- ten lines -->\n```python\n")[1].split("```")[0]
    )
    assert len([line for line in script.splitlines() if line.strip()]) <= 10
    torch.manual_seed(0)
    values: dict[str, Any] = {}
    exec(script, values)
    shapes = re.findall(r"# (\w+) \((\d+(?:, \d+)+)\)", script)
    assert [name for name, _ in shapes] == ["codes", "bits", "samples"]
    for name, shape in shapes:
        assert tuple(values[name].shape) == tuple(map(int, shape.split(", "))), name
        assert values[name].isfinite().all()


def test_completion_of_a_slice() -> None:
    """The example of the guide keeps the codes and the pixels that are given."""
    page = (ROOT / "docs" / "how-to" / "complete.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    torch.manual_seed(0)
    values: dict[str, Any] = {}
    exec(script, values)
    for name, shape in re.findall(r"# (\w+) \((\d+(?:, \d+)+)\)", script):
        assert tuple(values[name].shape) == tuple(map(int, shape.split(", "))), name
    drawn, codes, hole, image = (values[name] for name in ("drawn", "codes", "hole", "image"))
    assert (drawn == codes).all(0)[torch.nn.functional.max_pool2d(hole.float(), 4)[0] == 0].all()
    for filled in values["images"]:
        assert torch.equal(filled[~hole], image[0][~hole])
    assert len(values["images"]) == 4


def test_every_page_is_in_the_table_of_contents() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    assert re.findall(r":caption: (.*)", index) == [part.capitalize() for part in PARTS]
    for page in PAGES:
        name = page.removeprefix("docs/").removesuffix(".md")
        if page.count("/") == 2 and not name.startswith("api/"):
            assert name.split("/")[0] in PARTS, page
            assert f"\n{name}\n" in index, page


def test_every_study_is_read_by_a_page() -> None:
    page = (ROOT / "docs" / "explanation" / "measurements.md").read_text(encoding="utf-8")
    listed = (ROOT / "benchmarks" / "results" / "README.md").read_text(encoding="utf-8")
    for study in STUDIES:
        name = study.rpartition("/")[2]
        if name != "README.md":
            assert f"benchmarks/results/{name})" in page, study
            assert (ROOT / "docs" / "explanation" / "studies" / name).is_file(), study
            assert f"({name})" in listed, study


def test_the_version_is_told_once_and_listed() -> None:
    version = monai_vqprior.__version__
    assert f"## {version}\n" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f'"version": "{version}"' in (ROOT / "bundle" / "configs" / "metadata.json").read_text(encoding="utf-8")


def test_every_module_has_a_page() -> None:
    text = "".join((ROOT / page).read_text(encoding="utf-8") for page in PAGES)
    for module in [*monai_vqprior._ROOMS, "bundles", "errors", "files"]:
        assert f".. automodule:: monai_vqprior.{module}\n" in text, module


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_in_docstrings(name: str) -> None:
    results = doctest.testmod(importlib.import_module(name))
    assert results.attempted > 0
    assert results.failed == 0
