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

import argparse
from typing import Any

from monai_vqprior.bundles import bundle_root, run_configs
from monai_vqprior.command_configs import Stack, resolve

__all__ = ["given", "run"]


def given(options: argparse.Namespace) -> dict[str, Any]:
    """Values of configuration keys that the command line gives."""
    own = {key.removeprefix("override."): v for key, v in vars(options).items() if key.startswith("override.")}
    return {**own, **options.overrides}


def run(options: argparse.Namespace, stack: Stack, **changes: Any) -> None:
    """Run configurations with the options given, on the networks' own settings."""
    together = options.command == "train"
    run_configs(*resolve(stack, bundle_root(options.bundle), {**given(options), **changes}, together))
