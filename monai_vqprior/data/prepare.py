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
"""A folder of volumes -> a data set of slices, split by subject."""

from __future__ import annotations

import csv
import io
import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from monai_vqprior.data.cases import Case, find_row, plan_cases, read_subject_table, subjects_table
from monai_vqprior.data.layout import SPLITS
from monai_vqprior.data.names import Naming, name_scans
from monai_vqprior.data.staging import TRANSFORMS, FinishedHead, Staging
from monai_vqprior.data.volume_files import find_volumes
from monai_vqprior.errors import InputError, counted
from monai_vqprior.prepare_arguments import Preparation
from monai_vqprior.volumes.heads import HeadCutter
from monai_vqprior.volumes.layouts import find_participants

logger = logging.getLogger(__name__)

__all__ = ["PrepareSummary", "prepare_volumes", "read_subject_table"]

SLICE_COLUMNS = ("case", "index", "subject", "split", "position")
HEAD_COLUMNS = ("case", "file", "x", "y", "z", "width", "depth", "height", "overlap", "correlation")


@dataclass(frozen=True)
class PrepareSummary:
    """
    What :func:`prepare_volumes` has written.

    Attributes:
        volumes: number of volumes (cases) of each split.
        subjects: number of subjects of each split.
        slices: number of slices of each split.
        skipped: the volumes that were left out, each as (file relative to the volumes' folder, reason).
        missing_from_table: number of written volumes with no row in the subject table; 0 without a table.
        naming: how the subjects were found, in one line with three of them.
        alignment: how much the place and the size of the heads differ in the space of the slices, in one line.
        seconds: how long it took.
    """

    volumes: dict[str, int]
    subjects: dict[str, int]
    slices: dict[str, int]
    skipped: tuple[tuple[str, str], ...] = ()
    missing_from_table: int = 0
    naming: str = ""
    alignment: str = ""
    seconds: float = 0.0

    def __str__(self) -> str:
        lines = [
            f"{split}: {counted(self.slices[split], 'slice')} of {counted(self.volumes[split], 'volume')} of "
            f"{counted(self.subjects[split], 'subject')}"
            for split in SPLITS
        ]
        lines += [line for line in (self.naming, self.alignment) if line]
        if self.missing_from_table:
            lines.append(f"{counted(self.missing_from_table, 'volume')} without a row in the subject table")
        if self.skipped:
            lines.append(f"{counted(len(self.skipped), 'volume')} left out:")
            lines += [f"  {reason}" for _, reason in self.skipped]
        total = counted(sum(self.volumes.values()), "volume")
        lines.append(f"{total} in {self.seconds / 60:.1f} minutes")
        return "\n".join(lines)


def prepare_volumes(
    volumes_dir: str | os.PathLike[str],
    output_dir: str | os.PathLike[str],
    *,
    progress: bool = True,
    **arguments: Any,
) -> PrepareSummary:
    """
    Turn a folder of volumes into a data set of slices, split by subject.

    Writes ``keras_png_slices_{train,validate,test}/case_{case}_slice_{i}.nii.png`` and these tables: ``subjects.csv``
    with the columns case, subject, session, split and file; ``slices.csv`` with the ``position`` of each slice in mm;
    ``transforms/case_{case}.json``, see :func:`monai_vqprior.volumes.read_placement`, and ``transforms/heads.csv`` with
    the place and size of each head; ``prepare.json`` with the arguments. A case is one volume. The first session of an
    OASIS subject has the subject's own number (``OAS1_0441_MR1`` -> ``case_441``); all other cases are numbered on from
    there, in natural order of sessions. All sessions of a subject are in one split; ``monai_vqprior.data.names`` says
    how subjects are found.

    Each row of ``subjects.csv`` is joined to a table's row of its session, else of its subject; cells stay empty where
    there is none. From OASIS-1's table come age, sex, cdr and dementia; from any other table all columns as they are.

    The data set is built in a hidden folder within ``output_dir`` and moved into place when it is complete; until then
    an earlier one stays as it is. A run that stops, or that finds volumes which cannot be used, keeps what is done for
    ``resume``.

    Args:
        volumes_dir: folder of the volumes, see :func:`find_volumes`.
        output_dir: folder to write to, made if it is missing.
        progress: show a progress bar.
        arguments: those of :class:`monai_vqprior.prepare_arguments.Preparation`.

    Returns:
        counts of what was written, and what was left out.

    Raises:
        InputError: when an argument is wrong, the output folder is not empty, a volume cannot be used (see
            :class:`monai_vqprior.volumes.HeadCutter`), skipping leaves nothing of a split, or a package of the extra
            ``registration`` is not installed.
    """
    started = time.monotonic()
    preparation = Preparation(**arguments)
    preparation.check()
    staging = Staging(Path(output_dir), preparation.cutting)
    staging.check(preparation.resume, preparation.overwrite)
    cases, naming_line = _find_cases(Path(volumes_dir), output_dir, preparation)
    table = _find_table(Path(volumes_dir), preparation)
    cutter = HeadCutter(preparation)
    with _keeping(staging, preparation.resume):
        faults = _cut_all(cases, cutter, staging, preparation.num_workers, progress)
        _refuse(faults, cases, preparation.skip_bad)
        written = [case for case in cases if case.file not in faults]
        heads = {case: head for case in written if (head := staging.find(case)) is not None}
        texts = {
            "subjects.csv": subjects_table(written, table or {}),
            "slices.csv": _slices_table(heads),
            f"{TRANSFORMS}/heads.csv": _heads_table(heads),
        }
        staging.publish(written, texts)
    return PrepareSummary(
        **_counts(written, preparation.num_slices),
        skipped=tuple(faults.items()),
        missing_from_table=0 if table is None else sum(find_row(case, table) is None for case in written),
        naming=naming_line,
        alignment=_alignment(list(heads.values())),
        seconds=time.monotonic() - started,
    )


def _find_cases(
    volumes_dir: Path, output_dir: str | os.PathLike[str], preparation: Preparation
) -> tuple[list[Case], str]:
    """The volumes and their splits, and how their subjects were found in one line."""
    paths = find_volumes(volumes_dir, preparation.pattern, output_dir)
    relative = [path.relative_to(volumes_dir) for path in paths]
    naming: Naming = name_scans(relative, True, preparation.subject_pattern, volumes_dir)
    if preparation.split_by != "file":
        naming.check_told(volumes_dir)
    fractions = preparation.fractions
    if fractions is not None and not isinstance(fractions, Mapping):
        fractions = dict(zip(SPLITS, fractions, strict=True))
    return plan_cases(paths, relative, naming, fractions, preparation.seed), naming.told(relative)


def _find_table(volumes_dir: Path, preparation: Preparation) -> dict[str, dict[str, str]] | None:
    """The table of subjects that is named, else the one that BIDS data have, else None."""
    path = preparation.subjects_csv or find_participants(volumes_dir)
    return None if path is None else read_subject_table(path)


@contextmanager
def _keeping(staging: Staging, resume: bool) -> Iterator[None]:
    """Keep what is finished when the block ends with an error, and leave no trace where nothing is."""
    staging.open(resume)
    try:
        yield
    except BaseException:
        staging.discard()
        raise


class _Heads(Dataset):
    """Cuts the volumes of some cases; each item is what is wrong with one of them, empty where nothing is."""

    def __init__(self, cases: Sequence[Case], cutter: HeadCutter, staging: Staging) -> None:
        self.cases = cases
        self.cutter = cutter
        self.staging = staging

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, number: int) -> str:
        case = self.cases[number]
        try:
            self.staging.add(case, self.cutter(case.path, case.file))
        except InputError as error:
            return str(error)
        return ""


def _cut_all(
    cases: Sequence[Case], cutter: HeadCutter, staging: Staging, num_workers: int, progress: bool
) -> dict[str, str]:
    """Cut all volumes that are not cut yet; what is wrong with those that cannot be used, by their files."""
    ahead = [case for case in cases if staging.find(case) is None]
    faults: dict[str, str] = {}
    # Processes as PyTorch's loader starts them: with one thread each, and gone when this one is. It takes a random
    # number for them, and the caller's stay as they are.
    loader = DataLoader(
        _Heads(ahead, cutter, staging),
        batch_size=None,
        num_workers=min(num_workers, len(ahead)),
        generator=torch.Generator(),
    )
    bar = tqdm(total=len(cases), initial=len(cases) - len(ahead), desc="volumes", unit="volume", disable=not progress)
    with bar:
        try:
            for case, fault in zip(ahead, loader, strict=True):
                bar.update()
                if fault:
                    faults[case.file] = fault
                    _tell(fault, bar if progress else None)
        except RuntimeError as error:
            if not str(error).startswith("DataLoader worker (pid"):
                raise
            raise InputError(
                f"a process ended in the middle of its work ({error}), perhaps for want of memory: pass --resume with "
                "fewer --num_workers."
            ) from error
    return faults


def _tell(fault: str, bar: tqdm | None) -> None:
    """Say at once what is wrong with a volume, above the progress bar."""
    if bar is None:
        logger.warning("%s", fault)
    else:
        bar.write(fault, file=sys.stderr)


def _refuse(faults: Mapping[str, str], cases: Sequence[Case], skip_bad: bool) -> None:
    """Raise InputError for volumes that cannot be used, unless they are left out and each split keeps some."""
    if not faults:
        return
    first, few = next(iter(faults.values())), f"{len(faults)} of {counted(len(cases), 'volume')} cannot be used"
    if not skip_bad:
        whole = first if len(faults) == 1 else f"{few}, the first because: {first}"
        raise InputError(
            f"{whole} (Pass --resume when they are mended, or --resume --skip_bad to leave them out: what is done is "
            "kept.)"
        )
    filled = {case.split for case in cases if case.file not in faults}
    empty = [split for split in SPLITS if split not in filled and any(case.split == split for case in cases)]
    if empty:
        raise InputError(f"no volume is left for {' and '.join(empty)}: {few}, the first because: {first}")


def _slices_table(heads: Mapping[Case, FinishedHead]) -> str:
    """The content of ``slices.csv``: where each slice lies along the axis, in mm of the space."""
    rows = [
        (case.case, index, case.subject, case.split, f"{position:.6g}")
        for case, head in heads.items()
        for index, position in enumerate(head.placement.slab.positions)
    ]
    return _csv(SLICE_COLUMNS, rows)


def _heads_table(heads: Mapping[Case, FinishedHead]) -> str:
    """The content of ``heads.csv``: centroid and size of each head in mm, and how well it fits the template."""
    rows = [
        (case.case, case.file, *_rounded((*head.measures["centroid"], *head.measures["extent"])),
         *_rounded([head.measures["overlap"], head.measures["correlation"]], 3))
        for case, head in heads.items()
    ]  # fmt: skip
    return _csv(HEAD_COLUMNS, rows)


def _csv(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()


def _rounded(values: Sequence[float | None], digits: int = 1) -> list[str]:
    return ["" if value is None else f"{value:.{digits}f}" for value in values]


def _alignment(heads: Sequence[FinishedHead]) -> str:
    """How much heads differ in the space of the slices, as standard deviations along x, y and z in mm."""
    centroids, extents = (
        " x ".join(_rounded(np.std([head.measures[name] for head in heads], axis=0))) for name in ("centroid", "extent")
    )
    fits = [head.measures["correlation"] for head in heads if head.measures["correlation"] is not None]
    fit = f"; correlation with the template {np.median(fits):.2f} ({min(fits):.2f} to {max(fits):.2f})" if fits else ""
    return f"heads differ by {centroids} mm in their centroids and by {extents} mm in their sizes (x, y, z){fit}"


def _counts(cases: Sequence[Case], num_slices: int) -> dict[str, dict[str, int]]:
    volumes = {split: sum(case.split == split for case in cases) for split in SPLITS}
    return {
        "volumes": volumes,
        "subjects": {split: len({case.subject for case in cases if case.split == split}) for split in SPLITS},
        "slices": {split: count * num_slices for split, count in volumes.items()},
    }
