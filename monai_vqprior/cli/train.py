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
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from monai_vqprior.bundles import bundle_root, check_configs, load_configs
from monai_vqprior.cli.options import STAGE_NAMES, STAGES
from monai_vqprior.cli.running import given, run
from monai_vqprior.command_configs import AUTOENCODER, PRIOR, STACKS, WEIGHTS, Stack, resolve, train_stacks
from monai_vqprior.errors import AlreadyDoneError, InputError, input_error_in
from monai_vqprior.overrides import check_overrides

__all__ = ["train"]


def train(options: argparse.Namespace) -> None:
    """``vqprior train``: one stage or both, one after the other."""
    from monai_vqprior.runs import state_to_resume

    stages = list(STAGES) if options.stage == "both" else [STAGE_NAMES.get(options.stage, options.stage)]
    stacks = train_stacks(stages, options.fine_tune)
    models = Path(getattr(options, "override.output_dir", "output")) / "models"
    resume = len(stages) > 1 and getattr(options, "override.resume", False)
    begun = {stage: state_to_resume(models / f"{stage}_last.pt") is not None for stage in stages}
    _check_train(options, stacks)
    for stage, stack in stacks.items():
        # Stage by stage: one that was never begun starts, one that is done is left alone.
        changes = {"resume": begun[stage]} if resume else {}
        if stage == PRIOR and resume and begun[stage] and _must_begin_anew(models):
            if os.environ.get("RANK", "0") == "0":
                print("stage prior: the autoencoder has other codes than before: the prior begins anew")
            changes = {"resume": False, "overwrite": True}
        try:
            run(options, stack, **changes)
        except Exception as error:
            wrong = input_error_in(error)
            if len(stages) == 1 or not isinstance(wrong, AlreadyDoneError):
                raise
            if os.environ.get("RANK", "0") == "0":  # not once more for each process of torchrun
                print(f"stage {stage}: {wrong}")


def _check_train(options: argparse.Namespace, stacks: Mapping[str, Stack]) -> None:
    """Refuse what a stage would refuse too, after the hours of the stage before."""
    root = bundle_root(options.bundle)
    if options.fine_tune:
        _check_pretrained(list(stacks), root, options.overrides.get("pretrained"))
    if len(stacks) > 1:
        if getattr(options, "override.ckpt", None) is not None:
            raise InputError("--ckpt names an autoencoder that is trained already: pass --stage prior with it.")
        # The second stage has the keys of both.
        known = load_configs(root, STACKS[PRIOR].files)
        check_overrides({k: v for k, v in options.overrides.items() if k.split("#")[0] not in known}, known)
        for stack in train_stacks(list(stacks)).values():
            check_configs(*resolve(stack, root, given(options), together=True))


def _must_begin_anew(models: Path) -> bool:
    """Whether the autoencoder of a run is another than the one on whose codes its prior was trained."""
    from monai_vqprior.runs import PRIOR_SETTINGS, has_other_codes, joined_processes, read_weights, settings_beside

    with joined_processes() as processes:
        processes.wait()  # until process 0 has written the last weights of the stage before
    weights = models / WEIGHTS[AUTOENCODER]
    return weights.is_file() and has_other_codes(settings_beside(models, PRIOR_SETTINGS), read_weights(weights))


def _check_pretrained(stages: Sequence[str], root: Path, pretrained: str | None) -> None:
    """Refuse to start from weights that are missing, before anything is written or trained."""
    from monai_vqprior.runs import find_checkpoint

    if pretrained is not None and len(stages) > 1:
        raise InputError("--pretrained names the weights of one network: pass --stage vqvae or --stage prior with it.")
    for stage in stages:
        find_checkpoint(WEIGHTS[stage], [root / "models"], pretrained, "pretrained")
