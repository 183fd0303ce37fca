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

import random
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data.utils import set_rnd
from torch.utils.data import DataLoader

from monai_vqprior.data import mixed_seed
from monai_vqprior.errors import InputError

__all__ = ["StepSeeds"]


class StepSeeds:
    """
    Seed all random numbers of a training by where it is, so that a resumed run draws what an uncut one draws.

    PyTorch, NumPy and Python are seeded before each batch is fetched and again before each step by (seed, process,
    iteration): what codebook, dropout and withheld conditions draw depends on nothing that happened before. The data
    set is given the epoch, if it has ``set_epoch`` as :class:`~monai_vqprior.data.SliceDataset`. The random
    transforms of any other data set are seeded at the beginning of each epoch.

    Args:
        seed: seed of the training.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def attach(self, engine: Any) -> None:
        """
        Attach to the training engine.

        Raises:
            InputError: when the data loader keeps its workers, whose copies of the data set would stay in one epoch.
        """
        loader = getattr(engine, "data_loader", None)
        if isinstance(loader, DataLoader):
            if loader.persistent_workers:
                raise InputError("persistent_workers would repeat the augmentation of one epoch: leave it false.")
            if loader.generator is None:
                # Of its own: to begin a pass would draw from PyTorch's generator, and a resumed run begins more often.
                loader.generator = torch.Generator()
            engine.add_event_handler(Events.EPOCH_STARTED, self.start_epoch, loader)
        engine.add_event_handler(Events.EPOCH_STARTED | Events.GET_BATCH_STARTED, self, 0)
        engine.add_event_handler(Events.GET_BATCH_COMPLETED, self, 1)

    def start_epoch(self, engine: Engine, loader: DataLoader) -> None:
        """Seed what serves the whole epoch: the data set and the workers."""
        seed = mixed_seed(self.seed, idist.get_rank(), engine.state.epoch)
        if loader.generator is not None:
            loader.generator.manual_seed(seed)
        if hasattr(loader.dataset, "set_epoch"):
            loader.dataset.set_epoch(engine.state.epoch)
        else:
            set_rnd(loader.dataset, seed)

    def __call__(self, engine: Engine, purpose: int) -> None:
        """Seed for the next iteration: for its batch (0), for its step (1)."""
        # The engine counts the iteration after the batch is there.
        seed = mixed_seed(self.seed, idist.get_rank(), engine.state.iteration + 1, purpose)
        # ignite.utils.manual_seed does the same, and looks for torch_xla each time.
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002, transforms of others use the generator that all share
        random.seed(seed)
