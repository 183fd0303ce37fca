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
Which of the files of a data set are the heads to take: folders as programs and archives lay them out.

Only names count, so that a choice can be reported before anything is read. The first of these that a data set shows
holds for all of it:

==============  ==================================================================================================
layout          what is taken
==============  ==================================================================================================
BIDS            ``sub-*_T1w``: one of each session, the one with the fewest entities, of runs the first; never from
                ``derivatives``, ``sourcedata`` and ``code``
FreeSurfer      of each subject of a SUBJECTS_DIR ``mri/brain.mgz``, else ``brainmask.mgz``, else ``norm.mgz``
OASIS-1         ``*_t88_masked_gfc.img`` of each session
OASIS-2         the first ``RAW/mpr-*`` of each session, which holds a skull
fsl_anat        of each ``*.anat`` folder ``T1_biascorr_brain``
ANTs            ``*BrainExtractionBrain`` and ``*ExtractedBrain0N4``
flat            every volume; where both a head and its brain are there (``x``, ``x_brain``), the brain
==============  ==================================================================================================

What is a mask, a segmentation, a field or a probability by its name is never a head.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

__all__ = ["SUFFIXES", "Choice", "choose_volumes", "find_participants", "is_segmentation", "is_volume", "name_of"]

#: Names of volumes end with one of these, in capitals or not.
SUFFIXES = (".nii", ".nii.gz", ".img", ".img.gz", ".mgz", ".mgh")
_SUFFIX = re.compile(r"\.(?:nii(?:\.gz)?|img(?:\.gz)?|mgz|mgh)$", re.IGNORECASE)

_SEGMENTATION = re.compile(
    r"(?<![A-Za-z])(?:[dfa]?seg|segs|segmentations?|segmented|masks?|labels?|probseg|ground[_-]?truth|annotations?)(?![A-Za-z])",
    re.IGNORECASE,
)
_NO_HEAD = re.compile(
    r"(?:^|[_.\- ])(?:brain|bet|ss|skull|tissue|deface)masks?$"
    r"|(?:^|[_.\- ])(?:lesions?|aparc\S*|parc\S*|pve|pveseg|pve_\d|posteriors?\d*|priors?\d*|mixeltype|skull"
    r"|xfm|warp|jac|jacobian|bias|field|overlay|mesh)(?:[_.\- ]?\d+)?$"
    r"|(?:BrainExtraction(?:Mask|Prior\S*)|BrainSegmentation\S*|CorticalThickness\S*|InverseWarp|\dWarp|\dInverseWarp)$",
    re.IGNORECASE,
)
_BIDS = re.compile(
    r"(?:^|/)(?P<subject>sub-[0-9a-z]+)(?:_(?P<session>ses-[0-9a-z]+))?(?P<entities>(?:_[a-z0-9]+-[0-9a-z]+)*)_t1w$",
    re.I,
)
_BIDS_FILE = re.compile(r"(?:^|/)sub-[0-9a-z]+(?:_[a-z0-9]+-[0-9a-z]+)*_[a-z0-9]+$", re.IGNORECASE)
_PASSED = ("derivatives", "sourcedata", "code")
_FREESURFER = re.compile(r"(?:^|(?P<subject>.+)/)mri/(?P<kind>[^/]+)$", re.IGNORECASE)
_FREESURFER_KINDS = ("brain", "brainmask", "norm")
_AVERAGES = re.compile(r"(?:^|/)fsaverage\d*(?:_sym)?$", re.IGNORECASE)
_OASIS1 = re.compile(r"(?P<session>OAS1_\d{4}_MR\d+)\S*_t88_masked_gfc$", re.IGNORECASE)
_OASIS2 = re.compile(r"(?P<session>OAS2_\d{4}_MR\d+)/RAW/mpr-(?P<number>\d+)(?:\.nifti)?$", re.IGNORECASE)
_FSL_ANAT = re.compile(r"(?P<session>(?:^|.+/)[^/]*\.anat)/(?P<kind>[^/]+)$", re.IGNORECASE)
_FSL_KINDS = ("t1_biascorr_brain", "t1_brain")
_ANTS = re.compile(r"(?P<session>.*?)(?P<kind>ExtractedBrain0N4|BrainExtractionBrain)$", re.IGNORECASE)
_ANTS_KINDS = ("extractedbrain0n4", "brainextractionbrain")
_STRIPPED = re.compile(r"[_.\-](?:brain|bet|stripped|skull_?stripped|ss|masked|synthstrip)$", re.IGNORECASE)


@dataclass
class Choice:
    """
    What is taken of the volumes of a data set.

    Attributes:
        layout: the name of the layout, as the table above has it.
        taken: the heads, in the order in which they were given.
        left_out: the others, by what they are.
    """

    layout: str
    taken: list[PurePosixPath] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)


def is_volume(name: str) -> bool:
    """Whether a file is a volume by its name; ``._x.nii`` is left by macOS on copied discs."""
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def name_of(name: str) -> str:
    """The name of a volume without its suffix; other dots stay."""
    return _SUFFIX.sub("", name)


def is_segmentation(name: str) -> bool:
    """Whether a path, relative to the data set, says that a file is a mask or a label map: a folder or the name."""
    return any(_SEGMENTATION.search(part) for part in name.split("/"))


def choose_volumes(paths: Iterable[PurePosixPath]) -> Choice:
    """
    Choose the heads among the volumes of a data set.

    Args:
        paths: the volumes, relative to the folder of the data set.

    Returns:
        the layout, what is taken, and what is not.
    """
    choice = Choice("flat")
    heads = []
    for path in paths:
        if _is_no_head(path):
            choice.left_out.setdefault("masks, segmentations and fields", []).append(path.as_posix())
        else:
            heads.append(path)
    choice.layout, fates = next(
        ((layout, fates) for layout, choose in _LAYOUTS.items() if (fates := choose(heads))), ("flat", {})
    )
    for path in heads:
        what = fates.get(path, f"files that {choice.layout} data are not taken from")
        if what is None:
            choice.taken.append(path)
        else:
            choice.left_out.setdefault(what, []).append(path.as_posix())
    return choice


def find_participants(folder: Path) -> Path | None:
    """The table of subjects that BIDS data have, ``participants.tsv``; None where there is none."""
    names = sorted(path for path in folder.iterdir() if path.name.lower() == "participants.tsv" and path.is_file())
    return names[0] if names else None


# What a layout makes of the heads that it knows: None where one is taken, otherwise what it is; empty where the data
# set is of another layout.
_Fates = dict[PurePosixPath, str | None]
# Heads with the same first part are copies of one, of which that with the least second part is taken.
_Key = Callable[[PurePosixPath], tuple[str, tuple[float | str, ...]] | None]


def _is_no_head(path: PurePosixPath) -> bool:
    """Whether a volume is a mask or the like by its name; FreeSurfer's ``brainmask`` is a head."""
    if is_segmentation(path.as_posix()):
        return True
    match = _FREESURFER.search(_stem(path))
    known = match is not None and match["kind"].lower() in _FREESURFER_KINDS
    return not known and _NO_HEAD.search(name_of(path.name)) is not None


def _stem(path: PurePosixPath) -> str:
    return (path.parent / name_of(path.name)).as_posix()


def _best(paths: Sequence[PurePosixPath], key: _Key, what: str) -> _Fates:
    """Of the heads with the same first part of the key, the one with the least second part."""
    ranked = {path: ranks for path in paths if (ranks := key(path)) is not None}
    best: dict[str, PurePosixPath] = {}
    for path, (group, rank) in ranked.items():
        if group not in best or rank < ranked[best[group]][1]:
            best[group] = path
    return {path: None if best[group] == path else what for path, (group, _) in ranked.items()}


def _bids(paths: Sequence[PurePosixPath]) -> _Fates:
    """One T1-weighted head of each session."""
    raw = [path for path in paths if not any(part.lower() in _PASSED for part in path.parts[:-1])]

    def key(path: PurePosixPath) -> tuple[str, tuple[float | str, ...]] | None:
        match = _BIDS.search(_stem(path))
        if match is None:
            return None
        entities = [entity for entity in match["entities"].split("_") if entity]
        run = next((int(re.sub(r"\D", "", entity) or 0) for entity in entities if entity.lower().startswith("run-")), 0)
        others = [entity for entity in entities if not entity.lower().startswith("run-")]
        session = match["session"] or next((part for part in path.parts if part.lower().startswith("ses-")), "")
        return f"{match['subject']} {session}".lower(), (len(others), run, path.as_posix())

    choices = _best(raw, key, "other scans of the same session")
    if not any(choice is None for choice in choices.values()):
        return {}
    for path in paths:
        if path not in choices:
            passed = next((part.lower() for part in path.parts[:-1] if part.lower() in _PASSED), None)
            contrast = "images of other contrasts" if _BIDS_FILE.search(_stem(path)) else "files without a name of BIDS"
            choices[path] = f"files in {passed}" if passed else contrast
    return choices


def _freesurfer(paths: Sequence[PurePosixPath]) -> _Fates:
    """The brain of each subject of a SUBJECTS_DIR."""

    def key(path: PurePosixPath) -> tuple[str, tuple[float | str, ...]] | None:
        match = _FREESURFER.search(_stem(path))
        if match is None or match["kind"].lower() not in _FREESURFER_KINDS or _AVERAGES.search(match["subject"] or ""):
            return None
        return match["subject"] or "", (_FREESURFER_KINDS.index(match["kind"].lower()),)

    if not any(path.suffix.lower() in (".mgz", ".mgh") for path in paths):
        return {}
    return _best(paths, key, "other volumes of the same subject")


def _oasis1(paths: Sequence[PurePosixPath]) -> _Fates:
    """The image in Talairach space, without skull, of each session."""

    def key(path: PurePosixPath) -> tuple[str, tuple[float | str, ...]] | None:
        match = _OASIS1.search(_stem(path))
        return None if match is None else (match["session"].upper(), (path.as_posix(),))

    return _best(paths, key, "other copies of the same session")


def _oasis2(paths: Sequence[PurePosixPath]) -> _Fates:
    """The first scan of each session."""

    def key(path: PurePosixPath) -> tuple[str, tuple[float | str, ...]] | None:
        match = _OASIS2.search(_stem(path))
        return None if match is None else (match["session"].upper(), (int(match["number"]), path.as_posix()))

    return _best(paths, key, "other scans of the same session")


def _of_kinds(regex: re.Pattern[str], kinds: Sequence[str]) -> Callable[[Sequence[PurePosixPath]], _Fates]:
    """A layout in which the last word of a name tells what a volume is; the first of ``kinds`` is the best."""

    def key(path: PurePosixPath) -> tuple[str, tuple[float | str, ...]] | None:
        match = regex.search(_stem(path))
        if match is None or match["kind"].lower() not in kinds:
            return None
        return match["session"], (kinds.index(match["kind"].lower()), path.as_posix())

    return lambda paths: _best(paths, key, "other volumes of the same subject")


def _brains(paths: Sequence[PurePosixPath]) -> _Fates:
    """The brain where a head and its brain lie side by side, and all others."""
    stems = {_stem(path): path for path in paths}
    whole = {bare for stem in stems if (bare := _STRIPPED.sub("", stem)) != stem and bare in stems}
    return {path: "heads whose brain lies beside them" if stem in whole else None for stem, path in stems.items()}


_LAYOUTS: dict[str, Callable[[Sequence[PurePosixPath]], _Fates]] = {
    "BIDS": _bids,
    "FreeSurfer": _freesurfer,
    "OASIS-1": _oasis1,
    "OASIS-2": _oasis2,
    "fsl_anat": _of_kinds(_FSL_ANAT, _FSL_KINDS),
    "ANTs": _of_kinds(_ANTS, _ANTS_KINDS),
    "flat": _brains,
}
