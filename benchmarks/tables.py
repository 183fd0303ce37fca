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
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.record import Row
from monai_vqprior.files import read_json, write_text

__all__ = ["DOCUMENTS", "RESULTS", "ROOT", "filled", "records_of"]

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
#: The documents that may hold tables.
DOCUMENTS = [
    ROOT / "README.md",
    *sorted(RESULTS.glob("*.md")),
    *(path for path in sorted((ROOT / "docs").rglob("*.md")) if "_build" not in path.parts),
]
# <!-- table: ssim.json times --> ... <!-- end of table -->
_TABLE = re.compile(
    r"(?P<begin><!-- table: (?P<file>[\w.-]+) (?P<table>\w+) -->\n).*?(?P<end><!-- end of table -->)", re.DOTALL
)


def filled(text: str, results: Path = RESULTS) -> str:
    """
    A document whose tables are those of the records.

    Args:
        text: the document, in Markdown. A table stands between ``<!-- table: FILE NAME -->`` and
            ``<!-- end of table -->``.
        results: folder of the records.

    Returns:
        the document.

    Raises:
        InputError: when a record is missing.
        KeyError: when it has no such table.
    """

    def fill(match: re.Match[str]) -> str:
        record = read_json(results / match["file"], f"run the benchmark with --json {match['file']}")
        return f"{match['begin']}\n{_table(record['tables'][match['table']])}\n{_source(record)}\n\n{match['end']}"

    return _TABLE.sub(fill, text)


def records_of(text: str) -> Iterator[str]:
    """The names of the records that a document takes tables from."""
    for match in _TABLE.finditer(text):
        yield match["file"]


def _table(rows: Sequence[Row]) -> str:
    """Rows as a table in Markdown, under the titles of all rows in the order in which they come first."""
    titles = list(dict.fromkeys(title for row in rows for title in row))
    lines = [titles, ["---"] * len(titles), *([_text(row.get(title)) for title in titles] for row in rows)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _text(value: float | str | None) -> str:
    """A figure as the benchmark has rounded it; whole numbers without a point."""
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _source(record: dict[str, Any]) -> str:
    """One line that says where figures come from."""
    machine = record["machine"]
    threads = f"threads: {machine['threads']}, cores: {machine['cores']}, {machine['vector_instructions']}"
    load = "" if machine["load"] is None else f", load: {machine['load']}"
    place = machine.get("gpu") or f"{machine['processor']} ({threads}{load})"
    commit = f", commit {record['commit']}" if record["commit"] else ""
    return f"`{record['command']}` on {place}, torch {record['versions']['torch']}{commit}, {record['date']}."


def main() -> None:
    argparse.ArgumentParser(
        prog="python -m benchmarks.tables",
        description="Write the tables of the documents anew, from the records in benchmarks/results.",
    ).parse_args()
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        new = filled(text)
        if new != text:
            write_text(path, new)
            print(f"tables of {path.relative_to(ROOT)} written")


if __name__ == "__main__":
    main()
