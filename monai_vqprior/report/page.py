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
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from monai_vqprior.errors import InputError, reason_of
from monai_vqprior.files import check_writable, open_picture, read_json, tell, write_text
from monai_vqprior.report.columns import BASELINE_IMAGES, figure, figures_of, text_of
from monai_vqprior.report.neighbors import DISTANCES

__all__ = ["write_report"]

# neighbors.json has an entry for each sample.
_MOST_BYTES = 2**28

_PICTURES = (
    (
        "reconstructions.png",
        "Reconstructions",
        "From top to bottom: slices drawn at random, their reconstructions, and four times the absolute difference.",
    ),
    ("samples.png", "Samples", "Drawn from the prior and decoded. They are not patients."),
    (
        "volumes.png",
        "Heads",
        "Drawn slice by slice; axial, coronal and sagittal cuts through the middle. They are not patients.",
    ),
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
        output_dir: folder with ``metrics.json``, ``reconstructions.png``, ``samples.png``, ``volumes.png``,
            ``neighbors.png`` and ``neighbors.json``, or some of them.

    Returns:
        path of the page.

    Raises:
        InputError: when the folder has none of them, or one of them cannot be read.
    """
    folder = Path(output_dir)
    metrics = _read(folder / "metrics.json", _metrics, "evaluate")
    pictures = [_picture(folder / name, title, note) for name, title, note in _PICTURES if (folder / name).is_file()]
    neighbors = _read(folder / "neighbors.json", _neighbors, "neighbors")
    if not (metrics or pictures or neighbors):
        raise InputError(f"{folder} holds no results: run `vqprior evaluate`, `reconstruct` or `sample` first.")
    check_writable(folder)
    # The name of a folder may be no UTF-8.
    name = os.fsencode(folder.name).decode("utf-8", errors="replace")
    page = _render(name=name, metrics=metrics, pictures=pictures, neighbors=neighbors)
    path = write_text(folder / "report.html", page)
    tell(f"report written to {path}")
    return path


def _render(**values: Any) -> str:
    """The page: ``page.html`` with these values, all of which are escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("page.html").render(values)


def _read(path: Path, make: Callable[[Any], dict[str, Any]], command: str) -> dict[str, Any] | None:
    """What the page shows of a JSON file, or None where there is no such file."""
    if not path.is_file():
        return None
    advice = f"run `vqprior {command}` again"
    content = read_json(path, advice, most_bytes=_MOST_BYTES)
    try:
        return make(content)
    except (KeyError, TypeError, AttributeError, InputError) as error:
        told = f"it has no {error}" if isinstance(error, KeyError) else reason_of(error).rstrip(".")
        raise InputError(f"{path} cannot be read ({told}): {advice}.") from error


def _metrics(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics, beside those of the constant images."""
    return {
        "split": text_of(metrics, "split"),
        "slices": figure(metrics, "slices", ".0f"),
        "subjects": figure(metrics, "subjects", ".0f"),
        "heads": ["", "reconstructions", *BASELINE_IMAGES.values()],
        "rows": list(figures_of(metrics)),
        "definition": text_of(metrics, "ssim_definition"),
    }


def _neighbors(content: Mapping[str, Any]) -> dict[str, Any]:
    """How near samples are to training slices, beside how near slices of unseen subjects are."""
    summary = content["summary"]
    statistics = ("median", "quantile_5_percent", "minimum")
    return {
        "samples": figure(summary, "samples", ".0f"),
        "distance": text_of(summary, "distance"),
        "heads": ["", "median", "5 % quantile", "minimum"],
        "rows": [
            (label, ["" if summary[key] is None else figure(summary[key], name, ".4f") for name in statistics])
            for key, label in DISTANCES
        ],
        "ratio": figure(summary, "ratio", ".3f", "no value"),
    }


def _picture(path: Path, title: str, note: str) -> dict[str, str]:
    """A picture, to be put inside the page."""
    try:
        with open_picture(path, ["PNG"]) as image:
            image.verify()
        data = base64.b64encode(path.read_bytes()).decode("ascii")
    except InputError:
        raise
    except Exception as error:  # Pillow raises nearly anything about a damaged picture
        raise InputError(f"{path} cannot be read as a PNG picture ({type(error).__name__}): remove it.") from error
    return {"title": title, "note": note, "data": data}
