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
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from skimage.metrics import structural_similarity

from monai_vqprior.cli import main
from monai_vqprior.files import write_png
from monai_vqprior.report import read_samples

# The command as a user types it, on samples that are made by hand: it needs no network.

GAP, CAPTION, SIZE = 4, 18, 32


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def split(phantom: Path, name: str) -> dict[str, np.ndarray]:
    """The slices of a split by their names below the data set's folder."""
    paths = sorted((phantom / f"keras_png_slices_{name}").iterdir())
    return {path.relative_to(phantom).as_posix(): read(path) for path in paths}


def rms(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(np.mean((a / 255 - b / 255) ** 2)))


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    _, similarity = structural_similarity(
        a / 255, b / 255, full=True, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1
    )
    return float(similarity[5:-5, 5:-5].mean())


@pytest.fixture
def output(phantom: Path, tmp_path: Path) -> Path:
    """A folder with four samples: a copy of a training slice, a noisy training slice, a test slice, and noise."""
    rng = np.random.default_rng(0)
    train = list(split(phantom, "train").values())
    noisy = np.clip(train[3] + rng.normal(0, 9, (SIZE, SIZE)), 0, 255)
    images = [train[5], noisy, next(iter(split(phantom, "test").values())), rng.integers(0, 256, (SIZE, SIZE))]
    for i, image in enumerate(images):
        write_png(tmp_path / "samples" / f"sample_{i:05d}.png", image.astype(np.uint8))
    return tmp_path


def run(phantom: Path, output: Path, *more: object) -> int:
    words = ["neighbors", "--dataset_dir", phantom, "--output_dir", output, "--device", "cpu", *more]
    return main([str(word) for word in words])


def content(output: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((output / "neighbors.json").read_text(encoding="utf-8"))
    return found


def fails(capsys: pytest.CaptureFixture[str], phantom: Path, output: Path, *more: object) -> str:
    """The one line about wrong input, after which nothing is written."""
    before = sorted(output.rglob("*"))
    assert run(phantom, output, *more) == 2
    assert sorted(output.rglob("*")) == before
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("vqprior: ")]
    assert len(lines) == 1
    return lines[0]


def test_neighbors_by_hand(phantom: Path, output: Path) -> None:
    assert run(phantom, output) == 0
    train = split(phantom, "train")
    images = {f"samples/sample_{i:05d}.png": read(output / "samples" / f"sample_{i:05d}.png") for i in range(4)}
    listed = content(output)["samples"]
    assert [item["file"] for item in listed] == list(images)
    for item in listed:
        image = images[item["file"]]
        distances = {name: rms(image, slice_) for name, slice_ in train.items()}
        assert item["nearest"] == min(distances, key=lambda name: distances[name])
        assert item["rms"] == pytest.approx(distances[item["nearest"]], rel=1e-9)
        assert item["ssim"] == pytest.approx(ssim(image, train[item["nearest"]]), abs=1e-4)
        others = {name: rms(image, other) for name, other in images.items() if name != item["file"]}
        assert item["other"] == min(others, key=lambda name: others[name])
        assert item["other_rms"] == pytest.approx(others[item["other"]], rel=1e-9)


def test_a_copy_is_found_out(phantom: Path, output: Path) -> None:
    assert run(phantom, output) == 0
    copy = content(output)["samples"][0]
    assert copy["nearest"] == list(split(phantom, "train"))[5]
    assert copy["rms"] == 0
    assert copy["ssim"] == pytest.approx(1, abs=1e-6)


def test_summary_beside_the_validation_split(phantom: Path, output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(phantom, output) == 0
    found = content(output)
    summary, listed = found["summary"], found["samples"]
    train, validation = split(phantom, "train").values(), split(phantom, "validate").values()
    expected = {
        "sample_to_train": [item["rms"] for item in listed],
        "validation_to_train": [min(rms(image, other) for other in train) for image in validation],
        "sample_to_other_sample": [item["other_rms"] for item in listed],
    }
    printed = capsys.readouterr().out
    for name, values in expected.items():
        figures = [np.median(values), np.quantile(values, 0.05), min(values)]
        assert list(summary[name]) == ["median", "quantile_5_percent", "minimum"]
        assert list(summary[name].values()) == pytest.approx(figures, rel=1e-9)
        assert "".join(f"{figure:>14.4f}" for figure in figures) in printed
    ratio = np.median(expected["sample_to_train"]) / np.median(expected["validation_to_train"])
    assert summary["ratio"] == pytest.approx(ratio, rel=1e-9)
    assert f"samples to validation slices: {ratio:.3f}\n" in printed
    assert "well below 1: they\n  are nearer than those, as they are when the prior has memorized" in printed
    assert summary["mean_ssim"] == pytest.approx(np.mean([item["ssim"] for item in listed]), abs=1e-6)
    counts = {"samples": 4, "train_slices": len(train), "validation_slices": len(validation)}
    assert {name: summary[name] for name in counts} == counts
    assert summary["train_subjects"] + summary["validation_subjects"] < 8
    assert summary["spatial_size"] == [SIZE, SIZE]


def test_sheet_shows_samples_above_neighbors_above_differences(phantom: Path, output: Path) -> None:
    assert run(phantom, output, "--num_pictures", 2) == 0
    sheet = read(output / "neighbors.png")
    assert sheet.shape == (GAP + 3 * (CAPTION + SIZE + GAP), GAP + 2 * (SIZE + GAP))
    for column, item in enumerate(content(output)["samples"][:2]):
        image, neighbor = read(output / item["file"]), read(phantom / item["nearest"])
        difference = np.clip(4 * np.abs(image.astype(float) - neighbor), 0, 255)
        left = GAP + column * (SIZE + GAP)
        for row, expected in enumerate((image, neighbor, difference)):
            top = GAP + CAPTION + row * (CAPTION + SIZE + GAP)
            assert np.array_equal(sheet[top : top + SIZE, left : left + SIZE], expected)


def test_one_sample_and_a_validation_split_of_copies(
    phantom: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither another sample nor a ratio: null in JSON, words on the screen."""
    for i in range(1, 4):
        (output / "samples" / f"sample_{i:05d}.png").unlink()
    data = shutil.copytree(phantom, output / "data")
    shutil.rmtree(data / "keras_png_slices_validate")
    shutil.copytree(data / "keras_png_slices_train", data / "keras_png_slices_validate")
    assert run(data, output) == 0
    found = content(output)
    assert found["summary"]["sample_to_other_sample"] is None
    assert found["summary"]["ratio"] is None
    assert found["samples"][0]["other"] is found["samples"][0]["other_rms"] is None
    printed = capsys.readouterr().out
    assert "only one sample" in printed
    assert "samples to validation slices: no value" in printed


def test_results_are_not_replaced_unless_asked(phantom: Path, output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(phantom, output) == 0
    assert "neighbors.json exists: pass --overwrite" in fails(capsys, phantom, output)
    (output / "neighbors.json").unlink()
    assert "neighbors.png exists: pass --overwrite" in fails(capsys, phantom, output)
    (output / "samples" / "sample_00003.png").unlink()
    assert run(phantom, output, "--overwrite") == 0
    assert len(content(output)["samples"]) == 3


def test_no_samples(phantom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "holds no samples (sample_*.png): run `vqprior sample` first" in fails(capsys, phantom, tmp_path)
    (tmp_path / "samples").mkdir()
    write_png(tmp_path / "samples" / ".partial-1.png", np.zeros((SIZE, SIZE), np.uint8))
    assert "holds no samples" in fails(capsys, phantom, tmp_path)


@pytest.mark.parametrize("number", [0, 2])
def test_unreadable_sample(number: int, phantom: Path, output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    victim = output / "samples" / f"sample_{number:05d}.png"
    victim.write_bytes(victim.read_bytes()[:100])
    message = fails(capsys, phantom, output, "--skip_bad")
    assert f"{victim} cannot be read as an image: remove it, and draw it again" in message


def test_other_sizes(phantom: Path, output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = "sample_00000.png is 32 x 32 pixels, but spatial_size is 32 x 36"
    assert first in fails(capsys, phantom, output, "--spatial_size", "[32,36]")
    write_png(output / "samples" / "sample_00001.png", np.zeros((SIZE, 36), np.uint8))
    assert "sample_00001.png is 32 x 36 pixels, but spatial_size is 32 x 32" in fails(capsys, phantom, output)
    for path in (output / "samples").iterdir():
        write_png(path, np.zeros((16, 16), np.uint8))
    assert "is 32 x 32 pixels, but spatial_size is 16 x 16" in fails(capsys, phantom, output)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--num_pictures", "0"], "num_pictures must be a whole number in 1..1000, got 0"),
        (["--dataset_dir", "/no/such/folder"], "/no/such/folder is not a directory"),
        (["--device", "gpu"], "'gpu' is not a device"),
        (["--num_picture", "3"], "did you mean --num_pictures?"),
    ],
)
def test_wrong_options(
    words: list[str], named: str, phantom: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert named in fails(capsys, phantom, output, *words)


def test_no_validation_split(phantom: Path, output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = shutil.copytree(phantom, output / "data")
    shutil.rmtree(data / "keras_png_slices_validate")
    assert "has no split 'validate'" in fails(capsys, data, output)


def test_samples_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in (2, 100000, 10, 99999):
        write_png(tmp_path / "samples" / f"sample_{number:05d}.png", np.zeros((12, 16), np.uint8))
    samples = read_samples(tmp_path)
    names = [Path(item["image"]).name for item in samples.data]
    assert names == ["sample_00002.png", "sample_00010.png", "sample_99999.png", "sample_100000.png"]
    assert samples.spatial_size == (12, 16)
