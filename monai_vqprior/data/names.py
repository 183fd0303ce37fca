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
Subject, session, scan and slice number from the paths of a data set, for slices and volumes alike.

One rule holds for a whole data set, so that the same person does not have two names. It is the first of these that
finds the subject of every file:

1. ``--subject_pattern``, a regular expression for the path, when it is given;
2. names of BIDS (``sub-01``), of OASIS (``OAS1_0001``), or of ADNI (``002_S_0295``), anywhere in the path;
3. a word for a person and a number, anywhere in the path: ``patient7``, ``case_441``, ``P01``;
4. the outermost folder that is neither a contrast (``t1``), a session (``visit2``, a date), a scan (``run-1``) nor a
   group (``healthy``, ``train``), nor common to all files; where there is none, the name of the file without all these
   and without the number of the slice.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath

from monai_vqprior.data.words import DERIVED_WORD, LEVEL, RUN_WORD, SCAN_WORD, SEPARATORS, SESSION_WORD
from monai_vqprior.errors import InputError, counted

__all__ = ["Naming", "ScanName", "name_scans", "stem_of"]

_SUFFIX = re.compile(r"\.(?:nii|nifti|img|hdr|mgz|mgh|gz|png|jpe?g|tiff?)$", re.IGNORECASE)
_NUMBERED = "numbered names (patient7, case_441)"
#: conventions that name a subject wherever they stand in a path.
_CONVENTIONS = {
    "the names of BIDS (sub-01)": re.compile(r"(?<![0-9A-Za-z])(?P<subject>sub-[0-9A-Za-z]+)"),
    "the names of OASIS (OAS1_0001)": re.compile(r"(?P<subject>OAS\d_\d{4,}|OAS[34]\d{4})(?![0-9A-Za-z])"),
    "the names of ADNI (002_S_0295)": re.compile(r"(?<!\d)(?P<subject>\d{3}_S_\d{4,5})(?!\d)"),
    _NUMBERED: re.compile(
        r"(?<![0-9A-Za-z])(?P<subject>(?:(?:sub|subj|subject|pat|patient|pt|case|participant|person|volunteer|proband|id)"
        r"[_\-. ]?|p[_-]?)\d+[A-Za-z]?)(?![0-9A-Za-z])",
        re.IGNORECASE,
    ),
}
_OASIS_SESSION = r"_(?:MR_?)?d?\d+(?![0-9A-Za-z])"
_BIDS_SESSION = re.compile(r"(?<![0-9A-Za-z])ses-[0-9A-Za-z]+")

_EXPLICIT_SLICE = re.compile(r"^(?P<head>.*?)[_\-. ]?slice[_\-. ]?(?P<index>\d+)$", re.IGNORECASE)
_SLICE_NUMBER = re.compile(
    r"^(?P<head>|.*[_. \-])(?:slc|sl|frame|img|image|im|z|pic|picture)?[_\-. ]?(?P<index>\d+)$", re.IGNORECASE
)
# Words that say that a file is a picture, and not of whom.
_NO_NAME = re.compile(r"(?:slc|sl|frame|img|image|im|z|i|pic|picture|photo|file|mr|dicom)?[_\-. ]?\d*", re.IGNORECASE)


@dataclass(frozen=True)
class ScanName:
    """
    What the path of a slice or volume names.

    Attributes:
        subject: the subject; None where none is found.
        session: the visit, with the subject before it: ``OAS1_0061_MR2``, ``sub-01_ses-02``; the subject where there
            is none.
        scan: what all slices of one scan have in common, and those of other scans of the person have not.
        index: number of the slice; None where there is none.
    """

    subject: str | None
    session: str
    scan: str
    index: int | None


@dataclass(frozen=True)
class Naming:
    """
    The names of a data set.

    Attributes:
        rule: how the subjects were found, as text.
        names: what each path names.
        untold: the paths without a subject; the path replaces it.
    """

    rule: str
    names: list[ScanName]
    untold: tuple[str, ...] = ()

    def check_told(self, where: object) -> None:
        """
        Refuse files whose subject is not found.

        Args:
            where: the folder of the data set, for the message.

        Raises:
            InputError: when the subject of some file is not found.
        """
        if self.untold:
            raise InputError(
                f"nothing tells for certain the subject of {len(self.untold)} of the "
                f"{counted(len(self.names), 'file')} in {where}, such as {self.untold[0]}: pass "
                "--subject_pattern REGEX to find it in the path, or --split_by file to deal such files one by one, "
                "whoever is on them."
            )

    @property
    def subjects(self) -> list[str]:
        """The subjects of the files, one a file."""
        return [name.subject or "" for name in self.names]

    @property
    def count(self) -> int:
        """How many subjects there are."""
        return len(set(self.subjects))

    def examples(self, paths: Sequence[PurePath]) -> dict[str, str]:
        """The first three subjects, each with one of the paths, from which the names were read."""
        first: dict[str, str] = {}
        for path, subject in zip(paths, self.subjects, strict=True):
            first.setdefault(subject, path.as_posix())
        return dict(list(first.items())[:3])

    def told(self, paths: Sequence[PurePath]) -> str:
        """The rule, the number of subjects and three of them in one line."""
        some = ", ".join(f"{subject} ({path})" for subject, path in self.examples(paths).items())
        return f"{counted(self.count, 'subject')} by {self.rule}: {some}{', ...' if self.count > 3 else ''}"

    @property
    def hint(self) -> str:
        """What to say where there are too few subjects."""
        some = list(dict.fromkeys(self.subjects))
        shown = ", ".join(some[:3]) + (", ..." if len(some) > 3 else "")
        return f"they were found by {self.rule}: {shown}; --subject_pattern REGEX finds them another way"


def name_scans(
    paths: Sequence[PurePath],
    volumes: bool = False,
    subject_pattern: str | None = None,
    where: object = "the data set",
) -> Naming:
    """
    Name the subjects, sessions, scans and slice numbers of a data set.

    Args:
        paths: of the files, relative to the folder of the data set.
        volumes: whether each file is a volume, or else a slice.
        subject_pattern: regular expression that finds the subject in a path: its group ``subject``, or its first one.
        where: the folder, for the message.

    Returns:
        the rule, and what each path names.

    Raises:
        InputError: when the pattern does not match each path.
    """
    if subject_pattern is not None:
        rule = f"--subject_pattern {subject_pattern}"
        subjects: Sequence[str | None] = _by_pattern(paths, subject_pattern, where)
    else:
        rule, subjects = _by_rule(paths, volumes)
    untold = [path.as_posix() for path, subject in zip(paths, subjects, strict=True) if subject is None]
    if untold:
        rule = "file, since nothing tells them" if len(untold) == len(paths) else f"{rule}, and {len(untold)} by file"
    names = [_name(path, subject, volumes) for path, subject in zip(paths, subjects, strict=True)]
    return Naming(
        rule, [replace(n, subject=n.subject or p.as_posix()) for n, p in zip(names, paths, strict=True)], tuple(untold)
    )


def stem_of(name: str) -> str:
    """A file name without its suffixes: ``mpr-1`` of ``mpr-1.nifti.img``."""
    while match := _SUFFIX.search(name):
        name = name[: match.start()]
    return name


def _by_pattern(paths: Sequence[PurePath], pattern: str, where: object) -> list[str]:
    """The subjects that a user's pattern finds."""
    regex = re.compile(pattern)
    group: str | int = "subject" if "subject" in regex.groupindex else 1
    matches = [regex.search(path.as_posix()) for path in paths]
    subjects = [match[group] if match else None for match in matches]
    unmatched = [path for path, subject in zip(paths, subjects, strict=True) if not subject]
    if unmatched:
        raise InputError(
            f"--subject_pattern {pattern!r} finds the subject of {len(paths) - len(unmatched)} of the "
            f"{counted(len(paths), 'file')} in {where}, and none in {unmatched[0].as_posix()}: it must match "
            "each path below that folder; --subject_pattern None goes without one."
        )
    return [subject for subject in subjects if subject]


def _by_rule(paths: Sequence[PurePath], volumes: bool) -> tuple[str, list[str | None]]:
    """The first rule that finds the subject of every file, and the subjects; of the last one some may be missing."""
    whole = [_without_suffix(path) for path in paths]
    for rule, regex in _CONVENTIONS.items():
        matches = [match for match in map(regex.search, whole) if match]
        if len(matches) < len(whole):
            continue
        if rule == _NUMBERED and (instead := _contradiction(paths, matches)) is not None:
            return instead
        return rule, [match["subject"] for match in matches]
    return _by_folder_or_name(paths, volumes)


def _contradiction(paths: Sequence[PurePath], matches: Sequence[re.Match[str]]) -> tuple[str, list[str | None]] | None:
    """
    What names the subjects where numbered names of files (``case_1``) say something else than their folders.

    Where files in different folders share such a name, and each folder has one, the folder decides
    (``smith/case_1_slice_0.png``, ``jones/case_1_slice_0.png``); so does a folder with a number and several such names
    (``AB12/case_1.png``). Where folders without a number share several names, nothing is certain.
    """
    folders_of: dict[str, set[str]] = {}
    names_in: dict[str, set[str]] = {}
    for folder, path, match in zip(_outer_folders(paths), paths, matches, strict=True):
        if folder and match.start() >= len(path.parent.as_posix()):
            folders_of.setdefault(match["subject"], set()).add(folder)
            names_in.setdefault(folder, set()).add(match["subject"])
    shared = any(len(folders) > 1 for folders in folders_of.values())
    several = any(len(names) > 1 for names in names_in.values())
    numbered = bool(names_in) and all(any(map(str.isdigit, folder)) for folder in names_in)
    if shared and several and not numbered:
        return "nothing", [None] * len(paths)
    if shared or (several and numbered):
        whole = _outer_folders(paths)
        return "folders", _shortened([folder or match["subject"] for folder, match in zip(whole, matches, strict=True)])
    return None


def _without_suffix(path: PurePath) -> str:
    return (path.parent / stem_of(path.name)).as_posix()


def _by_folder_or_name(paths: Sequence[PurePath], volumes: bool) -> tuple[str, list[str | None]]:
    """Subjects by the outermost folder that names one; by the name of the file where there is none."""
    folders = _outer_folders(paths)
    names = [None if folder else _file_name(path.name, volumes) for path, folder in zip(paths, folders, strict=True)]
    if not volumes:
        decide = _deciding(paths, folders)
        folders = [folder if folder in decide else None for folder in folders]
    both = any(folders) and any(names)
    rule = "folders, and names of files beside them" if both else "folders" if any(folders) else "names of files"
    return rule, _shortened([folder or name for folder, name in zip(folders, names, strict=True)])


def _outer_folders(paths: Sequence[PurePath]) -> list[str | None]:
    """The outermost folder of each path that may be a person, without those that are common to all paths."""
    places = [[name for name in map(_folder_name, path.parts[:-1]) if name] for path in paths]
    while all(places) and len({place[0] for place in places}) == 1:
        places = [place[1:] for place in places]
    return [place[0] if place else None for place in places]


def _folder_name(name: str) -> str:
    """The part of a folder's name that may name a subject: its name without words for sessions, scans and contrasts."""
    return "" if LEVEL.fullmatch(name) else _stripped(name)


def _stripped(name: str) -> str:
    """A name without words for sessions, scans and contrasts, nor for what was done to them."""
    for words in (SESSION_WORD, SCAN_WORD, DERIVED_WORD):
        before = name
        name = words.sub("", name).strip(SEPARATORS)
        name = re.sub(r"([_. \-])[_. \-]+", r"\1", name)
        if words is DERIVED_WORD:
            name = name or before
    return name


def _file_name(name: str, volumes: bool) -> str | None:
    """The part of a file's name that may name a subject, if nothing else names one."""
    stem = stem_of(name)
    if volumes:
        return _stripped(stem) or None
    head, index, explicit = _split_slice(stem)
    rest = _stripped(head)
    if _NO_NAME.fullmatch(rest) and not rest.isdigit():
        return None
    # A word alone may as well be a class; without a number of a slice, the whole name may be a slice's.
    told = explicit or (any(map(str.isdigit, rest)) and (index is not None or rest != stem))
    return rest if told else None


def _shortened(names: Sequence[str | None]) -> list[str | None]:
    """
    Names without what distinguishes the scans of a person, unless nothing but one name is left: words behind the last
    number (``p01_left``), and a short number behind another one (``p01_1``).
    """
    shortened = list(names)
    for tail in (r"(?:[_\-. ][A-Za-z]+)+", r"[_\-. ]\d{1,3}"):
        matches = [re.fullmatch(rf"(.*\d.*?){tail}", name or "") for name in shortened]
        shorter = [
            match[1] if match and not LEVEL.fullmatch(match[1]) else name
            for match, name in zip(matches, shortened, strict=True)
        ]
        if len({name for name in shorter if name}) > 1:
            shortened = shorter
    return shortened


def _deciding(paths: Sequence[PurePath], folders: Sequence[str | None]) -> set[str]:
    """
    Folders that are subjects: those with a number, and of the others, which may be classes, those whose files have the
    names of files in another one, nothing but a number for a name, or the name of the folder.
    """
    stems: dict[str, set[str]] = {}
    for path, folder in zip(paths, folders, strict=True):
        if folder:
            stems.setdefault(folder, set()).add(stem_of(path.name).lower())
    counts: dict[str, int] = {}
    for stem in (stem for some in stems.values() for stem in some):
        counts[stem] = counts.get(stem, 0) + 1
    return {
        folder
        for folder, some in stems.items()
        if any(map(str.isdigit, folder))
        or any(counts[stem] > 1 for stem in some)
        or all(_NO_NAME.fullmatch(stem) or stem.startswith(folder.lower()) for stem in some)
    }


def _split_slice(stem: str) -> tuple[str, int | None, bool]:
    """A name without the number of its slice, the number, and whether the word slice stands before it."""
    match = _EXPLICIT_SLICE.match(stem)
    if match:
        return match["head"], int(match["index"]), True
    match = _SLICE_NUMBER.match(stem)
    if match is None or _in_another_word(stem):
        return stem, None, False
    return match["head"].rstrip(SEPARATORS), int(match["index"]), False


def _in_another_word(stem: str) -> bool:
    """Whether the number at the end of a name is that of a subject, a session or a scan, or a date."""
    words: Iterable[re.Pattern[str]] = (*_CONVENTIONS.values(), SESSION_WORD, RUN_WORD)
    return any(match.end() == len(stem) for regex in words for match in regex.finditer(stem))


def _name(path: PurePath, subject: str | None, volumes: bool) -> ScanName:
    """All that a path names, given its subject."""
    stem = stem_of(path.name)
    head, index = (stem, None) if volumes else _split_slice(stem)[:2]
    place = path.parent.as_posix()
    if index is None:  # slices without a number are distinguished by their scans
        head = " ".join(
            sorted(match[0].lower() for regex in (SESSION_WORD, SCAN_WORD) for match in regex.finditer(stem))
        )
    return ScanName(subject, _session(path, subject), f"{place}/{head}", index)


def _session(path: PurePath, subject: str | None) -> str:
    """The session of a subject, as its convention writes it; the name of the file where there is none."""
    text = _without_suffix(path)
    name = subject or stem_of(path.name)
    if name.startswith("sub-"):
        match = _BIDS_SESSION.search(text)
        return f"{name}_{match[0]}" if match else name
    if name.startswith("OAS"):
        match = re.search(re.escape(name) + _OASIS_SESSION, text)
        return match[0] if match else name
    words = dict.fromkeys(match["word"] for match in SESSION_WORD.finditer(text) if match["word"] not in name)
    if words:
        return "_".join([name, *words])
    # Tables of volumes with names of their own are joined by the names of the files.
    stem = stem_of(path.name)
    return stem if name in stem else name
