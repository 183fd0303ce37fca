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
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from monai_vqprior.cli import main
from monai_vqprior.report import evaluation_files
from monai_vqprior.report.evaluation_pictures import mean_patches, ranked_slices
from monai_vqprior.report.slice_tables import code_shares, means_of_subjects, read_columns, read_grid


@pytest.mark.parametrize(
    ("size", "grid", "margin"), [((8, 12), (2, 3), 0), ((8, 12), (2, 3), 2), ((7, 10), (2, 3), 1), ((5, 12), (2, 3), 1)]
)
def test_patches_are_means_over_the_places_of_a_code(size: tuple[int, int], grid: tuple[int, int], margin: int) -> None:
    rng = np.random.default_rng(0)
    images, grids = rng.integers(0, 256, (20, 1, *size)), rng.integers(0, 5, (20, *grid))
    patches, counts = mean_patches(torch.from_numpy(images).byte(), torch.from_numpy(grids).int(), 6, margin)
    sides = -(-size[0] // grid[0]), -(-size[1] // grid[1])
    whole = [(0, 0), (0, 0), (margin, margin + sides[0]), (margin, margin + sides[1])]
    padded = np.pad(images, whole)
    for code in range(6):
        found = [
            padded[n, 0, y * sides[0] : (y + 1) * sides[0] + 2 * margin, x * sides[1] : (x + 1) * sides[1] + 2 * margin]
            for n, y, x in zip(*np.nonzero(grids == code), strict=True)
        ]
        assert counts[code] == len(found)
        expected = np.mean(found, 0) if found else np.zeros((sides[0] + 2 * margin, sides[1] + 2 * margin))
        np.testing.assert_allclose(patches[code].numpy(), expected, atol=0.51)


def test_best_median_and_worst() -> None:
    brain = torch.tensor([0.5, 0.9, float("nan"), 0.1, 0.7, 0.3, 0.6])[:, None]
    ranked = ranked_slices({"ssim": torch.arange(7.0), "ssim_brain": brain})
    assert {word: [row for row, _ in rows] for word, rows in ranked.items()} == {
        "best": [1, 4], "median": [0, 6], "worst": [3, 5]
    }  # fmt: skip
    nothing = torch.full((2, 1), float("nan"))
    ranked = ranked_slices({"ssim": torch.tensor([0.25, 0.5]), "ssim_brain": nothing})
    assert (ranked["best"], ranked["worst"]) == ([(1, 0.5)], [(0, 0.25)])


def test_shares_of_codes_and_means_of_subjects(tmp_path: Path) -> None:
    path = tmp_path / "metrics_codes.csv"
    path.write_text("code,train,evaluated\n0,1,0\n1,6,5\n2,3,5\n")
    columns = read_columns(path, ("train", "evaluated"))
    assert code_shares(columns, path, "train") == [(0, 0), (1, 0.6), (2, 0.9), (3, 1)]
    path.write_text("subject,index,image,ssim,psnr,none\na,0,x,0.5,10,\nb,1,y,0.25,30,\na,2,z,1,,\n")
    assert means_of_subjects(path) == {"ssim": [0.75, 0.25], "psnr": [10, 30]}


@pytest.mark.integration
def test_files_of_an_evaluation(evaluated: Path, phantom: Path, schema: Callable[[str, Any], None]) -> None:
    files = {what: Path(name) for what, name in evaluation_files(evaluated / "metrics.json").items()}
    assert {path.name for path in files.values()} == {path.name for path in evaluated.glob("metrics_*")}
    schema("metrics", json.loads((evaluated / "metrics.json").read_text(encoding="utf-8")))

    grid = np.array(read_grid(files["bits"]))
    rated = read_columns(evaluated / "metrics.csv", ["bits_per_code"])["bits_per_code"]
    assert grid.shape == (8, 8)
    assert grid.mean() == pytest.approx(np.mean(np.array(rated, float)), rel=1e-3)
    counts = read_columns(files["counts"], ("code", "train", "evaluated"))
    images = {split: len(list((phantom / f"keras_png_slices_{split}").iterdir())) for split in ("train", "test")}
    assert sum(map(int, counts["train"])) == 64 * images["train"]
    assert sum(map(int, counts["evaluated"])) == 64 * images["test"]
    number = max(1, min(2, images["test"] // 3))
    with Image.open(files["slices"]) as sheet:
        assert sheet.size == (4 + 3 * number * 36, 4 + 3 * (18 + 36))
    with Image.open(files["sketches"]) as sheet:
        assert sheet.height == 4 + 2 * 36


@pytest.mark.integration
def test_another_evaluation_in_the_folder(
    evaluated: Path, phantom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is replaced unless asked, and what does not apply any more does not stay: here there is no prior."""
    run = shutil.copytree(evaluated, tmp_path / "run", ignore=shutil.ignore_patterns("metrics.*", "prior*"))
    words = ["evaluate", "--dataset_dir", str(phantom), "--output_dir", str(run), "--device", "cpu"]
    assert main(words) == 2
    assert "metrics_slices.png exists: pass --overwrite" in capsys.readouterr().err
    assert main([*words, "--overwrite", "--prior_sketch_block", "0"]) == 0
    left = {"metrics_slices.png", "metrics_codes.png", "metrics_codes.csv"}
    assert {path.name for path in run.glob("metrics_*")} == left
