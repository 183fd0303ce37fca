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

import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Callable
from email import message_from_string
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser

from monai_vqprior import __version__
from monai_vqprior.bundles import copy_bundle, pack_bundle
from monai_vqprior.cli import main
from monai_vqprior.errors import InputError
from monai_vqprior.networks import AutoencoderVQ, GatedPixelCNN

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parent.parent
SDIST = f"monai_vqprior-{__version__}"
#: options that tell MONAI's command of the small prior below.
SMALL_PRIOR = ["--spatial_size", "32", "--prior_channels", "8", "--prior_layers", "2", "--prior_sketch_block", "0"]
#: a program that runs modules with their arguments, as ``python -m`` does.
ONE_AFTER_THE_OTHER = """
import json, runpy, sys
for sys.argv in json.loads(sys.argv[1]):
    try:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        assert not end.code
"""
Run = Callable[..., str]


def save_weights(models: Path) -> None:
    """Random weights of the network of the configurations, and of a small prior, in place of those of the bundle."""
    for settings in models.glob("*settings.json"):
        settings.unlink()
    torch.manual_seed(0)
    torch.save(AutoencoderVQ().state_dict(), models / "model.pt")
    prior = GatedPixelCNN(spatial_size=8, channels=8, num_layers=2, position_logits=True)
    torch.save(prior.state_dict(), models / "prior.pt")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout, so that nothing is left in it, with weights in the bundle."""
    source = tmp_path_factory.mktemp("source") / "copy"
    leave = shutil.ignore_patterns(".*", "build", "dist", "output", "_build", "*.egg-info", "__pycache__", "*.pt")
    shutil.copytree(ROOT, source, ignore=leave)
    (source / "bundle" / "models").mkdir(exist_ok=True)
    save_weights(source / "bundle" / "models")
    return source


@pytest.fixture(scope="module")
def dist(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist, the wheel from the checkout, and in ``again`` the wheel from the sdist."""
    dist = tmp_path_factory.mktemp("dist")
    build = "import sys; from setuptools import build_meta as b; to = sys.argv[1]; b.build_sdist(to); b.build_wheel(to)"
    pip = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "-w", dist / "again"]
    for words in (["-c", build, dist], [*pip, dist / f"{SDIST}.tar.gz"]):
        done = subprocess.run([sys.executable, *words], cwd=source, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
    return dist


def names_in(wheel: Path) -> set[str]:
    return set(zipfile.ZipFile(wheel).namelist())


@pytest.fixture(scope="module")
def run(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """
    Runs Python in a folder of its own, with the unpacked wheel and what it depends on, but not the checkout: without
    ``site``, no editable installation is seen.
    """
    site = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(next(dist.glob("*.whl"))) as archive:
        archive.extractall(site)
    path = os.pathsep.join([str(site), *dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}

    def run(folder: Path, *words: object) -> str:
        command = [sys.executable, "-S", *map(str, words)]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    assert Path(run(site, "-c", "import monai_vqprior; print(monai_vqprior.__file__)").strip()).is_relative_to(site)
    return run


def test_the_wheel_holds_the_package_and_the_bundle(dist: Path) -> None:
    names = names_in(next(dist.glob("*.whl")))
    expected = {path.relative_to(ROOT).as_posix() for path in (ROOT / "monai_vqprior").rglob("*.py")}
    expected |= {f"monai_vqprior/{name}" for name in ("py.typed", "bundle/LICENSE")}
    expected |= {f"monai_vqprior/report/{name}" for name in ("page.html", "page_macros.html", "page.css")}
    expected |= {f"monai_vqprior/bundle/models/{name}" for name in ("model.pt", "prior.pt")}
    for folder in ("configs", "docs"):
        expected |= {f"monai_vqprior/bundle/{folder}/{path.name}" for path in (ROOT / "bundle" / folder).iterdir()}
    others = {name for name in names - expected if ".dist-info/" not in name}
    assert not expected - names
    beside_weights = {f"monai_vqprior/bundle/models/{name}" for name in ("settings.json", "prior_settings.json")}
    assert others <= beside_weights


def test_the_wheel_from_the_sdist_is_the_same(dist: Path) -> None:
    assert names_in(next(dist.glob("*.whl"))) == names_in(next((dist / "again").glob("*.whl")))


def test_the_sdist_holds_what_it_is_built_from_and_little_else(dist: Path) -> None:
    with tarfile.open(dist / f"{SDIST}.tar.gz") as archive:
        names = {name.removeprefix(f"{SDIST}/") for name in archive.getnames()}
    assert {"setup.py", "pyproject.toml", "LICENSE", "README.md", "SECURITY.md", "bundle/models/model.pt"} <= names
    tops = {name.split("/")[0] for name in names if "/" in name}
    assert tops == {"bundle", "monai_vqprior", "monai_vqprior.egg-info"}
    assert not [name for name in names if "__pycache__" in name or name.endswith(".gitkeep")]


def test_metadata_of_the_wheel(dist: Path) -> None:
    with zipfile.ZipFile(next(dist.glob("*.whl"))) as archive:
        text = {name.rpartition("/")[2]: archive.read(name).decode() for name in archive.namelist() if "dist-" in name}
    about = message_from_string(text["METADATA"])
    assert (about["Name"], about["Version"], about["License-Expression"]) == (
        "monai-vqprior",
        __version__,
        "Apache-2.0",
    )
    assert set(about.get_all("Provides-Extra", [])) == {
        "volumes",
        "registration",
        "export",
        "test",
        "benchmark",
        "check",
        "docs",
    }
    asked = [line for line in about.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert {"monai<2,>=1.6", "torch>=2.8", "fire", "tensorboard", "nibabel", "scikit-image"} <= set(asked)
    assert not [line for line in asked if line.startswith(("simpleitk", "onnx", "pytest", "sphinx"))]
    assert "vqprior = monai_vqprior.cli:main" in text["entry_points.txt"]
    assert "LICENSE" in text


def test_the_command_of_the_wheel(run: Run, tmp_path: Path) -> None:
    code = (
        "import sys; from importlib.metadata import entry_points as e; sys.exit(e(name='vqprior')['vqprior'].load()())"
    )
    assert "neighbors" in run(tmp_path, "-c", code, "--help")
    run(tmp_path, "-m", "monai_vqprior", "bundle", "--output", "mine")
    assert (tmp_path / "mine" / "models" / "model.pt").is_file()


# the bundle for the model zoo


def test_the_zoo_bundle_runs_beside_the_wheel_alone(source: Path, run: Run, tmp_path: Path) -> None:
    """The zip file, unpacked elsewhere, by MONAI's command, on phantoms; one process imports torch for all commands."""
    archive = pack_bundle(str(tmp_path / "dist" / "brain_slices"), str(source / "bundle"))
    with zipfile.ZipFile(archive) as file:
        file.extractall(tmp_path / "elsewhere")
    bundle = tmp_path / "elsewhere" / "brain_slices"
    common = ["monai.bundle", "run", "--bundle_root", str(bundle), "--device", "cpu", "--config_file"]
    configs = [str(bundle / "configs" / name) for name in ("inference.json", "sample.json")]
    commands = [
        ["monai_vqprior", "phantom", "--output", "cohort", "--subjects", "3", "--num_slices", "1", "--size", "32"],
        [*common, configs[0], "--dataset_dir", "cohort", "--spatial_size", "32"],
        [*common, str(configs), *SMALL_PRIOR],
    ]
    run(tmp_path, "-c", ONE_AFTER_THE_OTHER, json.dumps(commands))
    assert len(list((tmp_path / "cohort").rglob("*.png"))) == 3
    assert len(list((tmp_path / "output" / "reconstructions").rglob("*.png"))) > 0
    assert len(list((tmp_path / "output" / "samples").glob("*.png"))) == 10


def test_the_zip_is_the_folder(source: Path, tmp_path: Path) -> None:
    bundle = copy_bundle(str(tmp_path / "bundle"), str(source / "bundle"))
    for leftover in ("eval/schema.json", "output/model.pt", "models/.partial.pt", "configs/__pycache__/a.pyc"):
        (bundle / leftover).parent.mkdir(exist_ok=True)
        (bundle / leftover).touch()
    first, second = (pack_bundle(str(tmp_path / name / "brain_slices"), str(bundle)) for name in "ab")
    assert first.name == f"brain_slices_v{__version__}.zip"
    assert first.read_bytes() == second.read_bytes()
    folder = {path.relative_to(tmp_path / "a").as_posix() for path in (tmp_path / "a" / "brain_slices").rglob("*.*")}
    names = names_in(first)
    assert names == folder | {"brain_slices/LICENSE"}
    assert {"brain_slices/models/prior.pt", "brain_slices/configs/logging.conf"} <= names
    assert {name.split("/")[1] for name in names} == {"LICENSE", "configs", "docs", "models"}


def test_the_list_of_large_files(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In the folder of a pull request in their place, as the zoo reads it; the zip file is whole."""
    words = ["bundle", "--bundle", str(source / "bundle"), "--output", str(tmp_path / "brain_slices")]
    assert main([*words, "--weights_url", "https://example.org/w/"]) == 2
    assert "--weights_url is for MONAI's model zoo: pass --zoo with it" in capsys.readouterr().err
    assert main([*words, "--zoo", "--weights_url", "http://example.org"]) == 2
    assert "must be an address that begins with https://" in capsys.readouterr().err
    assert main([*words, "--zoo", "--weights_url", "https://example.org/w/"]) == 0
    parser = ConfigParser()
    parser.read_config(tmp_path / "brain_slices" / "large_files.json")
    listed = parser.get()["large_files"]
    large = [name for name in ("model.pt", "prior.pt") if (source / "bundle/models" / name).stat().st_size > 2**20]
    assert large
    assert [file["path"] for file in listed] == [f"models/{name}" for name in large]
    for file in listed:
        content = (source / "bundle" / file["path"]).read_bytes()
        assert file["url"] == f"https://example.org/w/{file['path']}"
        assert (file["hash_type"], file["hash_val"]) == ("sha256", hashlib.sha256(content).hexdigest())
        assert not (tmp_path / "brain_slices" / file["path"]).exists()
    names = names_in(tmp_path / f"brain_slices_v{__version__}.zip")
    assert {f"brain_slices/models/{name}" for name in large} | {"brain_slices/large_files.json"} <= names
    assert all(path.stat().st_size <= 2**20 for path in (tmp_path / "brain_slices").rglob("*.*"))


@pytest.mark.parametrize("name", ["models/prior.pt", "docs/data_license.txt"])
def test_what_the_zoo_wants_and_is_missing_is_named(name: str, source: Path, tmp_path: Path) -> None:
    bundle = copy_bundle(str(tmp_path / "bundle"), str(source / "bundle"))
    (bundle / name).unlink()
    with pytest.raises(InputError, match=f"lacks {name}, which the model zoo wants"):
        pack_bundle(str(tmp_path / "dist"), str(bundle))
    assert not (tmp_path / "dist").exists()


@pytest.mark.parametrize("version", [None, 3, "", "../../1.0", "1 0", ["1"]])
def test_a_version_that_is_none(source: Path, tmp_path: Path, version: object) -> None:
    """It becomes part of a file name."""
    bundle = copy_bundle(str(tmp_path / "bundle"), str(source / "bundle"))
    path = bundle / "configs" / "metadata.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), "version": version}), encoding="utf-8")
    with pytest.raises(InputError, match=r"metadata\.json must name a version such as 0\.1\.0, got "):
        pack_bundle(str(tmp_path / "dist"), str(bundle))
    assert not (tmp_path / "dist").exists()


def test_a_file_that_is_too_large_is_named(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = copy_bundle(str(tmp_path / "bundle"), str(source / "bundle"))
    with (bundle / "models" / "prior.pt").open("r+b") as file:
        file.truncate(25_000_001)
    assert main(["bundle", "--bundle", str(bundle), "--output", str(tmp_path / "dist"), "--zoo"]) == 2
    assert "prior.pt has 25.0 MB" in capsys.readouterr().err
    assert not (tmp_path / "dist").exists()
