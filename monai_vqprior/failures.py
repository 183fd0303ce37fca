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

import re
import traceback
from collections.abc import Iterable, Iterator, Mapping
from types import FrameType
from typing import Any

from monai_vqprior.errors import InputError, chain_of, input_error_in, reason_of, system_error_in
from monai_vqprior.overrides import item_at, parts_of, texts_in
from monai_vqprior.values import SETTINGS, is_expression, shown

__all__ = ["explain_failure"]

_LONGEST_REASON = 300  # characters


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
    return _of_component(links, overrides, config) or _of_configuration(links, overrides)


def _frames(links: list[BaseException]) -> Iterator[FrameType]:
    """Where exceptions were raised, from the inside out."""
    for link in reversed(links):
        yield from reversed([frame for frame, _ in traceback.walk_tb(link.__traceback__)])


def _of_component(
    links: list[BaseException], overrides: Mapping[str, Any], config: Mapping[str, Any]
) -> InputError | None:
    """The innermost component that has to do with overrides, or item of the configuration that could not be made."""
    from ignite.engine import Engine
    from monai.bundle import ConfigItem

    components = list(_components({**config, **overrides}))
    passed = False
    for frame in _frames(links):
        found = frame.f_locals.get("self")
        if isinstance(found, ConfigItem):
            return _of_item(found, links, overrides, config)
        classes = {base.__name__ for base in type(found).__mro__}
        ours = [(place, part) for place, part in components if _class_name(part) in classes]
        # An engine runs all the others: what fails in one of them is no matter of the engine's.
        if ours and not (passed and isinstance(found, Engine)):
            # What called the innermost is to blame for its own arguments only, not for what these refer to.
            keys = _given_within(overrides, ours) or ([] if passed else _referred_to(overrides, ours, settings=False))
            if keys:
                return _explained(keys, overrides, f"{type(found).__name__} fails", links[-1])
        passed = passed or bool(ours)
    return None


def _of_item(
    item: Any, links: list[BaseException], overrides: Mapping[str, Any], config: Mapping[str, Any]
) -> InputError | None:
    """An item of the configuration that could not be evaluated or made."""
    from monai.bundle import ConfigExpression

    place = str(item.get_id()).replace("::", "#")
    if isinstance(item, ConfigExpression):
        keys = [key for key in overrides if f"{place}#".startswith(f"{key}#")]
        return _explained(keys, overrides, "it cannot be evaluated", links[-1]) if keys else None
    target = str(item.get_config().get("_target_"))
    # Settings have been checked: what is left is that a constructor does not take them together.
    settings = isinstance(links[-1], (ValueError, RuntimeError))
    component = [(place, item_at(place, {**config, **overrides}))]
    keys = _given_within(overrides, component) or _referred_to(overrides, component, settings)
    return _explained(keys, overrides, f"{target} cannot be made", links[-1]) if keys else None


def _of_configuration(links: list[BaseException], overrides: Mapping[str, Any]) -> InputError | None:
    """A configuration that cannot be put together: the one of the package can, without overrides."""
    keys = [key for key, value in overrides.items() if key not in SETTINGS or is_expression(value)]
    innermost = next(_frames(links), None)
    module = "" if innermost is None else innermost.f_globals.get("__name__", "")
    if keys and module.startswith(("monai.bundle", "monai.utils.module")):
        return _explained(keys, overrides, "the configuration cannot be put together", links[-1])
    return None


def _given_within(overrides: Mapping[str, Any], components: Iterable[tuple[str, Any]]) -> list[str]:
    """The overrides of components: of their arguments, or of what holds them."""
    return [
        key
        for key in overrides
        if any(f"{key}#".startswith(f"{place}#") or f"{place}#".startswith(f"{key}#") for place, _ in components)
    ]


def _referred_to(overrides: Mapping[str, Any], components: Iterable[tuple[str, Any]], settings: bool) -> list[str]:
    """The overrides, with settings or without, of what the arguments of components refer to."""
    texts = [text for _, component in components for _, text in texts_in("", component)]
    keys = []
    for key in overrides:
        changed = "|".join(map(re.escape, _ancestors(key)))
        if (settings or key not in SETTINGS) and any(re.search(rf"@({changed})(?![\w#])", text) for text in texts):
            keys.append(key)
    return keys


def _ancestors(key: str) -> list[str]:
    """An item and all that holds it: a#b#c, a#b, a."""
    parts = key.split("#")
    return ["#".join(parts[:count]) for count in range(len(parts), 0, -1)]


def _components(config: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every component of a configuration, and where it is."""

    def walk(place: str, item: Any) -> Iterator[tuple[str, dict[str, Any]]]:
        if isinstance(item, dict):
            target = config.get(f"{place}#_target_", item.get("_target_"))
            if isinstance(target, str):
                yield place, {**item, "_target_": target}
        for name, part in parts_of(item):
            yield from walk(f"{place}#{name}", part)

    for key, item in config.items():
        yield from walk(key, item)


def _class_name(component: Mapping[str, Any]) -> str:
    return str(component["_target_"]).rpartition(".")[2]


def _explained(keys: list[str], overrides: Mapping[str, Any], what: str, reason: BaseException) -> InputError:
    """The line about overrides that a run fails with."""
    given = " ".join(f"--{key} {shown(overrides[key])}" for key in keys)
    told = reason_of(reason)[:_LONGEST_REASON]
    return InputError(f"{given}: {what} ({type(reason).__name__}: {told}).")
