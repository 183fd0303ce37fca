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

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

from monai_vqprior.cli import main
from monai_vqprior.cli.options import Option, command_parser
from monai_vqprior.cli.parsing import parse_command
from monai_vqprior.prepare_arguments import Preparation, kinds_of
from monai_vqprior.values import PHANTOM, SETTINGS, Kind

# Every option of every command with nonsense. The options are found in the parser itself, so that a new one is here by
# itself; what a kind of value has to accept and to refuse is written down by hand.

BIG = "1" + 30 * "0"
NONSENSE = [
    "", " ", "-1", "-0.5", "0", "1.5", BIG, "1e308", "nan", "inf", "-inf", "abc", "[]", "[1,2,3]", "['a', 1]", "{}",
    "{'a': 1}", "None", "True", "\0", "a\0b", "'", "9" * 5000, "(" * 500, "[" * 500 + "]" * 500,
]  # fmt: skip

_NO_NUMBERS = ["", " ", "nan", "inf", "-inf", "abc", "[]", "{}", "True", "\0", "9" * 5000]
_NO_WHOLE = [*_NO_NUMBERS, "1.5", "-0.5", "1e308", BIG, "[1]"]
_NO_SHARES = [*_NO_NUMBERS, "-0.5", "-1", "1.5", BIG, "1e308", "[0,1]", "None"]
_NO_FLAGS = ["", " ", "0", "1", "1.5", "nan", "abc", "yes", "[]", "{}", "None", "\0"]
_NO_PATHS = ["", " ", "\0", "a\0b", "\ud800"]
_NO_PAIRS = [*_NO_NUMBERS, "-1", "[1]", "[1,2,3]", "['a',1]", "[1,'nan']", "[1,1e308]", "[True,1]", "None"]

#: names, values that are right, values that are wrong.
VALUES: list[tuple[str, list[str], list[str]]] = [
    (
        "bundle_root dataset_dir output_dir models_dir volumes output bundle checkpoint autoencoder_checkpoint "
        "pretrained_checkpoint last_state metrics_file image mask",
        ["a", "/a/b", "7", "[a]", "None", "ü"],
        _NO_PATHS,
    ),
    ("ckpt ckpt_prior pretrained prior_checkpoint subjects_csv template prepared_dir", ["a", "7", "None"], _NO_PATHS),
    ("device stage autoencoder_weights", ["cpu", "cuda:1"], ["", " ", "\0"]),
    ("pattern condition masks", ["a=b", "*.nii", "None"], ["", " ", "\0"]),
    ("split", ["train", "validate", "test", "all"], ["", "tests", "Train", "0", "None", "['train']"]),
    (
        "overwrite write_reference resume skip_bad save_slices nifti amp smaller_is_better prior_skip_connections "
        "bias_correction prior_position_logits prior_sketch_mirror neighbor_context draw_conditions",
        ["true", "False", "TRUE"],
        _NO_FLAGS,
    ),
    ("given_context", ["true", "False"], _NO_FLAGS),
    ("split_by", ["subject", "file"], ["", "subjects", "File", "0", "None", "['file']"]),
    (
        "subject_pattern",
        ["None", r"(patient\d+)/", r"(?P<subject>[^/]+)/.*\.png$"],
        [
            "",
            " ",
            "abc",
            "(",
            "(?:a)",
            "*",
            "[",
            r"$(\d+)",
            "(a)@b",
            "(a)#",
            "(a)%",
            "(?P<a>b)::",
            "\0",
            "(" * 500,
            "(a)" * 99,
        ],
    ),
    ("split_seed seed", ["0", "4294967295"], [*_NO_WHOLE, "-1", "4294967296", "None"]),
    (
        "num_pictures batch_size tile_size max_epochs val_interval patch_size stride embedding_dim prior_channels "
        "prior_layers num_samples num_volumes num_completions prior_sketch_channels prior_sketch_layers "
        "neighbor_slices",
        ["1", "64"],
        [*_NO_WHOLE, "0", "-1", "None"],
    ),
    ("num_workers early_stop prior_attention_every prior_views given_views", ["0", "4"], [*_NO_WHOLE, "-1", "None"]),
    ("prior_sketch_block", ["0", "2", "4", "64"], [*_NO_WHOLE, "-2", "1", "3", "66", "None"]),
    ("prior_sketch_levels", ["1", "2"], [*_NO_WHOLE, "0", "-1", "9", "None"]),
    ("prior_code_batch_size", ["1", "64", "None"], [*_NO_WHOLE, "-1"]),
    ("max_value", ["4095", "0.5", "None"], [*_NO_NUMBERS, "0", "-1", BIG, "1e308"]),
    ("max_minutes", ["0.5", "1", "None"], [*_NO_NUMBERS, "0", "-1", BIG, "1e308"]),
    (
        "learning_rate predictability_weight guidance_scale seam",
        ["0", "0.5", "1e-3"],
        [*_NO_NUMBERS, "-1", BIG, "1e308"],
    ),
    ("affine_prob intensity_prob flip_prob translate_range given_dropout", ["0", "1", "0.5"], _NO_SHARES),
    ("prior_dropout condition_dropout prior_sketch_dropout neighbor_dropout", ["0", "0.9"], [*_NO_SHARES, "1"]),
    ("rotate_range scale_range", ["0", "0.1", "[-0.1,0.2]"], _NO_PAIRS),
    ("gamma_range", ["1.5", "[0.8,1.25]"], [*_NO_PAIRS, "0", "1", "[0,1]", "[-1,1]"]),
    ("spatial_size", ["128", "[160,128]", "(32,32)", "None"], [*_NO_WHOLE, "0", "-1", "[1,2,3]", "[0,1]", "big"]),
    ("channels", ["[64]", "[64,128]"], [*_NO_NUMBERS, "64", "[0]", "[1.5]", "['a']", "[True]", str([8] * 99), "None"]),
    (
        "num_encoder_blocks num_decoder_blocks",
        ["0", "2", "[1,2]"],
        [*_NO_NUMBERS, "-1", BIG, "[-1]", "['a']", "1.5", "None"],
    ),
    ("num_embeddings prior_sketch_codes", ["2", "512"], [*_NO_WHOLE, "1", "0", "-1", "None"]),
    ("background", ["0", "-1", "0.5", "None"], [*_NO_NUMBERS, BIG, "[0]"]),
    ("given_kernel_size", ["1", "3"], [*_NO_WHOLE, "4", "0", "-3", "None"]),
    ("prior_kernel_size", ["3", "5"], [*_NO_WHOLE, "4", "1", "-3", "None"]),
    (
        "conditions",
        ["[dementia,slice]", "dementia", "['a', 'b']", "[]", "[{'name': 'a', 'mean': 0, 'std': 1}]"],
        ["", " ", "0", "-1", "1.5", "[1,2,3]", "{}", "{'a': 1}", "[[]]", "['']", "[{}]", "[", "\0", "[,]", "[a,]"],
    ),
    (
        "head_affine",
        [str([[1, 0, 0, -2.5]] * 4), "None"],
        [*_NO_NUMBERS, "1", "[1,2,3,4]", str([[1, 2, 3]] * 4), str([["a"] * 4] * 4)],
    ),
    ("temperature", ["0.5", "2"], [*_NO_NUMBERS, "0", "-1", BIG, "1e308", "None"]),
    ("sketch_temperature", ["0.5", "2", "None"], [*_NO_NUMBERS, "0", "-1", BIG, "1e308"]),
    ("top_k", ["1", "512", "None"], [*_NO_WHOLE, "0", "-1"]),
    ("top_p", ["0.9", "1", "None"], [*_NO_NUMBERS, "0", "-1", "1.5", BIG]),
    ("axis head_axis", ["0", "2"], [*_NO_WHOLE, "3", "-1", "7"]),
    ("num_slices head_slices", ["1", "32"], [*_NO_WHOLE, "0", "-1"]),  # None for all in some commands
    ("spacing voxel_size", ["1", "0.5", "2.5"], [*_NO_NUMBERS, "0", "-1", "None"]),
    ("center_offset center", ["-3", "0", "5.5"], [*_NO_NUMBERS, BIG]),
    ("space", ["template", "rigid", "native", "scanner", "None"], ["", "mni", "1", "Template"]),
    ("scaling", ["percentiles", "white_matter"], ["", "None", "white", "0", "White_matter"]),
    ("size", ["32", "256"], [*_NO_WHOLE, "33", "14", "0", "-2", "None"]),
    ("subjects", ["3", "40"], [*_NO_WHOLE, "2", "0", "-1", "None"]),
    ("percentiles", ["[0.5,99.5]", "(0,100)"], ["[99,1]", "[5,5]", "[-1,99]", "[1,101]", "[1]", "[1,'nan']", "5", ""]),
    ("fractions", ["[0.8,0.1,0.1]", "[0,0,1]"], ["[1,1,1]", "[2,-1,0]", "[0.5,0.5]", "['nan',0,1]", "1", ""]),
]


PARSER = command_parser()


def value_options() -> list[tuple[str, argparse.Action]]:
    """Every option of every command that takes a value, with the command's name."""
    commands = next(a for a in PARSER._actions if isinstance(a, argparse._SubParsersAction)).choices
    return [
        (name, action)
        for name, command in commands.items()
        for action in command._actions
        if action.option_strings and action.nargs != 0
    ]


OPTIONS = [pytest.param(*option, id=f"{option[0]} {option[1].option_strings[0]}") for option in value_options()]
KINDS: list[tuple[str, Kind]] = [*SETTINGS.items(), *kinds_of(Preparation).items(), *PHANTOM.items()]


@pytest.mark.parametrize(("name", "kind"), KINDS, ids=[name for name, _ in KINDS])
def test_kinds_accept_what_is_right_and_refuse_what_is_wrong(name: str, kind: Kind) -> None:
    right, wrong = next((right, wrong) for names, right, wrong in VALUES if name in names.split())
    for text in right:
        assert kind.accepts(kind.read(text)), text
    for text in wrong:
        assert not kind.accepts(kind.read(text)), text


def required(command: str, folder: Path) -> list[str]:
    """What a command has to be told; nothing of it is there."""
    words = [command]
    for name, action in value_options():
        if name == command and action.required:
            words.append(f"{action.option_strings[0]}={folder / 'nowhere'}")
    return words


def refused(capsys: pytest.CaptureFixture[str], words: list[str], folder: Path) -> str:
    """The one line that a command says of a wrong value, before anything is written."""
    assert main(words) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert printed.err.startswith("vqprior: error: ")
    assert not list(folder.iterdir())
    return printed.err


@pytest.mark.parametrize(("command", "action"), OPTIONS)
def test_every_option_refuses_nonsense(
    command: str, action: argparse.Action, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    option = action.option_strings[0]
    assert isinstance(action.type, Option), f"{option} of {command} reads its value without a kind"
    number = action.nargs if isinstance(action.nargs, int) else 1
    tried = 0
    for text in NONSENSE:
        kind = action.type.kind
        if number == 1 and kind.accepts(kind.read(text)):
            continue
        words = [f"{option}={text}"] if number == 1 else [option, *[text] * number]
        message = refused(capsys, [*required(command, tmp_path), *words], tmp_path)
        assert option in message
        tried += 1
    assert tried >= 3  # the empty ones at least


@pytest.mark.parametrize("key", SETTINGS)
def test_every_setting_refuses_nonsense(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As ``--key value`` of a command that has no such option, too."""
    monkeypatch.chdir(tmp_path)
    for text in NONSENSE:
        if not SETTINGS[key].accepts(SETTINGS[key].read(text)):
            message = refused(capsys, [*required("neighbors", tmp_path), f"--{key}={text}"], tmp_path)
            assert f"--{key}" in message


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ([], "COMMAND"),
        (["nonsense"], "'nonsense'"),
        (["train"], "--dataset_dir"),
        (["phantom", "--output", "out", "--subject", "3"], "--subject"),
        (["phantom", "--output", "out", "--labels=5"], "--labels"),
        (["phantom", "--output", "out", "stray"], "'stray'"),
        (["sample", "--temperature"], "--temperature"),
        (["sample", "--temperature", "-inf"], "--temperature"),
        (["sample", "--batch_size", "--nifti"], "--batch_size"),
        (["prepare", "--volumes", "v", "--output", "o", "--fractions", "0.5", "0.5"], "--fractions"),
        (["prepare", "--volumes", "v", "--output", "o", "--fractions", "1", "1", "1"], "add up to 1"),
        (["prepare", "--volumes", "v", "--output", "o", "--percentiles", "99", "1"], "two ascending numbers"),
        (
            ["prepare", "--volumes", "v", "--output", "o", "--percentiles", "1", "99", "--scaling", "white_matter"],
            "percentiles have no effect with the scaling white_matter",
        ),
        (["train", "--dataset_dir", "data", "--resume", "$1/0"], "must be given as it is"),
    ],
)
def test_words_that_are_no_command_line(
    words: list[str], named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert named in refused(capsys, words, tmp_path)


def test_a_wrong_value_is_refused_before_torch_is_imported(tmp_path: Path) -> None:
    program = (
        "import sys; from monai_vqprior.cli import main; assert main(sys.argv[1:]) == 2; print('torch' in sys.modules)"
    )
    words = [sys.executable, "-c", program, "train", "--dataset_dir", "data", "--flip_prob", "-1"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    assert done.stderr == "vqprior: error: --flip_prob must be a number of at least 0 and at most 1, got -1.\n"


def test_the_last_of_two_values_holds_and_expressions_pass() -> None:
    words = [
        "train",
        "--dataset_dir",
        "data",
        "--seed",
        "1",
        "--seed",
        "$40 + 2",
        "--flip_prob",
        "0",
        "--flip_prob",
        "1",
    ]
    options = parse_command(words)
    assert getattr(options, "override.seed") == "$40 + 2"
    assert options.overrides == {"flip_prob": 1}
