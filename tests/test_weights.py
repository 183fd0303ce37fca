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
"""The weights that the bundle ships, right after installation: whatever they were trained on."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from monai.bundle import ConfigParser
from PIL import Image
from skimage.metrics import structural_similarity
from warm_python import run_python

from monai_vqprior.bundles import bundle_root, load_configs
from monai_vqprior.cli import main
from monai_vqprior.command_configs import Owners, saved_settings
from monai_vqprior.files import write_png

pytestmark = pytest.mark.integration

MODELS = bundle_root() / "models"
SIZE = 256


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path), dtype=np.float64) / 255


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """
    Ten samples by MONAI's command, from the folder of the bundle's copy, as the model card says; and that they are
    slices that the weights know, whatever these were trained on.
    """
    folder = tmp_path_factory.mktemp("drawn")
    assert main(["bundle", "--output", str(folder / "bundle")]) == 0
    files = "['configs/inference.json','configs/sample.json']"
    words = ["-m", "monai.bundle", "run", "--config_file", files, "--bundle_root", ".", "--output_dir", str(folder)]
    done = run_python(words, folder / "bundle")
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


def test_monais_command_needs_no_settings(tmp_path: Path) -> None:
    """The configurations describe the networks of the weights; how to train such networks may have changed since."""
    for names in (["inference.json", "sample.json"], ["train.json", "train_prior.json", "evaluate.json"]):
        config = load_configs(bundle_root(), names)
        changed = saved_settings([MODELS], [MODELS], config, Owners.of(bundle_root()))
        codebook = changed.pop("codebook", {})
        assert changed.pop("max_value") == 255  # which MONAI's command reads beside the weights itself
        parser = ConfigParser({**config, "bundle_root": str(bundle_root()), "output_dir": str(tmp_path)})
        assert changed == {key: parser.get_parsed_content(key) for key in changed}
        known = {key: parser.get_parsed_content(f"codebook#{key}", instantiate=False) for key in codebook}
        assert {key for key in codebook if codebook[key] != known[key]} <= {"entropy_weight"}


def test_settings_name_no_place() -> None:
    for name in ("settings.json", "prior_settings.json"):
        assert not re.search(r"[/\\]", (MODELS / name).read_text(encoding="utf-8"))


def test_ten_brains(drawn: Path) -> None:
    """On black, each another."""
    samples = np.stack([pixels(path) for path in sorted((drawn / "samples").glob("*.png"))])
    assert samples.shape == (10, SIZE, SIZE)
    border = np.ones((SIZE, SIZE), bool)
    border[16:-16, 16:-16] = False
    assert samples[:, border].mean() < 0.02
    middle = samples[:, SIZE // 4 : -SIZE // 4, SIZE // 4 : -SIZE // 4].mean((1, 2))
    assert (middle > 0.15).all()
    differences = np.abs(samples[:, None] - samples[None]).mean((2, 3))
    assert differences[~np.eye(10, dtype=bool)].min() > 0.01


def test_reconstruct_and_evaluate(drawn: Path, tmp_path: Path) -> None:
    """The weights know their own samples, which are slices like any other; inverted ones they do not."""
    figures = {}
    for name, invert in (("drawn", False), ("inverted", True)):
        data = tmp_path / name
        for number, path in enumerate(sorted((drawn / "samples").glob("*.png"))[:6]):
            image = pixels(path)
            file = data / f"patient{number // 2}_slice_{number % 2}.png"
            write_png(file, np.rint(255 * (1 - image if invert else image)).astype(np.uint8))
        output = ["--dataset_dir", str(data), "--output_dir", str(tmp_path / f"of_{name}")]
        assert main(["evaluate", *output, "--split", "all"]) == 0
        figures[name] = json.loads((tmp_path / f"of_{name}" / "metrics.json").read_text(encoding="utf-8"))
    assert main(["reconstruct", *output[2:], "--dataset_dir", str(tmp_path / "drawn"), "--split", "all"]) == 0
    scores = []
    for path in (tmp_path / "drawn").iterdir():
        (rebuilt,) = (tmp_path / "of_inverted" / "reconstructions").rglob(path.name)
        told = {"data_range": 1, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
        scores.append(structural_similarity(pixels(rebuilt), pixels(path), **told))
    assert np.mean(scores) == pytest.approx(figures["drawn"]["ssim"], abs=0.01)
    assert np.mean(scores) > 0.9
    assert np.mean(scores) > figures["drawn"]["baselines"]["black"]["ssim"] + 0.3
    assert figures["drawn"]["bits_per_code"] < 4  # what the prior knows of each position alone comes to more than 5
    assert figures["drawn"]["bits_per_code"] < figures["inverted"]["bits_per_code"] - 2
