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
import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from monai_vqprior.errors import InputError, reason_of
from monai_vqprior.files import check_writable, open_picture, read_json, tell, write_text
from monai_vqprior.report.curves import TrainingLog, read_log
from monai_vqprior.report.drawings import code_usage, distributions, map_of_bits, training_curves
from monai_vqprior.report.lights import audit_lights, metrics_lights, training_light
from monai_vqprior.report.page_tables import audit_tables, metrics_tables, neighbors_table
from monai_vqprior.report.provenance import licenses, seeds_of, settings_of

__all__ = ["write_report"]

# neighbors.json has an entry for each sample.
_MOST_BYTES = 2**28

#: the stages, and how a reader calls them.
_STAGES = {"vqvae": "Autoencoder", "prior": "Prior"}

# What the pictures of a run show.
_PICTURES = {
    "metrics_slices.png": "The best, median and worst reconstructions by SSIM over brain windows, a row each: twice "
    "the slice, its reconstruction, and four times the absolute difference.",
    "reconstructions.png": "From top to bottom: slices drawn at random, their reconstructions, and four times the "
    "absolute difference.",
    "metrics_codes.png": "What the codes stand for, the most frequent first: the mean of the training slices at the "
    "places of a code, with a margin as wide as the code.",
    "metrics_sketches.png": "Slices above their sketches; each code of a sketch is shown by the mean of what it stands "
    "for in training slices.",
    "samples.png": "Samples, drawn from the prior and decoded. They are not patients.",
    "volumes.png": "Heads, drawn slice by slice; axial, coronal and sagittal cuts through the middle. They are not "
    "patients.",
    "neighbors.png": "From top to bottom: samples, the nearest training slice of each, and four times the absolute "
    "difference.",
    "audit.png": "From top to bottom: the samples that resemble a training slice most, up to a shift, a flip, contrast "
    "and scale; that slice; and four times the absolute difference.",
}


def write_report(output_dir: str | os.PathLike[str]) -> Path:
    """
    Gather what a run has left in its folder on one page, ``report.html``, with the pictures inside it.

    Args:
        output_dir: folder with the files of ``evaluate``, ``reconstruct``, ``sample``, ``neighbors`` and ``audit``, or
            some of them. The page says which command makes what is missing.

    Returns:
        path of the page.

    Raises:
        InputError: when the folder has no result, or one of the files cannot be read.
    """
    folder = Path(output_dir)
    metrics = _read(folder / "metrics.json", metrics_tables, metrics_lights, "evaluate")
    neighbors = _read(folder / "neighbors.json", neighbors_table, lambda content: [], "neighbors")
    audit = _read(folder / "audit.json", audit_tables, audit_lights, "audit")
    pictures = {
        name: {"note": note, "data": _picture(folder / name)}
        for name, note in _PICTURES.items()
        if (folder / name).is_file()
    }
    if not (metrics["tables"] or neighbors["tables"] or audit["tables"] or pictures):
        raise InputError(f"{folder} holds no results: run `vqprior evaluate`, `reconstruct` or `sample` first.")
    check_writable(folder)
    logs: dict[str, TrainingLog | None] = {stage: read_log(folder / "tensorboard" / stage) for stage in _STAGES}
    page = _template().render(
        # The name of a folder may be no UTF-8.
        name=os.fsencode(folder.name).decode("utf-8", errors="replace"),
        lights=[
            *(training_light(stage, log) for stage, log in logs.items()),
            *metrics["lights"],
            *audit["lights"],
        ],
        curves={_STAGES[stage]: training_curves(log) for stage, log in logs.items() if log is not None},
        metrics=metrics["tables"],
        neighbors=neighbors["tables"],
        audit=audit["tables"],
        pictures=pictures,
        subjects=distributions(folder / "metrics.csv", metrics["content"]),
        usage=code_usage(folder / "metrics_codes.csv"),
        bits=map_of_bits(folder / "metrics_bits.csv"),
        settings={_STAGES[stage]: rows for stage, rows in settings_of(folder, logs).items()},
        versions={
            _STAGES[stage]: dict(log.versions) for stage, log in logs.items() if log is not None and log.versions
        },
        seeds=seeds_of(folder, logs),
        licenses=licenses(),
    )
    path = write_text(folder / "report.html", page)
    tell(f"report written to {path}")
    return path


@functools.cache
def _template() -> Template:
    """The template of the page, which escapes every value."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("page.html")


def _read(
    path: Path,
    tables: Callable[[Mapping[str, Any]], dict[str, Any]],
    lights: Callable[[Mapping[str, Any] | None], list[Any]],
    command: str,
) -> dict[str, Any]:
    """What the page shows of a JSON file: nothing but lights where there is no such file."""
    if not path.is_file():
        return {"content": None, "tables": None, "lights": lights(None)}
    advice = f"run `vqprior {command}` again"
    content = read_json(path, advice, most_bytes=_MOST_BYTES)
    try:
        return {"content": content, "tables": tables(content), "lights": lights(content)}
    except (KeyError, TypeError, AttributeError, InputError) as error:
        told = f"it has no {error}" if isinstance(error, KeyError) else reason_of(error).rstrip(".")
        raise InputError(f"{path} cannot be read ({told}): {advice}.") from error


def _picture(path: Path) -> str:
    """The bytes of a picture, in base64, to be put inside the page."""
    try:
        with open_picture(path, ["PNG"]) as image:
            image.verify()
        return base64.b64encode(path.read_bytes()).decode("ascii")
    except InputError:
        raise
    except Exception as error:  # Pillow raises nearly anything about a damaged picture
        raise InputError(f"{path} cannot be read as a PNG picture ({type(error).__name__}): remove it.") from error
