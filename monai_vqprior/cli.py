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
import io
import json
import logging
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_vqprior.bundles import bundle_root, check_configs, copy_bundle, load_configs, pack_bundle, run_configs
from monai_vqprior.errors import AlreadyDoneError, InputError, chain_of, input_error_in, system_error_in
from monai_vqprior.options import STAGES, parse_command
from monai_vqprior.overrides import check_overrides
from monai_vqprior.stacks import AUTOENCODER, PRIOR, STACKS, WEIGHTS, Stack, resolve, train_stacks
from monai_vqprior.values import is_expression

__all__ = ["main"]

_OUTPUT = ("output", "output_dir")  # options with the folder that a command writes to
_OUTPUT_CLOSED = 141  # as a shell tells of a program whose reader has gone


def main(arguments: Sequence[str] | None = None) -> int:
    """
    The command ``vqprior``.

    Args:
        arguments: command line without the program's name; that of the process by default.

    Returns:
        exit status: 0, 2 after one line about wrong input, 130 after Ctrl-C, 141 when the reader of the output has
        gone. A bug raises.
    """
    try:
        status = _execute(arguments)
    except SystemExit:  # after --help and --version
        closed = _flush()
        if closed is not None:
            return closed
        raise
    return _flush() or status


def _execute(arguments: Sequence[str] | None) -> int:
    """Run a command, and return its exit status."""
    output = None
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a path may have signs that it has not
            stream.reconfigure(errors="backslashreplace")
    threading.excepthook = _thread_failed
    try:
        options = parse_command(arguments)
        output = next((value for key, value in vars(options).items() if key.removeprefix("override.") in _OUTPUT), None)
        logging.basicConfig(level=logging.WARNING, format="%(message)s")
        _COMMANDS[options.command](options)
    except KeyboardInterrupt:
        print("\nvqprior: interrupted (training and sampling go on with --resume)", file=sys.stderr)
        return 130
    except Exception as error:
        of_output = any(isinstance(link, OSError) and link.filename is None for link in chain_of(error))
        closed = _flush() if of_output else None
        if closed is not None:
            return closed
        wrong = input_error_in(error) or system_error_in(error, output)
        if wrong is None:
            raise
        _print_error(wrong)
        return 2
    return 0


def _thread_failed(failure: threading.ExceptHookArgs) -> None:
    """Report a thread that failed, unless it is TensorBoard's, which raises its error at the next write."""
    of_tensorboard = type(failure.thread).__module__.startswith("tensorboard.")
    if not (of_tensorboard and isinstance(failure.exc_value, OSError)):
        threading.__excepthook__(failure)


def _flush() -> int | None:
    """Write what is left for standard output; an exit status where it takes no more."""
    try:
        sys.stdout.flush()
    except OSError as error:
        # The interpreter would try again at its end, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return _OUTPUT_CLOSED
        _print_error(f"standard output cannot be written ({error.strerror}).")
        return 2
    return None


def _print_error(message: object) -> None:
    """One line, below the progress bars that are shown."""
    if "tqdm" in sys.modules:
        from tqdm import tqdm

        for bar in list(getattr(tqdm, "_instances", ())):
            bar.close()
    print(f"vqprior: error: {message}", file=sys.stderr)


def _given(options: argparse.Namespace) -> dict[str, Any]:
    """Values of configuration keys that the command line gives."""
    own = {key.removeprefix("override."): v for key, v in vars(options).items() if key.startswith("override.")}
    return {**own, **options.overrides}


def _run(options: argparse.Namespace, stack: Stack, **changes: Any) -> None:
    """Run configurations with the options given, on the networks' own settings."""
    together = options.command == "train"
    run_configs(*resolve(stack, bundle_root(options.bundle), {**_given(options), **changes}, together))


def _train(options: argparse.Namespace) -> None:
    from monai_vqprior.runs import state_to_resume

    stages = list(STAGES) if options.stage == "both" else [options.stage]
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
                print("stage prior: the VQ-VAE is another than before, and so are its codes: the prior begins anew")
            changes = {"resume": False, "overwrite": True}
        try:
            _run(options, stack, **changes)
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
        size = getattr(options, "override.spatial_size", None)
        size = None if is_expression(size) else size
        _check_pretrained(list(stacks), root, options.overrides.get("pretrained"), size)
    if len(stacks) > 1:
        if getattr(options, "override.ckpt", None) is not None:
            raise InputError("--ckpt names a VQ-VAE that is trained already: pass --stage prior with it.")
        # The second stage has the keys of both.
        known = load_configs(root, STACKS[PRIOR].files)
        check_overrides({k: v for k, v in options.overrides.items() if k.split("#")[0] not in known}, known)
        for stack in train_stacks(list(stacks)).values():
            check_configs(*resolve(stack, root, _given(options), together=True))


def _must_begin_anew(models: Path) -> bool:
    """Whether the VQ-VAE of a run is another than the one on whose codes its prior was trained."""
    from monai_vqprior.runs import PRIOR_SETTINGS, has_other_codes, joined_processes, read_weights, settings_beside

    with joined_processes() as processes:
        processes.wait()  # until process 0 has written the last weights of the stage before
    weights = models / WEIGHTS[AUTOENCODER]
    return weights.is_file() and has_other_codes(settings_beside(models, PRIOR_SETTINGS), read_weights(weights))


def _check_pretrained(stages: Sequence[str], root: Path, pretrained: str | None, spatial_size: Any) -> None:
    """
    Refuse to start from weights that are missing or of another size, before anything is written or trained.
    """
    from monai.utils import ensure_tuple_rep

    from monai_vqprior.runs import find_checkpoint, read_settings, settings_beside

    if pretrained is not None and len(stages) > 1:
        raise InputError("--pretrained names the weights of one network: pass --stage vqvae or --stage prior with it.")
    for stage in stages:
        weights = find_checkpoint(WEIGHTS[stage], [root / "models"], pretrained, "pretrained")
        settings = None if weights is None else settings_beside(weights.parent)
        if stage == PRIOR and spatial_size is not None and settings is not None:
            trained = read_settings(settings, codebooks=None).get("spatial_size", spatial_size)
            if ensure_tuple_rep(trained, 2) != ensure_tuple_rep(spatial_size, 2):
                raise InputError(
                    f"the prior in {weights} is of slices of {trained} pixels, not {spatial_size}, and cannot be "
                    "fine-tuned to them: pass --fine_tune --stage vqvae, then --stage prior without --fine_tune."
                )


def _evaluate(options: argparse.Namespace) -> None:
    _run(options, STACKS["evaluate"])


def _reconstruct(options: argparse.Namespace) -> None:
    _run(options, STACKS["reconstruct"])


def _sample(options: argparse.Namespace) -> None:
    _run(options, STACKS["sample"])


def _neighbors(options: argparse.Namespace) -> None:
    _run(options, STACKS["neighbors"])


def _report(options: argparse.Namespace) -> None:
    from monai_vqprior.report import write_report

    write_report(options.output_dir)


def _prepare(options: argparse.Namespace) -> None:
    from monai_vqprior.data import prepare_volumes
    from monai_vqprior.data.layout import SPLITS

    fractions = None if options.fractions is None else dict(zip(SPLITS, options.fractions, strict=True))
    summary = prepare_volumes(
        options.volumes,
        options.output,
        axis=options.axis,
        num_slices=options.num_slices,
        center_offset=options.center_offset,
        spacing=options.spacing,
        size=options.size,
        percentiles=tuple(options.percentiles),
        fractions=fractions,
        seed=options.seed,
        subjects_csv=options.subjects_csv,
        pattern=options.pattern,
        skip_bad=options.skip_bad,
        overwrite=options.overwrite,
        split_by=options.split_by,
        subject_pattern=options.subject_pattern,
    )
    print(summary)


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
    print(f"{options.subjects} subjects of {options.num_slices} slices written to {folder}")


def _bundle(options: argparse.Namespace) -> None:
    if options.zoo:
        archive = pack_bundle(options.output, options.bundle, options.overwrite)
        print(f"bundle for the model zoo written to {options.output} and {archive}")
    else:
        print(f"bundle copied to {copy_bundle(options.output, options.bundle, options.overwrite)}")


def _demo(options: argparse.Namespace) -> None:
    """Phantom, both stages, evaluation, reconstructions, samples and report, in one process."""
    from monai_vqprior.data import write_phantom
    from monai_vqprior.report import write_report

    output = Path(options.output_dir)
    data = write_phantom(output / "phantom", subjects=options.subjects, size=128, overwrite=options.overwrite)
    common = {"output_dir": str(output.absolute()), "overwrite": options.overwrite}
    on_data = {**common, "dataset_dir": str(data.absolute())}
    # The prior needs more of a short time than the VQ-VAE.
    small_prior = {"prior_layers": 8, "max_minutes": 2.25 * options.max_minutes}
    _run(options, STACKS[AUTOENCODER], **on_data, spatial_size=128, max_minutes=options.max_minutes)
    _run(options, STACKS[PRIOR], **on_data, **small_prior)
    _run(options, STACKS["reconstruct"], **on_data)
    _run(options, STACKS["sample"], **common)
    _run(options, STACKS["evaluate"], **on_data)
    write_report(output)
    metrics = json.loads((output / "metrics.json").read_text(encoding="utf-8"))
    print(f"mean SSIM of the test split: {metrics['ssim']:.4f}")


_COMMANDS = {
    "train": _train,
    "evaluate": _evaluate,
    "reconstruct": _reconstruct,
    "sample": _sample,
    "neighbors": _neighbors,
    "report": _report,
    "prepare": _prepare,
    "phantom": _phantom,
    "bundle": _bundle,
    "demo": _demo,
}
