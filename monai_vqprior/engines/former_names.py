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

"""
Names that earlier versions had in ``monai_vqprior.engines``, which configurations of users may call.

They are in :mod:`monai_vqprior.runs` now; three are methods of the folders there.
"""

from __future__ import annotations

import os

from monai_vqprior.outputs import OutputFolder
from monai_vqprior.runs import TrainingFolder

__all__ = ["check_output", "check_run", "claim_run"]


def check_output(path: str | os.PathLike[str], overwrite: bool = False, folder: bool = False) -> None:
    """See :meth:`~monai_vqprior.outputs.OutputFolder.check`; ``path`` is a folder or a file of results."""
    output = OutputFolder(os.path.dirname(path) or ".", overwrite)  # noqa: PTH120
    name = os.path.basename(path)  # noqa: PTH119
    output.check(files=() if folder else (name,), folders=(name,) if folder else ())


def check_run(
    checkpoint: str | os.PathLike[str],
    last_state: str | os.PathLike[str],
    overwrite: bool = False,
    resume: bool = False,
) -> None:
    """See :meth:`~monai_vqprior.runs.TrainingFolder.check`."""
    folder = os.path.dirname(checkpoint) or "."  # noqa: PTH120
    TrainingFolder(folder, checkpoint, last_state, overwrite=overwrite, resume=resume).check()


def claim_run(
    output_dir: str | os.PathLike[str],
    checkpoint: str | os.PathLike[str],
    last_state: str | os.PathLike[str],
    overwrite: bool = False,
    resume: bool = False,
) -> None:
    """See :meth:`~monai_vqprior.runs.TrainingFolder.claim`."""
    TrainingFolder(output_dir, checkpoint, last_state, overwrite=overwrite, resume=resume).claim()
