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
A data set in the making: slices of each volume in a hidden folder, until all are there.

A run that stops leaves the folder behind, and the next one may go on with it. What an earlier run has written stays
until the new data set is complete.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai_vqprior.data.cases import Case
from monai_vqprior.data.layout import SPLITS, slice_name, split_folder
from monai_vqprior.errors import AlreadyDoneError, InputError
from monai_vqprior.files import check_writable, read_json, write_png, write_text
from monai_vqprior.prepare_arguments import CUTTING_FILE
from monai_vqprior.volumes.heads import CutHead
from monai_vqprior.volumes.placement import Placement, read_placement, write_placement

__all__ = ["TRANSFORMS", "FinishedHead", "Staging"]

_FOLDER = ".partial-prepare"  # the names that begin so are never data
_PLACEMENT, _MEASURES = "placement.json", "measures.json"
TRANSFORMS = "transforms"
_TABLES = ("subjects.csv", "slices.csv", CUTTING_FILE)


@dataclass(frozen=True, eq=False)
class FinishedHead:
    """
    A volume whose slices are there.

    Attributes:
        folder: where they lie.
        placement: where they come from.
        measures: ``centroid`` and ``extent`` in mm, ``overlap`` and ``correlation`` with the template or None.
    """

    folder: Path
    placement: Placement
    measures: dict[str, Any]


class Staging:
    """
    The hidden folder of a run of ``prepare``.

    Args:
        output_dir: the folder of the data set.
        cutting: all that the slices of a volume depend on, see :attr:`monai_vqprior.prepare_arguments.Cutting.cutting`.
    """

    def __init__(self, output_dir: Path, cutting: Mapping[str, Any]) -> None:
        self.output_dir = output_dir
        self.cutting = dict(cutting)
        self.folder = output_dir / _FOLDER
        self._made = [folder for folder in (output_dir, *output_dir.parents) if not folder.exists()]

    def check(self, resume: bool, overwrite: bool) -> None:
        """
        Refuse an output folder that holds something, unless this is to be replaced or gone on with.

        Raises:
            InputError: naming the folder and what to do.
        """
        check_writable(self.output_dir, "slices")
        begun = self.folder / CUTTING_FILE
        if resume and begun.is_file():
            before = read_json(begun, "leave out --resume")
            changed = [name for name, value in self.cutting.items() if before.get(name) != value]
            if changed:
                raise InputError(
                    f"the run in {self.output_dir} was begun with {changed[0]} {before.get(changed[0])}, not "
                    f"{self.cutting[changed[0]]}: pass the same to resume it, or leave out --resume to begin anew."
                )
            return
        if resume and (self.output_dir / CUTTING_FILE).is_file():
            raise AlreadyDoneError(f"{self.output_dir} is prepared already: pass --overwrite instead of --resume.")
        others = self.output_dir.is_dir() and any(path.name != _FOLDER for path in self.output_dir.iterdir())
        if others and not overwrite:
            raise InputError(
                f"{self.output_dir} is not empty: name another folder for the slices, or pass --overwrite."
            )

    def open(self, resume: bool) -> None:
        """Make the folder; one that is there already is emptied, unless the run goes on with it."""
        if self.folder.is_dir() and not (resume and (self.folder / CUTTING_FILE).is_file()):
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.folder / CUTTING_FILE, f"{json.dumps(self.cutting, indent=2)}\n")

    def discard(self) -> None:
        """Remove the folder if no volume is finished, and the folders that were made for it."""
        if not any(self.folder.glob(f"*/{_PLACEMENT}")):
            shutil.rmtree(self.folder, ignore_errors=True)
            for folder in self._made:
                with suppress(OSError):  # somebody else has put a file there in the meantime
                    folder.rmdir()

    def add(self, case: Case, head: CutHead) -> None:
        """Keep the slices of a volume."""
        folder = self.folder / _key(case)
        for index, picture in enumerate(head.slices):
            write_png(folder / f"{index}.png", picture)
        found = head.registration
        measures = {
            "centroid": head.centroid.tolist(),
            "extent": head.extent.tolist(),
            "overlap": None if found is None else found.overlap,
            "correlation": None if found is None else found.correlation,
        }
        write_text(folder / _MEASURES, json.dumps(measures) + "\n")
        write_placement(folder / _PLACEMENT, head.placement)  # the last: now all is there

    def find(self, case: Case) -> FinishedHead | None:
        """A volume whose slices are there; None where it has to be cut."""
        folder = self.folder / _key(case)
        if not (folder / _PLACEMENT).is_file():
            return None
        return FinishedHead(folder, read_placement(folder / _PLACEMENT), read_json(folder / _MEASURES))

    def publish(self, cases: Iterable[Case], texts: Mapping[str, str]) -> None:
        """
        Replace the data set of the output folder; its tables go first and come last.

        Args:
            cases: the volumes, all of which are finished.
            texts: further files, by their names.
        """
        self._remove_earlier()
        for case in cases:
            folder = self.folder / _key(case)
            target = split_folder(self.output_dir, case.split)
            target.mkdir(exist_ok=True)
            (self.output_dir / TRANSFORMS).mkdir(exist_ok=True)
            for picture in folder.glob("*.png"):
                picture.replace(target / slice_name(case.case, int(picture.stem)))
            (folder / _PLACEMENT).replace(self.output_dir / TRANSFORMS / f"case_{case.case}.json")
        for name, text in texts.items():
            write_text(self.output_dir / name, text)
        (self.folder / CUTTING_FILE).replace(self.output_dir / CUTTING_FILE)
        shutil.rmtree(self.folder)

    def _remove_earlier(self) -> None:
        for table in _TABLES:
            (self.output_dir / table).unlink(missing_ok=True)
        folders = {split_folder(self.output_dir, split): "case_*_slice_*.nii.png" for split in SPLITS}
        for folder, names in {**folders, self.output_dir / TRANSFORMS: "case_*.json"}.items():
            for stale in folder.glob(names):
                stale.unlink()
            with suppress(OSError):  # it is missing, or holds files that no run of ours wrote
                folder.rmdir()


def _key(case: Case) -> str:
    """A name for the folder of a volume; another one when its file changes."""
    status = case.path.stat()
    identity = f"{case.file}\0{status.st_size}\0{status.st_mtime_ns}"
    return hashlib.sha256(identity.encode(errors="surrogateescape")).hexdigest()[:20]
