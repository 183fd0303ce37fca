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
from collections.abc import Mapping
from typing import Any

import torch

from monai_vqprior.data import SliceDataset
from monai_vqprior.files import tell, write_text
from monai_vqprior.metrics import BRAIN_THRESHOLD, histogram_bits, ms_ssim_weights, position_histogram_bits

__all__ = ["code_baselines", "summarize", "write_metrics"]


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


def summarize(
    split: str,
    dataset: SliceDataset,
    measured: Mapping[str, float],
    num_embeddings: int,
    code_bits: Mapping[str, float],
    black: Mapping[str, float],
    mean: Mapping[str, float],
) -> dict[str, Any]:
    """
    The content of ``metrics.json``.

    Args:
        split: the evaluated split.
        dataset: its slices.
        measured: metrics of the evaluating engine; without ``bits_per_code`` there was no prior.
        num_embeddings: number of codes.
        code_bits: what :func:`code_baselines` returns.
        black: ``ssim`` and ``ssim_brain`` of a black image.
        mean: the same of the mean training image.

    Returns:
        a dictionary that JSON can hold.
    """
    scales = len(ms_ssim_weights(min(dataset.spatial_size)))
    return {
        "split": split,
        "slices": len(dataset),
        "subjects": dataset.num_subjects,
        "skipped": dataset.num_skipped,
        "spatial_size": list(dataset.spatial_size),
        **{key: _number(measured[key]) for key in ("ssim", "ssim_brain", "ms_ssim", "psnr", "codes_used")},
        "num_embeddings": num_embeddings,
        "perplexity": _number(measured["perplexity"]),
        "bits_per_code": _number(measured.get("bits_per_code")),
        **{key: _number(value) for key, value in code_bits.items()},
        "ssim_definition": (
            "Wang et al. 2004: Gaussian window of 11 x 11 pixels, sigma 1.5, K1 0.01, K2 0.03, population covariance, "
            "data range 1, windows inside the image only, mean over the windows of a slice, then over slices; "
            f"ssim_brain: windows whose center pixel is above {BRAIN_THRESHOLD}; ms_ssim: Wang et al. 2003 with "
            f"{scales} scales"
        ),
        "baselines": {
            name: {key: _number(values[key]) for key in ("ssim", "ssim_brain")}
            for name, values in (("black", black), ("mean", mean))
        },
    }


def write_metrics(path: str | os.PathLike[str], summary: Mapping[str, Any]) -> None:
    """
    Write ``metrics.json`` and print what it says.

    Args:
        path: the file to write.
        summary: what :func:`summarize` returns.
    """
    write_text(path, json.dumps(summary, indent=2, allow_nan=False) + "\n")
    black, mean = summary["baselines"]["black"], summary["baselines"]["mean"]

    def show(value: float | None, form: str = ".4f", missing: str = "no value") -> str:
        return missing if value is None else format(value, form)

    tell(
        f"{summary['split']}: {summary['slices']} slices of {summary['subjects']} subjects\n"
        f"  mean SSIM      {show(summary['ssim'])}   (black image {show(black['ssim'])}, mean image "
        f"{show(mean['ssim'])})\n"
        f"  brain SSIM     {show(summary['ssim_brain'])}   (black image {show(black['ssim_brain'])}, mean image "
        f"{show(mean['ssim_brain'])})\n"
        f"  MS-SSIM        {show(summary['ms_ssim'])}\n"
        f"  PSNR           {show(summary['psnr'], '.2f')} dB\n"
        f"  codes used     {summary['codes_used']} of {summary['num_embeddings']}, perplexity "
        f"{show(summary['perplexity'], '.0f')}\n"
        f"  bits per code  {show(summary['bits_per_code'], '.3f', 'no prior yet')}   (histogram "
        f"{show(summary['bits_per_code_histogram'], '.3f')}, histogram of each position "
        f"{show(summary['bits_per_code_position_histogram'], '.3f')})\n"
        f"{_verdict(summary)}"
        f"  written to {path}"
    )


def _verdict(summary: Mapping[str, Any]) -> str:
    """A line about a prior that has learned less than where codes are, or none."""
    bits, to_beat = summary["bits_per_code"], summary["bits_per_code_position_histogram"]
    if bits is None or to_beat is None or bits < to_beat:
        return ""
    return "  the prior is worse than the histogram of each position, its samples will be noise: train it longer\n"


def _number(value: float | None) -> float | None:
    """None for NaN and infinity, which JSON does not have: the brain SSIM of slices without a brain, say."""
    return None if value is None or not math.isfinite(value) else value
