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

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from monai.bundle import ConfigParser

from monai_vqprior.bundles import bundle_root, load_configs

__all__ = ["bundle_parser", "run_parser"]


def bundle_parser(names: Sequence[str], overrides: Mapping[str, Any]) -> ConfigParser:
    """A stack of the bundle's configurations with these changes, as ``monai.bundle run`` would merge it."""
    root = bundle_root()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="parsing config_file", category=UserWarning)
        parser = ConfigParser(load_configs(root, names[:1]))
        for name in names[1:]:
            parser.update(load_configs(root, [name]))
    for key, value in {"bundle_root": str(root), **overrides}.items():
        parser[key] = value
    return parser


def run_parser(parser: ConfigParser) -> None:
    """Initialize and run, expression by expression."""
    for step in ("initialize", "run"):
        for index in range(len(parser[step])):
            parser.get_parsed_content(f"{step}#{index}")
