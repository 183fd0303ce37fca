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

"""What samples of slices and of whole heads have in common: a run that writes tile by tile and can be gone on with."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from monai_vqprior.data import Conditions
from monai_vqprior.errors import InputError, counted
from monai_vqprior.files import read_json, write_text
from monai_vqprior.inferers import VQPriorInferer
from monai_vqprior.runs import component_config, fingerprint, joined_processes
from monai_vqprior.sampling.conditioning import condition_rows
from monai_vqprior.values import PLAIN, check_setting

__all__ = ["DrawnFiles", "decode_tile", "draw_missing", "draw_tiles", "settings_of"]

# What the record may hold beside the settings of a run without conditions, and how large it is with them at most.
_ROWS = ("labels", "values")
_CONDITIONS = (*_ROWS, "drawn_conditions")
_MOST_BYTES = 2**28

#: Draws the numbers given, and tells of each position: pairs of their places in the list and of the results.
DrawTiles = Callable[[Sequence[int], Callable[[], object]], Iterable[tuple[list[int], Any]]]


@dataclass(frozen=True)
class DrawnFiles:
    """
    The files of a run that draws: ``samples/sample_00000.png`` and so on, ``samples.png``, and ``samples.json``.

    Args:
        output: folder of the results.
        kind: ``sample``, ``volume`` or ``completion``.
        suffixes: of the files of each of them.
        results: files about them, which are removed with them.
    """

    output: Path
    kind: str
    suffixes: tuple[str, ...]
    results: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """Where they go."""
        return self.output / f"{self.kind}s"

    @property
    def sheet(self) -> Path:
        """The picture that shows the first of them."""
        return self.output / f"{self.kind}s.png"

    @property
    def record(self) -> Path:
        """The settings of the run."""
        return self.output / f"{self.kind}s.json"

    @property
    def table(self) -> Path:
        """The conditions of each of them."""
        return self.output / f"{self.kind}_conditions.csv"

    @property
    def number(self) -> str:
        """The setting that says how many."""
        return f"num_{self.kind}s"

    def path(self, index: int, suffix: str | None = None) -> Path:
        """A file of one of them, by default the first."""
        return self.folder / f"{self.kind}_{index:05d}{self.suffixes[0] if suffix is None else suffix}"

    def total(self, settings: Mapping[str, Any]) -> int:
        """How many there are to be, by the settings of the run."""
        return settings[self.number]

    def present(self) -> list[Path]:
        """Those that an earlier run has left; other commands write to a folder of this name too."""
        return list(self.folder.glob(f"{self.kind}_{'[0-9]' * 5}*"))

    def is_written(self, index: int) -> bool:
        """Whether all files of one are there; they are whole, for they were renamed when they were."""
        return all(self.path(index, suffix).is_file() for suffix in self.suffixes)

    def claim(self, settings: Mapping[str, Any], overwrite: bool, resume: bool) -> None:
        """Make the folder, keep or remove what such a run has left there, and write down the settings."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{self.folder} cannot be made ({error.strerror}): give another --output_dir.") from error
        for leftover in self.folder.rglob(".partial-*"):  # of a process that was killed while it wrote
            leftover.unlink()
        exists = any(self.folder.iterdir()) or self.sheet.exists()
        if exists and overwrite:
            for path in (*self.present(), self.sheet, *(self.output / name for name in self.results)):
                path.unlink(missing_ok=True)
        elif exists and resume:
            self._check_same(settings)
        elif exists:
            raise InputError(
                f"{self.folder} exists: pass --resume to go on with its {self.kind}s, --overwrite to replace them, or "
                "another --output_dir."
            )
        write_text(self.record, json.dumps(settings, indent=2) + "\n")

    def write_table(self, conditions: Conditions, rows: Mapping[str, torch.Tensor], number: int) -> None:
        """
        Write the conditions of each of them that are known of some, in the units of the data set.

        Args:
            conditions: the conditions of the prior.
            rows: ``labels`` and ``values``, one for all or one for each.
            number: how many.
        """
        told = {name: part.expand(number, -1).tolist() for name, part in rows.items()}
        cells = [conditions.decode({name: part[i] for name, part in told.items()}) for i in range(number)]
        names = [name for name in conditions.names if any(row[name] for row in cells)]
        if names:
            text = io.StringIO()
            table = csv.DictWriter(text, [self.kind, *names], extrasaction="ignore", lineterminator="\n")
            table.writeheader()
            table.writerows({**row, self.kind: self.path(i).name} for i, row in enumerate(cells))
            write_text(self.table, text.getvalue())

    def _check_same(self, settings: Mapping[str, Any]) -> None:
        """Refuse to go on with what was drawn with other settings."""
        if not self.record.is_file():
            raise InputError(
                f"{self.record} does not exist, so these {self.kind}s cannot be gone on with: pass --overwrite."
            )
        before, number = self._read_record(settings), self.number
        for key in (key for key in {**before, **settings} if key != number):
            # Of conditions those of the samples that there may be.
            values = (run.get(key) for run in (before, settings))
            told = (x[: before[number]] if key in _ROWS and isinstance(x, list) else x for x in values)
            old, new = map(json.dumps, told)
            if old != new:
                change = f"{key} {old}, not {new}" if len(old + new) < 80 else f"other {key}"
                raise InputError(f"{self.folder} was drawn with {change}: pass the same, or --overwrite.")
        if before[number] > settings[number]:
            raise InputError(
                f"{self.folder} is a run of {counted(before[number], self.kind)}: pass --{number} {before[number]} "
                "or more, or --overwrite."
            )

    def _read_record(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The settings of the run before: those that this one has, and its conditions."""
        before = read_json(self.record, "mend it, or pass --overwrite", most_bytes=_MOST_BYTES)
        try:
            check_setting(self.number, before.get(self.number))
            unknown = [key for key in before if key not in settings and key not in _CONDITIONS]
            if unknown:
                raise InputError(f"it has no setting {unknown[0][:60]!r}")
            wrong = [key for key, value in before.items() if not PLAIN.accepts(value)]
            if wrong:
                raise InputError(f"{wrong[0]} must be {PLAIN.description}")
        except InputError as error:
            raise InputError(
                f"{self.record} cannot be read ({str(error).rstrip('.')}): mend it, or pass --overwrite."
            ) from error
        return before


def draw_missing(
    conditions: Conditions, asked: dict[str, torch.Tensor], number: int, seed: int, leave: Collection[str] = ()
) -> tuple[dict[str, torch.Tensor], list[str]]:
    """
    Draw the conditions that nobody asked for, see :meth:`monai_vqprior.data.Conditions.draw`.

    Args:
        conditions: those of the prior.
        asked: rows of ``labels`` and ``values``, those that there are. A row for each is left as it is.
        number: how many rows are needed.
        seed: seed of the run.
        leave: conditions that something else tells.

    Returns:
        the rows, and the names of the conditions that are drawn.
    """
    if any(len(part) > 1 for part in asked.values()):
        return asked, []
    row = {name: part[0].tolist() for name, part in asked.items()}
    rows = conditions.draw(row, range(number), seed, leave)
    told = condition_rows(rows.get("labels"), rows.get("values"), number, needed=False)
    return told, conditions.drawn_names(row, leave)


def settings_of(
    inferer: VQPriorInferer,
    autoencoder: torch.nn.Module,
    prior: torch.nn.Module,
    seed: int,
    conditions: Mapping[str, torch.Tensor],
    drawn: Sequence[str] = (),
) -> dict[str, Any]:
    """
    What the record of a run says of how it draws.

    Args:
        inferer: how to draw.
        autoencoder: decodes the grids.
        prior: what they are drawn from.
        seed: seed of the run.
        conditions: rows of ``labels`` and ``values``, those that there are.
        drawn: names of those that nobody asked for.

    Raises:
        InputError: when the prior cannot be sampled as the inferer is set (:meth:`VQPriorInferer.check`).
    """
    inferer.check(prior)
    return {
        "seed": seed,
        **component_config(inferer),
        # JSON has no NaN: a missing value is null.
        **{
            name: [[None if math.isnan(x) else x for x in row] for row in rows.tolist()]
            for name, rows in conditions.items()
        },
        **({"drawn_conditions": list(drawn)} if drawn else {}),
        "device": next(prior.parameters()).device.type,
        "autoencoder_weights": fingerprint(autoencoder),
        "prior_weights": fingerprint(prior),
    }


def draw_tiles(
    files: DrawnFiles,
    settings: Mapping[str, Any],
    tile_size: int,
    draws: int,
    draw: DrawTiles,
    write: Callable[[int, Any], object],
    finish: Callable[[], object],
    overwrite: bool = False,
    resume: bool = False,
) -> None:
    """
    Draw what is missing and write it tile by tile, so that memory does not grow with the number.

    An interrupted run leaves complete files only. A resumed run ends with the files of an uninterrupted one. Each
    process started by ``torchrun`` draws every n-th tile.

    Args:
        files: what to write.
        settings: the record of the run, with the number of what is to be drawn.
        tile_size: what is drawn together.
        draws: positions of a tile, for the progress bar.
        draw: draws the numbers given.
        write: writes one of them.
        finish: runs in the first process when all are written.
        overwrite: whether to remove the results of an earlier run.
        resume: whether to continue an earlier run, if there is one.

    Raises:
        InputError: when there is an earlier run that is neither resumed nor replaced, or the run to resume was drawn
            with other settings.
    """
    if overwrite and resume:
        raise InputError("--overwrite and --resume contradict one another: pass one of them.")
    number = files.total(settings)
    with joined_processes() as processes:
        processes.first(lambda: files.claim(settings, overwrite, resume))
        starts = range(processes.rank * tile_size, number, processes.size * tile_size)
        tiles = [range(start, min(start + tile_size, number)) for start in starts]
        todo = [tile for tile in tiles if not all(map(files.is_written, tile))]
        with tqdm(
            desc="sampling",
            unit=" codes",
            total=len(tiles) * draws,
            initial=(len(tiles) - len(todo)) * draws,
            leave=False,
            disable=processes.rank > 0,
        ) as bar:
            indices = [index for tile in todo for index in tile]
            for rows, results in draw(indices, lambda: bar.update()):
                for row, result in zip(rows, results, strict=True):
                    write(indices[row], result)
        processes.wait()
        if processes.rank == 0:
            finish()


def decode_tile(autoencoder: Any, grids: torch.Tensor, tile_size: int) -> torch.Tensor:
    """
    Images (n, 1, H, W) of grids (n, *grid), at most a tile of them.

    Tiles are drawn whole, and decoded whole too: then no sample depends on how many there are.
    """
    whole = grids.new_zeros(tile_size, *grids.shape[1:])
    whole[: len(grids)] = grids
    return autoencoder.decode_samples(whole)[: len(grids)]
