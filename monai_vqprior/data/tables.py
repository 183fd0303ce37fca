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
import io
import os
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path

from monai_vqprior.errors import InputError, reason_of

__all__ = ["ID_COLUMNS", "read_table"]

#: columns that name a subject or session in other people's tables: OASIS-1's, BIDS' and plain ones.
ID_COLUMNS = ("ID", "participant_id", "subject")


def read_table(
    path: str | os.PathLike[str],
    id_columns: Sequence[str] = ID_COLUMNS,
    key: Callable[[str, dict[str, str]], Hashable] = lambda name, row: name,
) -> tuple[list[str], dict[Hashable, dict[str, str]]]:
    """
    Read a table of which each row is about one thing.

    Args:
        path: CSV or TSV file (UTF-8; with a tab in the first line a TSV file) with a column of ids.
        id_columns: names that the column of ids may have, the first that the table has counts.
        key: what a row is found by, made of its id and its cells; the id by default. A ValueError that it raises is
            the user's.

    Returns:
        the columns, and for each key its row: column -> cell, all as text, the column of ids included.

    Raises:
        InputError: naming the file, when it is missing or no text table, has no column of ids, or names an id twice.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        delimiter = "\t" if "\t" in text.partition("\n")[0] else ","
        reader = csv.DictReader(io.StringIO(text), delimiter=delimiter, restval="", skipinitialspace=True)
        columns = [column.strip() for column in reader.fieldnames or ()]
        reader.fieldnames = columns
        rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as a table (CSV or TSV, UTF-8): {reason_of(error)}") from error
    id_column = next((column for column in id_columns if column in columns), None)
    if id_column is None:
        raise InputError(f"{path} has no column of ids ({', '.join(id_columns)}); its columns: {', '.join(columns)}.")

    table: dict[Hashable, dict[str, str]] = {}
    for line, row in rows:
        where = f"{path}, line {line}"
        if None in row:
            raise InputError(f"{where}: more cells than the {len(columns)} columns.")
        cells = {column: cell.strip() for column, cell in row.items()}
        if not any(cells.values()):
            continue
        name = cells[id_column]
        if not name:
            raise InputError(f"{where}: the column {id_column} is empty.")
        try:
            found_by = key(name, cells)
        except ValueError as error:
            raise InputError(f"{where}: {error}.") from error
        if found_by in table:
            raise InputError(f"{where}: {name} is there a second time.")
        table[found_by] = cells
    return columns, table
