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
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, indent, tostring

from monai_vqprior.errors import InputError, reason_of
from monai_vqprior.files import check_writable, open_picture, read_json, tell, write_text
from monai_vqprior.report.neighbors import DISTANCES
from monai_vqprior.values import Kind, number, optional

__all__ = ["write_report"]

# neighbors.json has an entry for each sample.
_MOST_BYTES = 2**28
_NUMBER = optional(number(-1e12, 1e12))
_LINE = Kind("text in one line", lambda value: isinstance(value, str) and value.isprintable())

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
        InputError: when the folder has none of them, or one of them cannot be read.
    """
    folder = Path(output_dir)
    parts = _tables(folder / "metrics.json", _metrics_table, "evaluate")
    for name, title, note in _PICTURES:
        if (folder / name).is_file():
            parts += _picture(folder / name, title, note)
    parts += _tables(folder / "neighbors.json", _neighbors_table, "neighbors")
    if not parts:
        raise InputError(f"{folder} holds no results: run `vqprior evaluate`, `reconstruct` or `sample` first.")
    check_writable(folder)
    # The name of a folder may be no UTF-8.
    name = os.fsencode(folder.name).decode("utf-8", errors="replace")
    page = _element(
        "html",
        _element("meta", charset="utf-8"),
        _element("title", f"vqprior: {name}"),
        _element("style", _STYLE),
        _element("h1", f"Report of {name}"),
        *parts,
        lang="en",
    )
    indent(page, "")
    path = write_text(folder / "report.html", "<!doctype html>\n" + tostring(page, "unicode", "html"))
    tell(f"report written to {path}")
    return path


def _tables(path: Path, make: Callable[[Any], list[Element]], command: str) -> list[Element]:
    """What a table makes of a JSON file, or nothing where there is no such file."""
    if not path.is_file():
        return []
    advice = f"run `vqprior {command}` again"
    content = read_json(path, advice, most_bytes=_MOST_BYTES)
    try:
        return make(content)
    except (KeyError, TypeError, AttributeError, InputError) as error:
        told = f"it has no {error}" if isinstance(error, KeyError) else reason_of(error).rstrip(".")
        raise InputError(f"{path} cannot be read ({told}): {advice}.") from error


def _element(tag: str, *content: str | Element, **attributes: str) -> Element:
    """
    An element of the page.

    Args:
        tag: its name.
        content: text, which is always escaped when the page is written; and elements.
        attributes: likewise escaped; ``class_`` stands for ``class``.
    """
    element = Element(tag, {name.rstrip("_"): value for name, value in attributes.items()})
    for part in content:
        if isinstance(part, Element):
            element.append(part)
        elif len(element):
            element[-1].tail = (element[-1].tail or "") + part
        else:
            element.text = (element.text or "") + part
    return element


def _row(label: str, *figures: str) -> Element:
    """A row of a table: what it is about, and figures."""
    return _element("tr", _element("td", label), *(_element("td", figure, class_="number") for figure in figures))


def _grid(titles: Sequence[str], rows: Sequence[Element]) -> Element:
    """A table below its titles."""
    return _element("table", _element("tr", *(_element("th", title) for title in titles)), *rows)


def _note(text: str) -> Element:
    return _element("p", text, class_="note")


def _text(content: Mapping[str, Any], key: str) -> str:
    """A text in a file: one line."""
    _LINE.check(key, content[key])
    return str(content[key])


def _figure(content: Mapping[str, Any], key: str, form: str, absent: str = "") -> str:
    """A number in a file as it is shown, or what is shown where it is null."""
    _NUMBER.check(key, content[key])
    return absent if content[key] is None else form.format(content[key])


def _neighbors_table(content: Mapping[str, Any]) -> list[Element]:
    """How near samples are to training slices, beside how near slices of unseen subjects are."""
    summary = content["summary"]
    names = ("median", "quantile_5_percent", "minimum")
    rows = []
    for key, label in DISTANCES:
        told = summary[key]
        rows.append(_row(label, *("" if told is None else _figure(told, name, "{:.4f}") for name in names)))
    ratio = _figure(summary, "ratio", "{:.3f}", "no value")
    return [
        _element("p", f"{_figure(summary, 'samples', '{:.0f}')} samples; distance: {_text(summary, 'distance')}."),
        _grid(["", "median", "5 % quantile", "minimum"], rows),
        _note(
            f"Ratio of the medians, samples to validation slices: {ratio}. About 1: samples are as far from the "
            "training slices as slices of unseen subjects are; well below 1: they are nearer, as they are when the "
            "prior has memorized training slices."
        ),
    ]


def _metrics_table(metrics: Mapping[str, Any]) -> list[Element]:
    """The metrics, beside those of a black and of the mean image."""
    rows = []
    for key, label, form in _ROWS:
        baselines = (metrics["baselines"][name] for name in ("black", "mean"))
        figures = [_figure(baseline, key, form) if key in baseline else "" for baseline in baselines]
        rows.append(_row(label, _figure(metrics, key, form, _ABSENT.get(key, "no value")), *figures))
    slices, subjects = (_figure(metrics, key, "{:.0f}") for key in ("slices", "subjects"))
    return [
        _element("h2", "Metrics"),
        _element("p", f"Split “{_text(metrics, 'split')}”: {slices} slices of {subjects} subjects."),
        _grid(["", "reconstructions", "black image", "mean training image"], rows),
        _note(f"SSIM: {_text(metrics, 'ssim_definition')}."),
    ]


def _picture(path: Path, title: str, note: str) -> list[Element]:
    """A picture, inside the page."""
    try:
        with open_picture(path, ["PNG"]) as image:
            image.verify()
        data = base64.b64encode(path.read_bytes()).decode("ascii")
    except InputError:
        raise
    except Exception as error:  # Pillow raises nearly anything about a damaged picture
        raise InputError(f"{path} cannot be read as a PNG picture ({type(error).__name__}): remove it.") from error
    source = f"data:image/png;base64,{data}"
    return [_element("h2", title), _note(note), _element("img", alt=title, src=source)]
