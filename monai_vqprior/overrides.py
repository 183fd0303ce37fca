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

import difflib
import inspect
import pydoc
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from monai_vqprior.errors import InputError, reason_of
from monai_vqprior.values import FLAG, NUMBER, SETTINGS, Kind, is_expression, shown

__all__ = ["check_overrides", "item_at", "parts_of", "texts_in", "unknown_argument"]

#: What a command does, and what it needs to do so.
_OF_THE_COMMAND = ("imports", "initialize", "begin", "run", "finalize")

_WORD = Kind("text", lambda value: isinstance(value, str) and "\0" not in value)
_LIST = Kind("a list", lambda value: isinstance(value, (list, tuple)))
_DICTIONARY = Kind("a dictionary", lambda value: isinstance(value, Mapping))
_COMPONENTS = Kind(
    "a list of dictionaries, '$...' or '@...'",
    lambda value: (
        isinstance(value, (list, tuple)) and all(isinstance(item, Mapping) or is_expression(item) for item in value)
    ),
)
_MADE = Kind(
    "a dictionary with _target_, a list of dictionaries, '$...' or '@...'",
    lambda value: (
        (isinstance(value, Mapping) and "_target_" in value) or (_COMPONENTS.accepts(value) and len(value) > 0)
    ),
)


def check_overrides(overrides: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """
    Refuse overrides that the configuration has no place for, which MONAI would silently add, and values that cannot be
    right there.

    A setting has the values of its kind (``monai_vqprior.values.SETTINGS``). A component is replaced by a
    component, an argument of a component by a value of the kind that it has. Expressions and references are left to be
    evaluated.

    Args:
        overrides: values of keys of the configuration.
        config: the top level of the configuration.

    Raises:
        InputError: naming the key, and what was probably meant or what the value must be.
    """
    for key, value in overrides.items():
        _check_key(key, overrides, config)
        _check_texts(key, value, {**config, **overrides})
        if not is_expression(value):
            _check_value(key, value, config)


def _check_key(key: str, overrides: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Refuse a key that the configuration does not have, or that is not for users of the command to change."""
    name = key.split("#")[0]
    merged = {**config, **overrides}
    if name == "bundle_root":
        raise InputError(f"there is no option --{key}: did you mean --bundle?")
    if name in _OF_THE_COMMAND or name.startswith(("+", "~")):
        raise InputError(
            f"--{key} is not for this command: write a configuration with {name!r}, and run it by "
            "python -m monai.bundle run."
        )
    if name not in config:
        close = difflib.get_close_matches(name, config, n=1)
        hint = f"did you mean --{close[0]}?" if close else "see --help for the options."
        raise InputError(f"there is no option --{key}: {hint}")
    unknown = unknown_argument(key, merged) or _unknown_part(key, merged)
    if unknown is not None:
        raise InputError(f"there is no option --{key}: {unknown}")


def _unknown_part(key: str, config: Mapping[str, Any]) -> str | None:
    """What is wrong with a key whose place in a group of components, or in a list, does not exist."""
    parent, _, name = key.rpartition("#")
    if not parent:
        return None
    group = item_at(parent, config)
    if isinstance(group, (list, tuple)):
        return None if name.isdigit() and int(name) < len(group) else f"{parent} has the parts 0 to {len(group) - 1}."
    if not isinstance(group, Mapping):
        return f"{parent} has no parts."
    # A metric or a component may be added to a group of them.
    added = isinstance(config[key], Mapping) or is_expression(config[key])
    if "_target_" in group or name in group or added:
        return None
    close = difflib.get_close_matches(name, group, n=1)
    return f"did you mean --{parent}#{close[0]}?" if close else f"{parent} has {', '.join(group)}."


def _check_value(key: str, value: Any, config: Mapping[str, Any]) -> None:
    """Refuse a value of another kind than that which an item of the configuration has."""
    if key in SETTINGS:
        SETTINGS[key].check(f"--{key}", value)
        return
    present = item_at(key, config)
    if isinstance(present, Mapping) and (value is not None or "#" not in key):  # some arguments may be None
        _check_component(key, value, present)
        return
    seen = {key}
    while isinstance(present, str) and present.startswith("@") and present not in seen:  # what it refers to
        if present[1:] in SETTINGS:
            SETTINGS[present[1:]].check(f"--{key}", value)
            return
        seen.add(present)
        present = item_at(present[1:], config)
    if value is None and "#" in key:
        return
    # An expression of a group of components yields one; of a component, it is an argument of any kind.
    group = item_at(key.rpartition("#")[0], config)
    in_group = "#" not in key or (isinstance(group, Mapping) and "_target_" not in group)
    if isinstance(present, Mapping) or (is_expression(present) and (len(seen) > 1 or in_group)):
        _MADE.check(f"--{key}", value)
    elif not is_expression(present):
        _check_kind(_kind_of(_default(key, config) if present is None else present), key, value)


def _check_texts(key: str, value: Any, config: Mapping[str, Any]) -> None:
    """Refuse expressions that are none, references to what is not there, and classes that do not exist."""
    for place, text in texts_in(key, value):
        if text.startswith("$"):
            try:
                compile(re.sub(r"@[\w#:]+", "_", text[1:]), "expression", "exec")
            except (SyntaxError, ValueError) as error:
                raise InputError(
                    f"--{key} must be an expression of Python, got {shown(text)} ({reason_of(error)})."
                ) from error
        for reference in _references(text):
            if not _exists(reference, config):
                raise InputError(f"--{key} refers to @{reference}, which the configuration does not have.")
        if place.endswith("#_target_") and not is_expression(text) and not callable(_located(text)):
            raise InputError(f"--{key} must be the name of a class or function, got {shown(text)}.")


def texts_in(place: str, value: Any) -> Iterator[tuple[str, str]]:
    """All texts within a value, and where they are."""
    if isinstance(value, str):
        yield place, value
    for name, part in parts_of(value):
        yield from texts_in(f"{place}#{name}", part)


def parts_of(item: Any) -> Iterable[tuple[Any, Any]]:
    """The parts of a dictionary or a list, with their keys or numbers; none of anything else."""
    if isinstance(item, Mapping):
        return item.items()
    return enumerate(item) if isinstance(item, (list, tuple)) else ()


def _references(text: str) -> list[str]:
    """What an expression or a reference refers to, from the top level on."""
    from monai.bundle import ReferenceResolver

    if not text.startswith(("$", "@")):
        return []
    ids = [str(place).replace("::", "#") for place in ReferenceResolver.match_refs_pattern(text)]
    return [place for place in ids if not place.startswith("#")]  # relative ones do


def _located(target: str) -> Any:
    """What a ``_target_`` names, by its path or as one of MONAI's own; None where there is no such thing."""
    from monai.bundle import ConfigComponent

    name = target if "." in target else ConfigComponent({"_target_": target}).resolve_module_name()
    try:
        return pydoc.locate(name)
    except pydoc.ErrorDuringImport as error:
        raise InputError(f"{name} cannot be imported: {reason_of(error)}") from error


def _check_kind(kind: Kind | None, key: str, value: Any) -> None:
    if kind is not None:
        kind.check(f"--{key}", value)


def _check_component(key: str, value: Any, present: Mapping[str, Any]) -> None:
    """Refuse to replace a component, or a group of them, by what is none, or by a group that lacks some."""
    missing = {"_target_"} & set(present) - set(value) if isinstance(value, Mapping) else set()
    if "_target_" not in present and isinstance(value, Mapping):
        missing = set(present) - set(value)
    if not isinstance(value, Mapping) or missing:
        example = next((f"--{key}#{name}" for name in present if not name.startswith("_")), f"--{key}#_target_")
        lack = f" without {', '.join(name for name in present if name in missing)}" if missing else ""
        raise InputError(
            f"--{key} is a component of the configuration, got {shown(value)}{lack}: give a dictionary with all of it, "
            f"'$...' or '@...', or one of its arguments, such as {example}."
        )


def _kind_of(present: Any) -> Kind | None:
    """The kind of a value of the configuration; None where it has none."""
    if isinstance(present, bool):
        return FLAG
    if isinstance(present, (int, float)):
        return NUMBER
    if isinstance(present, str):
        return _WORD
    if isinstance(present, (list, tuple)):
        made = any(isinstance(item, Mapping) or is_expression(item) for item in present)
        return _COMPONENTS if made else _LIST
    return None


def _default(key: str, config: Mapping[str, Any]) -> Any:
    """The default of an argument that the configuration does not give; None where there is none."""
    parent, _, name = key.rpartition("#")
    component = item_at(parent, config)
    parameters = _parameters(component.get("_target_")) if isinstance(component, Mapping) else None
    default = None if parameters is None or name not in parameters else parameters[name].default
    return None if default is inspect.Parameter.empty else default


def unknown_argument(key: str, config: Mapping[str, Any]) -> str | None:
    """
    What is wrong with a key such as ``train#loss#ssim_weight`` when the component there takes no such argument.

    Args:
        key: key of an override.
        config: the configuration, with all overrides in it.

    Returns:
        a sentence; None when the component takes the argument, or when that is unknown.
    """
    parent, _, name = key.lstrip("+~").rpartition("#")
    component = item_at(parent, config)
    if not isinstance(component, dict) or name in component or name.startswith("_"):
        return None
    target = config.get(f"{parent}#_target_", component.get("_target_"))
    parameters = _parameters(target)
    if parameters is None or name in parameters:
        return None
    close = difflib.get_close_matches(name, parameters, n=1)
    return f"{target} takes no {name}" + (
        f", did you mean {close[0]}?" if close else f", but {', '.join(parameters) or 'nothing'}."
    )


def _parameters(target: Any) -> dict[str, inspect.Parameter] | None:
    """What a class or function takes, by its name; None where that is unknown, or it takes anything."""
    # A name without a module is one of MONAI's own.
    kind = pydoc.locate(target) if isinstance(target, str) and "." in target else None
    if not callable(kind):
        return None
    from torch import nn

    # A module without arguments of its own has those of Module, which takes any and refuses them then.
    if getattr(kind, "__init__", None) is nn.Module.__init__:
        return {}
    try:
        parameters = dict(inspect.signature(kind).parameters)
    except (TypeError, ValueError):  # written in C
        return None
    takes_any = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    return None if takes_any else parameters


def item_at(key: str, config: Mapping[str, Any]) -> Any:
    """An item below the top level, as the last of the stacked files has set it; None where there is none."""
    if key in config:
        return config[key]
    parent, _, name = key.rpartition("#")
    item = item_at(parent, config) if parent else None
    if isinstance(item, dict):
        return item.get(name)
    return item[int(name)] if isinstance(item, list) and name.isdigit() and int(name) < len(item) else None


def _exists(key: str, config: Mapping[str, Any]) -> bool:
    """Whether an item is there, be it null."""
    parent, _, name = key.rpartition("#")
    group = item_at(parent, config) if parent else None
    inside = isinstance(group, Mapping) and name in group
    return key in config or inside or item_at(key, config) is not None or is_expression(group)
