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
import re
from dataclasses import Field, dataclass, fields
from pathlib import Path
from typing import Any

from monai_vqprior import __version__
from monai_vqprior.errors import InputError
from monai_vqprior.prepare_arguments import SPLIT_BY_HELP, SUBJECT_PATTERN_HELP, Preparation, kinds_of
from monai_vqprior.values import (
    FLAG,
    PATH,
    PHANTOM,
    SETTINGS,
    URL,
    Kind,
    choice,
    is_expression,
    number,
)

__all__ = ["STAGES", "STAGE_NAMES", "Option", "command_parser", "option_of"]

#: The stages of a training, in order.
STAGES = ("vqvae", "prior")
#: other names of stages.
STAGE_NAMES = {"autoencoder": "vqvae"}

#: Settings that the command itself reads, before a configuration is evaluated.
_READ_HERE = {
    "ckpt", "ckpt_prior", "conditions", "dataset_dir", "output_dir", "overwrite", "pretrained", "resume", "split_seed",
    "split_by", "subject_pattern",
}  # fmt: skip

_EPILOG = (
    "Any other --key value overrides that key of the bundle's configuration, for instance --batch_size 8, "
    "--learning_rate 0.0005 or --train#loss#ssim_weight 2. A value may be an expression of MONAI's, such as '$2 * 8' "
    "or '@batch_size', except for options that the command reads itself, such as --output_dir and --resume. Keys "
    "cannot be added (+key) or removed (~key), and imports, initialize, begin, run and finalize cannot be replaced: "
    "write a configuration for that, and run it with python -m monai.bundle run."
)


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, like all that is wrong with the input."""

    def error(self, message: str) -> Any:
        text = re.sub(r"^argument [^:]+: (?=--)", "", message)  # by Option, which names the option itself
        raise InputError(text if text != message else f"{message} (see {self.prog} --help)")


@dataclass(frozen=True)
class Option:
    """
    Reads and checks the text that an option is given; the ``type`` of an argument of :mod:`argparse`.

    Args:
        name: of the option, without hyphens.
        kind: what its value must be.
        expressions: whether the value may be an expression or a reference of MONAI's, to be checked when it has been
            evaluated.
    """

    name: str
    kind: Kind
    expressions: bool = False

    def __call__(self, text: str) -> Any:
        """
        The value.

        Raises:
            argparse.ArgumentTypeError: when the value is wrong.
        """
        try:
            return self.read(text)
        except InputError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    def read(self, text: str) -> Any:
        """
        The value.

        Raises:
            InputError: when the value is wrong.
        """
        if self.expressions and is_expression(text):
            return text
        is_path = self.kind.accepts(Path())  # only kinds that are paths take such objects
        if self.name in _READ_HERE and is_expression(text) and not is_path:
            raise InputError(
                f"--{self.name} must be given as it is, for it is read before the configuration, got {text!r}."
            )
        value = self.kind.read(text)
        self.kind.check(f"--{self.name}", value)
        if not (is_path and isinstance(value, str)):
            return value
        path = os.path.expanduser(value)  # noqa: PTH111
        return f"./{path}" if is_expression(path) else path  # a path, whatever it begins with


class _Together(argparse.Action):
    """Stores several numbers that are right or wrong together, such as shares that add up to 1."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        kinds_of(Preparation)[self.dest].check(f"--{self.dest}", values)
        setattr(namespace, self.dest, values)


class _Commands:
    """Adds commands to a parser."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(self, name: str, summary: str, bundle: bool = True) -> argparse.ArgumentParser:
        """A command; ``bundle`` for one that runs configurations, any key of which is an option then."""
        command = self._commands.add_parser(
            name, help=summary, description=summary, epilog=_EPILOG if bundle else None, allow_abbrev=False
        )
        command.set_defaults(takes_overrides=bundle)
        if bundle:
            _value(command, "bundle", PATH, "use this bundle instead of the one in the package", metavar="DIR")
        return command

    def add_run(
        self, name: str, summary: str, takes_data: bool = True, needs_data: bool = True, draws: bool = True
    ) -> argparse.ArgumentParser:
        """A command that runs configurations, with the options that most of them share."""
        command = self.add(name, summary)
        if takes_data:
            _add_data(command, needs_data)
        _setting(command, "output_dir", "folder for the results (default: output)")
        _setting(command, "spatial_size", "size of the slices (default: that of the training, or 256)")
        _setting(command, "overwrite", "replace the results of an earlier run")
        _setting(command, "device", "cpu, cuda, cuda:1 and so on (default: a GPU if there is one)")
        if draws:
            _setting(command, "seed", "seed of all random numbers (default: 0)")
        return command


def command_parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = _Parser(
        prog="vqprior",
        description="A discrete latent model of brain MRI slices for MONAI: a VQ-VAE and a PixelCNN prior.",
    )
    parser.add_argument("--version", action="version", version=f"monai_vqprior {__version__}")
    commands = _Commands(parser)
    _add_train(commands.add_run("train", "train the autoencoder, then the prior on its codes"))
    about = "measure SSIM, PSNR, codebook usage and bits per code, and write metrics.json"
    _add_evaluate(commands.add_run("evaluate", about))
    about = (
        "ask of the samples in output_dir: are they as good as reconstructions, are they new? writes audit.json and "
        "audit.png; the exit status is 3 if they may be copies"
    )
    _add_audit(commands.add_run("audit", about))
    about = "reconstruct slices, and write PNG files and a sheet beside the originals"
    _add_reconstruct(commands.add_run("reconstruct", about, needs_data=False))
    about = "sample new slices or whole heads, and write PNG or NIfTI files and a sheet"
    _add_sample(commands.add_run("sample", about, takes_data=False))
    about = "fill the holes of slices in several ways, and write PNG files and a sheet"
    _add_complete(commands.add_run("complete", about, takes_data=False))
    about = "show samples beside their nearest training slices, to find copies"
    _add_neighbors(commands.add_run("neighbors", about, draws=False))
    about = "write the metrics and pictures of a run on one page, report.html"
    _add_report(commands.add("report", about, bundle=False))
    about = "bring volumes to one space and cut them into slices, split by subject"
    _add_prepare(commands.add("prepare", about, bundle=False))
    _add_phantom(commands.add("phantom", "write a cohort of computed brains in the layout of OASIS", bundle=False))
    _add_bundle(commands.add("bundle", "copy the bundle, to edit or share it", bundle=False))
    about = "run every step on a cohort of phantoms, in about five minutes on two CPU cores"
    _add_demo(commands.add("demo", about, bundle=False))
    return parser


def _add_data(command: argparse.ArgumentParser, required: bool) -> None:
    about = "folder of the slices, or of keras_png_slices_{train,validate,test}"
    _setting(command, "dataset_dir", about, required=required)
    _setting(command, "skip_bad", "leave out slices that cannot be used, and count them")
    _setting(command, "split_by", SPLIT_BY_HELP)
    _setting(command, "subject_pattern", SUBJECT_PATTERN_HELP)
    _add_max_value(command)


def _add_max_value(command: argparse.ArgumentParser) -> None:
    about = "white in slices of more than 8 bits, such as 4095 (default: of the training, or from the slices)"
    _setting(command, "max_value", about)


def _add_evaluate(command: argparse.ArgumentParser) -> None:
    _setting(command, "split", "split to evaluate (default: test)")
    _setting(command, "ckpt", "weights of the autoencoder")
    _setting(command, "ckpt_prior", "weights of the prior")


def _add_audit(command: argparse.ArgumentParser) -> None:
    _setting(command, "num_pictures", "samples on the sheet of those nearest to training slices (default: 10)")
    _setting(command, "ckpt", "weights of the autoencoder")
    _setting(command, "ckpt_prior", "weights of the prior")


def _add_reconstruct(command: argparse.ArgumentParser) -> None:
    _setting(command, "split", "split to reconstruct (default: test)")
    _setting(command, "num_pictures", "slices on the sheet (default: 10)")
    _setting(command, "ckpt", "weights of the autoencoder")
    _setting(command, "volumes", "folder of volumes to reconstruct, instead of slices")
    _setting(command, "resume", "keep volumes that are reconstructed already")


def _add_neighbors(command: argparse.ArgumentParser) -> None:
    _setting(command, "num_pictures", "samples on the sheet (default: 10)")


def _add_report(command: argparse.ArgumentParser) -> None:
    _value(command, "output_dir", PATH, "folder of the run (default: output)", default="output", metavar="DIR")


def _add_train(command: argparse.ArgumentParser) -> None:
    stages = choice(*STAGES, *STAGE_NAMES, "both")
    _value(command, "stage", stages, "stage to train; autoencoder and vqvae are one (default: both)", default="both")
    command.add_argument("--fine_tune", action="store_true", help="start from the weights in the bundle")
    _setting(command, "resume", "continue the run in output_dir, or start one")
    _setting(command, "max_epochs", "length of each stage in epochs (default: 30)")
    _setting(command, "max_minutes", "length of each stage in minutes instead")
    _setting(command, "val_interval", "epochs between validations (default: 1)")
    _setting(command, "early_stop", "validations without improvement after which training stops (default: 0, never)")
    _setting(command, "conditions", "columns to condition the prior on, such as [dementia,slice] (default: none)")
    _setting(command, "neighbor_context", "learn slices given those below too, to sample whole heads")
    _setting(command, "given_context", "learn to complete slices by what is given on all sides of a hole too")
    _setting(command, "amp", "mixed precision where the hardware has it (default: True)")
    _setting(command, "ckpt", "weights of the autoencoder that the prior is trained on")


def _add_sample(command: argparse.ArgumentParser) -> None:
    _setting(command, "num_samples", "number of samples (default: 10)")
    _setting(command, "num_volumes", "draw whole heads instead of slices, so many, as NIfTI volumes")
    _setting(command, "num_slices", "slices of a volume, those in the middle of a head (default: all)")
    _setting(command, "nifti", "write NIfTI files too")
    _setting(
        command,
        "draw_conditions",
        "draw conditions that --condition does not name as the training data has them (default: True)",
    )
    _add_drawing(command)


def _add_complete(command: argparse.ArgumentParser) -> None:
    _setting(command, "image", "a slice with a hole, or a folder of slices", required=True)
    _setting(command, "mask", "its mask, black where the slice is given, or a folder of masks", required=True)
    _setting(command, "num_completions", "completions of each slice (default: 4)")
    _setting(command, "seam", "pixels around the hole that pass into their reconstruction (default: 0)")
    _setting(command, "skip_bad", "leave out slices that cannot be used, and count them")
    _add_max_value(command)
    _add_drawing(command)


def _add_drawing(command: argparse.ArgumentParser) -> None:
    """How codes are drawn, and with which networks."""
    _setting(
        command,
        "temperature",
        "temperature of the distribution; below 1 samples are more typical, less diverse (default: 0.8, for volumes 1)",
    )
    _setting(
        command,
        "sketch_temperature",
        "temperature of the sketches, which are drawn first (default: that of the weights)",
    )
    _setting(command, "top_k", "draw from the k most probable codes (default: all)")
    _setting(
        command, "top_p", "draw from the smallest set of codes whose probability reaches this value (default: all)"
    )
    _setting(command, "guidance_scale", "scale of classifier-free guidance (default: 1, no guidance)")
    _setting(command, "resume", "continue an interrupted run, or extend one")
    _setting(command, "num_workers", "processes that sample on a CPU (default: 0, this process only)")
    _setting(command, "condition", "condition to sample for, such as dementia=Mild_Demented,slice=0.5 (default: none)")
    _setting(command, "ckpt", "weights of the autoencoder")
    _setting(command, "ckpt_prior", "weights of the prior")


def _add_prepare(command: argparse.ArgumentParser) -> None:
    _value(command, "volumes", PATH, "folder of the volumes, searched recursively", required=True, metavar="DIR")
    _value(command, "output", PATH, "folder for the slices", required=True, metavar="DIR")
    for argument in fields(Preparation):
        _add_argument(command, argument)


def _add_argument(command: argparse.ArgumentParser, argument: Field[Any]) -> None:
    """The option of an argument of ``prepare``."""
    name, kind, text, form = argument.name, *(argument.metadata[key] for key in ("kind", "help", "form"))
    if kind is FLAG:
        command.add_argument(f"--{name}", action="store_true", help=text)
    elif isinstance(form.get("metavar"), tuple):  # several numbers
        command.add_argument(
            f"--{name}", type=Option(name, number(0, 100)), nargs=len(form["metavar"]), default=argument.default,
            action=_Together, help=_help(f"{text}; {kind.description}", FLAG), **form,
        )  # fmt: skip
    else:
        _value(command, name, kind, text, default=argument.default, **form)


def _add_phantom(command: argparse.ArgumentParser) -> None:
    def add(name: str, text: str, **form: Any) -> None:
        _value(command, name, PHANTOM[name], text, **form)

    add("output", "folder for the slices", required=True, metavar="DIR")
    add("subjects", "number of subjects (default: 40)", default=40)
    add("num_slices", "slices a subject (default: 32)", default=32)
    add("size", "side of the slices in pixels (default: 256)", default=256)
    add("seed", "seed of the cohort (default: 0)", default=0)
    command.add_argument("--labels", action="store_true", help="write the label maps too")
    command.add_argument("--overwrite", action="store_true", help="replace an earlier cohort in the folder")


def _add_bundle(command: argparse.ArgumentParser) -> None:
    _value(command, "output", PATH, "a new or empty folder", required=True, metavar="DIR")
    _value(command, "bundle", PATH, "copy this bundle instead of the one in the package", metavar="DIR")
    command.add_argument("--overwrite", action="store_true", help="copy over what is in the folder")
    command.add_argument(
        "--zoo",
        action="store_true",
        help="check the bundle for MONAI's model zoo, and write a zip file beside the folder",
    )
    about = "address of the published large files, which large_files.json then lists in their place"
    _value(command, "weights_url", URL, about, metavar="URL")


def _add_demo(command: argparse.ArgumentParser) -> None:
    _value(command, "bundle", PATH, "use this bundle instead of the one in the package", metavar="DIR")
    about = "folder for the results (default: output/demo)"
    _value(command, "output_dir", PATH, about, default="output/demo", metavar="DIR")
    _value(command, "subjects", PHANTOM["subjects"], "subjects of the phantom cohort (default: 40)", default=40)
    about = "minutes for the autoencoder; the prior has 2.25 times as many (default: 1)"
    _value(command, "max_minutes", number(0, 10**6, above=True), about, default=1.0)
    command.add_argument("--overwrite", action="store_true", help="replace the results of an earlier demo")


def _value(command: argparse.ArgumentParser, name: str, kind: Kind, text: str, **form: Any) -> None:
    """An option of the command alone, with a value."""
    command.add_argument(f"--{name}", type=Option(name, kind), help=_help(text, kind), **form)


def _setting(command: argparse.ArgumentParser, key: str, text: str, required: bool = False) -> None:
    """An option that is an override of a configuration key; without it the configuration's own value holds."""
    kind = SETTINGS[key]
    # A flag may stand alone or have a value, as on MONAI's command line.
    form: dict[str, Any] = (
        {"nargs": "?", "const": True, "metavar": "BOOL"} if kind is FLAG else {"metavar": key.upper()}
    )
    command.add_argument(
        f"--{key}", dest=f"override.{key}", default=argparse.SUPPRESS, type=option_of(key), required=required,
        help=_help(text, kind), **form,
    )  # fmt: skip


def option_of(key: str) -> Option:
    """What reads a setting."""
    return Option(key, SETTINGS[key], expressions=key not in _READ_HERE)


def _help(text: str, kind: Kind) -> str:
    """The help of an option: its purpose, and its values where they are not obvious."""
    plain = kind is FLAG or kind.accepts("a text")
    shown = text if plain else f"{text}; {kind.description}"
    return shown.replace("%", "%%")  # which argparse would take for a place to fill
