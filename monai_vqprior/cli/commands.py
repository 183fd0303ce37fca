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
from collections.abc import Callable

from monai_vqprior.bundles import copy_bundle, pack_bundle
from monai_vqprior.cli.demo import demo
from monai_vqprior.cli.running import given, run
from monai_vqprior.cli.train import train
from monai_vqprior.command_configs import STACKS
from monai_vqprior.errors import InputError, counted
from monai_vqprior.prepare_arguments import Preparation, kinds_of

__all__ = ["COMMANDS"]


def _evaluate(options: argparse.Namespace) -> None:
    run(options, STACKS["evaluate"])


def _audit(options: argparse.Namespace) -> int:
    from monai_vqprior.report import audit_status

    values = given(options)
    if "metrics_file" in values:
        raise InputError("--metrics_file is for evaluate: an audit is written to audit.json in --output_dir.")
    run(options, STACKS["audit"])
    return audit_status(values.get("output_dir", "output"))


def _reconstruct(options: argparse.Namespace) -> None:
    values = given(options)
    data = values.get("dataset_dir")
    if "volumes" in values:
        run(options, STACKS["reconstruct_volumes"], **({} if data is None else {"prepared_dir": data}))
    elif data is None:
        raise InputError("the following arguments are required: --dataset_dir, or --volumes (see vqprior --help)")
    elif values.get("resume", False):
        raise InputError("--resume is for volumes: pass --volumes DIR, or --overwrite to reconstruct the slices again.")
    else:
        run(options, STACKS["reconstruct"])


def _sample(options: argparse.Namespace) -> None:
    values = given(options)
    if "num_volumes" not in values:
        if "num_slices" in values:
            raise InputError("--num_slices is for volumes: pass --num_volumes, or --num_samples for single slices.")
        run(options, STACKS["sample"])
    elif "num_samples" in values:
        raise InputError("--num_samples is for single slices: leave it out, or leave out --num_volumes.")
    else:
        run(options, STACKS["sample_volumes"])


def _complete(options: argparse.Namespace) -> None:
    run(options, STACKS["complete"])


def _neighbors(options: argparse.Namespace) -> None:
    run(options, STACKS["neighbors"])


def _report(options: argparse.Namespace) -> None:
    from monai_vqprior.report import write_report

    write_report(options.output_dir)


def _prepare(options: argparse.Namespace) -> None:
    from monai_vqprior.data import prepare_volumes

    arguments = {name: getattr(options, name) for name in kinds_of(Preparation)}
    print(prepare_volumes(options.volumes, options.output, **arguments))


def _phantom(options: argparse.Namespace) -> None:
    from monai_vqprior.data import write_phantom

    folder = write_phantom(
        options.output,
        subjects=options.subjects,
        num_slices=options.num_slices,
        size=options.size,
        seed=options.seed,
        labels=options.labels,
        overwrite=options.overwrite,
    )
    print(f"{counted(options.subjects, 'subject')} of {counted(options.num_slices, 'slice')} written to {folder}")


def _bundle(options: argparse.Namespace) -> None:
    if options.weights_url is not None and not options.zoo:
        raise InputError("--weights_url is for MONAI's model zoo: pass --zoo with it.")
    if options.zoo:
        archive = pack_bundle(options.output, options.bundle, options.overwrite, options.weights_url)
        print(f"bundle for the model zoo written to {options.output} and {archive}")
    else:
        print(f"bundle copied to {copy_bundle(options.output, options.bundle, options.overwrite)}")


#: what each command does with its options; it may return an exit status.
COMMANDS: dict[str, Callable[[argparse.Namespace], int | None]] = {
    "train": train,
    "evaluate": _evaluate,
    "audit": _audit,
    "reconstruct": _reconstruct,
    "sample": _sample,
    "complete": _complete,
    "neighbors": _neighbors,
    "report": _report,
    "prepare": _prepare,
    "phantom": _phantom,
    "bundle": _bundle,
    "demo": demo,
}
