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

import argparse
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.record import Row, add_json_option, finish
from monai_vqprior.cli import main as vqprior
from monai_vqprior.data import SliceDataset, SliceFolder
from monai_vqprior.errors import InputError
from monai_vqprior.files import read_json, write_png
from monai_vqprior.report.samples import load_sample
from monai_vqprior.transforms import LoadSliced

__all__ = ["changed", "measure"]

#: Pixels that planted slices are moved by, down and to the right; `vqprior audit` looks as far as 4.
SHIFTS = ((0, 3), (-2, 0), (4, -4), (1, 2), (-3, -1), (2, 4), (-4, 0), (3, -3))
_AUDITED = (0, 3)  # exit statuses of an audit that was made


def changed(image: torch.Tensor, number: int) -> torch.Tensor:
    """A slice (1, H, W) uint8 moved and brightened, every second one flipped too: a copy that has other pixels."""
    moved = torch.roll(image, SHIFTS[number % len(SHIFTS)], (-2, -1))
    brighter = (1.15 * moved.float() + 6).clamp(0, 255).round().to(torch.uint8)
    return brighter.flip(-1) if number % 2 else brighter


def spread(items: Sequence[Any], number: int) -> list[Any]:
    """A number of items, as far apart as can be: slices of different subjects, where there are as many."""
    return [items[i * len(items) // number] for i in range(number)]


def audited(run: Path, dataset_dir: str, more: Sequence[str]) -> dict[str, Any]:
    """What ``vqprior audit`` says of the samples of a run."""
    words = ["audit", "--dataset_dir", dataset_dir, "--output_dir", str(run), "--overwrite", *more]
    if vqprior(words) not in _AUDITED:
        raise SystemExit(f"vqprior {' '.join(words)} has failed")
    return read_json(run / "audit.json", most_bytes=2**28)


def measure(dataset_dir: str, output_dir: str, run: Path, planted: int, more: Sequence[str] = ()) -> dict[str, Any]:
    """
    Audit samples with copies of training slices among them, and slices of test subjects in their place.

    Args:
        dataset_dir: the slices.
        output_dir: output folder of a training, with samples.
        run: a folder that does not exist, for the sets that are audited.
        planted: how many copies.
        more: further options of ``vqprior audit``.

    Returns:
        ``planted`` and ``found`` copies, ``named`` with their source, ``samples`` that were drawn and ``flagged`` of
        them; ``unseen`` slices and ``false_alarms`` of them; ``validation`` slices, which set the threshold, and
        ``validation_alarms``; the ``verdict`` and the ``verdict_unseen``.

    Raises:
        InputError: when there are fewer samples, or training slices, than copies.
    """
    hidden = shutil.ignore_patterns("codes", "tensorboard", "*_last*.pt", "metrics*", "audit*")
    shutil.copytree(output_dir, run, ignore=hidden)
    files = sorted((run / "samples").glob("sample_*.png"))
    slices = SliceFolder(dataset_dir)
    train, test = slices.datalist("train"), slices.datalist("test")
    if not 0 < planted <= min(len(files), len(train)):
        raise InputError(f"of {len(files)} samples and {len(train)} training slices {planted} cannot be copies.")
    size = list(load_sample(files[0]).shape[1:])

    def read(items: Sequence[Any]) -> torch.Tensor:
        return SliceDataset(items, LoadSliced("image"), spatial_size=size, progress=False).images

    sources, places = spread(train, planted), spread(files, planted)
    for number, (image, place) in enumerate(zip(read(sources), places, strict=True)):
        write_png(place, changed(image, number)[0].numpy())
    content = audited(run, dataset_dir, more)
    source_of = {place.name: Path(item["image"]).name for place, item in zip(places, sources, strict=True)}
    entries = {Path(entry["file"]).name: entry for entry in content["nearest"]}
    ours = {name: entry for name, entry in entries.items() if name in source_of}
    found = [name for name, entry in ours.items() if entry["copy"]]

    chosen = read(spread(test, min(len(files), len(test))))
    shutil.rmtree(run / "samples")
    (run / "samples.json").unlink(missing_ok=True)
    for number, image in enumerate(chosen):
        write_png(run / "samples" / f"sample_{number:05d}.png", image[0].numpy())
    unseen = audited(run, dataset_dir, more)
    return {
        "planted": planted,
        "found": len(found),
        "named": sum(Path(ours[name]["nearest"]).name == source_of[name] for name in found),
        "samples": len(entries) - planted,
        "flagged": sum(entry["copy"] for name, entry in entries.items() if name not in ours),
        "unseen": len(chosen),
        "false_alarms": sum(entry["copy"] for entry in unseen["nearest"]),
        "validation": content["validation_slices"],
        "validation_alarms": round(content["newness"]["copy_threshold"]["false_alarms"] * content["validation_slices"]),
        "verdict": content["verdict"],
        "verdict_unseen": unseen["verdict"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.planted",
        description="Put moved, brightened and flipped training slices among the samples of a run, and slices of test "
        "subjects in the place of all of them: which ones does `vqprior audit` take for copies? The run is left as it "
        "is.",
    )
    parser.add_argument("--dataset_dir", required=True, help="folder of slices that the prior was trained on")
    parser.add_argument("--output_dir", required=True, help="output folder of its training, with samples")
    parser.add_argument("--planted", type=int, default=8, help="how many training slices (default: 8)")
    add_json_option(parser)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        told = measure(options.dataset_dir, options.output_dir, Path(folder) / "run", options.planted)
    kinds = {
        "planted training slices": ("planted", "found"),
        "samples beside them": ("samples", "flagged"),
        "of test subjects": ("unseen", "false_alarms"),
        "of validation subjects": ("validation", "validation_alarms"),
    }
    rows: list[Row] = [
        {"slices": kind, "number": told[number], "taken for copies": told[taken]}
        for kind, (number, taken) in kinds.items()
    ]
    finish(parser, options, told, {"copies": rows})


if __name__ == "__main__":
    main()
