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

import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from monai_vqprior.errors import InputError
from monai_vqprior.files import read_json, write_text
from monai_vqprior.inferers import VQPriorInferer
from monai_vqprior.runs import component_config, fingerprint
from monai_vqprior.values import PLAIN, check_setting

__all__ = ["DrawnFiles", "decode_tile", "drawing_settings"]

# What a record may hold beside the settings of a run without conditions, and how large it is with them at most.
_CONDITIONS = ("labels", "values")
_MOST_BYTES = 2**28


class DrawnFiles:
    """
    Where a command writes what it draws: a folder, a sheet beside it, and a record of the settings of the run.

    Args:
        output_dir: the folder of the results.
        what: the word for what is drawn, the name of the folder, the sheet and the record, such as ``samples``.
        number: the setting that says how many are drawn, such as ``num_samples``; a run that is resumed may have more.
        derived: files of other commands about what was drawn, which are removed with it.
    """

    def __init__(self, output_dir: str | os.PathLike[str], what: str, number: str, derived: Sequence[str] = ()) -> None:
        output = Path(output_dir)
        self.what = what
        self.number = number
        #: what is drawn goes here.
        self.folder = output / what
        #: a picture of the first of them.
        self.sheet = output / f"{what}.png"
        #: the settings of the run.
        self.record = output / f"{what}.json"
        self._derived = [output / name for name in derived]

    def path(self, name: str) -> Path:
        """Where one of them goes."""
        return self.folder / name

    def claim(self, settings: Mapping[str, Any], overwrite: bool, resume: bool) -> None:
        """
        Make the folder, keep or remove what it holds, and write down the settings.

        Args:
            settings: of the run.
            overwrite: whether to remove what an earlier run has drawn.
            resume: whether to go on with it.

        Raises:
            InputError: when the folder cannot be made, when both are asked for, or when there is an earlier run that is
                neither resumed nor replaced, or that was drawn with other settings.
        """
        if overwrite and resume:
            raise InputError("--overwrite and --resume contradict one another: pass one of them.")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{self.folder} cannot be made ({error.strerror}): give another --output_dir.") from error
        for leftover in self.folder.rglob(".partial-*"):  # of a process that was killed while it wrote
            leftover.unlink()
        exists = any(self.folder.iterdir()) or self.sheet.exists()
        if exists and overwrite:
            shutil.rmtree(self.folder)
            for path in (self.sheet, *self._derived):
                path.unlink(missing_ok=True)
        elif exists and resume:
            self._check_same(settings)
        elif exists:
            raise InputError(
                f"{self.folder} exists: pass --resume to go on with its {self.what}, --overwrite to replace them, or "
                "another --output_dir."
            )
        write_text(self.record, json.dumps(settings, indent=2) + "\n")

    def _check_same(self, settings: Mapping[str, Any]) -> None:
        """Refuse to continue what was drawn with other settings."""
        if not self.record.is_file():
            raise InputError(
                f"{self.record} does not exist, so these {self.what} cannot be gone on with: pass --overwrite."
            )
        before = self._read_record(settings)
        number = before[self.number]
        for key in (key for key in {**before, **settings} if key != self.number):
            # Of conditions those of the samples that there may be.
            values = (told.get(key) for told in (before, settings))
            old, new = (json.dumps(x[:number] if isinstance(x, list) else x) for x in values)
            if old != new:
                change = f"{key} {old}, not {new}" if len(old + new) < 80 else f"other {key}"
                raise InputError(f"{self.folder} was drawn with {change}: pass the same, or --overwrite.")
        if number > settings[self.number]:
            raise InputError(
                f"{self.folder} is a run of {number} {self.what}: pass --{self.number} {number} or more, or "
                "--overwrite."
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


def drawing_settings(
    inferer: VQPriorInferer, conditions: Mapping[str, torch.Tensor], autoencoder: Any, prior: Any
) -> dict[str, Any]:
    """
    What a record says of how something was drawn.

    Args:
        inferer: how codes are drawn.
        conditions: rows of ``labels`` and ``values``, see :func:`~monai_vqprior.sampling.conditioning.condition_rows`.
        autoencoder: what decodes the codes.
        prior: what they are drawn from.

    Returns:
        plain values: the inferer and its arguments, the conditions, the device, and fingerprints of the networks.
    """
    return {
        **component_config(inferer),
        # JSON has no NaN: a missing value is null.
        **{
            name: [[None if math.isnan(x) else x for x in row] for row in rows.tolist()]
            for name, rows in conditions.items()
        },
        "device": next(prior.parameters()).device.type,
        "autoencoder_weights": fingerprint(autoencoder),
        "prior_weights": fingerprint(prior),
    }


def decode_tile(autoencoder: Any, grids: torch.Tensor, tile_size: int) -> torch.Tensor:
    """
    Images (n, 1, H, W) of grids (n, *grid), at most a tile of them.

    Tiles are drawn whole, and decoded whole too: then no sample depends on how many there are.
    """
    whole = grids.new_zeros(tile_size, *grids.shape[1:])
    whole[: len(grids)] = grids
    return autoencoder.decode_samples(whole)[: len(grids)]
