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

from collections.abc import Mapping, Sequence, Sized
from typing import Any

import torch
from monai.utils import set_determinism

from monai_vqprior.data import Conditions, ConditionTable, SliceFolder
from monai_vqprior.errors import InputError
from monai_vqprior.files import tell
from monai_vqprior.runs.checks import check_shares
from monai_vqprior.runs.lineage import check_conditions, check_same_autoencoder
from monai_vqprior.runs.memory import keep_freed_memory
from monai_vqprior.runs.processes import Processes
from monai_vqprior.runs.settings import write_settings
from monai_vqprior.runs.training_folder import TrainingFolder

__all__ = ["PriorTrainingRun", "TrainingRun"]


class TrainingRun:
    """
    The training of an autoencoder: what is checked before its data is read, and what is written before its first step.

    A run that could be made has passed all checks that need no data. MONAI makes the arguments of a component in their
    order, so the settings are checked before anything is made of them. The data is read then. :meth:`start` checks the
    data, claims the folder and writes what belongs to it.

    Args:
        device: where it is trained.
        settings: the settings, checked.
        processes: those that train together.
        checks: what the checks of the networks have returned, which does not matter.
        folder: the folder of the run.

    Raises:
        InputError: when the folder cannot be used.
    """

    def __init__(
        self,
        device: torch.device,
        settings: Mapping[str, Any],
        processes: Processes,
        checks: Sequence[Any],
        folder: TrainingFolder,
    ) -> None:
        self.device = device
        self.settings = settings
        self.processes = processes
        self.checks = checks
        self.folder = folder
        if device.type == "cpu":
            keep_freed_memory()
        folder.check()

    def start(self, slices: SliceFolder, train: Sized, validate: Sized, settings: Mapping[str, Any], seed: int) -> None:
        """
        Check the data, claim the folder, write the splits and the settings of the network, and set the seed.

        Args:
            slices: the data set.
            train: its slices to train on.
            validate: its slices to validate on.
            settings: what other commands need in order to rebuild the network.
            seed: seed of all random numbers.

        Raises:
            InputError: when there are fewer slices than processes, and when the folder or a file cannot be written.
        """
        check_shares(self.processes, train=len(train), validate=len(validate))
        if self.keeps_splits:
            slices.check_splits(self.folder.splits_file)
        self.folder.claim()
        if self.processes.rank == 0:
            tell(slices.describe())
            slices.write_splits(self.folder.splits_file)
            write_settings(self.folder.settings_file, settings)
        set_determinism(seed=seed)

    @property
    def keeps_splits(self) -> bool:
        """Whether the splits must be those that the folder has."""
        return self.folder.resume


class PriorTrainingRun(TrainingRun):
    """The training of a prior on the codes of an autoencoder; see :class:`TrainingRun`."""

    def check_lineage(self, autoencoder: torch.nn.Module, conditions: Conditions, table: ConditionTable) -> None:
        """
        Refuse to resume a prior on the codes of another autoencoder, or under other conditions, and print these.

        Args:
            autoencoder: what makes the codes.
            conditions: the fitted conditions of this run.
            table: the table that they were fitted to.

        Raises:
            InputError: when they are others.
        """
        before, resumes = self.folder.settings_before, self.folder.resumed is not None
        check_conditions(before, conditions.settings, resumes)
        if conditions.settings and self.processes.rank == 0:
            tell("conditions:", table.describe(conditions))
        check_same_autoencoder(before, autoencoder, resumes)

    def check_sketch_options(
        self, has_sketch: bool, code_batch_size: int | None, sketch_temperature: float | None, trained: bool
    ) -> None:
        """
        Refuse options of the sketches for a prior that has none, and sketches alone where that makes no whole prior.

        Args:
            has_sketch: whether there is a sketch.
            code_batch_size: as in :class:`~monai_vqprior.networks.HierarchicalPrior`.
            sketch_temperature: as in :class:`~monai_vqprior.inferers.VQPriorInferer`.
            trained: whether the run begins with weights whose codes are trained.

        Raises:
            InputError: when an option is set and there is no sketch, or when codes are to learn from no grids although
                they are new.
        """
        told = {"prior_code_batch_size": code_batch_size, "sketch_temperature": sketch_temperature}
        for name, value in told.items():
            if value is not None and not has_sketch:
                raise InputError(f"--{name} is for a prior with a sketch: leave it out, or give it a sketch.")
        if code_batch_size == 0 and not trained:
            raise InputError(
                "--prior_code_batch_size 0 trains the sketches alone, and the codes of this prior are not trained yet: "
                "train it without first, then again with --fine_tune."
            )

    def start(
        self,
        slices: SliceFolder,
        train: Sized,
        validate: Sized,
        settings: Mapping[str, Any],
        seed: int,
        baselines: Mapping[str, float] | None = None,
    ) -> None:
        """
        See :meth:`TrainingRun.start`.

        Args:
            slices: see there.
            train: see there.
            validate: see there.
            settings: see there.
            seed: see there.
            baselines: bits per code of histograms of the training codes, by name, to be printed.

        Raises:
            InputError: see there.
        """
        super().start(slices, train, validate, settings, seed)
        if baselines is not None and self.processes.rank == 0:
            told = ", ".join(f"{name} {bits:.3f}" for name, bits in baselines.items())
            tell("validation bits per code to beat:", told)

    @property
    def keeps_splits(self) -> bool:
        """Always, since an autoencoder was trained on them."""
        return True
