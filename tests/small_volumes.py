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

"""Small volumes in files."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np

__all__ = ["RAS", "SHAPE", "brain", "save"]

RAS = np.diag([1.0, 1.0, 1.0, 1.0])
SHAPE = (16, 20, 12)


def brain(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Random int16 intensities of 1 to 1000 in a box, zero around it."""
    data = np.zeros(shape, np.int16)
    inner = tuple(slice(2, length - 2) for length in shape[:3])
    data[inner] = np.random.default_rng(seed).integers(1, 1001, data[inner].shape)
    return data


def save(path: Path, data: np.ndarray | None = None, affine: np.ndarray = RAS) -> Path:
    """Write a volume in the format of the suffix; ``.img`` is Analyze, which runs to the left in x."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = brain(len(path.name)) if data is None else data
    if path.suffix == ".img":
        image = nibabel.AnalyzeImage(data[::-1], np.diag([-1.0, 1.0, 1.0, 1.0]))
    else:
        image = nibabel.Nifti1Image(data, affine)
    nibabel.save(image, path)
    return path
