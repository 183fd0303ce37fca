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

from monai_vqprior.bundles import (
    bundle_root,
    check_configs,
    copy_bundle,
    load_configs,
    named_codebooks,
    pack_bundle,
    run_configs,
    saved_settings,
    setting_keys,
    unknown_argument,
)
from monai_vqprior.errors import AlreadyDoneError, InputError, chain_of, input_error_in, system_error_in
from monai_vqprior.options import parse_command
from monai_vqprior.overrides import check_overrides
from monai_vqprior.preparation import Preparation, kinds_of
from monai_vqprior.values import is_expression

__all__ = ["main"]

_STAGES = {"vqvae": ["train.json"], "prior": ["train.json", "train_prior.json"]}
_WEIGHTS = {"vqvae": "model.pt", "prior": "prior.pt"}
_FINE_TUNE = "fine_tune.json"
_TOGETHER = "multi_gpu_train.json"
_EVALUATE = ["train.json", "train_prior.json", "evaluate.json"]
_RECONSTRUCT = ["inference.json"]
_SAMPLE = ["inference.json", "sample.json"]
_NEIGHBORS = ["neighbors.json"]

_OF_DATA = ("split_by", "subject_pattern")  # settings of a data set rather than of a network
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


def _run(options: argparse.Namespace, names: Sequence[str], **changes: Any) -> None:
    """Run configurations with the options given, on the networks' own settings."""
    run_configs(*_stack(options, names, **changes))


def _stack(
    options: argparse.Namespace, names: Sequence[str], **changes: Any
) -> tuple[Path, Sequence[str], dict[str, Any]]:
    """The bundle, the configurations to run, and the values of their keys: those given, and the networks' settings."""
    from monai_vqprior.engines import state_to_resume

    root = bundle_root(options.bundle)
    given = {key.removeprefix("override."): v for key, v in vars(options).items() if key.startswith("override.")}
    given = {**given, **options.overrides, **changes}
    run, shipped = Path(given.get("output_dir", "output")) / "models", root / "models"
    # Each network has its settings beside its weights, wherever these lie.
    places = [run if given.get("ckpt") is None else Path(given["ckpt"]).parent, run, shipped]
    prior_places = [run if given.get("ckpt_prior") is None else Path(given["ckpt_prior"]).parent, places[0], shipped]
    if "output_dir" in given:
        given["output_dir"] = str(Path(str(given["output_dir"])).absolute())
    fine_tune = getattr(options, "fine_tune", False)
    if fine_tune:
        names = [*names, _FINE_TUNE]
        places = prior_places = [
            shipped if given.get("pretrained") is None else Path(given["pretrained"]).parent,
            shipped,
        ]
    # A prior that begins has the settings that it is given, whatever prior the folder held before.
    begins = list(names) == _STAGES["prior"]
    config = load_configs(root, names)
    if "models_dir" not in config:  # what uses no weights has nothing to do with those of the bundle
        places, prior_places = ([place for place in some if place != shipped] for some in (places, prior_places))
    if options.command == "train" and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        names = [*names, _TOGETHER]
    # A new VQ-VAE has the settings that it is given; everything else goes on with those of a trained one.
    resumed = given.get("resume") and state_to_resume(run / f"{config.get('stage')}_last.pt") is not None
    new = config.get("stage") == "vqvae" and not resumed and not fine_tune
    prior_keys = setting_keys(root, _STAGES["prior"])
    keys = prior_keys | setting_keys(root, _STAGES["vqvae"])
    settings: dict[str, Any] = {}
    if not new:
        codebooks = named_codebooks(config, given)
        settings = saved_settings(places, prior_places, config, prior_keys, keys, codebooks)
        if fine_tune:  # with other data than that of the weights: its splits are those of this run
            of_run = saved_settings([run], [run], config, prior_keys, keys, codebooks)
            settings = {key: value for key, value in settings.items() if key not in _OF_DATA}
            if resumed or config.get("stage") == "prior":
                settings |= {key: value for key, value in of_run.items() if key in _OF_DATA}
    if options.command in ("train", "demo"):
        # A training adds to the settings that lie in its folder: they are looked at now, not when it has begun.
        saved_settings([run], [run], config, prior_keys, keys, codebooks=None)
        if not resumed:
            settings.pop("conditions", None)  # fitted to the data of the run before
            if begins:
                settings = {key: value for key, value in settings.items() if key not in prior_keys}
        # Keys of the other stage only are meant for it alone.
        told = {**settings, **given}
        stages = [load_configs(root, stage) for stage in _STAGES.values()]
        known = {key for key in given if any(_knows(stage, key, told) for stage in stages)}
        given = {key: value for key, value in given.items() if key not in known or _knows(config, key, told)}
    return root, names, {**settings, **given}


def _knows(config: Mapping[str, Any], key: str, overrides: Mapping[str, Any]) -> bool:
    """Whether a configuration with these overrides has a place for one of them, such as ``train#loss#l1_weight``."""
    return key.split("#")[0] in config and unknown_argument(key, {**config, **overrides}) is None


def _train(options: argparse.Namespace) -> None:
    from monai_vqprior.engines import state_to_resume

    stages = list(_STAGES) if options.stage == "both" else [options.stage]
    models = Path(getattr(options, "override.output_dir", "output")) / "models"
    resume = len(stages) > 1 and getattr(options, "override.resume", False)
    if options.fine_tune:
        size = getattr(options, "override.spatial_size", None)
        size = None if is_expression(size) else size
        _check_pretrained(stages, bundle_root(options.bundle), options.overrides.get("pretrained"), size)
    begun = {stage: state_to_resume(models / f"{stage}_last.pt") is not None for stage in stages}
    if len(stages) > 1:
        if getattr(options, "override.ckpt", None) is not None:
            raise InputError("--ckpt names a VQ-VAE that is trained already: pass --stage prior with it.")
        # The second stage, which has the keys of both, would refuse its input too, after the hours of the first.
        known = load_configs(bundle_root(options.bundle), _STAGES["prior"])
        check_overrides({k: v for k, v in options.overrides.items() if k.split("#")[0] not in known}, known)
        for names in _STAGES.values():
            check_configs(*_stack(options, names))
    for stage in stages:
        # Stage by stage: one that was never begun starts, one that is done is left alone.
        changes = {"resume": begun[stage]} if resume else {}
        if stage == "prior" and resume and begun[stage] and _must_begin_anew(models):
            if os.environ.get("RANK", "0") == "0":
                print("stage prior: the VQ-VAE is another than before, and so are its codes: the prior begins anew")
            changes = {"resume": False, "overwrite": True}
        try:
            _run(options, _STAGES[stage], **changes)
        except Exception as error:
            wrong = input_error_in(error)
            if len(stages) == 1 or not isinstance(wrong, AlreadyDoneError):
                raise
            if os.environ.get("RANK", "0") == "0":  # not once more for each process of torchrun
                print(f"stage {stage}: {wrong}")


def _must_begin_anew(models: Path) -> bool:
    """Whether the VQ-VAE of a run is another than the one on whose codes its prior was trained."""
    from monai_vqprior.engines import has_other_codes, joined_processes, read_weights

    with joined_processes() as processes:
        processes.wait()  # until process 0 has written the last weights of the stage before
    weights = models / _WEIGHTS["vqvae"]
    return weights.is_file() and has_other_codes(models / "settings.json", read_weights(weights))


def _check_pretrained(stages: Sequence[str], root: Path, pretrained: str | None, spatial_size: Any) -> None:
    """
    Refuse to start from weights that are missing or of another size, before anything is written or trained.
    """
    from monai.utils import ensure_tuple_rep

    from monai_vqprior.engines import find_checkpoint, read_settings

    if pretrained is not None and len(stages) > 1:
        raise InputError("--pretrained names the weights of one network: pass --stage vqvae or --stage prior with it.")
    for stage in stages:
        weights = find_checkpoint(_WEIGHTS[stage], [root / "models"], pretrained, "pretrained")
        settings = None if weights is None else weights.parent / "settings.json"
        if stage == "prior" and spatial_size is not None and settings is not None and settings.is_file():
            trained = read_settings(settings, codebooks=None).get("spatial_size", spatial_size)
            if ensure_tuple_rep(trained, 2) != ensure_tuple_rep(spatial_size, 2):
                raise InputError(
                    f"the prior in {weights} is of slices of {trained} pixels, not {spatial_size}, and cannot be "
                    "fine-tuned to them: pass --fine_tune --stage vqvae, then --stage prior without --fine_tune."
                )


def _evaluate(options: argparse.Namespace) -> None:
    _run(options, _EVALUATE)


def _reconstruct(options: argparse.Namespace) -> None:
    data = getattr(options, "override.dataset_dir", None)
    if hasattr(options, "override.volumes"):
        _run(options, [*_RECONSTRUCT, "reconstruct_volumes.json"], **({} if data is None else {"prepared_dir": data}))
    elif data is None:
        raise InputError("the following arguments are required: --dataset_dir, or --volumes (see vqprior --help)")
    elif getattr(options, "override.resume", False):
        raise InputError("--resume is for volumes: pass --volumes DIR, or --overwrite to reconstruct the slices again.")
    else:
        _run(options, _RECONSTRUCT)


def _sample(options: argparse.Namespace) -> None:
    _run(options, _SAMPLE)


def _neighbors(options: argparse.Namespace) -> None:
    _run(options, _NEIGHBORS)


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
    _run(options, _STAGES["vqvae"], **on_data, spatial_size=128, max_minutes=options.max_minutes)
    _run(options, _STAGES["prior"], **on_data, **small_prior)
    _run(options, _RECONSTRUCT, **on_data)
    _run(options, _SAMPLE, **common)
    _run(options, _EVALUATE, **on_data)
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
