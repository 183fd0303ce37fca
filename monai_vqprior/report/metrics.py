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

import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from monai_vqprior.data import SliceDataset
from monai_vqprior.errors import counted
from monai_vqprior.files import tell, write_text
from monai_vqprior.metrics import BRAIN_THRESHOLD, histogram_bits, ms_ssim_weights, position_histogram_bits
from monai_vqprior.report.by_subject import statistics_by_subject
from monai_vqprior.report.columns import BASELINE_IMAGES, COLUMNS, columns_of, figure, figures_of, worse_than

__all__ = ["code_baselines", "slice_bits", "summarize", "write_metrics"]


def code_baselines(train: torch.Tensor, test: torch.Tensor, num_embeddings: int) -> dict[str, float]:
    """
    Baselines of the prior, in bits a code.

    Args:
        train: training grids (N, *grid).
        test: grids of the evaluated split (M, *grid).
        num_embeddings: number of codes.

    Returns:
        ``bits_per_code_histogram`` and ``bits_per_code_position_histogram``.
    """
    return {
        "bits_per_code_histogram": histogram_bits(train, test, num_embeddings),
        "bits_per_code_position_histogram": position_histogram_bits(train, test, num_embeddings),
    }


def slice_bits(
    measured: Mapping[str, float], code_bits: Mapping[str, float], grids: torch.Tensor, spatial_size: Sequence[int]
) -> dict[str, float]:
    """
    How much a slice takes as codes.

    Args:
        measured: metrics of the evaluating engine; without ``bits_per_code`` there was no prior, and the histogram of
            each position codes the slices.
        code_bits: what :func:`code_baselines` returns.
        grids: code grids (N, *grid).
        spatial_size: size of a slice in pixels.

    Returns:
        ``bits_per_slice`` and ``bits_per_pixel``.
    """
    bits = measured.get("bits_per_code", code_bits["bits_per_code_position_histogram"]) * grids[0].numel()
    return {"bits_per_slice": bits, "bits_per_pixel": bits / math.prod(spatial_size)}


def summarize(
    split: str,
    dataset: SliceDataset,
    measured: Mapping[str, float],
    num_embeddings: int,
    code_bits: Mapping[str, float],
    baselines: Mapping[str, Mapping[str, float]],
    details: Mapping[str, torch.Tensor] | None = None,
    codecs: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """
    The content of ``metrics.json``.

    Args:
        split: the evaluated split.
        dataset: its slices.
        measured: metrics of the evaluating engine; without ``bits_per_code`` there was no prior. Numbers that the
            table of columns does not have, of handlers that a configuration has added, are kept under their names.
        num_embeddings: number of codes.
        code_bits: what :func:`code_baselines` returns.
        baselines: metrics of a ``black`` image and of the ``mean`` training image, as
            :class:`~monai_vqprior.handlers.ConstantBaselines` has measured them.
        details: the value of each slice, (N,) or (N, 1), by the name of the metric.
        codecs: what :func:`~monai_vqprior.report.codec_baselines` returns.

    Returns:
        a dictionary that JSON can hold.

    Raises:
        KeyError: when a metric was not measured.
    """
    values = {**measured, "num_embeddings": num_embeddings, **code_bits}
    scales = len(ms_ssim_weights(min(dataset.spatial_size)))
    by_subject = statistics_by_subject(details or {}, [item["subject"] for item in dataset.data])
    return {
        "split": split,
        "slices": len(dataset),
        "subjects": dataset.num_subjects,
        "skipped": dataset.num_skipped,
        "spatial_size": list(dataset.spatial_size),
        **{
            column.key: _number(values[column.key] if column.required else values.get(column.key))
            for column in columns_of(values)
        },
        "ssim_definition": (
            "Wang et al. 2004: Gaussian window of 11 x 11 pixels, sigma 1.5, K1 0.01, K2 0.03, population covariance, "
            "data range 1, windows inside the image only, mean over the windows of a slice, then over slices; "
            f"ssim_brain: windows whose center pixel is above {BRAIN_THRESHOLD}; ms_ssim: Wang et al. 2003 with "
            f"{scales} scales"
        ),
        "baselines": {
            name: {column.key: _number(baselines[name][column.key]) for column in COLUMNS if column.images}
            for name in BASELINE_IMAGES
        },
        "by_subject": {**by_subject, **_multiples(by_subject, measured)},
        "codecs": dict(codecs or {}),
    }


def _multiples(
    by_subject: Mapping[str, Mapping[str, float]], measured: Mapping[str, float]
) -> dict[str, dict[str, float]]:
    """The statistics of bits a slice and a pixel, which are multiples of those of bits a code."""
    bits = by_subject.get("bits_per_code", by_subject.get("bits_per_code_position_histogram"))
    if bits is None:
        return {}
    return {
        key: {name: value * measured[key] / bits["mean"] for name, value in bits.items()}
        for key in ("bits_per_slice", "bits_per_pixel")
        if key in measured
    }


def write_metrics(path: str | os.PathLike[str], summary: Mapping[str, Any]) -> None:
    """
    Write ``metrics.json`` and print what it says.

    Args:
        path: the file to write.
        summary: what :func:`summarize` returns.
    """
    write_text(path, json.dumps(summary, indent=2, allow_nan=False) + "\n")
    rows = list(figures_of(summary))
    width = max(len(label) for label, _ in rows)
    heads = ["reconstructions", *BASELINE_IMAGES.values()]
    lines = [
        f"{summary['split']}: {counted(summary['slices'], 'slice')} of {counted(summary['subjects'], 'subject')}",
        _line("", heads, width),
        *(_line(label, figures, width) for label, figures in rows),
        *_of_subjects(summary["by_subject"]),
        *_of_codecs(summary["codecs"]),
        *(f"  {column.label}: no better than {other}. Train longer." for column, other in worse_than(summary)),
        f"  written to {path}",
    ]
    tell("\n".join(lines))


def _of_subjects(statistics: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Lines of the terminal about the intervals by subject."""
    labels = {column.key: column.label for column in COLUMNS}
    rows = [
        f"    {labels.get(name, name)}: {told['mean']:.4g} ({told['low']:.4g} to {told['high']:.4g}), standard "
        f"deviation of the subjects {told['std']:.2g}"
        for name, told in statistics.items()
    ]
    return ["  mean and 95 % interval by subject:", *rows] if rows else []


def _of_codecs(codecs: Mapping[str, Mapping[str, float | None] | None]) -> list[str]:
    """Lines of the terminal about codecs of pictures."""
    rows = [
        f"    {name}: this Pillow lacks it"
        if told is None
        else f"    {name}: SSIM {told['ssim']:.4f}, over brain windows "
        f"{figure(told, 'ssim_brain', '.4f', 'no value')}, {told['bits_per_pixel']:.4f} bits a pixel"
        for name, told in codecs.items()
    ]
    return ["  codecs of pictures at as many bits, or at their smallest files:", *rows] if rows else []


def _line(label: str, figures: Sequence[str], width: int) -> str:
    """A line of the table on the terminal."""
    return f"  {label:<{width}}{''.join(f'{figure:>22}' for figure in figures)}".rstrip()


def _number(value: float | None) -> float | None:
    """None for NaN and infinity, which JSON does not have: the brain SSIM of slices without a brain, say."""
    return None if value is None or not math.isfinite(value) else value
