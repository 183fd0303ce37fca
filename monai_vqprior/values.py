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

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from monai_vqprior.errors import InputError

__all__ = ["SETTINGS", "Kind", "check_setting", "check_settings"]


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
            raise InputError(f"{name} must be {self.description}, got {value!r}.")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    # A whole number is finite, and may be too large to be made a float.
    return _is_whole(value) or (isinstance(value, float) and math.isfinite(value))


def whole(least: int, most: int) -> Kind:
    """Whole numbers of a range, both ends included."""
    return Kind(f"a whole number in {least}..{most}", lambda value: _is_whole(value) and least <= value <= most)


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


#: true or false.
FLAG = Kind("true or false", lambda value: isinstance(value, bool))
#: text with something in it, such as the path of a file.
TEXT = Kind(
    "text that is not empty", lambda value: isinstance(value, str) and value.strip() != "" and "\0" not in value
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
#: one side of a slice for both, or height and width.
SIZE = either(whole(1, 8192), several(whole(1, 8192), 2, 2, "a height and a width, such as [160,128]"))
_SHARE = number(0, 1)
_BLOCKS = either(whole(0, 64), several(whole(0, 64)))
_RANGE = either(number(0, 1e6), several(number(-1e6, 1e6), 2, 2, "two numbers, such as [0.8,1.25]"))


def _is_list_of_entries(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(item, (str, Mapping)) and item for item in value)


#: names of columns, as a user gives them, or the fitted conditions of a trained prior.
CONDITIONS = Kind("a list of names of columns, such as [dementia,slice]", _is_list_of_entries)

#: What each setting may be: the top-level keys of the bundle's configurations that users set, by command line, in an
#: overlay, or by what lies beside trained weights. Keys that are not here are components and expressions.
SETTINGS: dict[str, Kind] = {
    # what is read and written
    "bundle_root": TEXT,
    "dataset_dir": TEXT,
    "output_dir": TEXT,
    "models_dir": TEXT,
    "ckpt": optional(TEXT),
    "ckpt_prior": optional(TEXT),
    "pretrained": optional(TEXT),
    "split": choice("train", "validate", "test", "all"),
    "split_seed": whole(0, 2**32 - 1),
    "overwrite": FLAG,
    "resume": FLAG,
    "skip_bad": FLAG,
    "save_slices": FLAG,
    "nifti": FLAG,
    "num_pictures": whole(1, 1000),
    # how it is computed
    "device": TEXT,
    "amp": FLAG,
    "seed": whole(0, 2**32 - 1),
    "batch_size": whole(1, 65536),
    "num_workers": whole(0, 256),
    "tile_size": whole(1, 4096),
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
    # the VQ-VAE
    "spatial_size": SIZE,
    "channels": several(whole(1, 8192)),
    "patch_size": whole(1, 256),
    "num_encoder_blocks": _BLOCKS,
    "num_decoder_blocks": _BLOCKS,
    "num_embeddings": whole(2, 2**20),
    "embedding_dim": whole(1, 4096),
    "background": optional(number(-1e6, 1e6)),
    "predictability_weight": number(0, 1e6),
    # the prior
    "prior_channels": whole(1, 8192),
    "prior_layers": whole(1, 1024),
    "prior_kernel_size": Kind(
        "an odd number in 3..63", lambda value: _is_whole(value) and 3 <= value < 64 and value % 2
    ),
    "prior_attention_every": whole(0, 1024),
    "prior_skip_connections": FLAG,
    "prior_position_logits": FLAG,
    "prior_dropout": number(0, 1, below=True),
    "prior_views": whole(0, 1024),
    "conditions": CONDITIONS,
    "condition_dropout": number(0, 1, below=True),
    "autoencoder_weights": TEXT,
    # samples
    "num_samples": whole(1, 10**7),
    "temperature": number(0, 1e6, above=True),
    "top_k": optional(whole(1, 2**20)),
    "top_p": optional(number(0, 1, above=True)),
    "guidance_scale": number(0, 1e6),
    "condition": optional(TEXT),
}


def check_setting(name: str, value: Any) -> None:
    """
    Refuse a value that a setting cannot have.

    Args:
        name: the setting, one of :data:`SETTINGS`.
        value: its value, read or evaluated.

    Raises:
        InputError: naming the setting, what it must be, and the value.
    """
    SETTINGS[name].check(name, value)


def check_settings(**values: Any) -> None:
    """Refuse the first of some values that its setting cannot have; see :func:`check_setting`."""
    for name, value in values.items():
        check_setting(name, value)
