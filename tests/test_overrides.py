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

from pathlib import Path
from typing import Any

import pytest

from monai_vqprior.bundles import bundle_root, load_configs
from monai_vqprior.cli import main
from monai_vqprior.errors import InputError
from monai_vqprior.failures import explain_failure
from monai_vqprior.overrides import check_overrides

# What users may give for keys of a configuration that are not settings, and what is said when it does not work.

CONFIG = load_configs(bundle_root(), ["train.json"])
CODEBOOK = {"_target_": "monai_vqprior.networks.FSQCodebook", "levels": [8, 8]}


@pytest.mark.parametrize(
    "overrides",
    [
        {"flip_prob": 0.5},
        {"batch_size": "$2 * @val_interval"},
        {"learning_rate": "@flip_prob"},
        {"codebook": CODEBOOK},
        {"codebook": "$monai_vqprior.networks.EMACodebook(8, 4)"},
        {"codebook#decay": 0.5},
        {"codebook#_target_": "monai_vqprior.networks.CosineCodebook", "codebook#decay": 0.5},
        {"train#loss#ssim_weight": 2},
        {"train#optimizer#betas": [0.5, 0.5]},
        {"train#optimizer#betas#1": 0.9},
        {"train#optimizer#_target_": "torch.optim.SGD"},
        {"train#dataloader#batch_size": 4},
        {"train#dataloader#drop_last": True},
        {"train#augmentation": None},
        {"train#augmentation#transforms#3#_target_": "RandFlipd"},
        {"train#handlers": ["@validate#best", {"_target_": "StatsHandler"}]},
        {"validate#additional_metrics#mae": {"_target_": "MeanAbsoluteError"}},
        {"train#datalist": [{"image": "a.png"}]},
        {"network": CODEBOOK},
        {"key_metric": "perplexity"},
        {"checkpoint": "a.pt"},
    ],
    ids=str,
)
def test_what_the_configuration_has_a_place_for(overrides: dict[str, Any]) -> None:
    check_overrides(overrides, CONFIG)


COMPONENT = "is a component of the configuration"


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("nonsense", 1, "there is no option --nonsense"),
        ("learning_rat", 1, "did you mean --learning_rate?"),
        ("train#los#ssim_weight", 1, "train#los has no parts"),
        ("train#los", 1, "did you mean --train#loss?"),
        ("train#handlers#99", "@train", "train#handlers has the parts 0 to "),
        ("train#handlers#x", "@train", "train#handlers has the parts 0 to "),
        ("train#datalist#0", 1, "train#datalist has no parts"),
        ("bundle_root", "a", "did you mean --bundle?"),
        ("begin", [], "not for this command"),
        ("run#0", "$1", "not for this command"),
        ("imports", ["$import os"], "not for this command"),
        ("+begin", ["$1"], "not for this command"),
        ("~train", None, "not for this command"),
        ("flip_prob", 2, "--flip_prob must be a number of at least 0 and at most 1, got 2"),
        ("train", 5, COMPONENT),
        ("train", None, COMPONENT),
        ("train", {"loss": CODEBOOK}, "without datalist, preprocessing, augmentation"),
        ("codebook", {"levels": [8, 8]}, "without _target_: give a dictionary with all of it"),
        ("codebook", "abc", "one of its arguments, such as --codebook#num_embeddings"),
        ("codebook", [1], COMPONENT),
        ("network", [1, 2], "must be a dictionary with _target_"),
        ("network", "abc", "must be a dictionary with _target_"),
        ("train#handlers", [1, 2], "a list of dictionaries"),
        ("train#handlers", {}, "a list of dictionaries"),
        ("train#trainer#optimizer", 1, "must be a dictionary with _target_"),
        ("train#dataloader#batch_size", "abc", "--train#dataloader#batch_size must be a whole number in 1..65536"),
        ("train#loss#ssim_weight", "abc", "--train#loss#ssim_weight must be a finite number, got 'abc'"),
        ("train#loss#ssim_weight", float("nan"), "must be a finite number, got nan"),
        ("train#loss#ssim_weight", True, "must be a finite number, got True"),
        ("train#loss#ssim_weight", None, None),
        ("train#optimizer#fused", 1, "must be true or false, got 1"),
        ("train#optimizer#betas", 0.5, "must be a list, got 0.5"),
        # a default, which the configuration does not give
        ("train#loss#data_range", "abc", "must be a finite number"),
        ("train#inferer#enabled", "abc", "there is no option"),
        ("key_metric", 1, "must be text, got 1"),
        ("codebook#_target_", "os.nothing", "must be the name of a class or function"),
        ("codebook#_target_", "Nothing", "must be the name of a class or function"),
        ("codebook#_target_", "abc", "must be the name of a class or function"),
        ("codebook#_target_", "", "must be the name of a class or function"),
        ("codebook", {"_target_": "os.nothing"}, "must be the name of a class or function"),
        ("seed", "@nothing", "--seed refers to @nothing, which the configuration does not have"),
        ("seed", "$1 + @train#nothing", "refers to @train#nothing"),
        ("seed", "$1 +", "must be an expression of Python"),
        ("seed", "$a\0b", "must be an expression of Python"),
    ],
)
def test_what_it_has_no_place_for(key: str, value: Any, named: str | None) -> None:
    if named is None:
        check_overrides({key: value}, CONFIG)
        return
    with pytest.raises(InputError) as raised:
        check_overrides({key: value}, CONFIG)
    assert named in str(raised.value)
    assert f"--{key}" in str(raised.value)
    assert "\n" not in str(raised.value)


SMALL = "--stage vqvae --spatial_size 32 --max_epochs 1 --device cpu --amp false --channels [8] --num_embeddings 16"


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--train#optimizer#betas", "[2,3]"], "--train#optimizer#betas [2, 3]: AdamW fails (ValueError: Invalid beta"),
        (["--train#dataloader#num_workers", "$-1"], "--train#dataloader#num_workers '$-1': DataLoader fails"),
        (["--train#loss#ssim_weight", "$1/0"], "--train#loss#ssim_weight '$1/0': it cannot be evaluated"),
        (["--seed", "$1/0"], "--seed '$1/0': it cannot be evaluated (ZeroDivisionError: division by zero)"),
        (["--seed", "$[1]"], "seed must be a whole number in 0..4294967295, got [1]"),
        (["--network_def#in_channels", "3"], "--network_def#in_channels 3: AutoencoderVQ fails"),
        (["--num_encoder_blocks", "[1,2,3]"], "num_encoder_blocks"),
    ],
)
def test_a_component_that_cannot_be_made_with_what_was_given(
    words: list[str], named: str, phantom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--dataset_dir", str(phantom), "--output_dir", str(tmp_path), *SMALL.split(), *words]) == 2
    _, *lines = capsys.readouterr().err.split("vqprior: error: ")
    assert len(lines) == 1
    assert lines[0].startswith(named)
    assert lines[0].count("\n") == 1


def test_a_component_that_was_not_touched_keeps_its_traceback(
    phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("a bug")

    words = ["train", "--dataset_dir", str(phantom), "--output_dir", str(tmp_path), *SMALL.split()]
    for place in ("monai_vqprior.networks.AutoencoderVQ.forward", "monai_vqprior.losses.TokenizerLoss.__init__"):
        with monkeypatch.context() as patch:
            patch.setattr(place, broken)
            with pytest.raises(RuntimeError):
                main([*words, "--train#optimizer#weight_decay", "0", "--train#trainer#optim_set_to_none", "false"])


def test_what_is_explained_already_is_left_alone() -> None:
    assert explain_failure(InputError("wrong"), {"codebook#decay": 1}, CONFIG) is None
    assert explain_failure(FileNotFoundError(2, "missing", "a.png"), {"codebook#decay": 1}, CONFIG) is None
    assert explain_failure(RuntimeError("a bug"), {"codebook#decay": 1}, CONFIG) is None
