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
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from monai_vqprior.errors import InputError
from monai_vqprior.files import atomic_path, read_json, tell, write_png, write_text
from monai_vqprior.handlers import contact_sheet, to_pixels
from monai_vqprior.inferers import VQPriorInferer, num_draws
from monai_vqprior.runs import component_config, fingerprint, joined_processes
from monai_vqprior.sampling import Conditioning
from monai_vqprior.sampling.conditioning import Rows, condition_rows
from monai_vqprior.transforms import LoadSlice
from monai_vqprior.values import PLAIN, check_setting

__all__ = ["load_sample", "write_samples"]

# What samples.json may hold beside the settings of a run without conditions, and how large it is with them at most.
_CONDITIONS = ("labels", "values")
_MOST_BYTES = 2**28
# Samples on the contact sheet at most, and in one of its rows.
_MOST_PICTURES = 100
_COLUMNS = 10


@torch.no_grad()
def write_samples(
    output_dir: str | os.PathLike[str],
    autoencoder: Any,
    prior: Any,
    inferer: VQPriorInferer,
    num_samples: int = 10,
    seed: int = 0,
    labels: Rows | None = None,
    values: Rows | None = None,
    nifti: bool = False,
    overwrite: bool = False,
    resume: bool = False,
) -> None:
    """
    Draw samples from the prior, decode them, and write each as a slice and all (at most 100) on a contact sheet.

    Samples are drawn and written tile by tile, so that memory does not grow with their number. An interrupted run
    leaves complete files only. A resumed run ends with the files of an uninterrupted one. Each process started by
    ``torchrun`` draws every n-th tile. Samples do not depend on the number of processes.

    Args:
        output_dir: ``samples.png``, the folder ``samples``, and ``samples.json`` with the settings of the run go here.
        autoencoder: decodes the code grids, with the interface of MONAI's VQVAE.
        prior: see :meth:`monai_vqprior.inferers.VQPriorInferer.sample`.
        inferer: how to draw.
        num_samples: how many samples, numbers 0 to ``num_samples`` - 1.
        seed: seed of the run; sample i depends on (seed, i) and its conditions alone.
        labels: class labels to condition on, a row for all samples or one for each.
        values: continuous values to condition on, likewise.
        nifti: whether to write each sample as NIfTI too.
        overwrite: whether to remove the samples of an earlier run.
        resume: whether to continue an earlier run, if there is one; it may have more samples than before.

    Raises:
        InputError: when ``num_samples`` is not positive, the conditions do not fit, there is an earlier run that is
            neither resumed nor replaced, or the run to resume was drawn with other settings.
    """
    if num_samples < 1:
        raise InputError(f"num_samples must be at least 1, got {num_samples}.")
    if overwrite and resume:
        raise InputError("--overwrite and --resume contradict one another: pass one of them.")
    conditions = condition_rows(labels, values, num_samples, needed=inferer.guidance_scale != 1)
    settings = {
        "num_samples": num_samples,
        "seed": seed,
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
    output = Path(output_dir)
    autoencoder.eval()
    number, length = inferer.tile_size, num_draws(prior, prior.spatial_size)
    with joined_processes() as processes:
        processes.first(lambda: _claim(output, settings, overwrite, resume))
        starts = range(processes.rank * number, num_samples, processes.size * number)
        tiles = [range(start, min(start + number, num_samples)) for start in starts]
        todo = [tile for tile in tiles if not all(_is_written(output, index, nifti) for index in tile)]
        with tqdm(
            desc="sampling",
            unit=" codes",
            total=len(tiles) * length,
            initial=(len(tiles) - len(todo)) * length,
            leave=False,
            disable=processes.rank > 0,
        ) as bar:
            indices = [index for tile in todo for index in tile]
            asked = {name: part[indices] if len(part) > 1 else part for name, part in conditions.items()}
            for rows, grids in inferer.sample_tiles(
                prior, indices, seed, conditioning=Conditioning(**asked), on_position=lambda: bar.update()
            ):
                for row, image in zip(rows, _decode(autoencoder, grids, number), strict=True):
                    _write(output, indices[row], image, nifti)
        processes.wait()
        if processes.rank == 0:
            sheet = _write_sheet(output, min(num_samples, _MOST_PICTURES))
            tell(f"{num_samples} samples written to {output / 'samples'}, the first of them on {sheet}")


def _decode(autoencoder: Any, grids: torch.Tensor, tile_size: int) -> torch.Tensor:
    """
    Images (n, 1, H, W) of grids (n, *grid), at most a tile of them.

    Tiles are drawn whole, and decoded whole too: then no sample depends on how many there are.
    """
    whole = grids.new_zeros(tile_size, *grids.shape[1:])
    whole[: len(grids)] = grids
    return autoencoder.decode_samples(whole)[: len(grids)]


def _file(output: Path, index: int, suffix: str) -> Path:
    """Where a sample goes."""
    return output / "samples" / f"sample_{index:05d}{suffix}"


def _claim(output: Path, settings: Mapping[str, Any], overwrite: bool, resume: bool) -> None:
    """Make the folder that samples go to, keep or remove those that it holds, and write down the settings."""
    folder, sheet, record = output / "samples", output / "samples.png", output / "samples.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be made ({error.strerror}): give another --output_dir.") from error
    for leftover in folder.glob(".partial-*"):  # of a process that was killed while it wrote
        leftover.unlink()
    exists = any(folder.iterdir()) or sheet.exists()
    if exists and overwrite:
        shutil.rmtree(folder)
        # Results about the samples are removed with them.
        about = (f"{name}.{suffix}" for name in ("neighbors", "audit") for suffix in ("png", "json"))
        for path in (sheet, *(output / name for name in about)):
            path.unlink(missing_ok=True)
    elif exists and resume:
        _check_same(record, settings)
    elif exists:
        raise InputError(
            f"{folder} exists: pass --resume to go on with its samples, --overwrite to replace them, or another "
            "--output_dir."
        )
    write_text(record, json.dumps(settings, indent=2) + "\n")


def _check_same(record: Path, settings: Mapping[str, Any]) -> None:
    """Refuse to continue samples that were drawn with other settings."""
    if not record.is_file():
        raise InputError(f"{record} does not exist, so these samples cannot be gone on with: pass --overwrite.")
    before = _read_record(record, settings)
    for key in (key for key in {**before, **settings} if key != "num_samples"):
        # Of conditions those of the samples that there may be.
        values = (told.get(key) for told in (before, settings))
        old, new = (json.dumps(x[: before["num_samples"]] if isinstance(x, list) else x) for x in values)
        if old != new:
            change = f"{key} {old}, not {new}" if len(old + new) < 80 else f"other {key}"
            raise InputError(f"{record.parent / 'samples'} was drawn with {change}: pass the same, or --overwrite.")
    if before["num_samples"] > settings["num_samples"]:
        raise InputError(
            f"{record.parent / 'samples'} is a run of {before['num_samples']} samples: pass --num_samples "
            f"{before['num_samples']} or more, or --overwrite."
        )


def _read_record(record: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the run before: those that this one has, and its conditions."""
    before = read_json(record, "mend it, or pass --overwrite", most_bytes=_MOST_BYTES)
    try:
        check_setting("num_samples", before.get("num_samples"))
        unknown = [key for key in before if key not in settings and key not in _CONDITIONS]
        if unknown:
            raise InputError(f"it has no setting {unknown[0][:60]!r}")
        wrong = [key for key, value in before.items() if not PLAIN.accepts(value)]
        if wrong:
            raise InputError(f"{wrong[0]} must be {PLAIN.description}")
    except InputError as error:
        raise InputError(
            f"{record} cannot be read ({str(error).rstrip('.')}): mend it, or pass --overwrite."
        ) from error
    return before


def _is_written(output: Path, index: int, nifti: bool) -> bool:
    """Whether all files of a sample are there; they are whole, for they were renamed when they were."""
    return _file(output, index, ".png").is_file() and (not nifti or _file(output, index, ".nii.gz").is_file())


def _write(output: Path, index: int, image: torch.Tensor, nifti: bool) -> None:
    """Write an image (1, H, W) as PNG, and if wanted as NIfTI."""
    write_png(_file(output, index, ".png"), to_pixels(image))
    if nifti:
        _write_nifti(_file(output, index, ".nii.gz"), image.clamp(0, 1))


def _write_nifti(path: Path, image: torch.Tensor) -> None:
    """Image (1, H, W) in 0..1 as a NIfTI volume (W, H, 1) float32 that viewers show as the PNG: row 0 is at the top."""
    import nibabel

    voxels = image[0].float().cpu().numpy()[::-1].T[..., None]
    with atomic_path(path) as temporary:
        nibabel.save(nibabel.Nifti1Image(np.ascontiguousarray(voxels), np.eye(4)), temporary)


def load_sample(path: str | os.PathLike[str]) -> torch.Tensor:
    """
    Read a sample that was written.

    Returns:
        (1, H, W) uint8.

    Raises:
        InputError: when it cannot be read, with the command that draws it again.
    """
    try:
        return LoadSlice()(Path(path))
    except InputError as error:
        raise InputError(
            f"{path} cannot be read as an image: remove it, and draw it again by `vqprior sample --resume`."
        ) from error


def _write_sheet(output: Path, number: int) -> Path:
    """Show the first samples, read from their files, on one picture, and return its path."""
    files = [_file(output, index, ".png") for index in range(number)]
    pictures = [load_sample(file)[0].numpy() for file in files]
    for file, picture in zip(files, pictures, strict=True):
        if picture.shape != pictures[-1].shape:
            raise InputError(
                f"{file} has the size {picture.shape}, not {pictures[-1].shape}: remove it, and draw it again by "
                "`vqprior sample --resume`."
            )
    rows = [pictures[i : i + _COLUMNS] for i in range(0, number, _COLUMNS)]
    return write_png(output / "samples.png", contact_sheet(rows))
