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
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from monai.utils import set_determinism

from monai_vqprior.data import SliceFolder
from monai_vqprior.files import tell
from monai_vqprior.outputs import OutputFolder
from monai_vqprior.runs.lineage import tell_of_another_autoencoder

__all__ = ["InferenceRun", "checked_output"]


def checked_output(
    path: str | os.PathLike[str],
    overwrite: bool = False,
    files: Iterable[str | os.PathLike[str]] = (),
    folders: Iterable[str | os.PathLike[str]] = (),
) -> OutputFolder:
    """
    The folder that a command writes to, after :meth:`~monai_vqprior.outputs.OutputFolder.check`.

    Args:
        path: the folder.
        overwrite: whether results may be replaced.
        files: the files that are going to be written, relative to the folder.
        folders: the folders that are going to be written, likewise.

    Raises:
        InputError: when one of them exists and may not be replaced, and when nothing can be written there.
    """
    output = OutputFolder(path, overwrite)
    output.check(files, folders)
    return output


class InferenceRun:
    """
    The use of trained networks, or of what they have made: what is checked before the data is read.

    A run that could be made has passed all checks that need no data. MONAI makes the arguments of a component in their
    order, so the settings are checked before anything is made of them, and the folder before networks are read.

    Args:
        device: where it is computed.
        settings: the settings, checked.
        output: the folder of the results, checked.
        checks: what further checks have returned, which does not matter.
        autoencoder: the autoencoder, with its weights.
        prior: the prior, with its weights; None where there is none.
        prior_checkpoint: the weights of the prior, beside which it says on the codes of which autoencoder it was
            trained; a warning is given when that is another one.
        slices: the data set, whose splits are compared with those of the training.
        seed: seed of all random numbers; None where there are none.
    """

    def __init__(
        self,
        device: torch.device,
        settings: Mapping[str, Any],
        output: OutputFolder,
        checks: Sequence[Any] = (),
        autoencoder: torch.nn.Module | None = None,
        prior: torch.nn.Module | None = None,
        prior_checkpoint: str | os.PathLike[str] | None = None,
        slices: SliceFolder | None = None,
        seed: int | None = None,
    ) -> None:
        self.device = device
        self.settings = settings
        self.output = output
        self.checks = checks
        self.autoencoder = autoencoder
        self.prior = prior
        if autoencoder is not None:
            tell_of_another_autoencoder(prior_checkpoint, autoencoder)
        if slices is not None:
            slices.check_splits(output.path / "splits.csv")
            tell(slices.describe())
        if seed is not None:
            set_determinism(seed=seed)
