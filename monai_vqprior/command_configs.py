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

"""The configurations of each command, and the settings beside weights that are merged into them."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from monai_vqprior.bundles import load_configs
from monai_vqprior.overrides import unknown_argument
from monai_vqprior.values import is_expression

__all__ = [
    "AUTOENCODER",
    "PRIOR",
    "STACKS",
    "WEIGHTS",
    "Owners",
    "Stack",
    "fits",
    "resolve",
    "saved_settings",
    "train_stacks",
]

#: The networks, as the names of their stages are typed.
AUTOENCODER, PRIOR = "vqvae", "prior"

#: names of the files of their weights.
WEIGHTS = {AUTOENCODER: "model.pt", PRIOR: "prior.pt"}

_FINE_TUNE = "fine_tune.json"
_TOGETHER = "multi_gpu_train.json"
#: settings of a data set rather than of a network; they are beside the weights of both.
_OF_DATA = frozenset({"split_by", "subject_pattern"})
#: what settings meant to priors that were trained before there were such settings.
_BEFORE = {
    "prior_sketch_block": 0,
    "prior_sketch_levels": 1,
    "prior_sketch_mirror": False,
    "neighbor_slices": 1,
    "given_kernel_size": 1,
}


@dataclass(frozen=True)
class Stack:
    """
    The configurations of a command, each an overlay on those before.

    Args:
        files: file names in ``configs`` of the bundle.
        needs: the networks whose weights it uses, with the settings beside them.
        trains: the network that it trains; None where it trains none.
        fine_tunes: whether training starts from the weights of the bundle, or from others that are named.
    """

    files: tuple[str, ...]
    needs: tuple[str, ...] = ()
    trains: str | None = None
    fine_tunes: bool = False


#: What each command runs; a training stage by stage.
STACKS: dict[str, Stack] = {
    AUTOENCODER: Stack(("train.json",), trains=AUTOENCODER),
    PRIOR: Stack(("train.json", "train_prior.json"), needs=(AUTOENCODER,), trains=PRIOR),
    "evaluate": Stack(("train.json", "train_prior.json", "evaluate.json"), needs=(AUTOENCODER, PRIOR)),
    "audit": Stack(("train.json", "train_prior.json", "evaluate.json", "audit.json"), needs=(AUTOENCODER, PRIOR)),
    "reconstruct": Stack(("inference.json",), needs=(AUTOENCODER,)),
    "reconstruct_volumes": Stack(("inference.json", "reconstruct_volumes.json"), needs=(AUTOENCODER,)),
    "sample": Stack(("inference.json", "sample.json"), needs=(AUTOENCODER, PRIOR)),
    "sample_volumes": Stack(("inference.json", "sample.json", "sample_volumes.json"), needs=(AUTOENCODER, PRIOR)),
    "complete": Stack(("inference.json", "sample.json", "complete.json"), needs=(AUTOENCODER, PRIOR)),
    "neighbors": Stack(("neighbors.json",)),
}


def train_stacks(stages: Sequence[str], fine_tune: bool = False) -> dict[str, Stack]:
    """The configurations of the stages of a training."""
    stacks = {stage: STACKS[stage] for stage in stages}
    if not fine_tune:
        return stacks
    return {stage: replace(stack, files=(*stack.files, _FINE_TUNE), fine_tunes=True) for stage, stack in stacks.items()}


def resolve(
    stack: Stack, root: Path, given: Mapping[str, Any], together: bool = False
) -> tuple[Path, tuple[str, ...], dict[str, Any]]:
    """
    What :func:`monai_vqprior.bundles.run_configs` runs for a command.

    Args:
        stack: the configurations of the command.
        root: folder of the bundle.
        given: values of configuration keys that the user has given.
        together: whether the processes of ``torchrun`` may share the work.

    Returns:
        the folder of the bundle, the names of the configurations, and the values of their keys that were
        given or that differ from the configurations in the settings of trained networks.

    Raises:
        InputError: when settings beside weights cannot be read, or hold more than data.
    """
    given = dict(given)
    places = _Places(stack, root, given)
    if "output_dir" in given:
        given["output_dir"] = str(Path(str(given["output_dir"])).absolute())
    config = load_configs(root, stack.files)
    settings = _settings_of_networks(stack, root, given, config, places)
    names = stack.files
    if stack.trains is not None:
        given = _of_this_stage(root, config, given, {**settings, **given})
        if together and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            names = (*names, _TOGETHER)
    return root, names, {**settings, **given}


@dataclass(frozen=True)
class Owners:
    """Which settings each network has, as the configurations of its training write them down."""

    autoencoder: frozenset[str]
    prior: frozenset[str]

    @classmethod
    def of(cls, root: Path) -> Owners:
        autoencoder, both = (_setting_keys(root, STACKS[stage].files) for stage in (AUTOENCODER, PRIOR))
        return cls(autoencoder, both - autoencoder - _OF_DATA)

    @property
    def all(self) -> frozenset[str]:
        return self.autoencoder | self.prior | _OF_DATA


class _Places:
    """Folders with weights, and with the settings beside them: the first that has settings counts."""

    def __init__(self, stack: Stack, root: Path, given: Mapping[str, Any]) -> None:
        def beside(key: str, other: Path) -> Path:
            return other if given.get(key) is None else Path(given[key]).parent

        shipped = root / "models"
        self.run = Path(given.get("output_dir", "output")) / "models"
        if stack.fine_tunes:
            self.autoencoder = self.prior = [beside("pretrained", shipped), shipped]
            if stack.trains == PRIOR:  # on the codes of the autoencoder of the run, where there is one
                self.autoencoder = [beside("ckpt", self.run), self.run, *self.prior]
        else:
            self.autoencoder = [beside("ckpt", self.run), self.run, shipped]
            self.prior = [beside("ckpt_prior", self.run), self.autoencoder[0], shipped]
        if not stack.needs and stack.trains is None:  # what uses no weights has nothing to do with those of the bundle
            self.autoencoder, self.prior = (
                [p for p in some if p != shipped] for some in (self.autoencoder, self.prior)
            )


def _settings_of_networks(
    stack: Stack, root: Path, given: Mapping[str, Any], config: Mapping[str, Any], places: _Places
) -> dict[str, Any]:
    """The settings beside weights with which a command goes on, where they differ from its configuration."""
    from monai_vqprior.runs import state_to_resume

    state = places.run / f"{stack.trains}_last.pt"
    resumed = bool(given.get("resume")) and stack.trains is not None and state_to_resume(state) is not None
    owners = Owners.of(root)
    codebooks = _named_codebooks(config, given)
    settings: dict[str, Any] = {}
    # A new autoencoder has the settings that it is given.
    if stack.trains != AUTOENCODER or resumed or stack.fine_tunes:
        settings = saved_settings(places.autoencoder, places.prior, config, owners, codebooks)
    if stack.fine_tunes:  # with other data than that of the weights: its splits are those of this run
        of_run = saved_settings([places.run], [places.run], config, owners, codebooks)
        settings = {key: value for key, value in settings.items() if key not in _OF_DATA}
        if "prior_sketch_block" in settings:
            of_weights = saved_settings(places.prior, places.prior, config, owners, codebooks)
            sizes = [told.get("spatial_size", config["spatial_size"]) for told in (of_weights, {**settings, **given})]
            settings["prior_sketch_block"] = _block_at(settings["prior_sketch_block"], *sizes)
        if resumed or stack.trains == PRIOR:
            settings |= {key: value for key, value in of_run.items() if key in _OF_DATA}
    if stack.trains is not None:
        # What lies in the folder of a training is looked at now, not when it has begun.
        saved_settings([places.run], [places.run], config, owners, codebooks=None)
        if not resumed:
            settings.pop("conditions", None)  # fitted to the data of the run before
            if stack.trains == PRIOR and not stack.fine_tunes:
                settings = {key: value for key, value in settings.items() if key not in owners.prior}
    return settings


def _block_at(block: int, before: Any, now: Any) -> int:
    """The block of a sketch for slices of another size, so that a code of the sketch means as much of the brain."""
    if is_expression(before) or is_expression(now):
        return block
    largest = [max(size) if isinstance(size, list) else size for size in (before, now)]
    return 2 * math.ceil(block * largest[1] / largest[0] / 2)


def saved_settings(
    folders: Sequence[str | Path],
    prior_folders: Sequence[str | Path],
    config: Mapping[str, Any],
    owners: Owners,
    codebooks: Collection[str] | None = (),
) -> dict[str, Any]:
    """
    The settings that trained networks have beside them, where they differ from a configuration.

    Args:
        folders: folders of the autoencoder; the first with settings counts.
        prior_folders: folders of the prior, likewise.
        config: the configuration.
        owners: which settings are of which network.
        codebooks: see :func:`monai_vqprior.runs.read_settings`.

    Returns:
        values of top-level keys of the configuration.

    Raises:
        InputError: when a file cannot be read, or holds more than data.
    """
    from monai_vqprior.runs import AUTOENCODER_SETTINGS, PRIOR_SETTINGS, SINGLE_SLICES

    found = _first_settings(folders, AUTOENCODER_SETTINGS, owners.all, codebooks)
    found_prior = _first_settings(prior_folders, PRIOR_SETTINGS, owners.all, codebooks)
    of_data = {key: value for key, value in found_prior.items() if key in _OF_DATA}
    own = {key: value for key, value in found.items() if key not in owners.prior}
    prior = {key: value for key, value in found_prior.items() if key in owners.prior}
    if "prior_layers" in prior:
        prior = {**_BEFORE, **prior}
    settings = {**of_data, **own, **prior}
    told = {**config, **settings}
    # Some of these a configuration reads beside the weights itself.
    wanted = [key for key in settings if key in config and not (key in SINGLE_SLICES and is_expression(config[key]))]
    return {key: settings[key] for key in wanted if _value(config[key], told) != settings[key]}


def _first_settings(
    folders: Sequence[str | Path], name: str, keys: Collection[str], codebooks: Collection[str] | None
) -> dict[str, Any]:
    """The first file with settings in some folders, an empty dictionary where there is none."""
    from monai_vqprior.runs import read_settings, settings_beside

    for folder in folders:
        path = settings_beside(folder, name)
        if path is not None:
            return read_settings(path, keys, codebooks)
    return {}


def _setting_keys(root: Path, names: Sequence[str]) -> frozenset[str]:
    """Which settings a stack of configurations writes down beside the weights that it trains."""
    settings = load_configs(root, names).get("settings")
    return frozenset(settings) if isinstance(settings, dict) else frozenset()


def _named_codebooks(*configs: Mapping[str, Any]) -> set[str]:
    """The classes of codebooks that configurations or overrides name: their authors chose them."""
    told = [config.get(key) for config in configs for key in ("codebook#_target_", "codebook::_target_")]
    parts = [config.get("codebook") for config in configs]
    told += [part.get("_target_") for part in parts if isinstance(part, dict)]
    return {target for target in told if isinstance(target, str)}


def _value(item: Any, config: Mapping[str, Any]) -> Any:
    """An item of a configuration with plain references to top-level keys replaced by their values."""
    if isinstance(item, dict):
        return {key: _value(value, config) for key, value in item.items()}
    if isinstance(item, str) and item.startswith("@"):
        return config.get(item[1:], item)
    return item


def _of_this_stage(
    root: Path, config: Mapping[str, Any], given: Mapping[str, Any], told: Mapping[str, Any]
) -> dict[str, Any]:
    """The keys given without those that only the other stage has a place for."""
    stages = [load_configs(root, STACKS[stage].files) for stage in (AUTOENCODER, PRIOR)]
    known = {key for key in given if any(fits(stage, key, told) for stage in stages)}
    return {key: value for key, value in given.items() if key not in known or fits(config, key, told)}


def fits(config: Mapping[str, Any], key: str, overrides: Mapping[str, Any]) -> bool:
    """Whether a configuration with these overrides has a place for one of them, such as ``train#loss#l1_weight``."""
    return key.split("#")[0] in config and unknown_argument(key, {**config, **overrides}) is None
