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

import itertools
import os
from pathlib import Path

import ignite.distributed as idist

from monai_vqprior.errors import InputError
from monai_vqprior.files import path_before, tell
from monai_vqprior.outputs import check_writable, log_folder
from monai_vqprior.runs.settings import AUTOENCODER_SETTINGS, settings_beside

__all__ = ["TrainingFolder", "state_to_resume"]


class TrainingFolder:
    """
    The folder of a training run: the weights, the state to resume from, and the settings of one network.

    A run has begun when it has a state. To resume one that has not begins it.

    Args:
        output_dir: folder of the run.
        checkpoint: file of the best weights.
        last_state: file of the state to resume from.
        settings_file: file of the network's settings; beside the weights by default.
        overwrite: whether an earlier run may be replaced; its files are removed.
        resume: whether to continue an earlier run.
        pretrained: weights that the run begins with, which it must neither remove nor move; None where it begins with
            random ones.
    """

    def __init__(
        self,
        output_dir: str | os.PathLike[str],
        checkpoint: str | os.PathLike[str],
        last_state: str | os.PathLike[str],
        settings_file: str | os.PathLike[str] | None = None,
        overwrite: bool = False,
        resume: bool = False,
        pretrained: str | os.PathLike[str] | None = None,
    ) -> None:
        self.path = Path(output_dir)
        self.checkpoint = Path(checkpoint)
        self.last_state = Path(last_state)
        self.settings_file = Path(settings_file or self.checkpoint.with_name(AUTOENCODER_SETTINGS))
        self.overwrite = overwrite
        self.resume = resume
        self.pretrained = None if pretrained is None else Path(pretrained)

    @property
    def resumed(self) -> Path | None:
        """The state that this run resumes, None where it begins anew."""
        return state_to_resume(self.last_state) if self.resume else None

    @property
    def settings_before(self) -> Path | None:
        """The file with the settings of the run that is there, None where there is none."""
        return settings_beside(self.settings_file.parent, self.settings_file.name)

    @property
    def splits_file(self) -> Path:
        """The file that says in which split each slice is."""
        return self.path / "splits.csv"

    def log_folder(self, stage: str) -> str:
        """Where the TensorBoard log of a stage is written; see :func:`monai_vqprior.outputs.log_folder`."""
        return log_folder(self.path / "tensorboard" / stage)

    def check(self) -> None:
        """
        Refuse to train over a run that is there already, before anything is read.

        Raises:
            InputError: when there is an earlier run that may neither be replaced nor resumed, when both are asked for,
                when the run would replace the weights that it begins with, and when a folder cannot be written to.
        """
        if self.overwrite and self.resume:
            raise InputError("--overwrite and --resume contradict one another: pass one of them.")
        state = state_to_resume(self.last_state)
        if state is not None and not (self.overwrite or self.resume):
            found = self.checkpoint if self.checkpoint.exists() else state
            raise InputError(
                f"{found} exists: this output_dir holds a run already; pass --resume to go on with it, --overwrite "
                "to replace it, or another --output_dir."
            )
        if self.pretrained is not None and self.pretrained.resolve() in [path.resolve() for path in self._replaced]:
            raise InputError(
                f"{self.pretrained} would be replaced by the run that begins with it: give another --output_dir."
            )
        for place in dict.fromkeys((self.checkpoint.parent, self.last_state.parent, self.path)):
            check_writable(place)

    @property
    def _replaced(self) -> list[Path]:
        """What :meth:`claim` removes or moves, where it exists."""
        weights, state = self.checkpoint, self.last_state
        if self.overwrite:
            return [weights, path_before(weights), state, path_before(state)]
        return [] if state_to_resume(state) else [weights]

    def claim(self) -> None:
        """
        Make the folders, and remove the run that this one replaces: after all other checks.

        Weights without a state are moved aside, to ``*_before.pt``: a training that was killed before its first state
        has left them, or someone has put them there.

        Raises:
            InputError: as :meth:`check`, and when a folder cannot be made.
        """
        self.check()
        weights = self.checkpoint
        try:
            for folder in (self.path, weights.parent, self.last_state.parent):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"{error.filename} cannot be made ({error.strerror}): give another --output_dir."
            ) from error
        if idist.get_rank() != 0:  # one process moves and removes
            return
        if self.overwrite:
            for path in self._replaced:
                path.unlink(missing_ok=True)
        elif weights.is_file() and weights in self._replaced:
            aside = _unused(path_before(weights))
            weights.rename(aside)
            tell(f"{weights} belongs to no training that has begun: moved to {aside}")


def state_to_resume(last_state: str | os.PathLike[str]) -> Path | None:
    """
    The state from which a training resumes.

    Args:
        last_state: where the last state is written.

    Returns:
        that file; the state before, where a training was killed between moving the one and writing the other; None
        where no training has begun.
    """
    return next((path for path in (Path(last_state), path_before(last_state)) if path.is_file()), None)


def _unused(path: Path) -> Path:
    """The path, or the first one with a number that does not exist."""
    numbered = (path.with_stem(f"{path.stem}_{number}") for number in itertools.count(2))
    return next(candidate for candidate in itertools.chain([path], numbered) if not candidate.exists())
