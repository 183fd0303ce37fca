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
from collections.abc import Mapping
from pathlib import Path

import torch

from monai_vqprior.files import tell
from monai_vqprior.runs import (
    AUTOENCODER_SETTINGS,
    PRIOR_SETTINGS,
    position_bits,
    position_table,
    write_reference,
)

__all__ = ["store_reference"]


def store_reference(
    autoencoder: str | os.PathLike[str],
    prior: str | os.PathLike[str] | None,
    details: Mapping[str, torch.Tensor],
    grids: torch.Tensor,
) -> None:
    """
    Write what the slices of an evaluation come to beside the weights, as training does for its validation split.

    For weights that were trained before there was such a reference.

    Args:
        autoencoder: the weights of the autoencoder.
        prior: the weights of the prior; None where there is none.
        details: the value of each slice, (N,) or (N, 1), by the name of the metric.
        grids: the code grids (N, *grid) of the slices.
    """
    files = [Path(autoencoder).with_name(AUTOENCODER_SETTINGS)]
    of_prior = {name: details[name] for name in ("bits_per_code",) if name in details}
    write_reference(files[0], {name: values for name, values in details.items() if name not in of_prior})
    if prior is not None:
        files.append(Path(prior).with_name(PRIOR_SETTINGS))
        write_reference(files[1], {**of_prior, **position_bits(position_table(prior), grids)})
    tell("  reference written to", " and ".join(map(str, files)))
