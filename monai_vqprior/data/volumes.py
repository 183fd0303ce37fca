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

"""
Brain volumes on disk (NIfTI or Analyze) -> 8-bit slices in the layout of the preprocessed OASIS data set.

The pictures are drawn in neurological convention: the patient's left is on the left of an axial or coronal slice.
"""

from __future__ import annotations

import csv
import io
import itertools
import math
import os
import re
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.orientations import OrientationError
from nibabel.spatialimages import HeaderDataError, SpatialImage
from nibabel.wrapstruct import WrapStructError
from skimage.transform import resize
from tqdm import tqdm

from monai_vqprior.data.layout import SPLITS, natural_key, slice_name, split_folder, split_subjects
from monai_vqprior.errors import InputError
from monai_vqprior.files import claim_output, write_png

__all__ = [
    "PrepareSummary",
    "find_volumes",
    "load_volume",
    "prepare_volumes",
    "read_subject_table",
    "session_of",
    "subject_of",
    "volume_slices",
]

_VOLUME_SUFFIXES = (".nii", ".nii.gz", ".img")
#: of the many images of an OASIS-1 session, the one in Talairach space, bias-corrected and skull-stripped.
_OASIS1_CHOICE = "_t88_masked_gfc.img"
_OASIS = re.compile(r"(?P<subject>OAS[12]_(?P<number>\d{4}))(?P<session>_MR\d+)?(?![0-9A-Za-z])")
_BIDS = re.compile(r"(?P<subject>sub-[0-9A-Za-z]+)(?P<session>_ses-[0-9A-Za-z]+)?(?![0-9A-Za-z])")

#: what nibabel raises for a file that is damaged, or is no volume at all.
_READ_ERRORS = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    zlib.error,
    ImageFileError,
    HeaderDataError,
    WrapStructError,
    OrientationError,
)

_MIN_SIZE = 16
_ID_COLUMNS = ("ID", "participant_id", "subject")
_OWN_COLUMNS = ("case", "subject", "session", "split", "file")
#: columns of OASIS-1's table -> the names that subjects.csv gives them.
_OASIS1_COLUMNS = {"Age": "age", "M/F": "sex", "CDR": "cdr"}
#: clinical dementia rating -> the class names in use for OASIS.
_DEMENTIA = {0.0: "Non_Demented", 0.5: "Very_Mild_Demented", 1.0: "Mild_Demented", 2.0: "Moderate_Demented"}


def find_volumes(volumes_dir: str | os.PathLike[str], pattern: str | None = None) -> list[Path]:
    """
    Find the NIfTI and Analyze volumes of a folder and of the folders in it.

    These are the files ``*.nii``, ``*.nii.gz`` and ``*.img``; an ``.img`` stands for its ``.hdr`` too. Hidden files
    are passed over. An OASIS-1 disc holds many images of each session (raw scans, averages, segmentations): when the
    name of any file ends with ``_t88_masked_gfc.img``, only the files with such names are taken, so that
    the discs can be used as they were downloaded.

    Args:
        volumes_dir: the folder.
        pattern: glob such as ``*_T1w.nii.gz`` or ``anat/*.nii`` that chooses the files in place of the rule above. It
            is for folders with more than one image of a session, of which each would become a case of its own.

    Returns:
        the paths, in natural order.

    Raises:
        InputError: when the folder is missing or holds no volume, or the pattern is not a relative glob.
    """
    folder = Path(volumes_dir)
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder: name the one that holds the volumes.")
    try:
        found = set(folder.rglob("*" if pattern is None else pattern))
    except (ValueError, NotImplementedError) as error:
        raise InputError(f"pattern must be a relative glob such as *_T1w.nii.gz, got {pattern!r}.") from error
    volumes = [path for path in found if _is_volume(path)]
    if not volumes:
        wanted = ", ".join(f"*{suffix}" for suffix in _VOLUME_SUFFIXES)
        matching = "" if pattern is None else f" that matches {pattern!r}"
        raise InputError(f"{folder} holds no volume ({wanted}){matching}.")
    if pattern is None:
        volumes = [path for path in volumes if path.name.endswith(_OASIS1_CHOICE)] or volumes
    return sorted(volumes, key=lambda path: natural_key(path.relative_to(folder).as_posix()))


def subject_of(path: str | os.PathLike[str]) -> str:
    """
    Name the subject of a volume: what all of a subject's sessions have in common.

    Args:
        path: path or name of the file; only the name counts.

    Returns:
        ``OAS1_0001`` for OASIS-1 names (and alike for OASIS-2), ``sub-01`` for BIDS names, otherwise the file name
        without suffixes.

    Example:
        >>> subject_of("OAS1_0061_MR2_mpr_n4_anon_111_t88_masked_gfc.img")
        'OAS1_0061'
    """
    match = _match_name(path)
    return match["subject"] if match else _stem(path)


def session_of(path: str | os.PathLike[str]) -> str:
    """
    Name the session of a volume: one visit of one subject.

    Args:
        path: path or name of the file; only the name counts.

    Returns:
        ``OAS1_0001_MR1`` for OASIS-1 names (and alike for OASIS-2), ``sub-01_ses-02`` for BIDS names, otherwise
        the same as :func:`subject_of`.

    Example:
        >>> session_of("sub-01_ses-02_T1w.nii.gz")
        'sub-01_ses-02'
    """
    match = _match_name(path)
    return match["subject"] + (match["session"] or "") if match else _stem(path)


def load_volume(path: str | os.PathLike[str]) -> np.ndarray:
    """
    Read a volume and turn it to RAS+ orientation: x grows to the patient's right, y to anterior, z to superior.

    Oblique volumes are turned to the closest of the 48 orientations; nothing is resampled. Trailing axes of
    length 1 are dropped (OASIS-1's volumes are 176 x 208 x 176 x 1).

    Analyze 7.5 has no trustworthy orientation of its own. As nibabel and SPM do, its ``orient`` byte is ignored and
    the axes are taken to run to left, anterior and superior, unless an SPM ``.mat`` file lies beside it. Should
    a program have written x the other way around, left and right are exchanged. Volumes that were stored in another
    plane, such as OASIS-1's raw sagittal scans, have to be converted to NIfTI first.

    Args:
        path: ``.nii``, ``.nii.gz``, or the ``.img`` of an Analyze or NIfTI pair.

    Returns:
        ``float32`` array of shape (X, Y, Z) with finite values, in the intensity units of the file.

    Raises:
        InputError: naming the file, when it cannot be read, is an ``.img`` without ``.hdr``, is not a single 3-D
            volume of real numbers, holds NaN or infinity, or has the same value everywhere.
    """
    path = Path(path)
    if path.suffix.lower() == ".img" and not _has_header(path):
        raise InputError(f"{path} has no header: {path.with_suffix('.hdr').name} must lie beside it.")
    try:
        image = nibabel.load(path, mmap=False)
        if not isinstance(image, SpatialImage):
            raise InputError(f"{path} is not a volume: nibabel reads it as {type(image).__name__}.")
        _check_shape(path, image)
        # A value out of the range of float32 becomes an infinity, which is refused below.
        with np.errstate(over="ignore"):
            data = nibabel.as_closest_canonical(image).get_fdata(dtype=np.float32)
    except InputError:
        raise
    except _READ_ERRORS as error:
        raise InputError(f"{path} cannot be read as a volume, it may be truncated: {error}") from error

    data = data.reshape(data.shape[:3])  # (X, Y, Z, 1, ...) -> (X, Y, Z)
    bad = int(data.size - np.isfinite(data).sum())
    if bad:
        raise InputError(f"{path} holds NaN or infinity in {bad} of its {data.size} voxels.")
    if data.min() == data.max():
        raise InputError(f"{path} is empty: each of its voxels is {data.flat[0]:g}.")
    return data


def volume_slices(
    volume: np.ndarray,
    axis: int = 2,
    num_slices: int = 32,
    center_offset: int = 0,
    size: int = 256,
    percentiles: tuple[float, float] = (0.5, 99.5),
    spacing: int = 1,
) -> np.ndarray:
    """
    Cut a volume into square 8-bit slices.

    The slices lie around the middle of the volume, in ascending order (for axis 2 from inferior to superior).
    Intensities are scaled linearly, from two percentiles of the volume's non-zero voxels to 0 and 255, and clipped;
    background (zero) stays 0. Each slice is padded with background to a square, centered on the
    field of view, and resized bilinearly, with a Gaussian filter beforehand where it shrinks. Voxels count as cubes:
    resample a volume with other voxels first (``monai.transforms.Spacing``), or its slices are stretched.

    ======  ========  =========  =============  =============
    axis    plane     top        left           right
    ======  ========  =========  =============  =============
    0       sagittal  superior   posterior      anterior
    1       coronal   superior   patient left   patient right
    2       axial     anterior   patient left   patient right
    ======  ========  =========  =============  =============

    Args:
        volume: array of shape (X, Y, Z) with finite values in RAS+ orientation, as :func:`load_volume` returns it.
        axis: the axis to cut along; 0, 1 or 2.
        num_slices: number of slices, at least 1.
        center_offset: how many voxels the middle of the slices lies above the middle of the volume (below it if
            negative).
        size: height and width of a slice in pixels; even, at least 16.
        percentiles: the percentiles that become 0 and 255, each in [0, 100].
        spacing: distance from slice to slice in voxels, at least 1.

    Returns:
        ``uint8`` array of shape (num_slices, size, size), rows from top to bottom.

    Raises:
        InputError: when an argument is out of its range, the volume has too few slices, or its non-zero voxels have
            no spread that could be scaled.
    """
    _check_slicing(axis, num_slices, size, percentiles, spacing)
    if volume.ndim != 3:
        raise InputError(f"a volume must have 3 axes, got the shape {volume.shape}.")
    indices = _slice_indices(volume.shape[axis], axis, num_slices, center_offset, spacing)
    low, high = _intensity_range(volume, percentiles)

    planes = np.moveaxis(volume, axis, 0)[indices]  # (X, Y, Z) -> (N, A, B)
    pictures = planes.transpose(0, 2, 1)[:, ::-1]  # (N, A, B) -> (N, B, A): A runs to the right and B runs up
    scaled = np.interp(pictures, (low, high), (0, 255))
    scaled[pictures == 0] = 0
    return np.stack([_fit(picture, size) for picture in scaled])


def read_subject_table(path: str | os.PathLike[str]) -> dict[str, dict[str, str]]:
    """
    Read what is known about subjects or sessions.

    Args:
        path: CSV or TSV file (UTF-8; a tab in the first line tells) with a column of ids: ``ID`` as in OASIS-1's
            ``oasis_cross-sectional.csv``, ``participant_id`` as in BIDS' ``participants.tsv``, or ``subject``.

    Returns:
        for each id its row: column -> cell, all as text, the column of ids included.

    Raises:
        InputError: naming the file, when it is missing or no text table, has no column of ids, or names an id twice.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as a table (CSV or TSV, UTF-8): {error}") from error
    delimiter = "\t" if "\t" in text.partition("\n")[0] else ","
    reader = csv.DictReader(io.StringIO(text), delimiter=delimiter, restval="", skipinitialspace=True)
    columns = [column.strip() for column in reader.fieldnames or ()]
    reader.fieldnames = columns
    id_column = next((column for column in _ID_COLUMNS if column in columns), None)
    if id_column is None:
        raise InputError(f"{path} has no column of ids ({', '.join(_ID_COLUMNS)}); its columns: {', '.join(columns)}.")

    table: dict[str, dict[str, str]] = {}
    for row in reader:
        if None in row:
            raise InputError(f"{path}, line {reader.line_num}: more cells than the {len(columns)} columns.")
        cells = {column: cell.strip() for column, cell in row.items()}
        if not any(cells.values()):
            continue
        name = cells[id_column]
        if not name or name in table:
            fault = f"{name} is there a second time" if name else f"the column {id_column} is empty"
            raise InputError(f"{path}, line {reader.line_num}: {fault}.")
        table[name] = cells
    return table


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
    """

    volumes: dict[str, int]
    subjects: dict[str, int]
    slices: dict[str, int]
    skipped: tuple[tuple[str, str], ...] = ()
    missing_from_table: int = 0

    def __str__(self) -> str:
        lines = [
            f"{split}: {self.slices[split]} slices of {self.volumes[split]} volumes of {self.subjects[split]} subjects"
            for split in SPLITS
        ]
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
) -> PrepareSummary:
    """
    Turn a folder of volumes into a data set of slices, split by subject.

    Writes ``keras_png_slices_{train,validate,test}/case_{case}_slice_{i}.nii.png`` and ``subjects.csv`` with the
    columns case, subject, session, split and file. A case is one volume. The first session of an OASIS subject has
    the subject's own number (``OAS1_0441_MR1`` -> ``case_441``); all other cases are numbered on from there, in
    natural order of sessions. All sessions of a subject are in one split.

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
        center_offset: in voxels.
        spacing: in voxels.
        size: in pixels.
        percentiles: in [0, 100].
        fractions: share of the subjects for each split, see :func:`split_subjects`.
        seed: the same seed splits the same subjects in the same way.
        subjects_csv: table to join, see :func:`read_subject_table`.
        pattern: glob that chooses the volumes, see :func:`find_volumes`.
        skip_bad: leave out volumes that cannot be used, and count them, rather than stop at the first.
        overwrite: write into a folder that is not empty, and replace the slices of an earlier run there.
        progress: show a progress bar.

    Returns:
        counts of what was written, and what was left out.

    Raises:
        InputError: when an argument is wrong, the output folder is not empty, a volume cannot be used (see
            :func:`load_volume` and :func:`volume_slices`), or skipping leaves nothing of a split.
    """
    _check_slicing(axis, num_slices, size, percentiles, spacing)
    table = None if subjects_csv is None else read_subject_table(subjects_csv)
    cases = _plan_cases(Path(volumes_dir), pattern, fractions, seed)
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
        for case in tqdm(cases, desc="volumes", unit="volume", disable=not progress):
            fault = _write_case(staging, case, cut)
            if fault and not skip_bad:
                raise InputError(f"{fault} (--skip_bad leaves such volumes out.)")
            if fault:
                skipped.append((case.file, fault))
        left_out = {file for file, _ in skipped}
        written = [case for case in cases if case.file not in left_out]
        _refuse_empty_split(cases, written, skipped)
        _write_rows(staging / "subjects.csv", written, table)
    return _summarize(written, num_slices, skipped, table)


@dataclass(frozen=True)
class _Case:
    """One volume on its way to slices; ``file`` is its path relative to the folder of the volumes."""

    path: Path
    file: str
    subject: str
    session: str
    case: str
    split: str


def _is_volume(path: Path) -> bool:
    """Whether a path is a volume by its name; names that begin with a dot are left by macOS on copied discs."""
    return path.name.lower().endswith(_VOLUME_SUFFIXES) and not path.name.startswith(".") and path.is_file()


def _match_name(path: str | os.PathLike[str]) -> re.Match[str] | None:
    """Match the file name with the conventions that tell subject and session, OASIS's and BIDS'."""
    name = Path(path).name
    return _OASIS.match(name) or _BIDS.match(name)


def _stem(path: str | os.PathLike[str]) -> str:
    """File name without the suffixes of a volume; other dots stay."""
    return re.sub(r"\.(nii(\.gz)?|img|hdr)$", "", Path(path).name, flags=re.IGNORECASE)


def _has_header(path: Path) -> bool:
    """Whether the ``.hdr`` of an ``.img`` lies beside it."""
    return any(path.with_suffix(suffix).is_file() for suffix in (".hdr", ".HDR"))


def _check_shape(path: Path, image: SpatialImage) -> None:
    """Refuse all but a single 3-D volume of real numbers, before its data are read."""
    if image.get_data_dtype().kind not in "iuf":
        raise InputError(f"{path} holds voxels of type {image.get_data_dtype()}, not real numbers.")
    if len(image.shape) < 3 or 0 in image.shape:
        raise InputError(f"{path} is not a 3-D volume: its shape is {image.shape}.")
    frames = math.prod(image.shape[3:])
    if frames > 1:
        raise InputError(f"{path} holds {frames} volumes (shape {image.shape}): extract one of them first.")


def _check_slicing(axis: int, num_slices: int, size: int, percentiles: Sequence[float], spacing: int) -> None:
    """Raise InputError for arguments of :func:`volume_slices` that are wrong whatever the volume."""
    if axis not in (0, 1, 2):
        raise InputError(f"axis must be 0, 1 or 2, got {axis}.")
    if num_slices < 1:
        raise InputError(f"num_slices must be at least 1, got {num_slices}.")
    if spacing < 1:
        raise InputError(f"spacing must be at least 1, got {spacing}.")
    if size < _MIN_SIZE or size % 2:
        raise InputError(f"size must be even and at least {_MIN_SIZE}, got {size}.")
    if len(percentiles) != 2 or not 0 <= percentiles[0] < percentiles[1] <= 100:
        raise InputError(f"percentiles must be two ascending numbers from 0 to 100, got {tuple(percentiles)}.")


def _slice_indices(length: int, axis: int, num_slices: int, center_offset: int, spacing: int) -> np.ndarray:
    """Indices of the slices around the middle of an axis of ``length`` voxels; the lower middle where there are two."""
    reach = (num_slices - 1) * spacing
    first = (length - 1 - reach) // 2 + center_offset
    if first < 0 or first + reach >= length:
        raise InputError(
            f"num_slices={num_slices} with spacing={spacing} and center_offset={center_offset} asks for the slices "
            f"{first} to {first + reach}, but the volume has {length} along axis {axis} (0 to {length - 1})."
        )
    return np.arange(first, first + reach + 1, spacing)


def _intensity_range(volume: np.ndarray, percentiles: tuple[float, float]) -> tuple[float, float]:
    """The two percentiles of the non-zero voxels, as intensities."""
    foreground = volume[volume != 0].astype(np.float64)
    if not foreground.size:
        raise InputError("the volume is empty: each of its voxels is 0.")
    low, high = np.percentile(foreground, percentiles)
    if not low < high:
        raise InputError(
            f"the percentiles {percentiles[0]:g} and {percentiles[1]:g} of the non-zero voxels are {low:g} and "
            f"{high:g}: nothing to scale. Is it a mask?"
        )
    return float(low), float(high)


def _fit(picture: np.ndarray, size: int) -> np.ndarray:
    """Pad a slice (H, W) in [0, 255] to a square around its center, and resize it to (size, size), ``uint8``."""
    side = max(picture.shape)
    before = [(side - length) // 2 for length in picture.shape]
    square = np.pad(picture, [(b, side - length - b) for b, length in zip(before, picture.shape, strict=True)])
    if side != size:
        square = resize(square, (size, size), order=1, mode="edge", anti_aliasing=side > size, preserve_range=True)
    return np.rint(square).astype(np.uint8)


def _plan_cases(folder: Path, pattern: str | None, fractions: Mapping[str, float] | None, seed: int) -> list[_Case]:
    """Find the volumes, and decide on the number and the split of each."""
    paths = sorted(find_volumes(folder, pattern), key=lambda path: natural_key(session_of(path)))
    splits = split_subjects([subject_of(path) for path in paths], fractions, seed)
    split_of = {subject: split for split, subjects in splits.items() for subject in subjects}
    return [
        _Case(
            path=path,
            file=path.relative_to(folder).as_posix(),
            subject=subject_of(path),
            session=session_of(path),
            case=case,
            split=split_of[subject_of(path)],
        )
        for path, case in zip(paths, _case_numbers(paths), strict=True)
    ]


def _case_numbers(paths: Sequence[Path]) -> list[str]:
    """Number the cases, an OASIS subject's first volume by the subject's own number, the others behind the largest."""
    own: dict[int, Path] = {}
    for path in paths:
        match = _OASIS.match(path.name)
        if match:
            own.setdefault(int(match["number"]), path)
    number_of = {path: number for number, path in own.items()}
    following = itertools.count(max(own, default=0) + 1)
    return [f"{number_of[path] if path in number_of else next(following):03d}" for path in paths]


def _write_case(dataset_dir: Path, case: _Case, cut: Callable[[np.ndarray], np.ndarray]) -> str:
    """Write the slices of one volume, or none and return what is wrong with it."""
    try:
        volume = load_volume(case.path)
    except InputError as error:
        return str(error)  # names the file
    try:
        pictures = cut(volume)
    except InputError as error:
        return f"{case.path}: {error}"
    for index, picture in enumerate(pictures):
        write_png(split_folder(dataset_dir, case.split) / slice_name(case.case, index), picture)
    return ""


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
    (output_dir / "subjects.csv").unlink(missing_ok=True)
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
    return {column: cell for column, cell in row.items() if column not in (*_ID_COLUMNS, *_OWN_COLUMNS)}


def _dementia(cdr: str) -> str:
    """OASIS's class name of a clinical dementia rating; empty where it is not known."""
    with suppress(ValueError):
        return _DEMENTIA.get(float(cdr), "")
    return ""


def _write_rows(path: Path, cases: Sequence[_Case], table: Mapping[str, dict[str, str]] | None) -> None:
    """Write ``subjects.csv``, a row for each case."""
    rows = table or {}
    joined = list(_joined_columns(next(iter(rows.values())))) if rows else []
    with path.open("w", encoding="utf-8", newline="") as file:
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
) -> PrepareSummary:
    """Count what was written."""
    volumes = {split: sum(case.split == split for case in cases) for split in SPLITS}
    return PrepareSummary(
        volumes=volumes,
        subjects={split: len({case.subject for case in cases if case.split == split}) for split in SPLITS},
        slices={split: count * num_slices for split, count in volumes.items()},
        skipped=tuple(skipped),
        missing_from_table=0 if table is None else sum(_find_row(case, table) is None for case in cases),
    )
