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

import importlib
import inspect
import json
import math
import os
import re
import reprlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from monai_vqprior.data import Conditions
from monai_vqprior.errors import InputError
from monai_vqprior.files import read_json, write_text
from monai_vqprior.networks import CosineCodebook, EMACodebook, FSQCodebook
from monai_vqprior.values import PLAIN, SETTINGS, Kind, number, several, whole

__all__ = [
    "AUTOENCODER_SETTINGS",
    "PRIOR_SETTINGS",
    "REFERENCE",
    "component_config",
    "read_settings",
    "settings_beside",
    "write_settings",
]

#: name of the file beside the weights of an autoencoder that has its settings.
AUTOENCODER_SETTINGS = "settings.json"
#: likewise of a prior. Earlier versions wrote the settings of both networks to one file, ``settings.json``.
PRIOR_SETTINGS = "prior_settings.json"
#: what the slices of the validation split came to, beside the weights of either network; no setting of a configuration.
REFERENCE = "reference"

_CODEBOOKS = {
    f"{module}.{kind.__name__}": kind
    for kind in (CosineCodebook, EMACodebook, FSQCodebook)
    for module in ("monai_vqprior.networks", kind.__module__)
}
# What component_config writes down of one of these: what is no plain value, such as the gradient, it leaves out.
_CODEBOOK_ARGUMENTS = {
    "num_embeddings": SETTINGS["num_embeddings"],
    "embedding_dim": SETTINGS["embedding_dim"],
    "decay": number(0, 1, below=True),
    "commitment_cost": number(0, 1e12),
    "revival_threshold": number(0, 1, below=True),
    "entropy_weight": number(0, 1e12),
    "accumulation_steps": whole(1, 10**6),
    "levels": several(whole(2, 2**20)),
}
_MOST_CODES = 2**20
# Numbers in one array of a network that settings describe, and in all of its layers, at most: 1 and 4 GiB in float32.
_MOST_NUMBERS = 2**28
_MOST_IN_LAYERS = 2**30
# A low, a middle and a high value of a metric.
_RANGE = several(number(-1e6, 1e6), 3, 3)
_METRICS = ("ssim", "bits_per_code", "bits_per_code_by_position")
_FINGERPRINT = Kind(
    "16 hexadecimal digits", lambda value: isinstance(value, str) and re.fullmatch("[0-9a-f]{16}", value) is not None
)
_CLASS = Kind(
    "the path of a class, such as monai_vqprior.networks.EMACodebook",
    lambda value: isinstance(value, str) and all(part.isidentifier() for part in value.split(".")),
)


def settings_beside(folder: str | os.PathLike[str], name: str = AUTOENCODER_SETTINGS) -> Path | None:
    """
    The file with the settings of a network, where there is one.

    Args:
        folder: folder of the weights.
        name: ``settings.json`` of an autoencoder, or ``prior_settings.json`` of a prior, which may be in
            ``settings.json`` too.
    """
    files = (Path(folder) / candidate for candidate in dict.fromkeys((name, AUTOENCODER_SETTINGS)))
    return next((path for path in files if path.is_file()), None)


def read_settings(
    path: str | os.PathLike[str], keys: Collection[str] | None = None, codebooks: Collection[str] | None = ()
) -> dict[str, Any]:
    """
    Read what :func:`write_settings` wrote, or a stranger: settings are data, and none of them can run code.

    Whoever shares weights shares these settings beside them, which become values of a configuration. So each must be
    what a setting of its name may be (``monai_vqprior.values.SETTINGS``), and no text may be one that MONAI
    evaluates or resolves.

    Args:
        path: the file.
        keys: the settings that there may be, those that the configurations write down; None for any.
        codebooks: classes outside of this package that the codebook may be of, since the user or a configuration has
            named them; None for any class, where nothing is built of it.

    Returns:
        values of top-level configuration keys.

    Raises:
        InputError: when the file cannot be read or holds anything else.
    """
    content = read_json(path)
    _check(content, path, keys, codebooks)
    return content


def write_settings(path: str | os.PathLike[str], settings: Mapping[str, Any]) -> None:
    """
    Write down the settings that another command needs in order to rebuild a trained network.

    The ``vqprior`` command reads them from beside the weights, so that ``evaluate`` needs no
    ``spatial_size`` if ``train`` was given one.

    Args:
        path: JSON file to write; settings that it has and that are not named here are kept, such as those of the prior
            in a file of an earlier version.
        settings: values of top-level configuration keys.

    Raises:
        InputError: when there is a file that cannot be read, or the settings could not be read again.
    """
    before = read_settings(path, codebooks=None) if Path(path).is_file() else {}
    text = json.dumps({**before, **settings}, indent=4)  # as the files of a bundle
    _check(json.loads(text), path, None, None)
    write_text(path, text + "\n")


def component_config(component: Any) -> dict[str, Any]:
    """
    The configuration that builds a component like this one, for :func:`write_settings`.

    Args:
        component: an object that keeps the arguments it was made with as attributes of their names.

    Returns:
        its ``_target_``, by the shortest path, and its arguments. Those that JSON has no word for, such as objects, are
        left out.
    """
    kind = type(component)
    package = kind.__module__.rpartition(".")[0]
    exported = package and getattr(importlib.import_module(package), kind.__name__, None) is kind
    config: dict[str, Any] = {"_target_": f"{package if exported else kind.__module__}.{kind.__qualname__}"}
    for name in inspect.signature(kind).parameters:
        value = getattr(component, name, None)
        if isinstance(value, (bool, int, float, str, list)):
            config[name] = value
    return config


def _check(
    settings: Mapping[str, Any],
    path: str | os.PathLike[str],
    keys: Collection[str] | None,
    codebooks: Collection[str] | None,
) -> None:
    """Refuse settings that are more than data, or not of their kinds, naming their file."""
    try:
        for key, value in settings.items():
            if key == REFERENCE:
                _check_reference(value)
                continue
            if not key.isidentifier() or key.startswith("_") or (keys is not None and key not in keys):
                raise InputError(f"it has no setting {_short(key)}")
            if key == "codebook":
                _check_codebook(value, codebooks)
            elif key == "conditions":
                _check_fitted(value)
            elif key == "autoencoder_weights":
                _check_kind(key, value, _FINGERPRINT)
            else:
                _check_kind(key, value, SETTINGS.get(key, PLAIN))
                if key != "subject_pattern":  # a $ within a regular expression is one to MONAI too
                    _check_kind(key, value, PLAIN)
        _check_memory(settings)
    except InputError as error:
        raise InputError(f"{path} cannot be used, {str(error).rstrip('.')}: mend it or remove it.") from error


def _check_kind(name: str, value: Any, kind: Kind) -> None:
    if not kind.accepts(value):
        raise InputError(f"{name} must be {kind.description}, got {_short(value)}")


def _check_codebook(config: Any, codebooks: Collection[str] | None) -> None:
    """Refuse a configuration that builds anything but a codebook, or one of ours of wrong arguments."""
    if not isinstance(config, dict):
        raise InputError(f"codebook must be an object with a _target_, got {_short(config)}")
    arguments = dict(config)
    target = arguments.pop("_target_", None)
    _check_kind("codebook _target_", target, _CLASS)
    ours = _CODEBOOKS.get(target)
    if ours is None and codebooks is not None and target not in codebooks:
        raise InputError(
            f"its codebook is the class {_short(target)}, which is not of this package: if you know and trust its "
            "code, name it with --codebook#_target_, otherwise"
        )
    known = None if ours is None else set(inspect.signature(ours).parameters) & set(_CODEBOOK_ARGUMENTS)
    for name, value in arguments.items():
        if not name.isidentifier() or name.startswith("_") or (known is not None and name not in known):
            raise InputError(f"its codebook takes no {_short(name)}")
        _check_kind(f"codebook {name}", value, PLAIN if ours is None else _CODEBOOK_ARGUMENTS[name])
    if ours is FSQCodebook and math.prod(arguments.get("levels", [])) > _MOST_CODES:
        raise InputError(f"codebook levels must make at most {_MOST_CODES} codes, got {_short(arguments['levels'])}")


def _check_fitted(conditions: Any) -> None:
    """Refuse conditions that are not those of a trained prior, in the very words of :class:`Conditions`."""
    if not isinstance(conditions, list) or not all(isinstance(entry, dict) for entry in conditions):
        raise InputError(f"conditions must be those of a trained prior, got {_short(conditions)}")
    if Conditions(conditions).settings != conditions:
        raise InputError(f"conditions must have names and classes that are text, got {_short(conditions)}")


def _check_reference(reference: Any) -> None:
    """Refuse what is no range of each of some metrics."""
    if not isinstance(reference, dict):
        raise InputError(f"{REFERENCE} must be an object, got {_short(reference)}")
    for name, values in reference.items():
        if name not in _METRICS:
            raise InputError(f"its {REFERENCE} knows no {_short(name)}")
        _check_kind(f"{REFERENCE} {name}", values, _RANGE)


def _check_memory(settings: Mapping[str, Any]) -> None:
    """
    Refuse a network that is larger than anybody means: it would be made before its weights are read.

    Each setting is of its kind by now; one that is missing counts as small. The numbers are estimates from above.
    """
    codebook = settings.get("codebook", {})

    def largest(key: str) -> int:
        values = [part[key] for part in (settings, codebook) if key in part]
        numbers = [number for value in values for number in (value if isinstance(value, list) else [value])]
        return max([1, *(number for number in numbers if isinstance(number, int))])

    size, levels = settings.get("spatial_size", 1), len(settings.get("channels", [1]))
    positions = (math.prod(size) if isinstance(size, list) else size**2) // (
        largest("patch_size") * 2 ** (levels - 1)
    ) ** 2
    blocks = levels * (largest("num_encoder_blocks") + largest("num_decoder_blocks"))
    kernel = largest("prior_kernel_size") ** 2
    codes, sketch_codes = largest("num_embeddings"), largest("prior_sketch_codes")
    arrays = {
        "num_embeddings and embedding_dim": codes * largest("embedding_dim"),
        "channels and patch_size": largest("channels") * largest("patch_size") ** 2,
        "prior_channels and num_embeddings": largest("prior_channels") * codes,
        "prior_channels and prior_sketch_block": (largest("prior_channels") * largest("prior_sketch_block")) ** 2,
        "prior_channels, prior_sketch_channels and given_kernel_size": (
            max(largest("prior_channels"), largest("prior_sketch_channels")) * largest("given_kernel_size")
        )
        ** 2,
        "prior_sketch_channels and prior_sketch_codes": largest("prior_sketch_channels") * sketch_codes,
        "prior_sketch_codes, prior_sketch_levels and embedding_dim": (
            4 ** largest("prior_sketch_levels") * sketch_codes * largest("embedding_dim")
        ),
        "spatial_size and num_embeddings": positions * codes if settings.get("prior_position_logits") else 0,
    }
    layers = {
        "channels and the numbers of blocks": 2 * 9 * largest("channels") ** 2 * blocks,
        "prior_channels and prior_layers": 4 * kernel * largest("prior_channels") ** 2 * largest("prior_layers"),
        "prior_sketch_channels, prior_sketch_layers and prior_sketch_levels": (
            40 * largest("prior_sketch_channels") ** 2 * largest("prior_sketch_layers") * largest("prior_sketch_levels")
        ),
    }
    for part, most in ((arrays, _MOST_NUMBERS), (layers, _MOST_IN_LAYERS)):
        for names, numbers in part.items():
            if numbers > most:
                raise InputError(f"{names} ask for a network of {numbers} numbers, more than {most}")


def _short(value: Any) -> str:
    """A value on a line, cut where it is long."""
    shortened = reprlib.Repr()
    shortened.maxstring = shortened.maxother = 60
    return shortened.repr(value)
