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
"""The volumes of a data set as cases: numbers, subjects and splits, and what a table says of them."""

from __future__ import annotations

import csv
import io
import itertools
import os
import re
from collections.abc import Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePath

from monai_vqprior.data.layout import natural_key, split_subjects
from monai_vqprior.data.names import Naming
from monai_vqprior.data.tables import ID_COLUMNS, read_table

__all__ = ["OWN_COLUMNS", "Case", "find_row", "plan_cases", "read_subject_table", "subjects_table"]

OWN_COLUMNS = ("case", "subject", "session", "split", "file")
#: columns of OASIS-1's table -> the names that subjects.csv gives them.
_OASIS1_COLUMNS = {"Age": "age", "M/F": "sex", "CDR": "cdr"}
_OASIS_NUMBER = re.compile(r"OAS[12]_(\d{4})")
#: clinical dementia rating -> the class names in use for OASIS.
_DEMENTIA = {0.0: "Non_Demented", 0.5: "Very_Mild_Demented", 1.0: "Mild_Demented", 2.0: "Moderate_Demented"}

Table = Mapping[str, dict[str, str]]


@dataclass(frozen=True)
class Case:
    """One volume; ``file`` is its path relative to the folder of the volumes."""

    path: Path
    file: str
    subject: str
    session: str
    case: str
    split: str


def plan_cases(
    paths: Sequence[Path],
    relative: Sequence[PurePath],
    naming: Naming,
    fractions: Mapping[str, float] | None,
    seed: int,
) -> list[Case]:
    """
    Decide on the number and the split of each volume.

    Args:
        paths: the volumes.
        relative: the same, relative to their folder.
        naming: the subjects and sessions of them.
        fractions: see :func:`split_subjects`, also for ``seed``.
        seed: of the split.

    Returns:
        the cases, in natural order of their sessions.

    Raises:
        InputError: when there are fewer subjects than splits.
    """
    splits = split_subjects(naming.subjects, fractions, seed, naming.hint)
    split_of = {subject: split for split, subjects in splits.items() for subject in subjects}
    named = sorted(
        zip(paths, relative, naming.subjects, [name.session for name in naming.names], strict=True),
        key=lambda item: natural_key(item[3]),
    )
    cases = _case_numbers([subject for _, _, subject, _ in named])
    return [
        Case(path, file.as_posix(), subject, session, case, split_of[subject])
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
    table: dict[Hashable, dict[str, str]] = read_table(path)[1]
    return {str(name): row for name, row in table.items()}


def find_row(case: Case, table: Table) -> dict[str, str] | None:
    """Row of the case's session, else of its subject, with BIDS' ``sub-`` or without, else None."""
    names = (case.session, case.subject, case.subject.removeprefix("sub-"))
    return next((table[name] for name in names if name in table), None)


def subjects_table(cases: Sequence[Case], table: Table) -> str:
    """
    The content of ``subjects.csv``, a row for each case.

    From OASIS-1's table come age, sex, cdr and dementia; from any other table all columns as they are, save the ids
    and those that are called like a column of ours, and ``sex``, where the table calls it ``gender``.

    Args:
        cases: what was written.
        table: of the subjects; empty for none.

    Returns:
        CSV.
    """
    joined = list(_joined_columns(next(iter(table.values())))) if table else []
    text = io.StringIO()
    writer = csv.DictWriter(text, [*OWN_COLUMNS, *joined], restval="", lineterminator="\n")
    writer.writeheader()
    for case in cases:
        row = find_row(case, table)
        own = {column: getattr(case, column) for column in OWN_COLUMNS}
        writer.writerow(own | (_joined_columns(row) if row else {}))
    return text.getvalue()


def _joined_columns(row: Mapping[str, str]) -> dict[str, str]:
    """What subjects.csv takes over from a row of the subject table."""
    if all(column in row for column in ("ID", *_OASIS1_COLUMNS)):
        joined = {name: row[column] for column, name in _OASIS1_COLUMNS.items()}
        return {**joined, "dementia": _dementia(row["CDR"])}
    joined = {column: cell for column, cell in row.items() if column not in (*ID_COLUMNS, *OWN_COLUMNS)}
    return {**joined, "sex": joined["gender"]} if "gender" in joined and "sex" not in joined else joined


def _dementia(cdr: str) -> str:
    """OASIS's class name of a clinical dementia rating; empty where it is missing."""
    with suppress(ValueError):
        return _DEMENTIA.get(float(cdr), "")
    return ""
