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

import ast
import itertools
import math
import os
import re
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from monai_vqprior.errors import InputError

__all__ = [
    "PHANTOM", "SETTINGS", "SUBJECT_PATTERN", "Kind", "check_setting", "check_settings", "check_values",
    "is_expression", "literal", "shown",
]  # fmt: skip

_LONGEST = 100  # characters of a value in a message
_LONGEST_PATTERN = 200


@dataclass(frozen=True)
class Kind:
    """
    What the value of a setting may be.

    Args:
        description: the values that are right, to stand behind "must be": "a whole number of at least 1".
        accepts: whether a value is one of them.
    """

    description: str
    accepts: Callable[[Any], bool]

    def check(self, name: str, value: Any) -> None:
        """
        Refuse a value of another kind.

        Raises:
            InputError: naming the setting, what it must be, and the value.
        """
        if not self.accepts(value):
            raise InputError(f"{name} must be {self.description}, got {shown(value)}.")

    def read(self, text: str) -> Any:
        """
        The value that a text on a command line stands for.

        A text is taken as it is where text is right, so a folder may have the name ``7``; else as a Python literal.
        The value may still be wrong, see :meth:`check`.
        """
        if text in ("None", "null") and self.accepts(None):
            return None
        return text if self.accepts(text) else literal(text)


def literal(text: str) -> Any:
    """A Python literal, true, false or null, or else the text itself."""
    words = {"true": True, "false": False, "null": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what a text would mean as a program
            return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # as the documentation of ast lists them
        return text


def is_expression(value: Any) -> bool:
    """Whether MONAI evaluates a value of a configuration or looks it up: ``$...``, ``@...`` or ``%...``."""
    return isinstance(value, str) and value.startswith(("$", "@", "%"))


def shown(value: Any) -> str:
    """A value in one line of a message, shortened."""
    try:
        text = repr(value).replace("\n", " ")
    except ValueError:  # Python writes no whole number of more than some thousand digits
        text = "a number of thousands of digits"
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    # Every whole number is finite, also one that no float can hold.
    return _is_whole(value) or (isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value))


def whole(least: int, most: int) -> Kind:
    """Whole numbers of a range, both ends included."""
    return Kind(f"a whole number in {least}..{most}", lambda value: _is_whole(value) and least <= value <= most)


def even(least: int, most: int) -> Kind:
    """Even numbers of a range, both ends included."""
    kind = whole(least, most)
    return Kind(f"an even number in {least}..{most}", lambda value: kind.accepts(value) and value % 2 == 0)


def number(least: float, most: float = math.inf, above: bool = False, below: bool = False) -> Kind:
    """Finite numbers of a range, without its lower end (``above``) or its upper one (``below``) if so asked."""
    low = f"above {least:g}" if above else f"of at least {least:g}"
    high = "" if most == math.inf else f" and below {most:g}" if below else f" and at most {most:g}"

    def accepts(value: Any) -> bool:
        if not _is_number(value):
            return False
        return (least < value if above else least <= value) and (value < most if below else value <= most)

    return Kind(f"a number {low}{high}", accepts)


def optional(kind: Kind) -> Kind:
    """A kind, or null."""
    return Kind(f"{kind.description}, or None", lambda value: value is None or kind.accepts(value))


def either(*kinds: Kind) -> Kind:
    """Any of several kinds."""
    return Kind(
        ", or ".join(kind.description for kind in kinds), lambda value: any(kind.accepts(value) for kind in kinds)
    )


def several(kind: Kind, least: int = 1, most: int = 16, what: str | None = None) -> Kind:
    """Lists of values of one kind."""
    numbers = f"{least}" if least == most else f"{least} to {most}"
    return Kind(
        what or f"a list of {numbers}, each {kind.description}",
        lambda value: (
            isinstance(value, (list, tuple))
            and least <= len(value) <= most
            and all(kind.accepts(item) for item in value)
        ),
    )


def choice(*words: str) -> Kind:
    """One of some words."""
    return Kind(" or ".join(repr(word) for word in words), lambda value: isinstance(value, str) and value in words)


def _is_text(value: str) -> bool:
    """Whether a text is more than blanks and can be the name of a file, and be printed."""
    try:
        value.encode()
    except UnicodeEncodeError:  # bytes of a command line that are no UTF-8
        return False
    return value.strip() != "" and "\0" not in value


def _is_path(value: str) -> bool:
    """Whether a text can be a path: any bytes, be they UTF-8 or not, as Python holds those of a command line."""
    try:
        os.fsencode(value)
    except UnicodeEncodeError:
        return False
    return value.strip() != "" and "\0" not in value


#: true or false.
FLAG = Kind("true or false", lambda value: isinstance(value, bool))
#: any number but infinity and NaN.
NUMBER = Kind("a finite number", _is_number)
#: text with something in it, such as the path of a file.
TEXT = Kind("text that is not empty", lambda value: isinstance(value, str) and _is_text(value))
#: the path of a file or folder, as text or an object.
PATH = Kind("a path that is not empty", lambda value: isinstance(value, (str, os.PathLike)) and _is_path(str(value)))
#: an address on the web.
URL = Kind(
    "an address that begins with https://",
    lambda value: isinstance(value, str) and re.fullmatch(r"https://[^\s\"\\]+", value) is not None,
)
#: the name of a device, or PyTorch's own object, which is recognized by its name: to import PyTorch takes seconds.
DEVICE = Kind(
    "a device, such as cpu or cuda:0", lambda value: TEXT.accepts(value) or type(value).__qualname__ == "device"
)
#: what a configuration takes as it stands, wherever in it: MONAI evaluates, resolves or rewrites text with these signs.
PLAIN_TEXT = Kind(
    "text in one line without $, @, % and #",
    lambda value: isinstance(value, str) and value.isprintable() and not set(value) & set("$@%#"),
)


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float)) or PLAIN_TEXT.accepts(value)


#: what is data to MONAI, whatever it is used for.
PLAIN = Kind(f"a number, true, false, null, {PLAIN_TEXT.description}, or a list of these", _is_plain)


def _odd(least: int) -> Kind:
    """The side of a kernel."""
    return Kind(
        f"an odd number in {least}..63", lambda value: _is_whole(value) and least <= value < 64 and value % 2 == 1
    )


#: one side of a slice for both, or height and width.
SIZE = either(whole(1, 8192), several(whole(1, 8192), 2, 2, "a height and a width, such as [160,128]"))
SEED = whole(0, 2**32 - 1)
_SHARE = number(0, 1)
_BLOCKS = either(whole(0, 64), several(whole(0, 64)))
_RANGE = either(number(0, 1e6), several(number(-1e6, 1e6), 2, 2, "two numbers, such as [-0.1,0.2]"))


#: Names of columns as text, with or without brackets: dementia or [dementia,slice].
_NAMES = re.compile(r"(\[)?\s*[^\W\d][^][,\0]*(,\s*[^\W\d][^][,\0]*)*(?(1)\])")


def _are_conditions(value: Any) -> bool:
    if isinstance(value, str):
        return _is_text(value) and _NAMES.fullmatch(value) is not None
    return isinstance(value, (list, tuple)) and all(
        TEXT.accepts(item) or (isinstance(item, Mapping) and len(item) > 0) for item in value
    )


def _finds_subjects(value: Any) -> bool:
    # Of a configuration's text MONAI evaluates what begins with $, and resolves or rewrites the others.
    if not isinstance(value, str) or not value.isprintable() or value.startswith("$") or set(value) & set("@%#"):
        return False
    if len(value) > _LONGEST_PATTERN or "::" in value:
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what a pattern may mean in versions to come
            return re.compile(value).groups > 0
    except (re.error, OverflowError, RecursionError):
        return False


#: a regular expression for the path of a file, which finds the subject.
SUBJECT_PATTERN = Kind(
    f"a regular expression of at most {_LONGEST_PATTERN} characters with a group, such as (patient\\d+)/, without "
    "@, %, # and not beginning with $",
    _finds_subjects,
)
#: what is assigned to the splits.
SPLIT_BY = choice("subject", "file")
#: names of columns, as a user gives them, or the fitted conditions of a trained prior.
CONDITIONS = Kind("a list of names of columns, such as [dementia,slice]", _are_conditions)

#: What each setting may be: the top-level keys of the bundle's configurations that users set, by command line, in an
#: overlay, or by what lies beside trained weights. Keys that are not here are components and expressions.
SETTINGS: dict[str, Kind] = {
    # what is read and written
    "bundle_root": PATH,
    "dataset_dir": PATH,
    "output_dir": PATH,
    "models_dir": PATH,
    "ckpt": optional(PATH),
    "ckpt_prior": optional(PATH),
    "pretrained": optional(PATH),
    "checkpoint": PATH,
    "autoencoder_checkpoint": PATH,
    "prior_checkpoint": optional(PATH),
    "pretrained_checkpoint": PATH,
    "last_state": PATH,
    "metrics_file": PATH,
    "split": choice("train", "validate", "test", "all"),
    "split_seed": SEED,
    "split_by": SPLIT_BY,
    "subject_pattern": optional(SUBJECT_PATTERN),
    "volumes": PATH,
    "prepared_dir": optional(PATH),
    "image": PATH,
    "mask": PATH,
    "overwrite": FLAG,
    "write_reference": FLAG,
    "resume": FLAG,
    "skip_bad": FLAG,
    "save_slices": FLAG,
    "nifti": FLAG,
    "num_pictures": whole(1, 1000),
    # how it is computed
    "device": DEVICE,
    "amp": FLAG,
    "seed": SEED,
    "batch_size": whole(1, 65536),
    "num_workers": whole(0, 256),
    "tile_size": whole(1, 4096),
    "stage": TEXT,
    "smaller_is_better": FLAG,
    # how long and how fast
    "max_epochs": whole(1, 10**9),
    "max_minutes": optional(number(0, 1e7, above=True)),
    "val_interval": whole(1, 10**9),
    "early_stop": whole(0, 10**9),
    "learning_rate": number(0, 1e12),
    # augmentation
    "affine_prob": _SHARE,
    "rotate_range": _RANGE,
    "translate_range": number(0, 1),
    "scale_range": _RANGE,
    "intensity_prob": _SHARE,
    "gamma_range": either(number(1, 100, above=True), several(number(0, 100, above=True), 2, 2)),
    "flip_prob": _SHARE,
    # the autoencoder
    "spatial_size": optional(SIZE),  # in neighbors.json that of the samples where it is null
    "max_value": optional(number(0, 2**32, above=True)),
    "channels": several(whole(1, 8192)),
    "patch_size": whole(1, 256),
    "stride": whole(1, 8192),
    "num_encoder_blocks": _BLOCKS,
    "num_decoder_blocks": _BLOCKS,
    "num_embeddings": whole(2, 2**20),
    "embedding_dim": whole(1, 4096),
    "background": optional(number(-1e6, 1e6)),
    "predictability_weight": number(0, 1e6),
    # the prior
    "prior_channels": whole(1, 8192),
    "prior_layers": whole(1, 1024),
    "prior_kernel_size": _odd(3),
    "prior_attention_every": whole(0, 1024),
    "prior_skip_connections": FLAG,
    "prior_position_logits": FLAG,
    "prior_dropout": number(0, 1, below=True),
    "prior_views": whole(0, 1024),
    "prior_sketch_block": Kind(
        "0, or an even number in 2..64", lambda value: _is_whole(value) and 0 <= value <= 64 and value % 2 == 0
    ),
    "prior_sketch_levels": whole(1, 8),
    "prior_sketch_codes": whole(2, 2**20),
    "prior_sketch_channels": whole(1, 8192),
    "prior_sketch_layers": whole(1, 1024),
    "prior_sketch_mirror": FLAG,
    "prior_sketch_dropout": number(0, 1, below=True),
    "prior_code_batch_size": optional(whole(0, 65536)),
    "conditions": CONDITIONS,
    "condition_dropout": number(0, 1, below=True),
    "neighbor_context": FLAG,
    "neighbor_slices": whole(1, 64),
    "neighbor_dropout": number(0, 1, below=True),
    "given_context": FLAG,
    "given_dropout": _SHARE,
    "given_kernel_size": _odd(1),
    "given_views": whole(0, 1024),
    "head_slices": optional(whole(1, 10**5)),
    "head_axis": optional(whole(0, 2)),
    "head_affine": optional(several(several(NUMBER, 4, 4), 4, 4, "four rows of four numbers")),
    "autoencoder_weights": TEXT,
    # samples
    "num_samples": whole(1, 10**7),
    "num_volumes": whole(1, 10**6),
    "num_slices": optional(whole(1, 10**5)),
    "temperature": number(0, 1e6, above=True),
    "sketch_temperature": optional(number(0, 1e6, above=True)),
    "top_k": optional(whole(1, 2**20)),
    "top_p": optional(number(0, 1, above=True)),
    "guidance_scale": number(0, 1e6),
    "condition": optional(TEXT),
    "draw_conditions": FLAG,
    # completions
    "num_completions": whole(1, 2**14),
    "seam": number(0, 1024),
}


#: paths that a user gives; others are made of them.
_GIVEN_PATHS = {"bundle_root", "dataset_dir", "output_dir", "ckpt", "ckpt_prior", "pretrained", "image", "mask"}


#: What the arguments of :func:`monai_vqprior.data.write_phantom` and the options of ``vqprior phantom`` may be.
PHANTOM: dict[str, Kind] = {
    "output": PATH,
    "subjects": whole(3, 10**6),
    "num_slices": whole(1, 10**5),
    "size": even(32, 8192),
    "seed": SEED,
}


def check_values(kinds: Mapping[str, Kind], **values: Any) -> None:
    """
    Refuse the first of some values that is not what it must be.

    Args:
        kinds: what the values may be, by their names.
        values: the values.

    Raises:
        InputError: naming the value, what it must be, and what it is.
    """
    for name, value in values.items():
        kinds[name].check(name, value)


def check_setting(name: str, value: Any) -> None:
    """
    Refuse a value that a setting cannot have.

    Args:
        name: the setting, one of :data:`SETTINGS`.
        value: its value, read or evaluated.

    Raises:
        InputError: naming the setting, what it must be, and the value.
    """
    check_values(SETTINGS, **{name: value})


def check_settings(**values: Any) -> None:
    """
    Refuse the first of some values that its setting cannot have; see ``check_setting``.

    Raises:
        InputError: also for a path that MONAI has changed. It writes ``::`` for each ``#`` in a configuration, and its
            command line reads ``#`` as the start of a comment, so the results would be in another folder.
    """
    check_values(SETTINGS, **values)
    for name in sorted(_GIVEN_PATHS & set(values)):
        value, typed = values[name], _typed(name)
        # Text of the command vqprior that has :: in it comes as another object.
        if isinstance(value, str) and ("::" in value or ("#" in typed and not typed.startswith("$"))):
            raise InputError(
                f"{name} is {shown(typed or value)}, and MONAI makes another path of one with # or :: in it: use the "
                "command vqprior, which takes any path, or a link without these signs."
            )


def _typed(name: str) -> str:
    """What the command line of MONAI was given for a key, the last time; nothing where there is no such command."""
    program, *words = sys.argv or [""]
    if Path(program).parts[-3:] != ("monai", "bundle", "__main__.py"):
        return ""
    typed = ""
    for word, following in itertools.zip_longest(words, words[1:], fillvalue=""):
        key, equals, told = word.partition("=")
        if key == f"--{name}":
            typed = told if equals else following
    return typed
