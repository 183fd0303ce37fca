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


"""``vqprior complete``, from a training with ``given_context`` on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small import ON_CPU, PRIOR, words

from monai_vqprior.cli import main
from monai_vqprior.data import SliceFolder
from monai_vqprior.files import write_png

pytestmark = pytest.mark.integration

ROWS, COLUMNS = slice(9, 20), slice(6, 15)


def run(*words_: object) -> int:
    return main([str(word) for word in words_])


@pytest.fixture(scope="module")
def trained(small_run: Path, phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose prior has learned to complete, for one epoch."""
    output = tmp_path_factory.mktemp("complete") / "run"
    (output / "models").mkdir(parents=True)
    for name in ("model.pt", "settings.json"):
        shutil.copy(small_run / "models" / name, output / "models")
    settings = {**ON_CPU, **PRIOR, "max_epochs": 1, "given_context": True}
    assert run("train", "--stage", "prior", "--dataset_dir", phantom, "--output_dir", output, *words(settings)) == 0
    return output


@pytest.fixture(scope="module")
def inputs(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder of two slices, and a mask."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "images" / "sub").mkdir(parents=True)
    first, second = (item["image"] for item in SliceFolder(phantom).datalist("test")[:2])
    shutil.copy(first, folder / "images" / "one.png")
    shutil.copy(second, folder / "images" / "sub" / "two.png")
    mask = np.zeros((32, 32), np.uint8)
    mask[ROWS, COLUMNS] = 1
    return folder / "images", write_png(folder / "mask.png", mask)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_completions_of_a_folder(trained: Path, inputs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert json.loads((trained / "models" / "prior_settings.json").read_text())["given_context"] is True
    images, mask = inputs
    options = ["--device", "cpu", "--num_completions", 3]
    assert run("complete", "--image", images, "--mask", mask, "--output_dir", trained, *options) == 0
    assert "without given_context" not in capsys.readouterr().out
    for name in ("one", "sub/two"):
        image = pixels(images / f"{name}.png")
        for j in range(3):
            completed = pixels(trained / "completions" / f"{name}_{j:02d}.png")
            changed = completed != image
            changed[ROWS, COLUMNS] = False
            assert not changed.any()
    assert (trained / "completions.png").is_file()
    # The network was called with what is given below the hole too: other codes there, other codes in the hole.
    weights = torch.load(trained / "models" / "prior.pt", weights_only=True)
    assert any(name.startswith("sketch_prior.context_network") for name in weights)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("small mask", "mask.png is 16 x 16 pixels, but the slices are 32 x 32"),
        ("black mask", "mask.png is black, so that there is nothing to fill"),
        ("white mask", "touches every block of 4 x 4 pixels, so that nothing is given"),
        ("grey mask", "has 3 grey levels, and a mask has two"),
        ("no mask", "one.png has no mask (2 images have none)"),
        ("large image", "image.png is 48 x 48 pixels, but spatial_size is 32 x 32"),
        ("bright image", "image.png holds values up to 60000, more than the 255 that is white"),
        ("no image", "nowhere does not exist: give a picture or a folder of pictures as --image"),
    ],
)
def test_wrong_input_is_one_line(
    change: str, message: str, trained: Path, inputs: tuple[Path, Path], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    image, mask = inputs
    wrong = {
        "small mask": np.eye(16, dtype=np.uint8),
        "black mask": np.zeros((32, 32), np.uint8),
        "white mask": np.ones((32, 32), np.uint8),
        "grey mask": np.indices((32, 32))[0].astype(np.uint8) // 12,
    }
    if change in wrong:
        mask = write_png(tmp_path / "in" / "mask.png", wrong[change])
    elif change == "no mask":
        mask = write_png(tmp_path / "in" / "other.png", wrong["small mask"]).parent
    elif change == "no image":
        image = tmp_path / "nowhere"
    else:
        image = tmp_path / "in" / "image.png"
        image.parent.mkdir()
        size, level = ((48, 48), 0) if change == "large image" else ((32, 32), 60000)
        Image.fromarray(np.full(size, level, np.uint16)).save(image)
    output = tmp_path / "out"
    weights = ["--ckpt", trained / "models" / "model.pt", "--ckpt_prior", trained / "models" / "prior.pt"]
    assert run("complete", "--image", image, "--mask", mask, "--output_dir", output, "--device", "cpu", *weights) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("vqprior: error: ")
    assert message in error
    assert not (output / "completions").exists()
