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

"""What MONAI's model zoo requires of a bundle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from monai_vqprior.errors import InputError

__all__ = ["LARGE_FILES", "PULL_REQUEST_BYTES", "REQUIRED_FILES", "check_for_zoo", "large_files"]

#: files that the zoo requires of a bundle, with the weights that this package needs.
REQUIRED_FILES = (
    "LICENSE",
    "configs/metadata.json",
    "configs/train.json",
    "configs/inference.json",
    "docs/README.md",
    "docs/data_license.txt",
    "models/model.pt",
    "models/prior.pt",
)
#: the zoo's list of the files that are larger than a pull request may hold.
LARGE_FILES = "large_files.json"
#: bytes of a file that the zoo takes in a pull request.
PULL_REQUEST_BYTES = 2**20
# Bytes of a file that it takes at all.
_MOST_BYTES = 25_000_000


def check_for_zoo(root: Path, names: Iterable[Path]) -> None:
    """
    Check that the model zoo would take a bundle.

    Args:
        root: folder of the bundle.
        names: its files, relative to it.

    Raises:
        InputError: when a file is missing or too large.
    """
    missing = [name for name in REQUIRED_FILES if not (root / name).is_file()]
    if missing:
        weights = all(name.startswith("models/") for name in missing)
        raise InputError(
            f"{root} lacks {' and '.join(missing)}, which the model zoo wants"
            + (": train the bundle, and copy the weights there." if weights else ".")
        )
    for name in names:
        size = (root / name).stat().st_size
        if size > _MOST_BYTES:
            raise InputError(
                f"{root / name} has {size / 1e6:.1f} MB, and the model zoo takes files of at most "
                f"{_MOST_BYTES // 10**6} MB."
            )


def large_files(files: Mapping[str, bytes], url: str) -> str:
    """The zoo's list of large files: where each is published, and the hash of its content."""
    listed = [
        {
            "path": name,
            "url": f"{url.rstrip('/')}/{name}",
            "hash_val": hashlib.sha256(content).hexdigest(),
            "hash_type": "sha256",
        }
        for name, content in files.items()
    ]
    return json.dumps({"large_files": listed}, indent=4) + "\n"
