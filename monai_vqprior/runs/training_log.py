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

import json
import platform
import textwrap
from collections.abc import Mapping
from typing import Any

import ignite
import monai
import numpy as np
import torch

from monai_vqprior.values import SETTINGS

__all__ = ["log_settings", "package_versions"]


def log_settings(writer: Any, settings: Mapping[str, Any]) -> None:
    """
    Write the settings of a training and the versions of its packages to its TensorBoard log, as text.

    Files and folders are left out: a log and a report may be passed on.

    Args:
        writer: a ``SummaryWriter``; None in a process that writes no log.
        settings: the checked settings of the run.
    """
    if writer is None:
        return
    kept = {name: _plain(value) for name, value in settings.items() if "a path" not in SETTINGS[name].description}
    text = json.dumps({"settings": kept, "versions": package_versions()}, indent=2)
    writer.add_text("settings", textwrap.indent(text, "    "))  # Markdown's way to leave a text as it is


def package_versions() -> dict[str, str]:
    """The versions of Python, of this package, and of the packages that a result depends on most."""
    from monai_vqprior import __version__

    found = {"monai-vqprior": __version__, "python": platform.python_version()}
    found |= {"torch": torch.__version__, "monai": monai.__version__, "numpy": np.__version__}
    return {**found, "pytorch-ignite": ignite.__version__}


def _plain(value: Any) -> Any:
    """A value that JSON has."""
    if isinstance(value, torch.device):
        return str(value)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
