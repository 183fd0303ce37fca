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
import traceback
from collections.abc import Iterable, Iterator, Mapping
from types import FrameType
from typing import Any

from monai_vqprior.errors import InputError, chain_of, input_error_in, system_error_in
from monai_vqprior.values import FLAG, NUMBER, SETTINGS, Kind, is_expression, shown

__all__ = ["check_overrides", "explain_failure", "unknown_argument"]

_LONGEST_REASON = 300  # characters

#: What a command does, and what it needs to do so.
_OF_THE_COMMAND = ("imports", "initialize", "begin", "run", "finalize")

_WORD = Kind("text", lambda value: isinstance(value, str) and "\0" not in value)
_LIST = Kind("a list", lambda value: isinstance(value, (list, tuple)))
_DICTIONARY = Kind("a dictionary", lambda value: isinstance(value, Mapping))
_ITEM = Kind("a dictionary, a list, '$...' or '@...'", lambda value: isinstance(value, (Mapping, list, tuple)))
_COMPONENTS = Kind(
    "a list of dictionaries, '$...' or '@...'",
    lambda value: (
        isinstance(value, (list, tuple)) and all(isinstance(item, Mapping) or is_expression(item) for item in value)
    ),
)


def check_overrides(overrides: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """
    Refuse overrides that the configuration has no place for, which MONAI would silently add, and values that cannot be
    right there.

    A setting has the values of its kind (:data:`monai_vqprior.values.SETTINGS`). A component is replaced by a
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
    group = _item(parent, config)
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
    present = _item(key, config)
    if isinstance(present, Mapping) and (value is not None or "#" not in key):  # some arguments may be None
        _check_component(key, value, present)
        return
    name = present[1:] if isinstance(present, str) and present.startswith("@") else None
    if name in SETTINGS:
        SETTINGS[name].check(f"--{key}", value)
    elif is_expression(present):
        # What an expression yields is known when it is evaluated; below the top level that is an argument of any kind.
        kind = _ITEM if "#" not in key else None
        _check_kind(kind, key, value)
    elif value is not None or "#" not in key:
        _check_kind(_kind_of(_default(key, config) if present is None else present), key, value)


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
        lack = f" without {', '.join(sorted(missing))}" if missing else ""
        raise InputError(
            f"--{key} is a component of the configuration, got {shown(value)}{lack}: give a dictionary with all of it, "
            f"'$...' or '@...', or one of its arguments, such as {example}."
        )


def _kind_of(present: Any) -> Kind | None:
    """The kind of a value of the configuration; None where that tells nothing."""
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
    component = _item(parent, config)
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
        a sentence; None when the component takes the argument, or when that cannot be told.
    """
    parent, _, name = key.lstrip("+~").rpartition("#")
    component = _item(parent, config)
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
    """What a class or function takes, by its name; None where that cannot be told, or it takes anything."""
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


def _item(key: str, config: Mapping[str, Any]) -> Any:
    """An item below the top level, as the last of the stacked files has set it; None where there is none."""
    if key in config:
        return config[key]
    parent, _, name = key.rpartition("#")
    item = _item(parent, config) if parent else None
    if isinstance(item, dict):
        return item.get(name)
    return item[int(name)] if isinstance(item, list) and name.isdigit() and int(name) < len(item) else None


def explain_failure(error: BaseException, overrides: Mapping[str, Any], config: Mapping[str, Any]) -> InputError | None:
    """
    What an override has to do with a run that failed.

    Args:
        error: what was raised.
        overrides: values of keys of the configuration.
        config: the top level of the configuration.

    Returns:
        one line with the override and the reason, when an expression in it fails, when the component that it is part
        of cannot be made or fails in use, or when the configuration cannot be put together with it; None for all
        else, which is a bug or has been explained.
    """
    if input_error_in(error) or system_error_in(error):
        return None
    links = list(chain_of(error))
    return (
        _of_item(links, overrides, config)
        or _of_syntax(links, overrides)
        or _of_use(links, overrides, config)
        or _of_configuration(links, overrides)
    )


def _frames(links: list[BaseException]) -> Iterator[FrameType]:
    """Where exceptions were raised, from the inside out."""
    for link in reversed(links):
        yield from reversed([frame for frame, _ in traceback.walk_tb(link.__traceback__)])


def _of_item(links: list[BaseException], overrides: Mapping[str, Any], config: Mapping[str, Any]) -> InputError | None:
    """The innermost item of the configuration that could not be evaluated or made."""
    from monai.bundle import ConfigExpression, ConfigItem

    item = next((it for frame in _frames(links) if isinstance(it := frame.f_locals.get("self"), ConfigItem)), None)
    if item is None:
        return None
    place = str(item.get_id()).replace("::", "#")
    if isinstance(item, ConfigExpression):
        keys = [key for key in overrides if f"{place}#".startswith(f"{key}#")]
        return _explained(keys, overrides, "it cannot be evaluated", links[-1]) if keys else None
    target = str(item.get_config().get("_target_"))
    keys = _given_for(overrides, [(place, _item(place, {**config, **overrides}))], by_reference=True)
    return _explained(keys, overrides, f"{target} cannot be made", links[-1]) if keys else None


def _of_syntax(links: list[BaseException], overrides: Mapping[str, Any]) -> InputError | None:
    """An expression that is none."""
    keys = [
        key
        for key, value in overrides.items()
        if any(isinstance(link, SyntaxError) and link.text and link.text.strip() in str(value) for link in links)
    ]
    return _explained(keys, overrides, "it is no expression", links[-1]) if keys else None


def _of_use(links: list[BaseException], overrides: Mapping[str, Any], config: Mapping[str, Any]) -> InputError | None:
    """A component that fails in use: the innermost of the configuration in which the error was raised."""
    components = list(_components({**config, **overrides}))
    for frame in _frames(links):
        for base in type(frame.f_locals.get("self")).__mro__:
            of_class = [(place, part) for place, part in components if _class_name(part) == base.__name__]
            if of_class:
                keys = _given_for(overrides, of_class, by_reference=False)
                return _explained(keys, overrides, f"{base.__name__} fails", links[-1]) if keys else None
    return None


def _of_configuration(links: list[BaseException], overrides: Mapping[str, Any]) -> InputError | None:
    """A configuration that cannot be put together: the one of the package can, without overrides."""
    keys = [key for key in overrides if key not in SETTINGS]
    innermost = next(_frames(links), None)
    module = "" if innermost is None else innermost.f_globals.get("__name__", "")
    if keys and module.startswith(("monai.bundle", "monai.utils.module")):
        return _explained(keys, overrides, "the configuration cannot be put together", links[-1])
    return None


def _given_for(overrides: Mapping[str, Any], components: Iterable[tuple[str, Any]], by_reference: bool) -> list[str]:
    """The overrides of some components: of their arguments, of what holds them, or of what their arguments refer to."""
    keys = []
    for place, component in components:
        texts = [text for text in component.values() if isinstance(text, str)] if isinstance(component, dict) else []
        keys += [
            key
            for key in overrides
            if f"{key}#".startswith(f"{place}#")
            or f"{place}#".startswith(f"{key}#")
            or (by_reference and any(re.search(rf"@{re.escape(key)}(?![\w#])", text) for text in texts))
        ]
    return list(dict.fromkeys(keys))


def _components(config: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every component of a configuration, and where it is."""

    def walk(place: str, item: Any) -> Iterator[tuple[str, dict[str, Any]]]:
        if isinstance(item, dict):
            target = config.get(f"{place}#_target_", item.get("_target_"))
            if isinstance(target, str):
                yield place, {**item, "_target_": target}
        parts = item.items() if isinstance(item, dict) else enumerate(item) if isinstance(item, (list, tuple)) else ()
        for name, part in parts:
            yield from walk(f"{place}#{name}", part)

    for key, item in config.items():
        yield from walk(key, item)


def _class_name(component: Mapping[str, Any]) -> str:
    return str(component["_target_"]).rpartition(".")[2]


def _explained(keys: list[str], overrides: Mapping[str, Any], what: str, reason: BaseException) -> InputError:
    """The line about overrides that a run fails with."""
    given = " ".join(f"--{key} {shown(overrides[key])}" for key in keys)
    told = " ".join(str(reason).split())[:_LONGEST_REASON]
    return InputError(f"{given}: {what} ({type(reason).__name__}: {told}).")
