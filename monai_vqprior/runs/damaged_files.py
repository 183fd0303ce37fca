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
import shlex
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

__all__ = ["container_fault", "content_fault", "spare_of"]

_ENCRYPTED = 1  # bit of a zip entry's flags


def container_fault(path: str | os.PathLike[str]) -> str | None:
    """
    What is wrong with the file of a checkpoint, before anything of it is loaded.

    ``torch.save`` writes a zip file whose records are stored as they are, with a checksum each. ``torch.load`` does not
    look at these, and would load a flipped bit without a word.

    Args:
        path: the file.

    Returns:
        a few words, such as ``damaged record model/data/3``; None where all records are whole.
    """
    try:
        with zipfile.ZipFile(path) as file:
            records = file.infolist()
            for record in records:
                # What is compressed can be far larger than the file.
                if record.compress_type != zipfile.ZIP_STORED or record.file_size != record.compress_size:
                    return "compressed records, which torch.save does not write"
                if record.flag_bits & _ENCRYPTED:
                    return "encrypted records"
            if sum(record.file_size for record in records) > Path(path).stat().st_size:
                return "records that overlap"
            damaged = file.testzip()
    except zipfile.BadZipFile:
        return "not a file of torch.save, or a damaged one"
    except Exception as error:  # a damaged directory makes the reader raise nearly anything
        return type(error).__name__
    return None if damaged is None else f"damaged record {damaged!r}"


def content_fault(content: Any) -> str | None:
    """
    What is wrong with the tensors in a checkpoint that was loaded, at any depth.

    Args:
        content: what ``torch.load`` returned.

    Returns:
        a few words; None where all tensors are plain ones on the CPU that no trick of strides makes larger than what
        the file holds, and none has NaN.
    """
    # Each object once: a few nested lists can hold one another more often than anybody can count.
    seen: set[int] = set()
    stack: list[tuple[str, Any]] = [("", content)]
    while stack:
        name, item = stack.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, torch.Tensor):
            fault = _tensor_fault(item)
            if fault is not None:
                return f"{fault} in {name!r}"
        elif isinstance(item, Mapping):
            stack += [(str(key), value) for key, value in item.items()]
        elif isinstance(item, (list, tuple, set)):
            stack += [(name, value) for value in item]
    return None


def _tensor_fault(tensor: torch.Tensor) -> str | None:
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized or tensor.is_nested:
        return "a tensor that is not a plain one"
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        return "a tensor that is larger than what it is stored in"
    if (tensor.is_floating_point() or tensor.is_complex()) and tensor.isnan().any():
        return "NaN"
    return None


def spare_of(path: str | os.PathLike[str]) -> str:
    """
    What to do about a checkpoint that cannot be used: the command that brings back one that is whole.

    That is the state before it, where training has kept it (``model_before.pt``), or the last state of the training of
    which it is the best (``vqvae_last.pt``, ``prior_last.pt``), which holds weights too.

    Args:
        path: the checkpoint.

    Returns:
        a sentence with a space before it; nothing where there is none.
    """
    path = Path(path)
    names = [f"{path.stem}_before{path.suffix}"]
    names += {"model.pt": ["vqvae_last.pt"], "prior.pt": ["prior_last.pt"]}.get(path.name, [])
    for spare in map(path.with_name, names):
        if spare.is_file() and container_fault(spare) is None:
            command = shlex.join(["cp", str(spare), str(path)])
            return f" {spare.name} beside it is whole, and this takes it instead: {command}"
    return ""
