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

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai.engines import PrepareBatch

from monai_vqprior.transforms import BytesToUnit

__all__ = ["PrepareBatchCodes", "PrepareBatchSlices"]

# The grid of a context that has codes of the grid itself.
_GIVEN = "given"


def _conditions(
    batchdata: Mapping[str, Any],
    label_keys: Sequence[str],
    value_keys: Sequence[str],
    device: str | torch.device | None,
    non_blocking: bool,
) -> dict[str, torch.Tensor]:
    """``labels`` (B, number of labels) and ``values`` (B, number of values) of a batch, where keys are given."""
    conditions = {}
    for name, keys, dtype in (("labels", label_keys, torch.long), ("values", value_keys, torch.float32)):
        if keys:
            columns = [torch.as_tensor(batchdata[key], dtype=dtype) for key in keys]
            conditions[name] = torch.stack(columns, dim=1).to(device=device, non_blocking=non_blocking)
    return conditions


class PrepareBatchSlices(PrepareBatch):
    """
    What a batch means in stage 1: the images are input and target at once.

    8-bit images are moved to the device as they are and become float32 in 0..1 there.

    Args:
        image_key: key of the images.
        label_keys: for a network that is called with conditions, such as a prior in
            :class:`~monai_vqprior.inferers.TokenizerInferer`: see :class:`PrepareBatchCodes`.
        value_keys: likewise.
    """

    def __init__(
        self, image_key: str = "image", label_keys: Sequence[str] = (), value_keys: Sequence[str] = ()
    ) -> None:
        self.image_key = image_key
        self.label_keys = tuple(label_keys)
        self.value_keys = tuple(value_keys)
        self.to_unit = BytesToUnit()

    def __call__(
        self,
        batchdata: Mapping[str, Any],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[Any, ...]:
        """
        Prepare a batch for a MONAI engine.

        Args:
            batchdata: with the images (B, C, *spatial), 8-bit or floating point, and the conditions, each (B,).
            device: where to put them.
            non_blocking: whether the copy may run beside the host.
            kwargs: further arguments of :meth:`torch.Tensor.to`.

        Returns:
            the images twice, float32 in 0..1; with conditions, no positional arguments and the conditions behind them.
        """
        images = torch.as_tensor(batchdata[self.image_key]).to(device=device, non_blocking=non_blocking, **kwargs)
        images = self.to_unit(images)
        conditions = _conditions(batchdata, self.label_keys, self.value_keys, device, non_blocking)
        return (images, images, (), conditions) if conditions else (images, images)


class PrepareBatchCodes(PrepareBatch):
    """
    What a batch means in stage 2: the code grids are input and target at once, conditions go to the network by name.

    Args:
        code_key: key of the code grids.
        label_keys: keys of class labels to condition on, integers, -1 where unknown, in the order of the network's
            ``num_classes``.
        value_keys: keys of continuous values to condition on, NaN where unknown, as many as its ``num_values``.
        context_keys: keys of further grids that are known before, -1 where a code is missing, in the order of the
            network's ``context_names``. A batch may have some of them or none. The codes of the grid ``given`` are
            those of the grid itself that a completion keeps, and are no target.
    """

    def __init__(
        self,
        code_key: str = "codes",
        label_keys: Sequence[str] = (),
        value_keys: Sequence[str] = (),
        context_keys: Sequence[str] = (),
    ) -> None:
        self.code_key = code_key
        self.label_keys = tuple(label_keys)
        self.value_keys = tuple(value_keys)
        self.context_keys = tuple(context_keys)

    def __call__(
        self,
        batchdata: Mapping[str, Any],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor, tuple[()], dict[str, torch.Tensor]]:
        """
        Prepare a batch for a MONAI engine.

        Args:
            batchdata: with the code grids (B, *grid), the conditions, each (B,), and the grids of the context, each
                (B, *grid).
            device: where to put them.
            non_blocking: whether the copies may run beside the host.
            kwargs: further arguments of :meth:`torch.Tensor.to`.

        Returns:
            the grids, the codes to predict, which are the grids with -1 for what is given of them, no positional
            arguments, and ``labels`` (B, number of labels) and ``values``
            (B, number of values) where keys are given, and ``context`` (B, number of keys, *grid) where the batch has
            one of its grids.
        """
        codes = torch.as_tensor(batchdata[self.code_key]).to(device=device, non_blocking=non_blocking, **kwargs)
        known = _conditions(batchdata, self.label_keys, self.value_keys, device, non_blocking)
        target = codes
        if any(key in batchdata for key in self.context_keys):
            missing = torch.full_like(codes, -1)
            grids = [
                torch.as_tensor(batchdata[key]).to(codes) if key in batchdata else missing for key in self.context_keys
            ]
            known["context"] = torch.stack(grids, dim=1)  # (B, n, *grid)
            if _GIVEN in self.context_keys:  # nobody draws these codes: a network need not learn to copy them
                target = codes.masked_fill(grids[self.context_keys.index(_GIVEN)] >= 0, -1)
        return codes, target, (), known
