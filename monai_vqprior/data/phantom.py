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
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from monai_vqprior.data.layout import SPLITS, slice_name, split_folder, split_subjects
from monai_vqprior.data.phantom_anatomy import PHANTOM_LABELS
from monai_vqprior.data.phantom_renderer import render, subject_anatomy
from monai_vqprior.errors import InputError
from monai_vqprior.files import write_png, write_text
from monai_vqprior.outputs import OutputFolder
from monai_vqprior.values import PHANTOM, check_values

__all__ = ["PHANTOM_LABELS", "PhantomSlice", "phantom_slice", "write_phantom"]

_MIN_RENDER_SIZE = 128  # smaller slices are rendered at a multiple of their size and averaged
_FRACTIONS = {"train": 0.7, "validate": 0.15, "test": 0.15}
_MARKER = "phantom.json"  # says that a folder holds a phantom cohort, which may be overwritten


@dataclass(frozen=True, eq=False)
class PhantomSlice:
    """
    One slice of the phantom cohort.

    Attributes:
        image: ``uint8`` array of shape (H, W), at least 1 inside the brain and 0 around it; the back of the head is up.
        labels: ``uint8`` label map of shape (H, W), the tissue that fills most of each pixel; ``PHANTOM_LABELS``
            names the classes.
        attributes: ``slice``, the position along z from 0 (lowest) to 1 (highest), and ``ventricle_size``, from 0 to 1,
            one value a subject that sets how large its ventricles are.
    """

    image: np.ndarray
    labels: np.ndarray
    attributes: dict[str, float]


def phantom_slice(subject: int, index: int, num_slices: int = 32, size: int = 256, seed: int = 0) -> PhantomSlice:
    """
    Draw one slice of one subject of the phantom cohort.

    The anatomy depends on ``(seed, subject)`` alone, the noise on ``(seed, subject, index)``. A slice of 64 x 64 looks
    like the one of 256 x 256, averaged.

    Args:
        subject: number of the subject, from 0.
        index: number of the slice, 0 (basal ganglia) to ``num_slices - 1`` (above the lateral ventricles).
        num_slices: slices over which the subject's range along z is spread; a single slice is the middle one.
        size: height and width in pixels, even and at least 32.
        seed: the same seed makes the same cohort.

    Returns:
        the image, its label map, and its attributes.

    Raises:
        InputError: when a number is negative, the index is not below ``num_slices``, or the size is odd or below 32.

    Example:
        >>> from monai_vqprior.data.phantom import phantom_slice
        >>> drawn = phantom_slice(subject=0, index=16, size=64)
        >>> drawn.image.shape, sorted(drawn.attributes)
        ((64, 64), ['slice', 'ventricle_size'])
    """
    check_values(PHANTOM, num_slices=num_slices, size=size, seed=seed)
    if subject < 0:
        raise InputError(f"subject must be 0 or more, got {subject}.")
    if not 0 <= index < num_slices:
        raise InputError(f"index must be in 0..{num_slices - 1}, got {index}.")
    anatomy = subject_anatomy(seed, subject)
    position = index / (num_slices - 1) if num_slices > 1 else 0.5
    factor = -(-_MIN_RENDER_SIZE // size)
    signal, tissues = render(anatomy, position, size * factor)
    signal, tissues = _block_mean(signal, factor), _block_mean(tissues, factor)

    inside = tissues.sum(axis=0) >= 0.5  # (5, H, W) -> (H, W)
    noise = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(subject, 1, index)))
    noisy = _rician(signal, anatomy.noise, noise)
    return PhantomSlice(
        image=np.where(inside, np.clip(np.rint(noisy), 1, 255), 0).astype(np.uint8),
        labels=np.where(inside, tissues.argmax(axis=0) + 1, 0).astype(np.uint8),
        attributes={"slice": position, "ventricle_size": anatomy.ventricle_size},
    )


def write_phantom(
    output_dir: str | os.PathLike[str],
    subjects: int = 40,
    num_slices: int = 32,
    size: int = 256,
    seed: int = 0,
    labels: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> Path:
    """
    Write a phantom cohort in the layout of the preprocessed OASIS slices.

    ``keras_png_slices_{train,validate,test}/case_001_slice_0.nii.png`` and so on, split 70/15/15 by subject;
    ``phantom.json`` (the arguments), ``slices.csv`` (case, index, split, slice, ventricle_size) and, written last,
    ``subjects.csv`` (case, split, ventricle_size).

    Args:
        output_dir: the folder to write to; made if it is missing.
        subjects: number of subjects, at least 3.
        num_slices: slices a subject.
        size: height and width in pixels, even and at least 32.
        seed: the same seed writes the same cohort.
        labels: whether to write the label maps too, in ``labels_{split}`` under the names of their slices.
        overwrite: whether to replace the phantom cohort that the folder holds.
        progress: whether to show a progress bar.

    Returns:
        the folder.

    Raises:
        InputError: when a number is out of range, when the folder is not empty and ``overwrite`` is false, or when it
            holds slices that are no phantom cohort.
    """
    check_values(PHANTOM, subjects=subjects, num_slices=num_slices, size=size, seed=seed)
    folder = OutputFolder(output_dir, overwrite).claim("phantom slices")
    _remove_cohort(folder)
    arguments = {"subjects": subjects, "num_slices": num_slices, "size": size, "seed": seed}
    write_text(folder / _MARKER, json.dumps(arguments) + "\n")

    dealt = split_subjects([_case(subject) for subject in range(subjects)], _FRACTIONS, seed)
    split_of = {case: split for split, cases in dealt.items() for case in cases}
    subject_rows, slice_rows = [], []
    with tqdm(total=subjects * num_slices, desc="phantom", unit="slice", disable=not progress) as bar:
        for subject in range(subjects):
            case = _case(subject)
            split = split_of[case]
            ventricle_size = f"{subject_anatomy(seed, subject).ventricle_size:.6f}"
            subject_rows.append((case, split, ventricle_size))
            for index in range(num_slices):
                drawn = phantom_slice(subject, index, num_slices, size, seed)
                write_png(split_folder(folder, split) / slice_name(case, index), drawn.image)
                if labels:
                    write_png(_label_folder(folder, split) / slice_name(case, index), drawn.labels)
                slice_rows.append((case, index, split, f"{drawn.attributes['slice']:.6f}", ventricle_size))
                bar.update()
    _write_csv(folder / "slices.csv", ("case", "index", "split", "slice", "ventricle_size"), slice_rows)
    _write_csv(folder / "subjects.csv", ("case", "split", "ventricle_size"), subject_rows)
    return folder


def _case(subject: int) -> str:
    """Case number of a subject in file names, which counts from 001."""
    return f"{subject + 1:03d}"


def _label_folder(folder: Path, split: str) -> Path:
    """Folder of the label maps of one split."""
    return folder / f"labels_{split}"


def _remove_cohort(folder: Path) -> None:
    """Remove the tables and slices of an earlier phantom cohort, and refuse to remove slices of any other origin."""
    folders = [place for split in SPLITS for place in (split_folder(folder, split), _label_folder(folder, split))]
    stale = [path for place in folders for path in place.glob("case_*_slice_*.nii.png")]
    if stale and not (folder / _MARKER).is_file():
        raise InputError(f"{folder} holds slices that are no phantom cohort ({stale[0].name}): name another folder.")
    for path in (folder / "subjects.csv", folder / "slices.csv", *stale):
        path.unlink(missing_ok=True)
    for place in folders:
        if place.is_dir() and not any(place.iterdir()):
            place.rmdir()


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table with a header line."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_text(path, text.getvalue())


def _block_mean(image: np.ndarray, factor: int) -> np.ndarray:
    """Average blocks of factor x factor pixels: (..., H, W) -> (..., H / factor, W / factor)."""
    if factor == 1:
        return image
    *leading, height, width = image.shape
    return image.reshape(*leading, height // factor, factor, width // factor, factor).mean(axis=(-3, -1))


def _rician(signal: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Add the noise of magnitude images: the length of the signal with Gaussian noise in both of its channels."""
    real, imaginary = sigma * rng.standard_normal((2, *signal.shape), dtype=np.float32)
    return np.hypot(signal + real, imaginary)
