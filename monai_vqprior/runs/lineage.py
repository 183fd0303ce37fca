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

import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn

from monai_vqprior.data import without_distributions
from monai_vqprior.errors import InputError
from monai_vqprior.files import read_json
from monai_vqprior.runs.settings import PRIOR_SETTINGS, read_settings, settings_beside
from monai_vqprior.runs.weights import unwrap

__all__ = [
    "check_conditions",
    "check_same_autoencoder",
    "check_samples",
    "fingerprint",
    "has_other_codes",
    "tell_of_another_autoencoder",
]

logger = logging.getLogger(__name__)

# A record of samples has a row of conditions for each of them.
_MOST_BYTES = 2**28


def fingerprint(network: nn.Module | Mapping[str, torch.Tensor]) -> str:
    """
    A short text that identifies the weights of a network: 16 hexadecimal digits of their SHA-256.

    Names, types, shapes and values of all parameters and buffers count; the file they came from and the device do not,
    nor what is empty, of which TorchScript keeps more.

    Args:
        network: the network, or its state dictionary.
    """
    state = unwrap(network).state_dict() if isinstance(network, nn.Module) else network
    digest = hashlib.sha256()
    for name, tensor in sorted((name, tensor) for name, tensor in state.items() if tensor.numel() > 0):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def has_other_codes(
    settings: str | os.PathLike[str] | None, autoencoder: nn.Module | Mapping[str, torch.Tensor]
) -> bool:
    """
    Whether a prior was trained on the codes of another autoencoder, according to its settings.

    Args:
        settings: the file of the settings of the prior; without it the answer is false.
        autoencoder: the autoencoder that it is to be used with, or its state dictionary.
    """
    known = _read(settings).get("autoencoder_weights")
    return known is not None and known != fingerprint(autoencoder)


def _read(settings: str | os.PathLike[str] | None) -> dict[str, Any]:
    """The settings in a file, none where there is no file."""
    return {} if settings is None or not Path(settings).is_file() else read_settings(settings, codebooks=None)


def check_same_autoencoder(
    settings: str | os.PathLike[str] | None,
    autoencoder: nn.Module | Mapping[str, torch.Tensor],
    resume: bool = False,
) -> None:
    """
    Refuse to resume a prior whose codes have changed: its weights would load, and be useless.

    Args:
        settings: see :func:`has_other_codes`.
        autoencoder: what makes the codes now.
        resume: whether the run is resumed.

    Raises:
        InputError: when it is resumed and was trained on the codes of another autoencoder.
    """
    if resume and has_other_codes(settings, autoencoder):
        raise InputError(
            "the prior to resume was trained on the codes of another autoencoder, or of this one before it was trained "
            "further: train it anew with --stage prior --overwrite, or name those weights with --ckpt."
        )


def tell_of_another_autoencoder(prior: str | os.PathLike[str] | None, autoencoder: nn.Module) -> None:
    """
    Warn when a prior was trained on the codes of another autoencoder, according to the settings beside it.

    Args:
        prior: the prior's weights, or None.
        autoencoder: what it is used with.
    """
    if prior is not None and has_other_codes(settings_beside(Path(prior).parent, PRIOR_SETTINGS), autoencoder):
        logger.warning("%s was trained on the codes of another autoencoder: name its weights with --ckpt", prior)


def check_samples(record: str | os.PathLike[str], autoencoder: nn.Module, prior: nn.Module | None = None) -> None:
    """
    Refuse samples of other networks: figures of them beside those of these networks would mean nothing.

    Args:
        record: ``samples.json``, which has the fingerprints of the networks; samples without one may be any.
        autoencoder: the autoencoder that the samples are compared with.
        prior: the prior, or None.

    Raises:
        InputError: when the samples were drawn with other weights, or the record cannot be read.
    """
    if not Path(record).is_file():
        return
    known = read_json(record, "draw the samples again by `vqprior sample --overwrite`", _MOST_BYTES)
    for name, network, option in (("autoencoder", autoencoder, "--ckpt"), ("prior", prior, "--ckpt_prior")):
        weights = known.get(f"{name}_weights")
        if network is not None and weights is not None and weights != fingerprint(network):
            raise InputError(
                f"by {record} the samples are of another {name} than this one: name its weights with {option}, or "
                "draw the samples again by `vqprior sample --overwrite`."
            )


def check_conditions(
    path: str | os.PathLike[str] | None, conditions: Sequence[Mapping[str, Any]], resume: bool = False
) -> None:
    """
    Refuse to resume a run under other conditions: its weights would load, with another meaning.

    How conditions are distributed means nothing to the weights, and does not count.

    Args:
        path: the settings of the run that is there, if there is one.
        conditions: what :class:`~monai_vqprior.data.Conditions` are made of, in this run.
        resume: whether the run is resumed.

    Raises:
        InputError: when it is resumed and had other conditions.
    """
    if resume and path is not None and Path(path).is_file():
        before, now = map(without_distributions, (_read(path).get("conditions", []), conditions))
        if before != now:
            raise InputError(
                f"the run to resume was trained with the conditions {before}, got {now}: resume with "
                "those, or train anew with --overwrite."
            )
