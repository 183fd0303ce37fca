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
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai_vqprior.values import PLAIN_TEXT, SETTINGS, is_expression

__all__ = ["as_config"]

# Relative paths that fire, which reads MONAI's command line, takes as they are.
_PLAIN_PATH = re.compile(r"(?!(None|True|False)$)[A-Za-z_][A-Za-z0-9_./ +=~-]*")
# What is written as an escape in a literal: what MONAI or a shell reads, and the literal's own signs.
_ESCAPED = frozenset("#@$%\\'\"`!")


def as_config(key: str, value: Any) -> Any:
    """
    The value of an override as a configuration must hold it, so that MONAI makes the same value of it.

    MONAI evaluates text that begins with ``$``, looks up what begins with ``@`` or ``%``, and writes ``::`` for ``#``
    in any text; and its command line reads some names as Python. Text that it would not take as it stands becomes an
    expression with a literal: ``run#2`` becomes ``$"run\\x232"``.

    Args:
        key: key of the configuration.
        value: its value. Text that begins with ``$``, ``@`` or ``%`` is an expression already.

    Returns:
        the value, or one that yields it.
    """
    if isinstance(value, Mapping):
        return {name: as_config(f"{key}#{name}", part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_config(f"{key}#{number}", part) for number, part in enumerate(value)]
    kind = SETTINGS.get(key)
    if isinstance(value, Path):
        value = str(value)
    if not isinstance(value, str) or is_expression(value):
        return value
    if kind is None or not kind.accepts(Path()):
        changed = "#" in value or re.search("[@%]::", value) or not value.isprintable()
        return f"${_literal(value)}" if changed else value
    if "::" in value:  # as an object, for check_settings takes text with these signs for one that MONAI has rewritten
        return f'$__import__("pathlib").Path({_literal(value)})'
    plain = PLAIN_TEXT.accepts(value) and (value.startswith(("/", "./", "../")) or _PLAIN_PATH.fullmatch(value))
    return value if plain else f"${_literal(value)}"


def _literal(text: str) -> str:
    """A Python literal of a text, in signs that neither MONAI nor a shell changes."""
    signs = (_escape(sign) if sign in _ESCAPED or not sign.isprintable() else sign for sign in text)
    return f'"{"".join(signs)}"'


def _escape(sign: str) -> str:
    code = ord(sign)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
