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

import logging
import os
import re
import shlex
import shutil
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from monai_vqprior.config_text import as_config
from monai_vqprior.errors import InputError
from monai_vqprior.failures import explain_failure
from monai_vqprior.files import atomic_path, read_json, write_text
from monai_vqprior.model_zoo import LARGE_FILES, PULL_REQUEST_BYTES, check_for_zoo, large_files
from monai_vqprior.outputs import OutputFolder
from monai_vqprior.overrides import check_overrides

__all__ = [
    "bundle_root",
    "check_configs",
    "command_line",
    "copy_bundle",
    "load_configs",
    "pack_bundle",
    "run_configs",
]


def bundle_root(given: str | None = None) -> Path:
    """
    Folder of the bundle: the one given, else the one that the package carries.

    Raises:
        InputError: when the folder given is no bundle of this package.
    """
    if given is not None:
        if not (Path(given) / "configs" / "train.json").is_file():
            raise InputError(f"{given} is not a bundle: {Path(given) / 'configs' / 'train.json'} does not exist.")
        return Path(given).resolve()
    package = Path(__file__).resolve().parent
    inside = package / "bundle"  # an installed wheel
    return inside if inside.is_dir() else package.parent / "bundle"  # a checkout


def copy_bundle(output: str, given: str | None = None, overwrite: bool = False) -> Path:
    """Copy the bundle to a new or empty folder, to edit it or to share it, and return the folder."""
    root = bundle_root(given)
    target = OutputFolder(output, overwrite).claim("bundle")
    for file in _files(root):
        with atomic_path(target / file) as temporary:
            shutil.copyfile(root / file, temporary)
    (target / "models").mkdir(exist_ok=True)  # for weights, where the bundle has none yet
    return target


def pack_bundle(output: str, given: str | None = None, overwrite: bool = False, weights_url: str | None = None) -> Path:
    """
    Copy the bundle as a pull request to MONAI's model zoo takes it, and write the same as a zip file beside the copy.

    The name of the folder is the name of the bundle. The zip file has the name that the zoo and ``monai.bundle.load``
    give it, and the same bytes whenever it is written from the same files.

    The zoo's own hooks refuse files of more than 1 MiB in a pull request: it takes a list of them, with the addresses
    where they are published. With ``weights_url`` the folder has this list in their place; the zip file has both.

    Args:
        output: a new or empty folder.
        given: the bundle, if not the one that the package carries.
        overwrite: whether to copy over what is in the folder.
        weights_url: the address below which the large files are published, under their names in the bundle.

    Returns:
        the zip file, ``{output}_v{version}.zip``.

    Raises:
        InputError: when a file that the zoo wants is missing, such as the weights, a file is larger than it takes,
            the metadata name no version, or the folder is not empty.
    """
    root = bundle_root(given)
    check_for_zoo(root, _files(root))
    version = _version(root / "configs" / "metadata.json")
    target = copy_bundle(output, given, overwrite).absolute()
    contents = {name.as_posix(): (root / name).read_bytes() for name in _files(root)}
    if weights_url is not None:
        large = {name: content for name, content in contents.items() if len(content) > PULL_REQUEST_BYTES}
        contents[LARGE_FILES] = large_files(large, weights_url).encode()
        write_text(target / LARGE_FILES, contents[LARGE_FILES].decode())
        for name in large:
            (target / name).unlink()
    archive = target.with_name(f"{target.name}_v{version}.zip")
    with atomic_path(archive) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in contents.items():
            # With neither the time nor the permissions of the file, which are this machine's.
            entry = zipfile.ZipInfo(f"{target.name}/{name}")
            entry.external_attr = 0o644 << 16
            file.writestr(entry, content, zipfile.ZIP_DEFLATED)
    return archive


def _files(root: Path) -> list[Path]:
    """Files of a bundle, relative to it, in order; without code, hidden files, and what runs and checks leave there."""
    names = sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file())
    return [
        name
        for name in names
        if name.parts[0] not in ("eval", "output")
        and not any(part.startswith(".") or part == "__pycache__" for part in name.parts)
        and name.suffix != ".py"
    ]


def _version(metadata: Path) -> str:
    """The version of a bundle, which becomes part of a file name."""
    version = read_json(metadata).get("version")
    if not isinstance(version, str) or not re.fullmatch(r"\w[\w.+-]*", version):
        raise InputError(f"{metadata} must name a version such as 0.1.0, got {version!r}.")
    return version


def load_configs(root: Path, names: Sequence[str]) -> dict[str, Any]:
    """The top level of a stack of configurations, merged as ``monai.bundle run`` merges them."""
    from monai.bundle import ConfigParser

    merged: dict[str, Any] = {}
    for name in names:
        merged.update(ConfigParser.load_config_file(str(root / "configs" / name)))
    return merged


def command_line(root: Path, names: Sequence[str], overrides: Mapping[str, Any]) -> str:
    """
    The ``python -m monai.bundle run`` command that does the same, to be pasted into a POSIX shell.

    Args:
        root: folder of the bundle.
        names: see :func:`run_configs`.
        overrides: values as a configuration holds them, see ``config_text.as_config``.
    """
    files = [str(root / "configs" / name) for name in names]
    one = len(files) == 1 and files[0].isprintable()
    words = ["python", "-m", "monai.bundle", "run", "--config_file", files[0] if one else str(files)]
    for key, value in overrides.items():
        words += [f"--{key}", str(value)]
    # Double quotes around a list of quoted names read better than shlex's escapes.
    return " ".join(f'"{w}"' if "'" in w and not set(w) & set('"$`\\!') else shlex.quote(w) for w in words)


def check_configs(root: Path, names: Sequence[str], overrides: Mapping[str, Any]) -> None:
    """
    Evaluate what a stack of configurations checks before anything is read or written, its key ``checks``.

    Args:
        root: folder of the bundle.
        names: see :func:`run_configs`.
        overrides: see :func:`run_configs`.

    Raises:
        InputError: when a key does not exist, and what the checks raise.
    """
    from monai.bundle import ConfigParser

    config = load_configs(root, names)
    check_overrides(overrides, config)
    with _explained(overrides, config):
        parser = ConfigParser(dict(config))
        parser.update(_held(root, overrides))
        parser.get_parsed_content("checks")


def _held(root: Path, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Overrides and the folder of the bundle, as a configuration holds them."""
    return {key: as_config(key, value) for key, value in {"bundle_root": str(root), **overrides}.items()}


@contextmanager
def _explained(overrides: Mapping[str, Any], config: Mapping[str, Any]) -> Iterator[None]:
    """Around a run: raise what :func:`~monai_vqprior.failures.explain_failure` says of a failure."""
    try:
        yield
    except Exception as error:
        wrong = explain_failure(error, overrides, config)
        if wrong is None:
            raise
        raise wrong from error


def run_configs(root: Path, names: Sequence[str], overrides: Mapping[str, Any]) -> None:
    """
    Run a stack of configurations in this process, after printing the command that does the same.

    Args:
        root: folder of the bundle.
        names: file names in its ``configs``, each an overlay on those before.
        overrides: values of configuration keys.

    Raises:
        InputError: when a key does not exist, or a value is wrong, be it that nothing can be made of it.
    """
    config = load_configs(root, names)
    check_overrides(overrides, config)
    held = _held(root, overrides)
    if os.environ.get("RANK", "0") == "0":  # not once more for each process of torchrun
        print(f"$ {command_line(root, names, held)}", flush=True)

    from monai.bundle import run

    # MONAI would repeat the command line, key by key, and log the name of its logging configuration.
    for name in ("scripts", "workflows"):
        logging.getLogger(f"monai.bundle.{name}").setLevel(logging.WARNING)
    # Ignite would log every exception, at each of its levels, before this command does.
    logging.getLogger("ignite.engine.engine").setLevel(logging.CRITICAL)
    with warnings.catch_warnings():
        # MONAI warns that a configuration can run code, whoever wrote it; this one is the package's or the user's own.
        warnings.filterwarnings("ignore", message="parsing config_file", category=UserWarning)
        with _explained(overrides, config):
            run(config_file=[str(root / "configs" / name) for name in names], **held)
