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
"""Volumes -> codes of their slices -> volumes of the same geometry, and how much is lost on the way."""

from __future__ import annotations

import csv
import io
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.utils import ensure_tuple_rep
from tqdm import tqdm

from monai_vqprior.data import find_volumes
from monai_vqprior.data.tables import read_table
from monai_vqprior.errors import InputError, counted
from monai_vqprior.files import check_writable, write_text
from monai_vqprior.inferers import TokenizerInferer
from monai_vqprior.losses import ssim_map
from monai_vqprior.prepare_arguments import CUTTING_FILE, Cutting, read_cutting
from monai_vqprior.report.nifti import write_nifti
from monai_vqprior.transforms import BytesToUnit
from monai_vqprior.volumes import CutHead, HeadCutter
from monai_vqprior.volumes.layouts import name_of

__all__ = ["find_cutting", "reconstruct_volumes"]

logger = logging.getLogger(__name__)

_FOLDER, _TABLE = "volumes", "volumes.csv"
COLUMNS = ("file", "slices", "ssim", "psnr")
_BYTE = 255.0
_LONGEST_UNSEEN = 1.25  # of the length that the slices of the training have along their axis


def find_cutting(
    output_dir: str | os.PathLike[str], checkpoint: str | os.PathLike[str], dataset_dir: str | os.PathLike[str] | None
) -> Cutting:
    """
    How the volumes were cut that an autoencoder was trained on.

    Args:
        output_dir: a run, whose ``splits.json`` says so.
        checkpoint: the weights; those of another run lie in ``models`` beside its ``splits.json``.
        dataset_dir: the prepared slices, if they are named; they go first.

    Returns:
        the arguments of ``vqprior prepare`` that slices depend on.

    Raises:
        InputError: when none of these says so.
    """
    places: list[tuple[Path, str | None]] = [
        (run / "splits.json", "prepared") for run in (Path(checkpoint).absolute().parent.parent, Path(output_dir))
    ]
    if dataset_dir is not None:
        places = [(Path(dataset_dir) / CUTTING_FILE, None)]
    for path, key in places:
        cutting = read_cutting(path, key) if path.is_file() or dataset_dir is not None else None
        if cutting is not None:
            return cutting
    raise InputError(
        f"nothing says how volumes were cut into the slices that {checkpoint} was trained on: train on slices of "
        "vqprior prepare, or name such slices by --dataset_dir."
    )


def reconstruct_volumes(
    volumes_dir: str | os.PathLike[str],
    output_dir: str | os.PathLike[str],
    network: Any,
    inferer: TokenizerInferer,
    cutting: Cutting,
    spatial_size: int | Sequence[int],
    batch_size: int = 16,
    device: torch.device | str = "cpu",
    skip_bad: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> None:
    """
    Take volumes through an autoencoder, slice by slice, and bring the slices back.

    Each volume is brought to the space of the training, cut from end to end and reconstructed. Written are
    ``volumes/…`` with the names, shapes, affines and units of the volumes, as NIfTI of float32, and ``volumes.csv``.

    Args:
        volumes_dir: folder of the volumes, see :func:`monai_vqprior.data.find_volumes`.
        output_dir: folder to write to.
        network: the autoencoder, on ``device``.
        inferer: passes slices through it.
        cutting: how volumes are cut, see :func:`find_cutting`.
        spatial_size: size of the slices that the network was trained on.
        batch_size: slices that are reconstructed together.
        device: where to.
        skip_bad: leave out volumes that cannot be used, rather than end with an error when the others are done.
        resume: keep volumes that are there already.
        overwrite: replace them.
        progress: show a progress bar.

    Raises:
        InputError: when an argument is wrong, results are there already, or a volume cannot be used.
    """
    if set(ensure_tuple_rep(spatial_size, 2)) != {cutting.size}:
        raise InputError(
            f"the autoencoder is of slices of {spatial_size} pixels, and the volumes were cut to slices of "
            f"{cutting.size}: name the slices of its training by --dataset_dir."
        )
    output = Path(output_dir)
    rows = _rows_of_before(output, resume, overwrite)
    cutter = HeadCutter(cutting)
    paths = find_volumes(volumes_dir, output_dir=output)
    network.eval()
    faults: list[str] = []
    warned = False
    for path in tqdm(paths, "volumes", unit="volume", disable=not progress):
        file = path.relative_to(volumes_dir).as_posix()
        target = output / _FOLDER / _target_name(file)
        if file in rows and target.is_file():
            continue
        try:
            head = cutter(path, file, whole=True)
        except InputError as error:
            faults.append(str(error))
            logger.warning("%s", error)
            continue
        if not warned:
            _warn_of_unseen(file, head, cutting)
            warned = True
        reconstructed, ssim, psnr = _reconstruct(head, network, inferer, batch_size, device)
        write_nifti(target, head.restore(reconstructed))
        rows[file] = {"file": file, "slices": str(len(head.slices)), "ssim": f"{ssim:.4f}", "psnr": f"{psnr:.2f}"}
        _write_table(output / _TABLE, rows)
    if faults and not skip_bad:
        raise InputError(
            f"{len(faults)} of {counted(len(paths), 'volume')} cannot be used, the first because: {faults[0]} "
            "(--resume goes on when they are mended; --skip_bad leaves them out.)"
        )


def _rows_of_before(output: Path, resume: bool, overwrite: bool) -> dict[str, dict[str, str]]:
    """Rows of volumes that are there already, by their files, if the run goes on with them."""
    table, folder = output / _TABLE, output / _FOLDER
    check_writable(output)
    if resume:
        found = read_table(table, ["file"])[1] if table.is_file() else {}
        return {str(file): row for file, row in found.items()}
    if not overwrite and (table.exists() or (folder.is_dir() and any(folder.iterdir()))):
        raise InputError(
            f"{folder} exists: pass --overwrite to replace it, --resume to go on, or another --output_dir."
        )
    table.unlink(missing_ok=True)
    return {}


def _target_name(file: str) -> str:
    """The name of a volume, as NIfTI."""
    bare = Path(file).parent / name_of(Path(file).name)
    return f"{bare}.nii" if file.lower().endswith(".nii") else f"{bare}.nii.gz"


def _reconstruct(
    head: CutHead, network: Any, inferer: TokenizerInferer, batch_size: int, device: torch.device | str
) -> tuple[np.ndarray, float, float]:
    """Slices (N, H, W) through the autoencoder, 0 to 255, with their mean SSIM and their PSNR in dB."""
    to_unit = BytesToUnit()
    results, similarities, errors = [], [], []
    shown = head.slices.any(axis=(1, 2))  # black slices beyond the head stay black: training has none
    for batch in torch.from_numpy(head.slices[shown])[:, None].split(batch_size):
        images = to_unit(batch.to(device))
        reconstruction = inferer(images, network)["reconstruction"]
        similarities += ssim_map(reconstruction, images).flatten(1).mean(1).tolist()
        errors += (reconstruction - images).square().flatten(1).mean(1).tolist()
        results.append((reconstruction[:, 0] * _BYTE).cpu().numpy())
    slices = np.zeros(head.slices.shape, np.float32)
    slices[shown] = np.concatenate(results)
    return slices, float(np.mean(similarities)), float(-10 * np.log10(max(np.mean(errors), 1e-10)))


def _warn_of_unseen(file: str, head: CutHead, cutting: Cutting) -> None:
    """Tell that a volume is longer than what the network was trained on."""
    trained = cutting.num_slices * cutting.spacing
    length = float(head.extent[cutting.axis])
    if length > _LONGEST_UNSEEN * trained:
        logger.warning(
            "%s reaches over %.0f mm, and the slices of the training over %g mm of each head: what lies beyond them is "
            "reconstructed worse. Prepare the slices of the training with more --num_slices or a larger --spacing.",
            file,
            length,
            trained,
        )


def _write_table(path: Path, rows: dict[str, dict[str, str]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows.values())
    write_text(path, text.getvalue())
