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

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from PIL import Image, ImageDraw, ImageFont

from monai_vqprior.files import write_png
from monai_vqprior.losses import ssim_map
from monai_vqprior.transforms import UnitToBytes

__all__ = ["ReconstructionWriter", "comparison", "contact_sheet", "to_pixels"]

_GAP = 4  # pixels between pictures
_CAPTION = 18  # pixels above a row of pictures with captions
_DIFFERENCE_GAIN = 4.0


def to_pixels(image: torch.Tensor) -> np.ndarray:
    """Image (1, H, W) in 0..1, clipped, to 8-bit pixels (H, W)."""
    return UnitToBytes()(image)[0].cpu().numpy()


def contact_sheet(rows: Sequence[Sequence[np.ndarray]], captions: Sequence[Sequence[str]] = ()) -> np.ndarray:
    """
    Put pictures of one size side by side, with a line of text above those that have one.

    Args:
        rows: the pictures, each (H, W) uint8, a list for each row of the sheet.
        captions: texts above the pictures, a list for each row; rows that are left out or empty have none.

    Returns:
        (height, width) uint8.

    Raises:
        ValueError: when there is no picture.
    """
    if not rows or not rows[0]:
        raise ValueError("a contact sheet needs at least one picture, got none.")
    height, width = rows[0][0].shape
    texts = [list(captions[i]) if i < len(captions) else [] for i in range(len(rows))]
    columns = max(len(row) for row in rows)
    total = _GAP + sum(height + _GAP + (_CAPTION if text else 0) for text in texts)
    sheet = Image.new("L", (_GAP + columns * (width + _GAP), total), 32)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=12)
    top = _GAP
    for row, text in zip(rows, texts, strict=True):
        for column, caption in enumerate(text):
            draw.text((_GAP + column * (width + _GAP) + 2, top), caption, fill=255, font=font)
        top += _CAPTION if text else 0
        for column, picture in enumerate(row):
            sheet.paste(Image.fromarray(picture), (_GAP + column * (width + _GAP), top))
        top += height + _GAP
    return np.asarray(sheet)


def comparison(image: torch.Tensor, other: torch.Tensor) -> tuple[str, list[np.ndarray]]:
    """
    A column of a contact sheet that compares two images.

    Args:
        image: (1, H, W) in 0..1.
        other: (1, H, W) in 0..1.

    Returns:
        a caption with their SSIM; and three pictures (H, W) uint8, both images and four times the absolute difference.
    """
    similarity = float(ssim_map(other[None], image[None]).mean())
    difference = _DIFFERENCE_GAIN * (image - other).abs()
    return f"SSIM {similarity:.3f}", [to_pixels(picture) for picture in (image, other, difference)]


class ReconstructionWriter:
    """
    Write the reconstruction of every slice as PNG, and a sheet of some slices above their reconstructions.

    The slices keep the folders and names that they have below the data set's folder (``a.jpg`` becomes
    ``a.jpg.png``), so that the output can be used
    as a data set. The sheet shows slices drawn at random with a seed; from top to bottom the slice with the SSIM of its
    reconstruction, the reconstruction, and four times the absolute difference.

    It reads ``path`` from the engine's batch, ``image`` and ``reconstruction`` from its output.

    Args:
        output_dir: ``reconstructions.png`` and the folder ``reconstructions`` go here.
        dataset_dir: folder that the slices' names are relative to.
        length: number of slices of the run.
        num_pictures: slices on the sheet.
        seed: draws the slices of the sheet.
        save_slices: whether to write the reconstructed slices, not only the sheet.
    """

    def __init__(
        self,
        output_dir: str | os.PathLike[str],
        dataset_dir: str | os.PathLike[str],
        length: int,
        num_pictures: int = 10,
        seed: int = 0,
        save_slices: bool = True,
    ) -> None:
        self.output_dir = Path(output_dir)
        self.dataset_dir = Path(dataset_dir)
        self.save_slices = save_slices
        drawn = np.random.default_rng(seed).choice(length, min(num_pictures, length), replace=False)
        self._chosen = set(drawn.tolist())
        self._seen = 0
        self._columns: list[tuple[str, list[np.ndarray]]] = []

    def attach(self, engine: Engine) -> None:
        """Attach to the evaluating engine."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self.finish)

    def start(self, engine: Engine) -> None:
        """Begin a new sheet."""
        self._seen = 0
        self._columns = []

    def __call__(self, engine: Engine) -> None:
        """Write the reconstructions of a batch."""
        output: dict[str, Any] = engine.state.output  # type: ignore[assignment]
        paths: Sequence[str] = engine.state.batch["path"]  # type: ignore[index]
        for path, image, reconstruction in zip(paths, output["image"], output["reconstruction"], strict=True):
            if self.save_slices:
                name = Path(path).relative_to(self.dataset_dir).as_posix()
                name += "" if name.lower().endswith(".png") else ".png"
                write_png(self.output_dir / "reconstructions" / name, to_pixels(reconstruction))
            if self._seen in self._chosen:
                self._columns.append(comparison(image, reconstruction))
            self._seen += 1

    def finish(self, engine: Engine) -> None:
        """Write the sheet."""
        captions = [caption for caption, _ in self._columns]
        rows = list(zip(*(pictures for _, pictures in self._columns), strict=True))
        write_png(self.output_dir / "reconstructions.png", contact_sheet(rows, [captions]))
