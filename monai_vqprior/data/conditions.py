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

import csv
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from monai_vqprior.data.condition_draws import DISTRIBUTION_KEYS, condition_uniforms, cramers_v, fit_distribution
from monai_vqprior.data.condition_entries import Label, Value, fit_condition, read_entry
from monai_vqprior.errors import InputError

__all__ = ["Conditions", "fit_condition", "without_distributions"]

# Cramér's V from which on two conditions go together. Of 100 subjects two that have nothing to do with one another come
# to 0.1 to 0.2.
_TOGETHER = 0.3


class Conditions:
    """
    The conditions of a prior, and their encoding as numbers.

    A class becomes its number, -1 where it is missing; a value becomes its distance from the mean of the training in
    standard deviations, NaN where it is missing. :class:`~monai_vqprior.data.ConditionTable` fits them to a training
    split.

    Args:
        conditions: for each condition its ``name``, and either its ``classes`` in order or the ``mean`` and ``std`` of
            its values. Empty for a prior without conditions. An entry may also say how the condition is distributed in
            the training: ``shares`` of the classes; of values ``numbers`` and their ``shares``, or ``quantiles`` at
            equal steps from 0 to 1; and ``related``, the names of conditions before it that it has to do with.

    Raises:
        InputError: when an entry has another form, or two have one name.

    Example:
        >>> age_and_sex = Conditions([{"name": "age", "mean": 50, "std": 20}, {"name": "sex", "classes": ["F", "M"]}])
        >>> age_and_sex.encode({"age": "72", "sex": ""})
        {'age': 1.1, 'sex': -1}
        >>> age_and_sex.parse("sex=M")
        {'labels': [1], 'values': [nan]}
    """

    def __init__(self, conditions: Sequence[Mapping[str, Any]] = ()) -> None:
        if isinstance(conditions, str):
            raise InputError(
                f"conditions must be those of a trained prior, got {conditions!r}; --condition asks for one."
            )
        entries = [read_entry(condition) for condition in conditions]
        names = [entry.name for entry in entries]
        if len(set(names)) < len(names):
            raise InputError(f"conditions must be named once each, got {', '.join(names)}.")
        self._labels = [entry for entry in entries if isinstance(entry, Label)]
        self._values = [entry for entry in entries if isinstance(entry, Value)]
        self._entries = {entry.name: entry for entry in entries}
        for number, entry in enumerate(entries):
            unknown = [name for name in entry.related if name not in names[:number]]
            if unknown:
                raise InputError(f"{entry.name} is related to {unknown[0]!r}, which is no condition before it.")

    @property
    def names(self) -> list[str]:
        """All conditions, in the order in which they were named."""
        return list(self._entries)

    @property
    def label_names(self) -> list[str]:
        """The conditions with classes, in the order of the network's ``labels``."""
        return [label.name for label in self._labels]

    @property
    def value_names(self) -> list[str]:
        """The conditions with values, in the order of the network's ``values``."""
        return [value.name for value in self._values]

    @property
    def num_classes(self) -> list[int]:
        """Number of classes of each label, as :class:`~monai_vqprior.networks.GatedPixelCNN` wants it."""
        return [len(label.classes) for label in self._labels]

    @property
    def num_values(self) -> int:
        """Number of values."""
        return len(self._values)

    @property
    def settings(self) -> list[dict[str, Any]]:
        """The arguments of the same conditions, as JSON can hold them."""
        return [entry.settings for entry in self._entries.values()]

    def encode(self, cells: Mapping[str, str]) -> dict[str, int | float]:
        """
        Encode a row of a table for the network.

        Args:
            cells: text by the name of the condition; what is not there is missing.

        Returns:
            a class number or a standardized value by the name of the condition.
        """
        return {name: entry.encode(cells.get(name, "")) for name, entry in self._entries.items()}

    def parse(self, condition: str | None) -> dict[str, list[int | float]]:
        """
        Encode a requested condition for the network.

        Args:
            condition: such as ``dementia=Mild_Demented,slice=0.5``, values in the units of the table; conditions that
                are not named are missing. A class with a comma in it is put in double quotes with its name. None for
                nothing asked.

        Returns:
            ``labels`` and ``values``, those of them that there are, for
            :meth:`monai_vqprior.inferers.VQPriorInferer.sample`; nothing where nothing was asked.

        Raises:
            InputError: when the text has another form, or a name, class or number is unknown.
        """
        if condition is None:
            return {}
        told: dict[str, int | float] = {}
        for pair in next(csv.reader([str(condition)], skipinitialspace=True), []):
            name, equals, text = (part.strip() for part in pair.partition("="))
            if not equals:
                raise InputError(f"condition must look like name=value,name=value, got {condition!r}.")
            if name not in self._entries:
                known = f"knows {', '.join(self._entries)}" if self._entries else "was trained without --conditions"
                raise InputError(f"there is no condition {name!r}: the prior {known}.")
            if name in told:
                raise InputError(f"condition must name {name} once, got {condition!r}.")
            told[name] = self._entries[name].parse(text)
        if not told:
            raise InputError("condition must look like name=value,name=value, got ''.")
        encoded = {**self.encode({}), **told}
        return {kind: [encoded[name] for name in names] for kind, names in self._kinds.items()}

    def with_distributions(self, rows: Sequence[Mapping[str, float]]) -> Conditions:
        """
        The same conditions, with their distributions in a training split in the place of those that they have.

        Args:
            rows: the slices of the split, encoded.

        Returns:
            the conditions; one that is known of no slice has no distribution.
        """
        columns: dict[str, np.ndarray] = {}
        fitted: list[dict[str, Any]] = []
        for name, entry in self._entries.items():
            columns[name] = entry.known([row[name] for row in rows])
            known = columns[name][~np.isnan(columns[name])]
            plain = replace(entry, distribution=None, related=()).settings
            if len(known):
                plain |= fit_distribution(known, len(entry.classes) if isinstance(entry, Label) else None).settings
                kinds = [(other["name"], (isinstance(entry, Label), "classes" in other)) for other in fitted]
                related = [o for o, kind in kinds if cramers_v(columns[name], columns[o], kind) >= _TOGETHER]
                plain |= {"related": related} if related else {}
            fitted.append(plain)
        return Conditions(fitted)

    def drawn_names(self, asked: Mapping[str, Sequence[float]], leave: Collection[str] = ()) -> list[str]:
        """
        The conditions that :meth:`draw` draws, see there.

        Args:
            asked: what was asked for, as :meth:`parse` returns it.
            leave: conditions that something else tells.
        """
        told = {*leave, *(name for name, cell in self.decode(asked).items() if cell)}
        drawn = []
        for name, entry in self._entries.items():
            related = {other for other in told if other in entry.related or name in self._related(other)}
            if name not in told and entry.distribution is not None and not related:
                drawn.append(name)
                told.add(name)
        return drawn

    def draw(
        self,
        asked: Mapping[str, Sequence[float]],
        indices: Iterable[int],
        seed: int = 0,
        leave: Collection[str] = (),
    ) -> dict[str, Any]:
        """
        Draw the conditions that nobody asked for from the distribution of the training: p(c) p(x | c).

        Each is drawn on its own, in the order of their names. One that is related to a condition that is known by then
        is left missing: dementia drawn beside another age than its own would be what no training has seen, and the
        network itself knows how likely it is at this age. So is a condition without a distribution, of a prior that
        was trained before there were any.

        Args:
            asked: what was asked for, as :meth:`parse` returns it.
            indices: numbers of the samples; what is drawn for sample i depends on (seed, i) alone.
            seed: seed of the run.
            leave: conditions that something else tells, such as ``slice`` of a whole head; they stay as asked.

        Returns:
            ``labels`` (n, labels) int64 and ``values`` (n, values) float64, those of them that there are, for
            :meth:`monai_vqprior.inferers.VQPriorInferer.sample`; what was asked as it is where nothing is drawn.

        Example:
            >>> sex = Conditions([{"name": "sex", "classes": ["F", "M"], "shares": [0.6, 0.4]}])
            >>> sex.draw(sex.parse(None), range(6), seed=0)["labels"].ravel().tolist()
            [1, 0, 1, 0, 1, 0]
        """
        drawn, wanted = self.drawn_names(asked, leave), list(indices)
        if not drawn:
            return dict(asked)
        # One for each condition, drawn or not: asking for one changes no other.
        uniforms = np.array([condition_uniforms(seed, index, len(self._entries)) for index in wanted])
        uniforms = uniforms.reshape(len(wanted), len(self._entries))
        columns = {name: np.full(len(wanted), number) for name, number in self._told(asked).items()}
        for uniform, (name, entry) in zip(uniforms.T, self._entries.items(), strict=True):
            if name in drawn and entry.distribution is not None:
                columns[name] = entry.standardize(entry.distribution.at(uniform))
        return {kind: np.stack([columns[name] for name in names], axis=1) for kind, names in self._kinds.items()}

    def decode(self, rows: Mapping[str, Sequence[float]]) -> dict[str, str]:
        """
        What a row for the network says, as the cells of a table.

        Args:
            rows: a row of ``labels`` and one of ``values``; what is not there is missing.

        Returns:
            text by the name of the condition, empty where it is missing.
        """
        return {name: self._entries[name].decode(number) for name, number in self._told(rows).items()}

    @property
    def _kinds(self) -> dict[str, list[str]]:
        """Names by the argument of the network, those of them that there are."""
        return {kind: names for kind, names in (("labels", self.label_names), ("values", self.value_names)) if names}

    def _told(self, rows: Mapping[str, Sequence[float]]) -> dict[str, float]:
        """The numbers of a row by the names of the conditions."""
        told: dict[str, float] = self.encode({})
        for kind, names in self._kinds.items():
            told |= dict(zip(names, rows.get(kind, ()), strict=kind in rows))
        return told

    def _related(self, name: str) -> tuple[str, ...]:
        return self._entries[name].related if name in self._entries else ()


def without_distributions(conditions: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """
    What conditions mean to a network, whatever their distributions: names, classes, means and standard deviations.

    Args:
        conditions: entries of :class:`Conditions`.
    """
    return [{key: value for key, value in entry.items() if key not in DISTRIBUTION_KEYS} for entry in conditions]
