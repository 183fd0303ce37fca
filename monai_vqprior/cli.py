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
import ast
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_vqprior import __version__
from monai_vqprior.bundles import (
    bundle_root,
    check_configs,
    copy_bundle,
    load_configs,
    pack_bundle,
    run_configs,
    saved_settings,
    unknown_argument,
)
from monai_vqprior.errors import AlreadyDoneError, InputError, input_error_in

__all__ = ["main"]

_STAGES = {"vqvae": ["train.json"], "prior": ["train.json", "train_prior.json"]}
_WEIGHTS = {"vqvae": "model.pt", "prior": "prior.pt"}
_FINE_TUNE = "fine_tune.json"
_TOGETHER = "multi_gpu_train.json"
_EVALUATE = ["train.json", "train_prior.json", "evaluate.json"]
_RECONSTRUCT = ["inference.json"]
_SAMPLE = ["inference.json", "sample.json"]
_NEIGHBORS = ["neighbors.json"]

_EPILOG = (
    "Any other --key value overrides that key of the bundle's configuration, for instance --batch_size 8, "
    "--learning_rate 0.0005 or --train#loss#ssim_weight 2."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """
    The command ``vqprior``.

    Args:
        arguments: command line without the program's name; that of the process by default.

    Returns:
        exit status: 0, 2 after one line about wrong input, 130 after Ctrl-C. A bug raises.
    """
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    try:
        options.overrides = _overrides(rest)
        if options.overrides and not options.takes_overrides:
            parser.error(f"vqprior {options.command} has no option --{next(iter(options.overrides))}")
        logging.basicConfig(level=logging.WARNING, format="%(message)s")
        options.function(options)
    except KeyboardInterrupt:
        print("\nvqprior: interrupted (training and sampling go on with --resume)", file=sys.stderr)
        return 130
    except Exception as error:
        wrong = input_error_in(error)
        if wrong is None:
            raise
        print(f"vqprior: error: {wrong}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = argparse.ArgumentParser(
        prog="vqprior", description="A discrete latent model of brain MRI slices: VQ-VAE and PixelCNN prior, on MONAI."
    )
    parser.add_argument("--version", action="version", version=f"monai_vqprior {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, function: Callable, summary: str, bundle: bool = True) -> argparse.ArgumentParser:
        command = commands.add_parser(
            name, help=summary, description=summary, epilog=_EPILOG if bundle else None, allow_abbrev=False
        )
        command.set_defaults(function=function, takes_overrides=bundle)
        if bundle:
            command.add_argument("--bundle", metavar="DIR", help="use this bundle instead of the one in the package")
        return command

    def add_run(
        name: str, function: Callable, summary: str, needs_data: bool = True, draws: bool = True
    ) -> argparse.ArgumentParser:
        command = add(name, function, summary)
        if needs_data:
            _option(
                command,
                "dataset_dir",
                "folder of the slices, or of keras_png_slices_{train,validate,test}",
                _path,
                required=True,
            )
            _option(command, "skip_bad", "leave out and count slices that cannot be used", _boolean)
        _option(command, "output_dir", "folder for the results (default: output)", _path)
        _option(command, "spatial_size", "size of the slices (default: that of the training, or 256)", _size)
        _option(command, "overwrite", "replace the results of an earlier run", _boolean)
        _option(command, "device", "cpu, cuda, cuda:1 … (default: a GPU if there is one)")
        if draws:
            _option(command, "seed", "seed of all random numbers (default: 0)", int)
        return command

    train = add_run("train", _train, "train the VQ-VAE, then the prior on its codes")
    train.add_argument(
        "--stage", choices=[*_STAGES, "both"], default="both", help="one of the two stages (default: both)"
    )
    train.add_argument(
        "--fine_tune", action="store_true", help="start from the weights in the bundle rather than from random ones"
    )
    _option(train, "resume", "go on with the run in output_dir", _boolean)
    _option(train, "max_epochs", "length of each stage in epochs (default: 30)", int)
    _option(train, "max_minutes", "length of each stage in minutes instead", float)
    _option(train, "val_interval", "epochs between validations (default: 1)", int)
    _option(train, "early_stop", "validations without improvement after which to stop (default: never)", int)
    _option(
        train, "conditions", "what the prior is told of a slice, such as [dementia,slice] (default: nothing)", _literal
    )
    _option(train, "amp", "mixed precision where the hardware has it (default: True)", _boolean)
    _option(train, "ckpt", "weights of the VQ-VAE that the prior is trained on", _path)

    evaluate = add_run("evaluate", _evaluate, "measure SSIM, PSNR, codebook usage and bits per code: metrics.json")
    _option(evaluate, "split", "train, validate, test or all (default: test)")
    _option(evaluate, "ckpt", "weights of the VQ-VAE", _path)
    _option(evaluate, "ckpt_prior", "weights of the prior", _path)

    reconstruct = add_run("reconstruct", _reconstruct, "reconstruct slices: PNG files and a sheet beside the originals")
    _option(reconstruct, "split", "train, validate, test or all (default: test)")
    _option(reconstruct, "num_pictures", "slices on the sheet (default: 10)", int)
    _option(reconstruct, "ckpt", "weights of the VQ-VAE", _path)

    sample = add_run("sample", _sample, "draw new slices: PNG files and a contact sheet", needs_data=False)
    _option(sample, "num_samples", "how many (default: 10)", int)
    _option(sample, "temperature", "below 1: more typical, less diverse (default: 1)", float)
    _option(sample, "top_k", "draw from the k most probable codes only (default: all)", int)
    _option(sample, "top_p", "draw from the most probable codes that share this probability (default: all)", float)
    _option(sample, "guidance_scale", "above 1: stress the conditions (default: 1)", float)
    _option(sample, "resume", "go on with a run that was cut off, or make it longer", _boolean)
    _option(sample, "num_workers", "processes that draw on a CPU, for many samples (default: none but this one)", int)
    _option(sample, "condition", "what to draw, such as dementia=Mild_Demented,slice=0.5 (default: anything)")
    _option(sample, "nifti", "write NIfTI files too", _boolean)
    _option(sample, "ckpt", "weights of the VQ-VAE", _path)
    _option(sample, "ckpt_prior", "weights of the prior", _path)

    neighbors = add_run(
        "neighbors", _neighbors, "show samples beside their nearest training slices: are they copies?", draws=False
    )
    _option(neighbors, "num_pictures", "samples on the sheet (default: 10)", int)

    report = add("report", _report, "gather metrics and pictures of a run on one page: report.html", bundle=False)
    report.add_argument("--output_dir", default="output", help="folder of the run (default: output)")

    _add_prepare(add("prepare", _prepare, "cut NIfTI or Analyze volumes into slices, split by subject", bundle=False))

    phantom = add("phantom", _phantom, "write a cohort of procedural brains, in the layout of OASIS", bundle=False)
    phantom.add_argument("--output", required=True, metavar="DIR", help="folder for the slices")
    phantom.add_argument("--subjects", type=int, default=40, help="number of subjects (default: 40)")
    phantom.add_argument("--num_slices", type=int, default=32, help="slices a subject (default: 32)")
    phantom.add_argument("--size", type=int, default=256, help="side of the slices in pixels (default: 256)")
    phantom.add_argument("--seed", type=int, default=0, help="seed of the cohort (default: 0)")
    phantom.add_argument("--labels", action="store_true", help="write the label maps too")
    phantom.add_argument("--overwrite", action="store_true", help="replace an earlier cohort in the folder")

    copy = add("bundle", _bundle, "copy the bundle out, to edit it or to share it", bundle=False)
    copy.add_argument("--output", required=True, metavar="DIR", help="a new or empty folder")
    copy.add_argument("--bundle", metavar="DIR", help="copy this bundle instead of the one in the package")
    copy.add_argument("--overwrite", action="store_true", help="copy over what is in the folder")
    copy.add_argument(
        "--zoo", action="store_true", help="as MONAI's model zoo takes it: checked, and as a zip file beside the folder"
    )

    demo = add("demo", _demo, "everything on the phantom cohort, in some four minutes on two CPU cores", bundle=False)
    demo.add_argument("--bundle", metavar="DIR", help="use this bundle instead of the one in the package")
    demo.add_argument("--output_dir", default="output/demo", help="folder for the results (default: output/demo)")
    demo.add_argument("--subjects", type=int, default=40, help="subjects of the phantom cohort (default: 40)")
    demo.add_argument(
        "--max_minutes",
        type=float,
        default=1.0,
        help="minutes for the VQ-VAE, the prior has 2.25 times as many (default: 1)",
    )
    demo.add_argument("--overwrite", action="store_true", help="replace the results of an earlier demo")
    return parser


def _option(
    command: argparse.ArgumentParser,
    key: str,
    text: str,
    kind: Callable[[str], Any] = str,
    required: bool = False,
) -> None:
    """An option that is an override of a configuration key; without it the configuration's own value holds."""
    # A flag may stand alone or have a value, as on MONAI's command line.
    flag = kind is _boolean
    form: dict[str, Any] = {"nargs": "?", "const": True, "metavar": "BOOL"} if flag else {"metavar": key.upper()}
    name = f"override.{key}"
    command.add_argument(
        f"--{key}", dest=name, default=argparse.SUPPRESS, type=kind, required=required, help=text, **form
    )


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text.lower() == "true"


def _size(text: str) -> int | list[int]:
    """One side for both, such as 128, or height and width, such as [160,128]."""
    size = _literal(text)
    sides = list(size) if isinstance(size, (list, tuple)) and len(size) == 2 else [size]
    if not all(isinstance(side, int) and side > 0 for side in sides):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size: give 128, or [160,128] for height and width")
    return sides if len(sides) == 2 else sides[0]


def _path(text: str) -> str:
    return str(Path(text).expanduser())


def _add_prepare(command: argparse.ArgumentParser) -> None:
    """Options of ``vqprior prepare``."""
    command.add_argument("--volumes", required=True, metavar="DIR", help="folder of the volumes, searched throughout")
    command.add_argument("--output", required=True, metavar="DIR", help="folder for the slices")
    command.add_argument("--axis", type=int, default=2, help="axis to cut along: 0 sagittal, 1 coronal, 2 axial")
    command.add_argument("--num_slices", type=int, default=32, help="slices a volume (default: 32)")
    command.add_argument("--center_offset", type=int, default=0, help="slices from the middle of the volume to theirs")
    command.add_argument("--spacing", type=int, default=1, help="take each n-th slice (default: 1)")
    command.add_argument("--size", type=int, default=256, help="side of the slices in pixels (default: 256)")
    command.add_argument(
        "--percentiles", type=float, nargs=2, default=(0.5, 99.5), metavar=("LOW", "HIGH"),
        help="of the intensities inside the brain, which become 0 and 255 (default: 0.5 99.5)",
    )  # fmt: skip
    command.add_argument(
        "--fractions", type=float, nargs=3, default=None, metavar=("TRAIN", "VALIDATE", "TEST"),
        help="share of the subjects in each split (default: 0.8 0.1 0.1)",
    )  # fmt: skip
    command.add_argument("--seed", type=int, default=0, help="seed of the split (default: 0)")
    command.add_argument("--subjects_csv", metavar="FILE", help="table of subjects to join, such as OASIS-1's own")
    command.add_argument("--pattern", help="file names to take, such as '*_T1w.nii.gz'")
    command.add_argument("--skip_bad", action="store_true", help="leave out and count volumes that cannot be used")
    command.add_argument("--overwrite", action="store_true", help="replace earlier slices in the folder")


def _literal(text: str) -> Any:
    """A Python literal, true or false, or else the text itself."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _overrides(words: Sequence[str]) -> dict[str, Any]:
    """``--key value``, ``--key=value`` and ``--flag`` that are not options of the command."""
    overrides: dict[str, Any] = {}
    key: str | None = None
    for word in words:
        if word.startswith("--") and len(word) > 2:
            key, equals, value = word[2:].partition("=")
            overrides[key] = _literal(value) if equals else True
            key = None if equals else key
        elif key is not None:
            overrides[key] = _literal(word)
            key = None
        else:
            raise InputError(f"{word!r} belongs to no option: options look like --key value.")
    return overrides


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
    config = load_configs(root, names)
    if "models_dir" not in config:  # what uses no weights has nothing to do with those of the bundle
        places, prior_places = ([place for place in some if place != shipped] for some in (places, prior_places))
    if options.command == "train" and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        names = [*names, _TOGETHER]
    # A new VQ-VAE has the settings that it is given; everything else goes on with those of a trained one.
    resumed = given.get("resume") and state_to_resume(run / f"{config.get('stage')}_last.pt") is not None
    new = config.get("stage") == "vqvae" and not resumed and not fine_tune
    settings = {} if new else saved_settings(places, prior_places, config, _prior_keys(root))
    if options.command in ("train", "demo"):
        if not resumed:
            settings.pop("conditions", None)  # fitted to the data of the run before
        # What only the other stage knows is meant for it alone.
        told = {**settings, **given}
        stages = [load_configs(root, stage) for stage in _STAGES.values()]
        known = {key for key in given if any(_knows(stage, key, told) for stage in stages)}
        given = {key: value for key, value in given.items() if key not in known or _knows(config, key, told)}
    return root, names, {**settings, **given}


def _prior_keys(root: Path) -> set[str]:
    """Which settings are those of the prior alone."""
    return set(load_configs(root, _STAGES["prior"])["settings"])


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
        _check_pretrained(stages, bundle_root(options.bundle), options.overrides.get("pretrained"), size)
    begun = {stage: state_to_resume(models / f"{stage}_last.pt") is not None for stage in stages}
    if len(stages) > 1:
        if getattr(options, "override.ckpt", None) is not None:
            raise InputError("--ckpt names a VQ-VAE that is trained already: pass --stage prior with it.")
        # The second stage would refuse its input too, after the hours of the first.
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
    from monai_vqprior.engines import has_other_codes, joined_processes, read_checkpoint

    with joined_processes() as processes:
        processes.wait()  # until process 0 has written the last weights of the stage before
    weights = models / _WEIGHTS["vqvae"]
    return weights.is_file() and has_other_codes(models / "settings.json", read_checkpoint(weights))


def _check_pretrained(stages: Sequence[str], root: Path, pretrained: str | None, spatial_size: Any) -> None:
    """
    Refuse to start from weights that are not there or not of the size asked for, before anything is written or a stage
    trained in vain.
    """
    from monai.utils import ensure_tuple_rep

    from monai_vqprior.engines import find_checkpoint, read_settings

    if pretrained is not None and len(stages) > 1:
        raise InputError("--pretrained names the weights of one network: pass --stage vqvae or --stage prior with it.")
    for stage in stages:
        weights = find_checkpoint(_WEIGHTS[stage], [root / "models"], pretrained, "pretrained")
        settings = None if weights is None else weights.parent / "settings.json"
        if stage == "prior" and spatial_size is not None and settings is not None and settings.is_file():
            trained = read_settings(settings).get("spatial_size", spatial_size)
            if ensure_tuple_rep(trained, 2) != ensure_tuple_rep(spatial_size, 2):
                raise InputError(
                    f"the prior in {weights} is of slices of {trained} pixels, not {spatial_size}, and cannot be "
                    "fine-tuned to them: pass --fine_tune --stage vqvae, then --stage prior without --fine_tune."
                )


def _evaluate(options: argparse.Namespace) -> None:
    _run(options, _EVALUATE)


def _reconstruct(options: argparse.Namespace) -> None:
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
    _run(options, _STAGES["vqvae"], **on_data, spatial_size=128, max_minutes=options.max_minutes)
    _run(options, _STAGES["prior"], **on_data, **small_prior)
    _run(options, _RECONSTRUCT, **on_data)
    _run(options, _SAMPLE, **common)
    _run(options, _EVALUATE, **on_data)
    write_report(output)
    metrics = json.loads((output / "metrics.json").read_text(encoding="utf-8"))
    print(f"mean SSIM of the test split: {metrics['ssim']:.4f}")
