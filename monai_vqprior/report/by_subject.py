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
import io
import os
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from monai_vqprior.data import SliceDataset
from monai_vqprior.files import tell, write_text
from monai_vqprior.metrics import bootstrap_interval, count_codes, position_histogram_bits_of, subject_rows

__all__ = ["bits_of_baselines", "statistics_by_subject", "write_slice_table"]


def bits_of_baselines(train: torch.Tensor, test: torch.Tensor, num_embeddings: int) -> dict[str, torch.Tensor]:
    """
    Bits a code of each slice under the histograms of :func:`~monai_vqprior.report.code_baselines`.

    Args:
        train: training grids (N, *grid).
        test: grids of the evaluated split (M, *grid).
        num_embeddings: number of codes.

    Returns:
        ``bits_per_code_histogram`` and ``bits_per_code_position_histogram``, each (M,) float64.
    """
    codes = test.flatten(1).long()
    counts = count_codes(train, num_embeddings).double() + 1
    overall = -torch.log2(counts / counts.sum())[codes].mean(1)
    return {
        "bits_per_code_histogram": overall,
        "bits_per_code_position_histogram": position_histogram_bits_of(train, test, num_embeddings),
    }


def statistics_by_subject(
    details: Mapping[str, torch.Tensor], subjects: Sequence[Hashable]
) -> dict[str, dict[str, float]]:
    """
    What metrics are worth, given that slices of one subject resemble one another.

    Args:
        details: the value of each slice, (N,) or (N, 1), by the name of the metric; NaN where a slice has none.
        subjects: the subject of each slice.

    Returns:
        for each metric that has a value the ``mean`` over the slices, the standard deviation ``std`` of the means of
        the subjects, and the ends ``low`` and ``high`` of the 95 % interval of the mean by a bootstrap over subjects.
    """
    statistics = {}
    for name, tensor in details.items():
        values = _column(tensor)
        known = np.flatnonzero(np.isfinite(values))
        if not len(known):
            continue
        values, names = values[known], [subjects[int(row)] for row in known]
        means = [values[rows].mean() for rows in subject_rows(names)]
        interval = bootstrap_interval(lambda drawn: float(drawn.mean()), (values, names))
        statistics[name] = {
            "mean": interval.value, "std": float(np.std(means)), "low": interval.low, "high": interval.high
        }  # fmt: skip
    return statistics


def write_slice_table(
    path: str | os.PathLike[str],
    dataset: SliceDataset,
    dataset_dir: str | os.PathLike[str],
    details: Mapping[str, torch.Tensor],
) -> Path:
    """
    Write the metrics of each slice as CSV.

    Args:
        path: the file to write.
        dataset: the slices.
        dataset_dir: folder that the names of slices are relative to.
        details: the value of each slice, (N,) or (N, 1), by the name of the metric; an empty cell where it is NaN.
    """
    columns = {name: _column(tensor) for name, tensor in details.items()}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["subject", "index", "image", *columns])
    for row, item in enumerate(dataset.data):
        name = Path(item["image"]).relative_to(dataset_dir).as_posix()
        writer.writerow([item["subject"], item["index"], name, *(_cell(values[row]) for values in columns.values())])
    written = write_text(path, text.getvalue())
    tell(f"  metrics of each slice written to {written}")
    return written


def _column(values: Any) -> np.ndarray:
    """(N,) float64 of (N,) or (N, 1)."""
    return torch.as_tensor(values).double().cpu().numpy().reshape(-1)


def _cell(value: float) -> str:
    return format(value, ".6g") if np.isfinite(value) else ""
