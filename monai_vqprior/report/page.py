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

import base64
import html
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from monai_vqprior.errors import InputError
from monai_vqprior.files import write_text
from monai_vqprior.report.neighbors import DISTANCES

__all__ = ["write_report"]

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 90rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse } td, th { padding: .25rem 1rem .25rem 0; text-align: left; vertical-align: top }
td.number { text-align: right; font-variant-numeric: tabular-nums } img { max-width: 100% } p.note { color: #666 }
"""

_ROWS = (
    ("ssim", "SSIM, mean over the slices", "{:.4f}"),
    ("ssim_brain", "SSIM over brain windows", "{:.4f}"),
    ("ms_ssim", "multi-scale SSIM", "{:.4f}"),
    ("psnr", "PSNR, dB", "{:.2f}"),
    ("codes_used", "codes used", "{:.0f}"),
    ("num_embeddings", "codes in the codebook", "{:.0f}"),
    ("perplexity", "perplexity of the codes", "{:.1f}"),
    ("bits_per_code", "bits a code under the prior", "{:.3f}"),
    ("bits_per_code_histogram", "bits a code under the histogram of the codes", "{:.3f}"),
    ("bits_per_code_position_histogram", "bits a code under the histogram of each position", "{:.3f}"),
)

# What is shown where a value is missing.
_ABSENT = {"bits_per_code": "no prior yet"}

_PICTURES = (
    (
        "reconstructions.png",
        "Reconstructions",
        "From top to bottom: slices drawn at random, their reconstructions, and four times the absolute difference.",
    ),
    ("samples.png", "Samples", "Drawn from the prior and decoded. They are not patients."),
    (
        "neighbors.png",
        "Samples and training slices",
        "From top to bottom: samples, the nearest training slice of each, and four times the absolute difference.",
    ),
)


def write_report(output_dir: str | os.PathLike[str]) -> Path:
    """
    Gather what a run has left in its folder on one page, ``report.html``, with the pictures inside it.

    Args:
        output_dir: folder with ``metrics.json``, ``reconstructions.png``, ``samples.png``, ``neighbors.png`` and
            ``neighbors.json``, or some of them.

    Returns:
        path of the page.

    Raises:
        InputError: when the folder has none of them, or ``metrics.json`` or ``neighbors.json`` cannot be read.
    """
    folder = Path(output_dir)
    parts = _table(folder / "metrics.json", _metrics_table, "evaluate")
    for name, title, note in _PICTURES:
        if (folder / name).is_file():
            parts.append(_figure(folder / name, title, note))
    parts += _table(folder / "neighbors.json", _neighbors_table, "neighbors")
    if not parts:
        raise InputError(f"{folder} holds no results: run `vqprior evaluate`, `reconstruct` or `sample` first.")
    page = (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>vqprior: {html.escape(folder.name)}</title>\n'
        f"<style>{_STYLE}</style>\n<h1>Report of {html.escape(folder.name)}</h1>\n" + "\n".join(parts) + "\n</html>\n"
    )
    path = write_text(folder / "report.html", page)
    print(f"report written to {path}")
    return path


def _table(path: Path, make: Callable[[Any], str], command: str) -> list[str]:
    """What a table makes of a JSON file, or nothing where there is no such file."""
    if not path.is_file():
        return []
    try:
        return [make(json.loads(path.read_text(encoding="utf-8")))]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} cannot be read ({error!r}): run `vqprior {command}` again.") from error


def _neighbors_table(content: Mapping[str, Any]) -> str:
    """How near samples are to training slices, beside how near slices of unseen subjects are."""
    summary = content["summary"]
    rows = []
    for key, label in DISTANCES:
        told = summary[key]
        figures = ("median", "quantile_5_percent", "minimum")
        cells = "".join(f'<td class="number">{"" if told is None else f"{told[name]:.4f}"}</td>' for name in figures)
        rows.append(f"<tr><td>{label}</td>{cells}</tr>")
    ratio = "no value" if summary["ratio"] is None else f"{summary['ratio']:.3f}"
    return (
        f"<p>{summary['samples']} samples; distance: {html.escape(summary['distance'])}.</p>\n<table><tr><th></th>"
        f"<th>median</th><th>5 % quantile</th><th>minimum</th></tr>\n{''.join(rows)}</table>\n"
        f'<p class="note">Ratio of the medians, samples to validation slices: {ratio}. About 1: samples are as far '
        "from the training slices as slices of unseen subjects are; well below 1: they are nearer, as they are when "
        "the prior has memorized training slices.</p>"
    )


def _metrics_table(metrics: Mapping[str, Any]) -> str:
    """The metrics, beside those of a black and of the mean image."""
    rows = []
    for key, label, form in _ROWS:
        value = metrics[key]
        shown = form.format(value) if value is not None else _ABSENT.get(key, "no value")
        baselines = [
            "<td></td>"
            if metrics["baselines"][name].get(key) is None
            else f'<td class="number">{form.format(metrics["baselines"][name][key])}</td>'
            for name in ("black", "mean")
        ]
        rows.append(f'<tr><td>{label}</td><td class="number">{shown}</td>{"".join(baselines)}</tr>')
    return (
        f"<h2>Metrics</h2>\n<p>Split “{html.escape(metrics['split'])}”: {metrics['slices']} slices of "
        f"{metrics['subjects']} subjects.</p>\n<table><tr><th></th><th>reconstructions</th><th>black image</th>"
        f"<th>mean training image</th></tr>\n{''.join(rows)}</table>\n"
        f'<p class="note">SSIM: {html.escape(metrics["ssim_definition"])}.</p>'
    )


def _figure(path: Path, title: str, note: str) -> str:
    """A picture, inside the page."""
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    return f'<h2>{title}</h2>\n<p class="note">{note}</p>\n<img alt="{title}" src="data:image/png;base64,{data}">'
