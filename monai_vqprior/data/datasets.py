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

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from monai.data import Dataset
from monai.transforms import Compose, Randomizable
from monai.utils import ensure_tuple_rep
from tqdm import tqdm

from monai_vqprior.data.resumable_sampler import mixed_seed
from monai_vqprior.data.stacks import neighbor_names
from monai_vqprior.errors import InputError, counted, input_error_in

__all__ = ["CodeGridDataset", "SliceDataset", "mean_image"]

logger = logging.getLogger(__name__)

# The brightest pixel of all slices that is too dark for them to have been read on the right scale: 14 bits in 16.
_DARK = 64


class _SeededDataset(Dataset):
    """
    A data set whose random draws for an item depend on (seed, epoch, item) alone.

    So neither the order of the items, the size of a batch, nor the number of workers changes what is drawn, and a
    resumed training draws what it would have drawn.

    Args:
        data: see :class:`monai.data.Dataset`.
        transform: likewise.
        seed: seed of the draws; None to draw anew at each access.
    """

    def __init__(self, data: Sequence, transform: Callable | None = None, seed: int | None = None) -> None:
        super().__init__(data, transform)
        self.seed = seed
        self.epoch = 0
        #: a number for each item; those of one number then have the same draws. None for draws of their own.
        self.groups: Sequence[int] | None = None

    def set_epoch(self, epoch: int) -> None:
        """Give the items of another epoch from now on: :class:`~monai_vqprior.handlers.StepSeeds` calls it."""
        self.epoch = epoch

    def _seed_of(self, index: int) -> int | None:
        """Seed of the draws for an item of this epoch."""
        number = index if self.groups is None else self.groups[index]
        return None if self.seed is None else mixed_seed(self.seed, self.epoch, number)


class SliceDataset(_SeededDataset):
    """
    Slices in memory, 8 bits a pixel, in one tensor that all workers of a data loader share.

    :class:`monai.data.CacheDataset` keeps a dictionary of tensors a slice, of which every worker process comes to hold
    a copy. Here the deterministic transforms must end in 8 bits and fill one array; what is random, and the
    conversion to floating point, comes after it. The path of a slice moves to ``path``.

    Args:
        data: dictionaries with the path of a slice under ``image``; their other items are handed on as they are.
        transform: deterministic dictionary transforms, run once for each slice; the image they make is ``uint8``.
        augmentation: dictionary transforms to run at each access to a slice; none by default.
        spatial_size: the size that every slice must have, one number or (H, W).
        skip_bad: leave out and count the slices that cannot be read or have another size, instead of raising.
        num_threads: threads that read slices.
        progress: show a progress bar.
        seed: seed of the augmentation: the random transforms of MONAI then draw by (seed, epoch, slice), of which
            ``set_epoch`` gives the epoch. None to draw anew at each access.

    Raises:
        InputError: when a slice cannot be read or has another size, and when none is left.
        ValueError: when ``transform`` does not end in a ``uint8`` image (1, H, W).
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        transform: Sequence[Callable] | Callable,
        spatial_size: int | Sequence[int],
        augmentation: Sequence[Callable] | Callable | None = None,
        skip_bad: bool = False,
        num_threads: int = 4,
        progress: bool = True,
        seed: int | None = None,
    ) -> None:
        super().__init__(data, _compose(transform), seed)
        self.spatial_size: tuple[int, ...] = ensure_tuple_rep(spatial_size, 2)
        self.augmentation = None if augmentation is None else _compose(augmentation)
        self._random = np.random.RandomState()
        self.images, kept = self._load(skip_bad, num_threads, progress)
        self.data = [dict(self.data[i]) for i in kept]
        self.num_skipped = len(data) - len(kept)
        if self.num_skipped:
            slices = counted(len(data), "slice")
            logger.warning("left out %d of %s that could not be used", self.num_skipped, slices)

    @property
    def num_subjects(self) -> int:
        """How many subjects the slices are of."""
        return len({item["subject"] for item in self.data})

    def _transform(self, index: int) -> Any:
        data = self.data[index]
        item = {**data, "path": data["image"], "image": self.images[index]}
        if self.augmentation is None:
            return item
        seed = self._seed_of(index)
        if seed is not None:
            self._reseed(self.augmentation, seed)
        return self.augmentation(item)

    def _reseed(self, augmentation: Compose, seed: int) -> None:
        """Let all random transforms draw from one generator, newly seeded: to make one for each of them costs more."""
        self._random.seed(seed)
        # Others, such as OneOf, draw themselves.
        parts = augmentation.transforms if type(augmentation) is Compose else [augmentation]
        for part in parts:
            if isinstance(part, Randomizable):
                part.set_random_state(state=self._random)

    def _load(self, skip_bad: bool, num_threads: int, progress: bool) -> tuple[torch.Tensor, list[int]]:
        """Run the deterministic transforms on all slices: the images (N, 1, H, W) uint8, and which slices they are."""
        images = torch.empty(len(self.data), 1, *self.spatial_size, dtype=torch.uint8)

        def load(index: int) -> InputError | None:
            try:
                images[index] = self._checked(self.transform(dict(self.data[index]))["image"], index)
            except Exception as error:
                wrong = input_error_in(error)
                if wrong is None:
                    raise
                return wrong
            return None

        kept = []
        with ThreadPoolExecutor(num_threads) as pool:
            results = pool.map(load, range(len(self.data)))
            bar = tqdm(results, "reading slices", len(self.data), disable=not progress, leave=False)
            for index, wrong in enumerate(bar):
                if wrong is None:
                    kept.append(index)
                elif skip_bad:
                    logger.warning("%s", wrong)
                else:
                    pool.shutdown(cancel_futures=True)
                    raise wrong
        if not kept:
            raise InputError("no slice is left: every one was left out by skip_bad.")
        images = images if len(kept) == len(images) else images[kept]
        brightest = int(images.max())
        if brightest < _DARK:
            logger.warning(
                "no pixel of %s is brighter than %d of 255: if they have more than 8 bits, pass the value that "
                "is white in them as max_value",
                counted(len(images), "slice"), brightest,
            )  # fmt: skip
        return images, kept

    def _checked(self, image: torch.Tensor, index: int) -> torch.Tensor:
        """The image (1, H, W) of a slice as it goes into the cache."""
        if image.dtype != torch.uint8:
            raise ValueError(f"transform must end in a uint8 image, got {image.dtype}.")
        if tuple(image.shape) != (1, *self.spatial_size):
            height, width = image.shape[-2:]
            expected = " x ".join(map(str, self.spatial_size))
            raise InputError(
                f"{self.data[index]['image']} is {height} x {width} pixels, but spatial_size is {expected}: all slices "
                "must have one size, that of the training; pass the size of yours as --spatial_size."
            )
        return torch.as_tensor(image)


class CodeGridDataset(_SeededDataset):
    """
    Code grids that were computed once, with the conditions of the slices that they encode.

    Args:
        grids: (N, *grid) integers, as :func:`monai_vqprior.inferers.encode_grids` makes them.
        data: for each grid a dictionary with further items, such as labels; none by default.
        views: (V, N, *grid), grids of changed slices, as :func:`monai_vqprior.inferers.encode_views` makes them: half
            of the accesses to a grid, one of its views is drawn and returned instead. None for no views.
        seed: seed of these draws, which then depend on (seed, epoch, grid); ``set_epoch`` gives the epoch. None to
            draw by PyTorch's random numbers.
        neighbors: (N,), the number of the grid of each slice's neighbor, -1 where there is none, as
            :func:`monai_vqprior.data.slices_below` finds them. The items then have the ``neighbor`` too, of the same
            view as the grid, and all -1 where there is none. None for items without.
        neighbor_slices: how many slices below an item has: ``neighbor``, the neighbor of that as ``neighbor_2``, and so
            on (:func:`monai_vqprior.data.neighbor_names`).
        neighbor_dropout: probability that all neighbors of a grid are withheld.
        given: draws what is ``given`` of a grid, which the items then have too, by a grid and a generator, as
            :class:`GivenCodes` does. None for items without.
        given_views: (V, N, *grid), grids of slices of which a part is hidden, -1 there, as
            :func:`monai_vqprior.inferers.encode_given` makes them; passed to ``given``. The codes of an item are
            those of the view where it is given: they are what a completion is drawn beside. None to give codes of the
            whole slices.

    Raises:
        ValueError: when there are not as many dictionaries or neighbors as grids, or the views are not of these grids.
    """

    def __init__(
        self,
        grids: torch.Tensor,
        data: Sequence[Mapping[str, Any]] | None = None,
        views: torch.Tensor | None = None,
        seed: int | None = None,
        neighbors: torch.Tensor | None = None,
        neighbor_dropout: float = 0.0,
        given: Callable[..., torch.Tensor] | None = None,
        neighbor_slices: int = 1,
        given_views: torch.Tensor | None = None,
    ) -> None:
        items = [{} for _ in range(len(grids))] if data is None else [dict(item) for item in data]
        if len(items) != len(grids):
            raise ValueError(f"data must have an entry for each of the {len(grids)} grids, got {len(items)}.")
        if views is not None and (not len(views) or views.shape[1:] != grids.shape):
            raise ValueError(f"views must be (V, {', '.join(map(str, grids.shape))}), got {tuple(views.shape)}.")
        if neighbors is not None and neighbors.shape != (len(grids),):
            raise ValueError(f"neighbors must be ({len(grids)},), got {tuple(neighbors.shape)}.")
        if given_views is not None and (given is None or not len(given_views) or given_views.shape[1:] != grids.shape):
            raise ValueError(
                f"given_views must be (V, {', '.join(map(str, grids.shape))}) and need given, got "
                f"{tuple(given_views.shape)} and {given}."
            )
        super().__init__(items, seed=seed)
        self.grids = grids
        self.views = views
        self.neighbors = neighbors
        self.neighbor_names = neighbor_names(neighbor_slices)
        self.neighbor_dropout = neighbor_dropout
        self.given = given
        self.given_views = given_views

    def _transform(self, index: int) -> Any:
        seed = self._seed_of(index)
        draw = None if seed is None else torch.Generator().manual_seed(seed)
        grids = self.grids
        if self.views is not None and torch.rand((), generator=draw) < 0.5:
            grids = self.views[int(torch.randint(len(self.views), (), generator=draw))]
        item = {**self.data[index], "codes": grids[index].long()}
        if self.neighbors is not None:
            withheld = bool(torch.rand((), generator=draw) < self.neighbor_dropout)
            below = -1 if withheld else index
            for name in self.neighbor_names:
                below = int(self.neighbors[below]) if below >= 0 else -1
                item[name] = grids[below].long() if below >= 0 else torch.full_like(item["codes"], -1)
        if self.given is not None:
            told: dict[str, Any] = {}
            if self.given_views is not None and grids is self.grids:  # not a changed slice
                told["views"] = self.given_views[:, index]
            given = self.given(item["codes"], draw, **told)
            item.update(given=given, codes=torch.where(given >= 0, given, item["codes"]))
        return item


def mean_image(dataset: SliceDataset) -> torch.Tensor:
    """Mean of all slices of a data set, (1, H, W) float32 with values in 0..1."""
    total = torch.zeros(dataset.images.shape[1:], dtype=torch.float64)
    for chunk in dataset.images.split(256):
        total += chunk.sum(0, dtype=torch.float64)
    return (total / (255 * len(dataset.images))).float()


def _compose(transform: Sequence[Callable] | Callable) -> Compose:
    return transform if isinstance(transform, Compose) else Compose(transform)
