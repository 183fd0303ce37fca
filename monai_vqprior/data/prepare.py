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

import csv
import itertools
import logging
import math
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath

import numpy as np
from tqdm import tqdm

from monai_vqprior.data.layout import SPLITS, natural_key, slice_name, split_folder, split_subjects
from monai_vqprior.data.names import Naming, name_scans
from monai_vqprior.data.tables import ID_COLUMNS, read_table
from monai_vqprior.data.volumes import (
    check_packages,
    check_slicing,
    find_volumes,
    read_volume,
    volume_slices,
)
from monai_vqprior.errors import InputError
from monai_vqprior.files import check_writable, claim_output, write_png
from monai_vqprior.values import PREPARE, check_values

logger = logging.getLogger(__name__)

__all__ = ["PrepareSummary", "prepare_volumes", "read_subject_table"]

#: how many times as long as another a side may be that counts as the same.
_SAME_SIZE = 1.02
_OWN_COLUMNS = ("case", "subject", "session", "split", "file")
#: columns of OASIS-1's table -> the names that subjects.csv gives them.
_OASIS1_COLUMNS = {"Age": "age", "M/F": "sex", "CDR": "cdr"}
_OASIS_NUMBER = re.compile(r"OAS[12]_(\d{4})")
#: clinical dementia rating -> the class names in use for OASIS.
_DEMENTIA = {0.0: "Non_Demented", 0.5: "Very_Mild_Demented", 1.0: "Mild_Demented", 2.0: "Moderate_Demented"}


def read_subject_table(path: str | os.PathLike[str]) -> dict[str, dict[str, str]]:
    """
    Read a table of subjects or sessions.

    Args:
        path: CSV or TSV file (UTF-8; with a tab in the first line a TSV file) with a column of ids: ``ID`` as in
            OASIS-1's ``oasis_cross-sectional.csv``, ``participant_id`` as in BIDS' ``participants.tsv``, or
            ``subject``.

    Returns:
        the row of each id, a dictionary from column to cell, all as text, the column of ids included.

    Raises:
        InputError: naming the file, when it is missing or no text table, has no column of ids, or names an id twice.
    """
    return {str(name): row for name, row in read_table(path)[1].items()}


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
    """

    volumes: dict[str, int]
    subjects: dict[str, int]
    slices: dict[str, int]
    skipped: tuple[tuple[str, str], ...] = ()
    missing_from_table: int = 0
    naming: str = ""

    def __str__(self) -> str:
        lines = [
            f"{split}: {self.slices[split]} slices of {self.volumes[split]} volumes of {self.subjects[split]} subjects"
            for split in SPLITS
        ]
        if self.naming:
            lines.append(self.naming)
        if self.missing_from_table:
            lines.append(f"{self.missing_from_table} volumes have no row in the subject table")
        if self.skipped:
            lines.append(f"{len(self.skipped)} volumes left out:")
            lines += [f"  {reason}" for _, reason in self.skipped]
        return "\n".join(lines)


def prepare_volumes(
    volumes_dir: str | os.PathLike[str],
    output_dir: str | os.PathLike[str],
    *,
    axis: int = 2,
    num_slices: int = 32,
    center_offset: int = 0,
    spacing: int = 1,
    size: int = 256,
    percentiles: tuple[float, float] = (0.5, 99.5),
    fractions: Mapping[str, float] | None = None,
    seed: int = 0,
    subjects_csv: str | os.PathLike[str] | None = None,
    pattern: str | None = None,
    skip_bad: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    split_by: str = "subject",
    subject_pattern: str | None = None,
) -> PrepareSummary:
    """
    Turn a folder of volumes into a data set of slices, split by subject.

    Writes ``keras_png_slices_{train,validate,test}/case_{case}_slice_{i}.nii.png`` and ``subjects.csv`` with the
    columns case, subject, session, split and file. A case is one volume. The first session of an OASIS subject has
    the subject's own number (``OAS1_0441_MR1`` -> ``case_441``); all other cases are numbered on from there, in
    natural order of sessions. All sessions of a subject are in one split; ``monai_vqprior.data.names`` says how
    subjects are found.

    With ``subjects_csv``, each row is joined to the table's row of its session, else of its subject; cells stay empty
    where there is none. From OASIS-1's table come age, sex, cdr and dementia; from any other table come all columns
    as they are, save the ids and those that are called like a column above.

    The data set is built in a hidden folder within ``output_dir`` and moved into place when it is complete. When the
    run fails, ``output_dir`` is as it was.

    Args:
        volumes_dir: folder of the volumes, see :func:`find_volumes`.
        output_dir: folder to write to, made if it is missing.
        axis: see :func:`volume_slices`, also for the next five.
        num_slices: number of slices of a volume.
        center_offset: offset of the stack's center from the volume's center, in voxels.
        spacing: in voxels.
        size: in pixels.
        percentiles: in [0, 100].
        fractions: share of the subjects for each split; 0.8, 0.1 and 0.1 by default.
        seed: the same seed splits the same subjects in the same way.
        subjects_csv: table to join, see :func:`read_subject_table`.
        pattern: glob that chooses the volumes, see :func:`find_volumes`.
        skip_bad: leave out volumes that cannot be used, and count them, rather than stop at the first.
        overwrite: write into a folder that is not empty, and replace the slices of an earlier run there and its tables.
        progress: show a progress bar.
        split_by: ``file`` to assign single volumes to the splits where no subject is found, instead of refusing them.
        subject_pattern: regular expression that finds the subject in the path of a volume, relative to ``volumes_dir``:
            its group ``subject``, or its first one.

    Returns:
        counts of what was written, and what was left out.

    Raises:
        InputError: when an argument is wrong, the output folder is not empty, a volume cannot be used (see
            :func:`load_volume` and :func:`volume_slices`), skipping leaves nothing of a split, or the packages of the
            extra ``volumes`` are not installed.
    """
    check_slicing(axis, num_slices, size, percentiles, spacing)
    check_values(PREPARE, center_offset=center_offset, seed=seed, subjects_csv=subjects_csv, pattern=pattern)
    check_values(PREPARE, split_by=split_by, subject_pattern=subject_pattern)
    check_packages()
    check_writable(output_dir, "slices")
    table = None if subjects_csv is None else read_subject_table(subjects_csv)
    paths = find_volumes(volumes_dir, pattern, output_dir)
    relative = [path.relative_to(volumes_dir) for path in paths]
    naming = name_scans(relative, True, subject_pattern, volumes_dir)
    if split_by != "file":
        naming.check_told(volumes_dir)
    cases = _plan_cases(paths, relative, naming, fractions, seed)
    cut = partial(
        volume_slices,
        axis=axis,
        num_slices=num_slices,
        center_offset=center_offset,
        size=size,
        percentiles=percentiles,
        spacing=spacing,
    )
    with _staged_output(Path(output_dir), overwrite) as staging:
        skipped = []
        voxels: dict[str, tuple[float, ...]] = {}
        for case in tqdm(cases, desc="volumes", unit="volume", disable=not progress):
            fault = _write_case(staging, case, cut, voxels)
            if fault and not skip_bad:
                raise InputError(f"{fault} (--skip_bad leaves such volumes out.)")
            if fault:
                skipped.append((case.file, fault))
        left_out = {file for file, _ in skipped}
        written = [case for case in cases if case.file not in left_out]
        _refuse_empty_split(cases, written, skipped)
        _tell_of_voxels(voxels)
        _write_rows(staging / "subjects.csv", written, table)
    return _summarize(written, num_slices, skipped, table, naming.told(relative))


@dataclass(frozen=True)
class _Case:
    """One volume on its way to slices; ``file`` is its path relative to the folder of the volumes."""

    path: Path
    file: str
    subject: str
    session: str
    case: str
    split: str


def _plan_cases(
    paths: Sequence[Path],
    relative: Sequence[PurePath],
    naming: Naming,
    fractions: Mapping[str, float] | None,
    seed: int,
) -> list[_Case]:
    """Decide on the number and the split of each volume."""
    splits = split_subjects(naming.subjects, fractions, seed, naming.hint)
    split_of = {subject: split for split, subjects in splits.items() for subject in subjects}
    named = sorted(
        zip(paths, relative, naming.subjects, [name.session for name in naming.names], strict=True),
        key=lambda item: natural_key(item[3]),
    )
    cases = _case_numbers([subject for _, _, subject, _ in named])
    return [
        _Case(path, file.as_posix(), subject, session, case, split_of[subject])
        for (path, file, subject, session), case in zip(named, cases, strict=True)
    ]


def _case_numbers(subjects: Sequence[str]) -> list[str]:
    """Number the cases, an OASIS subject's first volume by the subject's own number, the others behind the largest."""
    matches = [_OASIS_NUMBER.fullmatch(subject) for subject in subjects]
    first: dict[int, int] = {}  # number of a subject -> place of its first volume
    for place, match in enumerate(matches):
        if match:
            first.setdefault(int(match[1]), place)
    number_at = {place: number for number, place in first.items()}
    following = itertools.count(max(first, default=0) + 1)
    return [f"{number_at[place] if place in number_at else next(following):03d}" for place in range(len(subjects))]


def _write_case(
    dataset_dir: Path, case: _Case, cut: Callable[..., np.ndarray], voxels: dict[str, tuple[float, ...]]
) -> str:
    """Write the slices of one volume, and note the size of its voxels, or do neither and return what is wrong."""
    try:
        volume, voxel_size = read_volume(case.path)
    except InputError as error:
        return str(error)  # names the file
    try:
        pictures = cut(volume, voxel_size=voxel_size)
    except InputError as error:
        return f"{case.path}: {error}"
    for index, picture in enumerate(pictures):
        write_png(split_folder(dataset_dir, case.split) / slice_name(case.case, index), picture)
    voxels[case.file] = voxel_size
    return ""


def _tell_of_voxels(voxels: Mapping[str, tuple[float, ...]]) -> None:
    """Warn of voxels that are no cubes, and of those that differ, as brains then have other sizes in the pictures."""
    long = [file for file, sizes in voxels.items() if max(sizes) > _SAME_SIZE * min(sizes)]
    if long:
        logger.warning(
            "%d of %d volumes have voxels that are no cubes, such as %s with %s mm: pixels are made squares, and the "
            "slices along the axis are those of the scan",
            len(long), len(voxels), long[0], _shown(voxels[long[0]]),
        )  # fmt: skip
    small, large = (choose(voxels, key=lambda file: math.prod(voxels[file])) for choose in (min, max))
    if any(b > _SAME_SIZE * a for a, b in zip(sorted(voxels[small]), sorted(voxels[large]), strict=True)):
        logger.warning(
            "voxels differ from volume to volume, such as %s mm in %s and %s mm in %s: brains of one size have other "
            "sizes in the pictures, unless the volumes are resampled first",
            _shown(voxels[small]), small, _shown(voxels[large]), large,
        )  # fmt: skip


def _shown(sizes: Sequence[float]) -> str:
    return " x ".join(f"{size:g}" for size in sizes)


def _refuse_empty_split(cases: Sequence[_Case], written: Sequence[_Case], skipped: Sequence[tuple[str, str]]) -> None:
    """Raise InputError when every volume of a split was left out."""
    filled = {case.split for case in written}
    empty = [split for split in SPLITS if split not in filled and any(case.split == split for case in cases)]
    if empty:
        raise InputError(
            f"no volume is left for {' and '.join(empty)}: {len(skipped)} of {len(cases)} volumes cannot be used, "
            f"the first because: {skipped[0][1]}"
        )


@contextmanager
def _staged_output(output_dir: Path, overwrite: bool) -> Iterator[Path]:
    """Yield a hidden folder to build the data set in; move it into place if no error comes, else leave no trace."""
    made = [folder for folder in (output_dir, *output_dir.parents) if not folder.exists()]
    claim_output(output_dir, overwrite, what="slices")
    try:
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=output_dir) as name:
            yield Path(name)
            _publish(Path(name), output_dir)
    except BaseException:
        for folder in made:
            with suppress(OSError):  # somebody else has put a file there in the meantime
                folder.rmdir()
        raise


def _publish(staging: Path, output_dir: Path) -> None:
    """Replace the data set in ``output_dir`` by the one in ``staging``; ``subjects.csv`` goes first and comes last."""
    for table in ("subjects.csv", "slices.csv"):  # the latter of a phantom, or of slices that are replaced
        (output_dir / table).unlink(missing_ok=True)
    for folder in (split_folder(output_dir, split) for split in SPLITS):
        for stale in folder.glob("case_*_slice_*.nii.png"):
            stale.unlink()
        with suppress(OSError):  # it is missing, or holds files that no run of ours wrote
            folder.rmdir()
    for picture in sorted(staging.glob("*/*.png")):
        target = output_dir / picture.relative_to(staging)
        target.parent.mkdir(exist_ok=True)
        picture.replace(target)
    (staging / "subjects.csv").replace(output_dir / "subjects.csv")


def _find_row(case: _Case, table: Mapping[str, dict[str, str]]) -> dict[str, str] | None:
    """Row of the case's session, else of its subject, else None."""
    return table.get(case.session, table.get(case.subject))


def _joined_columns(row: Mapping[str, str]) -> dict[str, str]:
    """What subjects.csv takes over from a row of the subject table."""
    if all(column in row for column in ("ID", *_OASIS1_COLUMNS)):
        joined = {name: row[column] for column, name in _OASIS1_COLUMNS.items()}
        return {**joined, "dementia": _dementia(row["CDR"])}
    return {column: cell for column, cell in row.items() if column not in (*ID_COLUMNS, *_OWN_COLUMNS)}


def _dementia(cdr: str) -> str:
    """OASIS's class name of a clinical dementia rating; empty where it is missing."""
    with suppress(ValueError):
        return _DEMENTIA.get(float(cdr), "")
    return ""


def _write_rows(path: Path, cases: Sequence[_Case], table: Mapping[str, dict[str, str]] | None) -> None:
    """Write ``subjects.csv``, a row for each case."""
    rows = table or {}
    joined = list(_joined_columns(next(iter(rows.values())))) if rows else []
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        writer = csv.DictWriter(file, [*_OWN_COLUMNS, *joined], restval="", lineterminator="\n")
        writer.writeheader()
        for case in cases:
            row = _find_row(case, rows)
            writer.writerow(
                {column: getattr(case, column) for column in _OWN_COLUMNS} | (_joined_columns(row) if row else {})
            )


def _summarize(
    cases: Sequence[_Case],
    num_slices: int,
    skipped: Sequence[tuple[str, str]],
    table: Mapping[str, dict[str, str]] | None,
    naming: str,
) -> PrepareSummary:
    """Count what was written."""
    volumes = {split: sum(case.split == split for case in cases) for split in SPLITS}
    return PrepareSummary(
        volumes=volumes,
        subjects={split: len({case.subject for case in cases if case.split == split}) for split in SPLITS},
        slices={split: count * num_slices for split, count in volumes.items()},
        skipped=tuple(skipped),
        missing_from_table=0 if table is None else sum(_find_row(case, table) is None for case in cases),
        naming=naming,
    )
