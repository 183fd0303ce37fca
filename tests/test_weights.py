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
"""The weights that the bundle ships, right after installation, on phantoms that they were not trained on."""

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

pytestmark = pytest.mark.integration

MODELS = bundle_root() / "models"
SIZE = 256


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort") / "phantom"
    assert main(["phantom", "--output", str(folder), "--subjects", "3", "--num_slices", "4", "--seed", "12345"]) == 0
    return folder


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path), dtype=np.float64) / 255


def test_monais_command_needs_no_settings() -> None:
    """The configurations describe the networks of the weights; how to train such networks may have changed since."""
    for names in (["inference.json", "sample.json"], ["train.json", "train_prior.json", "evaluate.json"]):
        config = load_configs(bundle_root(), names)
        changed = saved_settings([MODELS], [MODELS], config, Owners.of(bundle_root()))
        codebook = changed.pop("codebook", {})
        assert changed.pop("max_value") == 255  # which MONAI's command reads beside the weights itself
        parser = ConfigParser(config)
        assert changed == {key: parser.get_parsed_content(key) for key in changed}
        known = {key: parser.get_parsed_content(f"codebook#{key}", instantiate=False) for key in codebook}
        assert {key for key in codebook if codebook[key] != known[key]} <= {"entropy_weight"}


def test_settings_name_no_place() -> None:
    for name in ("settings.json", "prior_settings.json"):
        assert not re.search(r"[/\\]", (MODELS / name).read_text(encoding="utf-8"))


def test_reconstruct(cohort: Path, tmp_path: Path) -> None:
    assert main(["reconstruct", "--dataset_dir", str(cohort), "--output_dir", str(tmp_path)]) == 0
    originals = {path.name: path for path in (cohort / "keras_png_slices_test").iterdir()}
    reconstructions = list((tmp_path / "reconstructions").rglob("*.png"))
    assert {path.name for path in reconstructions} == set(originals)
    scores = [
        structural_similarity(
            pixels(path), pixels(originals[path.name]), data_range=1, gaussian_weights=True, sigma=1.5,
            use_sample_covariance=False,
        )
        for path in reconstructions
    ]  # fmt: skip
    assert np.mean(scores) > 0.9
    black = structural_similarity(np.zeros((SIZE, SIZE)), pixels(next(iter(originals.values()))), data_range=1)
    assert np.mean(scores) > black + 0.3


def test_the_prior_knows_such_slices(cohort: Path, tmp_path: Path) -> None:
    assert main(["evaluate", "--dataset_dir", str(cohort), "--output_dir", str(tmp_path)]) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["bits_per_code"] < 4  # what it knows of each position alone comes to more than 5


def test_ten_samples_by_monais_command(tmp_path: Path) -> None:
    """From the folder of the bundle's copy, as the model card says: ten brains, each another."""
    assert main(["bundle", "--output", str(tmp_path / "bundle")]) == 0
    files = "['configs/inference.json','configs/sample.json']"
    words = ["-m", "monai.bundle", "run", "--config_file", files, "--bundle_root", ".", "--output_dir", str(tmp_path)]
    done = run_python(words, tmp_path / "bundle")
    assert done.returncode == 0, done.stderr[-2000:]
    samples = np.stack([pixels(path) for path in sorted((tmp_path / "samples").glob("*.png"))])
    assert samples.shape == (10, SIZE, SIZE)
    border = np.ones((SIZE, SIZE), bool)
    border[16:-16, 16:-16] = False
    assert samples[:, border].mean() < 0.02
    middle = samples[:, SIZE // 4 : -SIZE // 4, SIZE // 4 : -SIZE // 4]
    assert (middle.mean((1, 2)) > 0.15).all()
    differences = np.abs(samples[:, None] - samples[None]).mean((2, 3))
    assert differences[~np.eye(10, dtype=bool)].min() > 0.01
