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
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from monai_vqprior.data import SliceDataset
from monai_vqprior.errors import InputError, counted
from monai_vqprior.files import tell, write_png, write_text
from monai_vqprior.handlers import comparison, contact_sheet
from monai_vqprior.losses import ssim_map
from monai_vqprior.metrics import nearest_images
from monai_vqprior.report.samples import load_sample
from monai_vqprior.transforms import BytesToUnit

__all__ = ["DISTANCES", "read_samples", "relative_to", "write_neighbors", "write_pairs"]

#: The distances of ``summary`` in ``neighbors.json``, and what each is.
DISTANCES = (
    ("sample_to_train", "sample to nearest training slice"),
    ("validation_to_train", "validation slice to the same"),
    ("sample_to_other_sample", "sample to nearest other sample"),
)
_DISTANCE = "root-mean-square difference of the intensities, which are 0..1"
# Pairs of images that SSIM is computed on at a time.
_BATCH = 16


def read_samples(output_dir: str | os.PathLike[str], spatial_size: int | Sequence[int] | None = None) -> SliceDataset:
    """
    Read the samples that :func:`write_samples` has written.

    Args:
        output_dir: folder of the run, with the folder ``samples``.
        spatial_size: the size that every sample must have, one number or (H, W); that of the first by default.

    Returns:
        the samples, in the order of their numbers, 8 bits a pixel.

    Raises:
        InputError: when there is no sample, or one cannot be read or has another size.
    """
    folder = Path(output_dir) / "samples"
    files = sorted(folder.glob("sample_*.png"), key=lambda path: (len(path.name), path.name))
    if not files:
        raise InputError(f"{folder} holds no samples (sample_*.png): run `vqprior sample` first.")
    data = [{"image": str(path)} for path in files]
    if spatial_size is None:
        spatial_size = _load_sample(data[0])["image"].shape[1:]
    return SliceDataset(data, _load_sample, spatial_size)


def _load_sample(item: Mapping[str, Any]) -> dict[str, Any]:
    """The item with its path replaced by its image (1, H, W) uint8."""
    return {**item, "image": load_sample(item["image"])}


def write_neighbors(
    output_dir: str | os.PathLike[str],
    dataset_dir: str | os.PathLike[str],
    samples: SliceDataset,
    train: SliceDataset,
    validation: SliceDataset,
    num_pictures: int = 10,
    device: str | torch.device | None = None,
) -> dict[str, Any]:
    """
    Find the nearest training slice of each sample, and show and list them: are the samples copies?

    The slices of the validation split are the measure: how near slices of subjects that were never trained on come to
    the training slices.

    Args:
        output_dir: ``neighbors.png`` and ``neighbors.json`` go here; names of samples are relative to it.
        dataset_dir: folder that the names of training slices are relative to.
        samples: what :func:`read_samples` returns.
        train: slices of the training split, of the same size.
        validation: slices of the validation split, of the same size.
        num_pictures: the first so many samples are shown.
        device: where to search; the CPU by default.

    Returns:
        the content of ``neighbors.json``. Distances are root-mean-square differences of intensities in 0..1.
    """
    output = Path(output_dir)
    index, distance = _search("samples", samples.images, train.images, device)
    _, validation_distance = _search("validation slices", validation.images, train.images, device)
    alone = len(samples) < 2
    other = None if alone else _search("samples and samples", samples.images, None, device)
    similarity = _ssim(samples.images, train.images[index])
    listed = []
    for i, item in enumerate(samples.data):
        listed.append(
            {
                "file": relative_to(item["image"], output),
                "nearest": relative_to(train.data[int(index[i])]["image"], dataset_dir),
                "rms": float(distance[i]),
                "ssim": float(similarity[i]),
                "other": None if other is None else relative_to(samples.data[int(other[0][i])]["image"], output),
                "other_rms": None if other is None else float(other[1][i]),
            }
        )
    ours, reference = _statistics(distance), _statistics(validation_distance)
    summary = {
        "samples": len(samples),
        "train_slices": len(train),
        "train_subjects": train.num_subjects,
        "validation_slices": len(validation),
        "validation_subjects": validation.num_subjects,
        "spatial_size": list(samples.spatial_size),
        "distance": _DISTANCE,
        "sample_to_train": ours,
        "validation_to_train": reference,
        "sample_to_other_sample": None if other is None else _statistics(other[1]),
        "ratio": ours["median"] / reference["median"] if reference["median"] > 0 else None,
        "mean_ssim": float(similarity.mean()),
    }
    content = {"summary": summary, "samples": listed}
    write_pairs(output / "neighbors.png", samples.images[:num_pictures], train.images[index[:num_pictures]])
    write_text(output / "neighbors.json", json.dumps(content, indent=2, allow_nan=False) + "\n")
    _print(summary, output)
    return content


def _search(
    what: str, images: torch.Tensor, references: torch.Tensor | None, device: str | torch.device | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The nearest references, behind a progress bar."""
    total = len(images) * len(images if references is None else references)
    with tqdm(desc=f"comparing {what}", unit=" pairs", total=total, leave=False) as bar:
        return nearest_images(images, references, device=device, on_pairs=lambda pairs: bar.update(pairs))


def _ssim(images: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Mean SSIM of each image (N, 1, H, W) uint8 with its partner, (N,)."""
    unit = BytesToUnit()
    pairs = zip(images.split(_BATCH), others.split(_BATCH), strict=True)
    return torch.cat([ssim_map(unit(a), unit(b)).flatten(1).mean(1) for a, b in pairs])


def _statistics(distances: torch.Tensor) -> dict[str, float]:
    """Statistics of distances."""
    values = distances.numpy()
    return {
        "median": float(np.median(values)),
        "quantile_5_percent": float(np.quantile(values, 0.05)),
        "minimum": float(values.min()),
    }


def relative_to(path: str, folder: str | os.PathLike[str]) -> str:
    """The path of a file below a folder, with forward slashes."""
    return Path(path).relative_to(folder).as_posix()


def write_pairs(path: Path, images: torch.Tensor, others: torch.Tensor, captions: Sequence[str] | None = None) -> None:
    """
    A sheet of samples, the training slices that they are compared with, and four times the difference.

    Args:
        path: the picture to write.
        images: (N, 1, H, W) uint8, the samples.
        others: (N, 1, H, W) uint8, the training slices.
        captions: a text above each sample; the SSIM of the two by default.
    """
    unit = BytesToUnit()
    columns = [comparison(unit(a), unit(b)) for a, b in zip(images, others, strict=True)]
    rows = list(zip(*(pictures for _, pictures in columns), strict=True))
    texts = [caption for caption, _ in columns] if captions is None else captions
    write_png(path, contact_sheet(rows, [texts, ["nearest training slice"], ["4 x their difference"]]))


def _print(summary: Mapping[str, Any], output: Path) -> None:
    """Say what ``neighbors.json`` says."""

    def line(key: str, name: str) -> str:
        told = summary[key]
        figures = "only one sample" if told is None else "".join(f"{value:>14.4f}" for value in told.values())
        return f"  {name:<40}{figures}\n"

    def of_split(key: str, name: str) -> str:
        slices, subjects = summary[f"{key}_slices"], summary[f"{key}_subjects"]
        return f"{counted(slices, f'{name} slice')} of {counted(subjects, 'subject')}"

    ratio = "no value" if summary["ratio"] is None else f"{summary['ratio']:.3f}"
    tell(
        f"{counted(summary['samples'], 'sample')}, {of_split('train', 'training')}, "
        f"{of_split('validation', 'validation')}\n"
        f"  {'RMS difference, of intensities in 0..1':<40}{'median':>14}{'5 % quantile':>14}{'minimum':>14}\n"
        f"{''.join(line(key, name) for key, name in DISTANCES)}"
        f"  mean SSIM of a sample and its nearest training slice: {summary['mean_ssim']:.4f}\n"
        f"  ratio of the medians, samples to validation slices: {ratio}\n"
        "  about 1: samples are as far from the training slices as slices of unseen subjects are; well below 1: they\n"
        "  are nearer than those, as they are when the prior has memorized training slices\n"
        f"  written to {output / 'neighbors.json'} and {output / 'neighbors.png'}"
    )
