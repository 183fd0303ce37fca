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

"""What a configuration needs to know of a trained prior beyond the sizes of its networks."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from monai_vqprior.runs.settings import PRIOR_SETTINGS, read_settings, settings_beside
from monai_vqprior.runs.weights import locate

__all__ = ["SINGLE_SLICES", "find_prior_settings"]

#: What a training leaves to those who use its prior, as it is of a prior of single slices without conditions.
SINGLE_SLICES: dict[str, Any] = {
    "conditions": [],
    "neighbor_context": False,
    "neighbor_slices": 1,
    "given_context": False,
    "given_kernel_size": 1,
    "head_slices": None,
    "head_axis": None,
    "head_affine": None,
    "sketch_temperature": None,
}


def find_prior_settings(
    models_dir: str | os.PathLike[str],
    bundle_root: str | os.PathLike[str],
    ckpt: str | os.PathLike[str] | None = None,
    ckpt_prior: str | os.PathLike[str] | None = None,
) -> dict[str, Any]:
    """
    What the data of its training has made of a prior, so that MONAI's command need not be told.

    The prior is the one that the configurations load: the weights that are named, those in the folder of the run, or
    those beside the autoencoder. Where there is none yet it is one of single slices, so that its network can be made.

    Args:
        models_dir: folder of the weights of the run.
        bundle_root: folder of the bundle.
        ckpt: weights of the autoencoder that the user has named.
        ckpt_prior: weights of the prior that the user has named.

    Returns:
        the settings of ``SINGLE_SLICES``, with the values that are beside the weights.

    Raises:
        InputError: when the settings cannot be read, or hold more than data.
    """
    autoencoder = locate("model.pt", [models_dir, Path(bundle_root) / "models"]) if ckpt is None else Path(ckpt)
    places = [models_dir, *([] if autoencoder is None else [autoencoder.parent])]
    prior = locate("prior.pt", places) if ckpt_prior is None else Path(ckpt_prior)
    path = None if prior is None else settings_beside(prior.parent, PRIOR_SETTINGS)
    found = {} if path is None else read_settings(path, codebooks=None)
    return {key: found.get(key, value) for key, value in SINGLE_SLICES.items()}
