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
"""
The arguments of ``vqprior prepare``, each once: its values, its default and its help.

:func:`monai_vqprior.data.prepare_volumes` takes them by name, and the command line is made of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from monai_vqprior.errors import InputError
from monai_vqprior.files import read_json
from monai_vqprior.values import (
    FLAG,
    PATH,
    SEED,
    SPLIT_BY,
    SUBJECT_PATTERN,
    TEXT,
    Kind,
    choice,
    even,
    number,
    optional,
    several,
    whole,
)

__all__ = [
    "CUTTING_FILE", "SCALINGS", "SPACES", "SPLIT_BY_HELP", "SUBJECT_PATTERN_HELP", "Cutting", "Preparation", "kinds_of",
    "read_cutting",
]  # fmt: skip

#: What is done to a head, in this order 12 parameters, rotation and shift, a shift alone, nothing.
SPACES = ("template", "rigid", "native", "scanner")
#: What has the same brightness in each head.
SCALINGS = ("percentiles", "white_matter")
#: The file of a prepared data set that says how its volumes were cut.
CUTTING_FILE = "prepare.json"
_PERCENTILES = (0.5, 99.5)
# What volumes were cut by before there was a choice; files of that time do not name it.
_BEFORE = {"scaling": "percentiles"}

SPLIT_BY_HELP = (
    "file assigns single files to the splits where no subject is found (default: subject, which refuses them)"
)
SUBJECT_PATTERN_HELP = (
    "finds the subject in the path of each file, relative to the folder: the group (?P<subject>...) or the first one "
    "(default: names of BIDS, OASIS and ADNI, names such as patient7, folders)"
)


def _argument(default: Any, kind: Kind, text: str, **form: Any) -> Any:
    """A field with the kind of its values and the help of its option; ``form`` is for :mod:`argparse`."""
    return field(default=default, metadata={"kind": kind, "help": text, "form": form})


def _ascend(value: Any) -> bool:
    return several(number(0, 100), 2, 2).accepts(value) and value[0] < value[1]


def _share_all(value: Any) -> bool:
    return several(number(0, 1), 3, 3).accepts(value) and abs(sum(value) - 1) <= 1e-6


@dataclass(frozen=True)
class Cutting:
    """
    How a volume becomes slices.

    Attributes:
        space: ``template``, a registration of 12 parameters; ``rigid``, the rotation and shift of it, which keep the
            size of the head; ``native``, a shift of the brain's bounding box; ``scanner``, nothing, for volumes that
            lie in one space already or hold a skull. None for ``template``, with a line that names the others where
            a package is missing.
        template: a head without skull to register to, 0 out of the brain; MNI152 by default.
        axis: the axis to cut along; 0 sagittal, 1 coronal, 2 axial.
        num_slices: number of slices of a volume.
        center: where the middle of the slices lies along the axis, in mm of the space; by default 0, -18 or 26, at the
            bodies of the lateral ventricles, and in the space ``scanner`` the middle of the field of view.
        center_offset: in mm, added to ``center``.
        spacing: distance from slice to slice in mm.
        voxel_size: side of a pixel in mm.
        size: height and width of a slice in pixels.
        percentiles: of the intensities in the brain, which become 0 and 255, where these are what is scaled by.
        masks: glob of the brain masks beside the volumes, see :func:`monai_vqprior.volumes.find_mask`.
        bias_correction: whether to take away the bias field by N4.
        scaling: what has the same brightness in each head; ``percentiles``, those of its intensities;
            ``white_matter``, the white matter of a T1-weighted head, see
            :func:`monai_vqprior.volumes.scale_by_white_matter`.
    """

    space: str | None = _argument(
        None, optional(choice(*SPACES)), "what is done to each head: template, registered with 12 parameters; rigid, "
        "turned and shifted; native, its bounding box shifted; scanner, nothing (default: template)",
    )  # fmt: skip
    template: str | None = _argument(
        None, optional(PATH), "head without skull to register to (default: MNI152)", metavar="FILE"
    )
    axis: int = _argument(2, whole(0, 2), "axis to cut along: 0 sagittal, 1 coronal, 2 axial (default: 2)")
    num_slices: int = _argument(32, whole(1, 10**5), "slices a volume (default: 32)")
    center: float | None = _argument(
        None, optional(number(-1e4, 1e4)), "middle of the slices along the axis, in mm (default: 0, -18 or 26)"
    )
    center_offset: float = _argument(0, number(-1e4, 1e4), "in mm, added to the center (default: 0)")
    spacing: float = _argument(1, number(0, 1e3, above=True), "distance of the slices, in mm (default: 1)")
    voxel_size: float = _argument(1, number(0, 100, above=True), "side of a pixel, in mm (default: 1)")
    size: int = _argument(256, even(16, 8192), "side of the slices in pixels (default: 256)")
    percentiles: Sequence[float] = _argument(
        _PERCENTILES, Kind("two ascending numbers from 0 to 100", _ascend),
        "percentiles of the intensities inside the brain that become 0 and 255 (default: 0.5 99.5)",
        metavar=("LOW", "HIGH"),
    )  # fmt: skip
    masks: str | None = _argument(
        None, optional(TEXT), "brain masks beside the volumes, such as '{name}_mask.nii.gz' (default: none)"
    )
    bias_correction: bool = _argument(False, FLAG, "take away the bias field of each head by N4")
    scaling: str = _argument(
        "percentiles", choice(*SCALINGS), "what has the same brightness in each head: percentiles of its intensities, "
        "or its white_matter, for T1-weighted heads (default: percentiles)",
    )  # fmt: skip

    def check(self) -> None:
        """
        Refuse the first argument with a wrong value, and one that another makes useless.

        Raises:
            InputError: naming the argument, what it must be, and its value.
        """
        for argument in fields(self):
            value = getattr(self, argument.name)
            if not (argument.name == "fractions" and isinstance(value, Mapping)):  # checked where subjects are dealt
                argument.metadata["kind"].check(argument.name, value)
        if self.scaling != "percentiles" and tuple(self.percentiles) != _PERCENTILES:
            raise InputError(f"percentiles have no effect with the scaling {self.scaling}: leave one of them out.")

    @property
    def cutting(self) -> dict[str, Any]:
        """The arguments that the slices of a volume depend on, as JSON holds them."""
        content = {argument.name: asdict(self)[argument.name] for argument in fields(Cutting)}
        template = content["template"]
        return {
            **content,
            "space": self.space or "template",
            "percentiles": list(self.percentiles),
            "template": template and str(Path(template).absolute()),
        }


@dataclass(frozen=True)
class Preparation(Cutting):
    """
    The arguments of :func:`monai_vqprior.data.prepare_volumes`: those of :class:`Cutting`, and these.

    Attributes:
        fractions: shares of the subjects for train, validate and test, in this order or by name; 0.8, 0.1 and 0.1 by
            default.
        seed: the same seed splits the same subjects in the same way.
        subjects_csv: table to join, see :func:`monai_vqprior.data.read_subject_table`; by default
            ``participants.tsv`` in the folder of the volumes, where there is one.
        pattern: glob that chooses the volumes, see :func:`monai_vqprior.data.find_volumes`.
        split_by: ``file`` to assign single volumes to the splits where no subject is found, instead of refusing them.
        subject_pattern: regular expression that finds the subject in the path of a volume, relative to the folder:
            its group ``subject``, or its first one.
        num_workers: processes, each of which works on a volume; 0 for this one alone.
        skip_bad: leave out volumes that cannot be used, and count them.
        resume: go on with a run that was interrupted or has found volumes that cannot be used.
        overwrite: write into a folder that is not empty, and replace the slices of an earlier run there.
    """

    fractions: Mapping[str, float] | Sequence[float] | None = _argument(
        None, optional(Kind("three numbers from 0 to 1 that add up to 1", _share_all)),
        "share of the subjects in each split (default: 0.8 0.1 0.1)", metavar=("TRAIN", "VALIDATE", "TEST"),
    )  # fmt: skip
    seed: int = _argument(0, SEED, "seed of the split (default: 0)")
    subjects_csv: str | None = _argument(
        None, optional(PATH), "table of subjects to join, such as OASIS-1's own (default: participants.tsv of BIDS)",
        metavar="FILE",
    )  # fmt: skip
    pattern: str | None = _argument(None, optional(TEXT), "file names to use, such as '*_T1w.nii.gz'")
    split_by: str = _argument("subject", SPLIT_BY, SPLIT_BY_HELP)
    subject_pattern: str | None = _argument(None, optional(SUBJECT_PATTERN), SUBJECT_PATTERN_HELP)
    num_workers: int = _argument(0, whole(0, 256), "processes that work side by side (default: 0, this process only)")
    skip_bad: bool = _argument(False, FLAG, "leave out volumes that cannot be used, and count them")
    resume: bool = _argument(False, FLAG, "go on with an interrupted run; what is done is kept")
    overwrite: bool = _argument(False, FLAG, "replace earlier slices in the folder")


def kinds_of(arguments: type[Cutting]) -> dict[str, Kind]:
    """What the arguments may be, by their names."""
    return {argument.name: argument.metadata["kind"] for argument in fields(arguments)}


def read_cutting(path: Path, key: str | None = None) -> Cutting | None:
    """
    Read how the volumes of a data set were cut.

    Args:
        path: ``prepare.json`` of a prepared data set, or ``splits.json`` of a run.
        key: where the arguments are in the file; by default it holds nothing else.

    Returns:
        the arguments; None where the key is missing or null.

    Raises:
        InputError: naming the file, when it cannot be read or holds something else.
    """
    advice = "prepare the volumes again"
    content: Any = read_json(path, advice)
    if key is not None:
        content = content.get(key)
        if content is None:
            return None
    names = kinds_of(Cutting)
    if isinstance(content, dict):
        content = {**_BEFORE, **content}
    if not isinstance(content, dict) or set(content) != set(names):
        raise InputError(f"{path} does not hold {', '.join(names)}, and nothing else: {advice}.")
    cutting = Cutting(**content)
    try:
        cutting.check()
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return cutting
