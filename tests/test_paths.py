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

import json
import os
import shutil
import sys
from pathlib import Path

import monai.bundle
import pytest
from fire.parser import DefaultParseValue
from hypothesis import given
from hypothesis import strategies as st
from monai.bundle import ConfigParser

from monai_vqprior.cli import main
from monai_vqprior.cli.parsing import parse_command
from monai_vqprior.config_text import as_config
from monai_vqprior.errors import InputError, one_line, reason_of
from monai_vqprior.files import read_json, tell, write_text
from monai_vqprior.outputs import log_folder
from monai_vqprior.runs import check_settings

pytestmark = pytest.mark.integration

# Of each kind one: MONAI's signs, a shell's, a line break, blanks, letters of one and of two signs, bytes that are no
# UTF-8.
NAMES = [
    "a#1", "@a", "$a", "%a", "a@::b", "a::b", "7", "None", "1e5", "a, b", "[a]", "a\nb", " a ", "-a", "a/", "ü",
    "e\u0301", "'a'", '"a"', "a\\b", "$(a)", "`a`", "!a", os.fsdecode(b"caf\xe9"),
]  # fmt: skip
SMALL = ["--spatial_size", "32", "--max_epochs", "1", "--device", "cpu", "--amp", "false", "--channels", "[8]"]
SMALL += ["--num_embeddings", "16", "--embedding_dim", "4", "--num_decoder_blocks", "0", "--prior_channels", "8"]
SMALL += ["--prior_layers", "2"]


def through_monai(held: object, key: str = "dataset_dir") -> tuple[str, str]:
    """What a configuration makes of a value: of a reference to it, and of an expression with it."""
    config = {"imports": ["$import os"], key: held, "argument": [f"@{key}"], "joined": f"$os.path.join(@{key}, 'x')"}
    parser = ConfigParser(config)
    return str(parser.get_parsed_content("argument")[0]), str(parser.get_parsed_content("joined"))


@pytest.mark.parametrize("name", [name for name in NAMES if name[0] not in "$@%"], ids=ascii)
def test_a_configuration_holds_any_path(name: str) -> None:
    held = as_config("dataset_dir", name)
    expected = str(Path(name)) if "::" in name else name
    assert through_monai(held) == (expected, os.path.join(expected, "x"))  # noqa: PTH118
    assert DefaultParseValue(str(held)) == held  # what MONAI's command line makes of it


@given(st.text(st.characters(exclude_characters="\0"), min_size=1))
def test_a_configuration_holds_any_text(text: str) -> None:
    for key in ("dataset_dir", "condition"):
        if not text.startswith(("$", "@", "%")):
            held = as_config(key, text)
            read = through_monai(held, key)[0]
            assert read == (str(Path(text)) if key == "dataset_dir" and "::" in text else text)


def test_lists_and_dictionaries_are_held_too() -> None:
    value = {"names": ["a#b", "c", 3], "expression": "$1 + 1"}
    held = as_config("other", value)
    assert ConfigParser({"other": held}).get_parsed_content("other#names#0") == "a#b"
    assert held["names"][1:] == ["c", 3]
    assert held["expression"] == "$1 + 1"


def test_plain_paths_stay_as_they_are() -> None:
    for path in ("phantom", "./data", "/tmp/a b/run-2", "output/demo"):
        assert as_config("output_dir", path) == path


@pytest.mark.parametrize("name", NAMES, ids=ascii)
@pytest.mark.parametrize("option", ["dataset_dir", "output_dir", "ckpt", "ckpt_prior", "bundle"])
def test_options_take_any_path(name: str, option: str) -> None:
    words = ["--dataset_dir", "data", f"--{option}", name]
    if option == "ckpt" and name == "None":
        words[-1] = "./None"
    options = vars(parse_command(["evaluate", *words]))
    value = options.get(f"override.{option}", options.get(option))
    if (option, name) != ("ckpt_prior", "None"):
        assert Path(str(value)) == Path(name)


def test_a_path_may_begin_with_a_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/@someone")
    options = vars(parse_command(["sample", "--output_dir", "~/run"]))
    assert options["override.output_dir"] == "/home/@someone/run"


@pytest.mark.parametrize("name", ["", " ", "a\0b", "\ud800"], ids=ascii)
def test_what_is_no_path_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--dataset_dir", "data", "--output_dir", name]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["%a#1 $b@c", os.fsdecode(b"-caf\xe9\n::")], ids=ascii)
def test_commands_read_and_write_where_they_are_told(
    name: str, phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    data, run, bundle = name, f"{name} run", f"{name} bundle"
    shutil.copytree(phantom, data)
    where = ["--dataset_dir", data, "--output_dir", run]
    assert main(["bundle", "--output", bundle]) == 0
    assert main(["train", *where, *SMALL, "--bundle", bundle]) == 0
    assert main(["evaluate", *where, "--ckpt", f"{run}/models/model.pt", "--device", "cpu"]) == 0
    assert main(["reconstruct", *where, "--device", "cpu"]) == 0
    assert main(["sample", "--output_dir", run, "--num_samples", "2", "--device", "cpu"]) == 0
    assert main(["neighbors", *where, "--device", "cpu"]) == 0
    assert main(["report", "--output_dir", run]) == 0
    assert sorted(os.listdir()) == sorted([data, run, bundle])  # noqa: PTH208
    written = set(os.listdir(run))  # noqa: PTH208
    assert {
        "models",
        "tensorboard",
        "splits.csv",
        "metrics.json",
        "reconstructions",
        "samples",
        "report.html",
    } <= written
    assert any((Path(run) / "tensorboard" / "vqvae").iterdir())
    printed = capsys.readouterr()
    assert printed.out.isascii()
    assert "Traceback" not in printed.err


def test_names_of_slices_that_are_not_utf_8(phantom: Path, tmp_path: Path) -> None:
    """As old archives unpack: read, written under the same names, and told in UTF-8."""
    data, run = tmp_path / "data", tmp_path / "run"
    data.mkdir()
    images = sorted((phantom / "keras_png_slices_train").iterdir())[:12]
    for number, image in enumerate(images):
        shutil.copyfile(image, os.fsencode(data) + b"/pati\xe9nt%d_slice_0.png" % number)
    where = ["--dataset_dir", str(data), "--output_dir", str(run)]
    assert main(["train", "--stage", "vqvae", *where, *SMALL]) == 0
    assert main(["reconstruct", *where, "--device", "cpu", "--split", "all"]) == 0
    assert len((run / "splits.csv").read_text(encoding="utf-8").splitlines()) == 13
    assert sorted(os.listdir(run / "reconstructions")) == sorted(os.listdir(data))  # noqa: PTH208


def test_what_monai_has_rewritten_is_refused() -> None:
    """MONAI's own command makes :: of #, and the results would lie in another folder."""
    path, _ = through_monai("run#2", "output_dir")
    assert path == "run::2"
    with pytest.raises(InputError, match="output_dir is 'run::2'"):
        check_settings(output_dir=path)
    check_settings(output_dir=Path("run::2"), dataset_dir="run#2")


@pytest.mark.parametrize("words", [["--output_dir", "run#2"], ["--seed", "1", "--output_dir=run#2"]])
def test_what_the_command_line_of_monai_takes_for_a_comment_is_refused(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert DefaultParseValue("run#2") == "run"
    monkeypatch.setattr(sys, "argv", [str(Path(monai.bundle.__file__).with_name("__main__.py")), "run", *words])
    with pytest.raises(InputError, match="output_dir is 'run#2'"):
        check_settings(output_dir="run")
    check_settings(dataset_dir="run")
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--output_dir", '$"run\\x232"'])
    check_settings(output_dir="run#2")


def test_output_that_knows_few_letters(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for encoding in ("ascii", "latin-1", "utf-8"):
        with (tmp_path / encoding).open("w", encoding=encoding) as file:
            monkeypatch.setattr(sys, "stdout", file)
            tell("written to", os.fsdecode(b"\xe9"), "ü中")
            words = ["phantom", "--output", str(tmp_path / f"ü中\udce9{encoding}"), "--subjects", "3"]
            assert main([*words, "--num_slices", "1", "--size", "32"]) == 0
    assert (tmp_path / "ascii").read_bytes().startswith(rb"written to \udce9 \xfc\u4e2d")
    assert (tmp_path / "utf-8").read_text(encoding="utf-8").startswith("written to \\udce9 ü中")
    assert "ü中" in (tmp_path / "utf-8").read_text(encoding="utf-8").splitlines()[1]


def test_messages_are_one_line() -> None:
    assert reason_of(RuntimeError("Error(s) in loading:\n\tMissing key.\r\n  Unexpected.")) == (
        "Error(s) in loading: Missing key. Unexpected."
    )
    assert reason_of(KeyError()) == "KeyError"
    assert one_line("a\nb\x1b[1m\u2028ü") == "a\\nb\\x1b[1m\\u2028ü"
    assert str(InputError("a\nb does not exist.")) == "a\\nb does not exist."


def test_text_with_such_names_can_be_read_again(tmp_path: Path) -> None:
    path = write_text(tmp_path / "a.json", json.dumps({"image": os.fsdecode(b"\xe9")}))
    assert read_json(path) == {"image": os.fsdecode(b"\xe9")}
    assert write_text(tmp_path / "b", "\udce9").read_text(encoding="utf-8") == "\\udce9"


def test_log_folder_leads_to_the_folder(tmp_path: Path) -> None:
    assert log_folder(tmp_path / "ü") == str(tmp_path / "ü")
    folder = os.fsencode(tmp_path) + b"/\xe9/log"
    (Path(log_folder(os.fsdecode(folder))) / "events").write_text("1", encoding="utf-8")
    assert os.listdir(folder) == [b"events"]  # noqa: PTH208
