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
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from monai.bundle import ConfigParser
from PIL import Image
from small import QUICK, words

from monai_vqprior.bundles import bundle_root
from monai_vqprior.cli import main
from monai_vqprior.data import SliceFolder, phantom_slice
from monai_vqprior.errors import InputError
from monai_vqprior.runs import check_scale, slice_scale

pytestmark = pytest.mark.integration

SMALL = words(QUICK)


def write(folder: Path) -> Path:
    """Five subjects with 12-bit values in 16-bit files, of which each has a slice that is darker than a quarter."""
    folder.mkdir()
    for subject in range(5):
        for index in range(3):
            image = phantom_slice(subject, index=14, size=32).image.astype(np.uint16) * (4 if index == 0 else 15)
            Image.fromarray(image).save(folder / f"sub-{subject:02d}_slice_{index}.png")
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("data") / "slices")


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("run")
    assert main(["train", "--dataset_dir", str(data), "--output_dir", str(output), *SMALL]) == 0
    return output


def settings_of(folder: Path) -> dict[str, Any]:
    settings: dict[str, Any] = json.loads((folder / "models" / "settings.json").read_text(encoding="utf-8"))
    return settings


def parser(stack: str, **changes: Any) -> ConfigParser:
    files = {"prior": ["train", "train_prior"], "evaluate": ["train", "train_prior", "evaluate"]}.get(stack, [stack])
    config = ConfigParser()
    config.read_config([str(bundle_root() / "configs" / f"{name}.json") for name in files])
    config.update({"bundle_root": str(bundle_root()), **changes})
    return config


def test_training_takes_what_the_whole_data_set_tells(run: Path, data: Path) -> None:
    assert settings_of(run)["max_value"] == 4095


@pytest.mark.parametrize("stack", ["prior", "evaluate", "inference", "neighbors"])
def test_later_commands_read_on_the_scale_of_the_training(run: Path, tmp_path: Path, stack: str) -> None:
    """By MONAI's command too, which gets no settings; the data are others, of which 1023 were found."""
    (tmp_path / "data").mkdir()
    image = np.arange(32 * 32).reshape(32, 32).astype(np.uint16)
    for subject in range(10):
        Image.fromarray(image).save(tmp_path / "data" / f"sub-{subject}_slice_1.png")
    config = parser(stack, dataset_dir=str(tmp_path / "data"), output_dir=str(run))
    transform = config.get_parsed_content("train#preprocessing" if stack in ("prior", "evaluate") else "preprocessing")
    read = transform({"image": tmp_path / "data" / "sub-0_slice_1.png"})["image"][0]
    np.testing.assert_allclose(read, image / 4095 * 255, atol=0.5)


def test_a_new_training_finds_its_own(
    run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = parser("train", dataset_dir=str(data), output_dir=str(run))
    assert config.get_parsed_content("scale") == 4095
    told = capsys.readouterr().out
    assert told.startswith("white is 4095 in slices of more than 8 bits: 15 of 15 slices have more than 8 bits")
    assert "--max_value" in told
    config = parser("train", dataset_dir=str(data), output_dir=str(run), max_value=5000)
    assert config.get_parsed_content("scale") == 5000


@pytest.mark.parametrize("words", [["--resume", "--max_epochs", "2"], ["--stage", "prior", "--overwrite"]], ids=str)
def test_a_training_does_not_go_on_on_another_scale(
    run: Path, data: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*.*") if path.is_file()}
    command = ["train", "--dataset_dir", str(data), "--output_dir", str(run), *SMALL, *words, "--max_value", "5000"]
    assert main(command) == 2
    assert "was trained with 4095, got max_value 5000: pass --max_value 4095" in capsys.readouterr().err
    assert before == {path: path.read_bytes() for path in run.rglob("*.*") if path.is_file()}


def test_another_scale_is_told(run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slices = SliceFolder(data)
    assert slice_scale(slices, 5000, run / "models" / "model.pt") == 5000
    assert capsys.readouterr().out == "white is 5000 in slices of more than 8 bits, but was 4095 in the training\n"
    for given, weights in ((4095, run / "models" / "model.pt"), (5000, None), (5000, tmp_path / "model.pt")):
        assert slice_scale(slices, given, weights) == given
        assert capsys.readouterr().out == ""


def test_weights_from_before_there_was_the_setting(data: Path, tmp_path: Path) -> None:
    """Integers were read with 65535 as white, floating point with 1, and are so on."""
    (tmp_path / "settings.json").write_text('{"spatial_size": 32}', encoding="utf-8")
    assert slice_scale(SliceFolder(data), None, tmp_path / "model.pt") is None
    check_scale(None, tmp_path / "model.pt")
    with pytest.raises(InputError, match=r"before there was such a setting, got max_value 4095: leave --max_value out"):
        check_scale(4095, tmp_path / "model.pt")


def test_weights_of_8_bit_slices_refuse_what_no_scale_is_known_of(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["reconstruct", "--dataset_dir", str(data), "--output_dir", str(tmp_path / "out"), "--device", "cpu"]
    assert main([*words, "--spatial_size", "32"]) == 2
    assert "more than the 255 that is white: pass the value that is white in your slices as --max_value" in (
        capsys.readouterr().err
    )
    assert not (tmp_path / "out").exists()
    assert main([*words, "--spatial_size", "32", "--max_value", "4095"]) == 0
