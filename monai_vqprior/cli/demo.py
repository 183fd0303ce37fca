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
import json
from pathlib import Path

from monai_vqprior.cli.running import run
from monai_vqprior.command_configs import AUTOENCODER, PRIOR, STACKS

__all__ = ["demo"]


def demo(options: argparse.Namespace) -> None:
    """Phantom, both stages, reconstructions, samples, neighbors, evaluation and report, in one process."""
    from monai_vqprior.data import write_phantom
    from monai_vqprior.report import write_report

    output = Path(options.output_dir)
    data = write_phantom(output / "phantom", subjects=options.subjects, size=128, overwrite=options.overwrite)
    common = {"output_dir": str(output.absolute()), "overwrite": options.overwrite}
    on_data = {**common, "dataset_dir": str(data.absolute())}
    # The prior needs more of a short time than the autoencoder.
    small_prior = {"prior_layers": 8, "max_minutes": 2.25 * options.max_minutes}
    run(options, STACKS[AUTOENCODER], **on_data, spatial_size=128, max_minutes=options.max_minutes)
    run(options, STACKS[PRIOR], **on_data, **small_prior)
    run(options, STACKS["reconstruct"], **on_data)
    run(options, STACKS["sample"], **common)
    run(options, STACKS["neighbors"], **on_data)
    run(options, STACKS["evaluate"], **on_data)
    write_report(output)
    metrics = json.loads((output / "metrics.json").read_text(encoding="utf-8"))
    print(f"mean SSIM of the test split: {metrics['ssim']:.4f}")
