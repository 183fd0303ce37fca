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

import io
import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
import torch.nn as nn

from monai_vqprior.errors import InputError, counted
from monai_vqprior.files import atomic_path, path_before
from monai_vqprior.runs.damaged_files import container_fault, content_fault, spare_of

__all__ = [
    "find_checkpoint",
    "halve_weights",
    "is_finite",
    "load_weights",
    "locate",
    "read_checkpoint",
    "read_weights",
    "set_weights",
    "unwrap",
    "write_checkpoint",
]

logger = logging.getLogger(__name__)

# Names of tensors in which codes are looked up: those of a codebook, and of the vectors that a sketch is made of.
_LOOKED_UP = re.compile(r"(^|\.)(codebook\.|vectors$)")


def unwrap(network: nn.Module) -> nn.Module:
    """The network inside a :class:`torch.nn.parallel.DistributedDataParallel`, or the network itself."""
    return network.module if isinstance(network, nn.parallel.DistributedDataParallel) else network


def is_finite(network: nn.Module) -> bool:
    """Whether all weights of a network are numbers."""
    return all(bool(tensor.isfinite().all()) for tensor in network.state_dict().values())


def locate(name: str, folders: Sequence[str | os.PathLike[str]]) -> Path | None:
    """The file of a name in the first of some folders that has it; None where none has."""
    return next((path for path in (Path(folder) / name for folder in folders) if path.is_file()), None)


def find_checkpoint(
    name: str,
    folders: Sequence[str | os.PathLike[str]],
    ckpt: str | os.PathLike[str] | None = None,
    option: str = "ckpt",
    required: bool = True,
) -> Path | None:
    """
    Where the weights of a network are.

    Args:
        name: file name, such as ``model.pt``.
        folders: folders to look in, the first that has the file wins; a warning is given when it is not the first of
            all.
        ckpt: the file itself; given, the folders do not matter.
        option: the name of the option that gives ``ckpt``, for the error message.
        required: whether there must be one.

    Returns:
        path of an existing file; None when there is none and none is required.

    Raises:
        InputError: when there is none.
    """
    if ckpt is not None:
        if not Path(ckpt).is_file():
            raise InputError(f"{ckpt} does not exist: --{option} takes the path of a checkpoint.")
        return Path(ckpt)
    places = list(dict.fromkeys(str(folder) for folder in folders))
    path = locate(name, places)
    if path is not None and path.parent != Path(places[0]):
        logger.warning("there is no %s in %s: using %s", name, places[0], path)
    if path is not None or not required:
        return path
    raise InputError(f"there is no {name} in {' or '.join(places)}: train first, or give the weights with --{option}.")


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """
    Read a checkpoint, tensors and plain values only, onto the CPU, when its checksums say that it is whole.

    Raises:
        InputError: when the file is damaged, cannot be read as a checkpoint or holds NaN, with the command that brings
            back an earlier one where there is one beside it.
    """
    fault = container_fault(path)
    if fault is not None:
        raise _unreadable(path, fault)
    try:
        with Path(path).open("rb") as file:  # torch opens no path that is not UTF-8
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes the unpickler raise nearly anything, KeyError for plain text
        # Torch's own message advises to run whatever code the file holds.
        raise _unreadable(path, type(error).__name__) from error
    if not isinstance(content, Mapping):
        raise InputError(f"{path} holds a {type(content).__name__}, not the weights of a network.")
    fault = content_fault(content)
    if fault is not None:
        raise _unreadable(path, fault)
    return dict(content)


def write_checkpoint(path: Path, content: Mapping[str, Any], keep_before: bool = False) -> None:
    """
    Write a checkpoint from process 0, all of it or nothing, and keep the one before on request.

    Raises:
        InputError: when it cannot be written, on a full disk for instance.
    """
    if idist.get_rank() != 0:
        return
    # Torch would hide the reason of a failure behind an error of its own.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    try:
        with atomic_path(path) as temporary:
            temporary.write_bytes(buffer.getbuffer())
            if keep_before and path.is_file():
                path.replace(path_before(path))
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error.strerror}); what was there before is kept: make room, and go on with "
            "--resume."
        ) from error


def halve_weights(path: str | os.PathLike[str], halved: str | os.PathLike[str]) -> None:
    """
    Write the weights of a prior in half precision, for a bundle that is passed on: half the bytes.

    A prior with them rates codes as before within their rounding, and computes in single precision like every other:
    :func:`load_weights` copies them into the network. What codes are looked up in stays in single precision, or a grid
    could have another sketch.

    Args:
        path: a state dictionary, or a checkpoint that holds one under ``model``.
        halved: file to write; what there was is replaced.

    Raises:
        InputError: when the file cannot be read, holds anything else or cannot be written, and when a weight is too
            large for half precision.
    """
    weights = {
        key: value.half() if value.dtype == torch.float32 and not _LOOKED_UP.search(key) else value
        for key, value in read_weights(path).items()
    }
    for key, value in weights.items():
        if value.dtype == torch.half and not bool(value.isfinite().all()):
            raise InputError(f"{path} has numbers in {key!r} that half precision cannot hold.")
    write_checkpoint(Path(halved), weights)


def read_weights(path: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    """
    Read the weights in a checkpoint.

    Args:
        path: a state dictionary, or a checkpoint that holds one under ``model``.

    Raises:
        InputError: when the file cannot be read or holds anything else.
    """
    content = read_checkpoint(path)
    weights = content.get("model", content)
    if not isinstance(weights, Mapping):
        raise InputError(f"{path} holds a {type(weights).__name__} under 'model', not the weights of a network.")
    for key, value in weights.items():
        if not isinstance(key, str) or not key.isprintable() or not isinstance(value, torch.Tensor):
            raise InputError(f"{path} holds a {type(value).__name__} under {key!r}, not the weights of a network.")
    return dict(weights)


def load_weights(network: nn.Module, path: str | os.PathLike[str]) -> nn.Module:
    """
    Load the weights of a network, all of them or none.

    A network from TorchScript, as ``--network_def "$torch.jit.load('model.ts')"`` makes it, has weights of its own: it
    keeps them, and a warning says so.

    Args:
        network: the network.
        path: a state dictionary, or a checkpoint that holds one under ``model``.

    Returns:
        the network.

    Raises:
        InputError: when the file cannot be read or is of another architecture.
    """
    if isinstance(network, torch.jit.ScriptModule):
        logger.warning("the network is TorchScript and has weights of its own: %s is not used", path)
        return network
    set_weights(network, read_weights(path), path)
    logger.info("loaded %s", path)
    return network


def set_weights(network: nn.Module, weights: Mapping[str, torch.Tensor], path: str | os.PathLike[str]) -> None:
    """
    Give a network its weights, all of them or none.

    Args:
        network: the network.
        weights: its state dictionary.
        path: where it was read, for error messages.

    Raises:
        InputError: when it is of another architecture, or infinite where the network is not.
    """
    own = unwrap(network).state_dict()
    missing = [key for key in own if key not in weights]
    surplus = [key for key in weights if key not in own]
    reshaped = {
        key: f"{key} is {tuple(weights[key].shape)}, not {tuple(own[key].shape)}"
        for key in own
        if key in weights and weights[key].shape != own[key].shape
    }
    if missing or surplus or reshaped:
        told = [
            *reshaped.values(),
            *(f"{key} is missing" for key in missing),
            *(f"{key} is not known" for key in surplus),
        ]
        setting = _setting_of(missing, surplus, list(reshaped), [key for key in own if key in weights])
        raise InputError(
            f"{path} is of another architecture ({counted(len(missing), 'tensor')} missing, {len(surplus)} unknown, "
            f"{len(reshaped)} of another shape; {told[0]}): use the settings that it was trained with, such as its "
            f"{setting}."
        )
    for key in own:
        # A mask may be infinite from the beginning.
        if bool((own[key].cpu().isfinite() & ~weights[key].isfinite()).any()):
            raise _unreadable(path, f"infinity in {key!r}")
    unwrap(network).load_state_dict(weights)


def _setting_of(missing: Sequence[str], surplus: Sequence[str], reshaped: Sequence[str], shared: Sequence[str]) -> str:
    """The setting that weights tell by their names to be another one than that of the network."""

    def some(keys: Sequence[str], *beginnings: str) -> bool:
        return any(key.startswith(beginnings) for key in keys)

    if some(missing, "sketch_prior.embedding."):
        return "--prior_sketch_block 0 for a prior without sketch"
    if all(".surroundings." in key for key in (*missing, *surplus, *reshaped)):
        return "--given_kernel_size, 1 for a prior of an earlier version"
    if all(".mirror." in key for key in (*missing, *surplus, *reshaped)):
        return "--prior_sketch_mirror, false for a prior of an earlier version"
    # Only grids of the context give one of these a context network: a prior of sketches, or one without sketch.
    contexts = "sketch_prior.context_network.", "context_network."
    if some([*missing, *surplus], *contexts) and some(shared, *contexts):
        return "--neighbor_slices and --given_context"
    if some(missing, *contexts):
        return "--neighbor_context and --given_context, false for a prior of single slices"
    if some(surplus, *contexts) and not some(surplus, "sketch_prior.embedding."):
        return "--neighbor_context and --given_context, true for a prior of heads or of completions"
    return "--spatial_size"


def _unreadable(path: str | os.PathLike[str], fault: str) -> InputError:
    """The error of a checkpoint that cannot be used, and what there is in its place."""
    return InputError(f"{path} cannot be read as a checkpoint ({fault}).{spare_of(path)}")
