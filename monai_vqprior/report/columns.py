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

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import NoneType
from typing import Any, Literal

from monai_vqprior.values import Kind, number, optional

__all__ = ["BASELINE_IMAGES", "COLUMNS", "Column", "columns_of", "figure", "figures_of", "text_of", "worse_than"]

#: The constant images that reconstructions are compared with, by their names in ``metrics.json``.
BASELINE_IMAGES = {"black": "black image", "mean": "mean training image"}

# Keys of metrics.json that are no metrics.
_OTHERS = {
    "split",
    "slices",
    "subjects",
    "skipped",
    "spatial_size",
    "ssim_definition",
    "baselines",
    "by_subject",
    "codecs",
}
_NUMBER = optional(number(-1e12, 1e12))
_LINE = Kind("text in one line", lambda value: isinstance(value, str) and value.isprintable())


@dataclass(frozen=True)
class Column:
    """
    A metric as ``metrics.json``, the terminal and the report page have it.

    Args:
        key: of the metric in ``metrics.json``, and among the metrics of the evaluating engine.
        label: what a reader sees.
        form: how its value is shown, a format specification.
        better: which values are better; None for a column that is no metric of quality.
        images: whether constant images are measured, too.
        beats: key of the column that a better value is expected than, or None.
        required: whether it must have been measured.
        absent: what is shown where there is no value.
    """

    key: str
    label: str
    form: str = ".4g"
    better: Literal["higher", "lower"] | None = None
    images: bool = False
    beats: str | None = None
    required: bool = True
    absent: str = "no value"


#: The metrics of ``vqprior evaluate``, in the order in which they are shown.
COLUMNS = (
    Column("ssim", "SSIM, mean over the slices", ".4f", "higher", images=True),
    Column("ssim_brain", "SSIM over brain windows", ".4f", "higher", images=True),
    Column("ms_ssim", "multi-scale SSIM", ".4f", "higher"),
    Column("psnr", "PSNR, dB", ".2f", "higher"),
    Column("mae", "mean absolute error", ".4f", "lower", required=False),
    Column("codes_used", "codes used", ".0f"),
    Column("num_embeddings", "codes in the codebook", ".0f"),
    Column("perplexity", "perplexity of the codes", ".1f"),
    Column(
        "bits_per_code",
        "bits a code under the prior",
        ".3f",
        "lower",
        beats="bits_per_code_position_histogram",
        required=False,
        absent="no prior yet",
    ),
    Column("bits_per_slice", "bits a slice", ".0f", "lower", required=False),
    Column("bits_per_pixel", "bits a pixel", ".4f", "lower", required=False),
    Column("bits_per_code_histogram", "bits a code under the histogram of the codes", ".3f"),
    Column("bits_per_code_position_histogram", "bits a code under the histogram of each position", ".3f"),
)


def columns_of(metrics: Mapping[str, Any]) -> tuple[Column, ...]:
    """
    The columns of a ``metrics.json``: those of the table, and one for each metric that a configuration has added.

    Args:
        metrics: the content of the file, or metrics by name. Numbers under other names are metrics that were added.

    Raises:
        InputError: when a name is not one line of text.
    """
    known = {column.key for column in COLUMNS} | _OTHERS
    added = [key for key, value in metrics.items() if key not in known and isinstance(value, (int, float, NoneType))]
    for key in added:
        _LINE.check("the name of a metric", key)
    return (*COLUMNS, *(Column(key, key) for key in added))


def figure(content: Mapping[str, Any], key: str, form: str, absent: str = "") -> str:
    """
    A number of a file as it is shown.

    Args:
        content: the file, or a part of it.
        key: of the number.
        form: a format specification.
        absent: what is shown where it is null.

    Raises:
        KeyError: when there is no such key.
        InputError: when the value is no number.
    """
    _NUMBER.check(key, content[key])
    return absent if content[key] is None else format(content[key], form)


def text_of(content: Mapping[str, Any], key: str) -> str:
    """
    A text of a file.

    Args:
        content: the file, or a part of it.
        key: of the text.

    Raises:
        KeyError: when there is no such key.
        InputError: when the value is not one line of text.
    """
    _LINE.check(key, content[key])
    return str(content[key])


def figures_of(metrics: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """
    What is shown of a ``metrics.json``.

    Args:
        metrics: its content.

    Yields:
        the label of a column, and its values for the reconstructions and for each of ``BASELINE_IMAGES``.

    Raises:
        KeyError: when a key is missing.
        InputError: when a value is no number.
    """
    for column in columns_of(metrics):
        baselines = [
            figure(metrics["baselines"][name], column.key, column.form) if column.images else ""
            for name in BASELINE_IMAGES
        ]
        yield column.label, [figure(metrics, column.key, column.form, column.absent), *baselines]


def worse_than(metrics: Mapping[str, Any]) -> Iterator[tuple[Column, str]]:
    """
    The metrics that are no better than what they are compared with.

    Args:
        metrics: the content of ``metrics.json``.

    Yields:
        the column, and what it should be better than.
    """
    for column in columns_of(metrics):
        others = {}
        if column.images:
            others = {label: metrics["baselines"][name][column.key] for name, label in BASELINE_IMAGES.items()}
        if column.beats is not None:
            others[_label(column.beats)] = metrics[column.beats]
        for label, other in others.items():
            value = metrics[column.key]
            if value is not None and other is not None and not _is_better(column, value, other):
                yield column, label


def _label(key: str) -> str:
    """The label of a column of the table."""
    return next(column.label for column in COLUMNS if column.key == key)


def _is_better(column: Column, value: float, other: float) -> bool:
    return value < other if column.better == "lower" else value > other
