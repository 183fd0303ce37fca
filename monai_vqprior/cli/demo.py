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

from monai_vqprior.bundles import bundle_root
from monai_vqprior.cli.running import run
from monai_vqprior.command_configs import AUTOENCODER, PRIOR, STACKS, WEIGHTS

__all__ = ["demo"]


def demo(options: argparse.Namespace) -> None:
    """Every command on a phantom cohort, in one process, and samples of the weights in the bundle."""
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
    run(options, STACKS["audit"], **on_data)
    write_report(output)
    _sample_shipped(options, output / "shipped")
    metrics = json.loads((output / "metrics.json").read_text(encoding="utf-8"))
    print(f"mean SSIM of the test split: {metrics['ssim']:.4f}")


def _sample_shipped(options: argparse.Namespace, output: Path) -> None:
    """Ten samples of the weights in the bundle, where it has any; those of the demo were trained for minutes."""
    models = bundle_root(options.bundle) / "models"
    weights = {key: models / WEIGHTS[stage] for key, stage in (("ckpt", AUTOENCODER), ("ckpt_prior", PRIOR))}
    if not all(path.is_file() for path in weights.values()):
        return
    named = {key: str(path) for key, path in weights.items()}
    run(options, STACKS["sample"], output_dir=str(output.absolute()), overwrite=options.overwrite, **named)
    print(f"samples of the weights in the bundle, beside those of the phantom: {output / 'samples.png'}")
