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

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, features
from scipy import stats
from skimage.metrics import structural_similarity

from monai_vqprior.data import SliceDataset
from monai_vqprior.metrics import position_log_probabilities
from monai_vqprior.report import (
    bits_of_baselines,
    code_baselines,
    codec_baselines,
    slice_bits,
    statistics_by_subject,
    write_slice_table,
)
from monai_vqprior.report.codecs import CODECS


def test_statistics_by_hand() -> None:
    """Two subjects: the bootstrap draws one of them twice in half of the cases."""
    details = {"ssim": torch.tensor([[0.8], [0.9], [0.5], [0.6]]), "nothing": torch.full((4, 1), torch.nan)}
    found = statistics_by_subject(details, ["a", "a", "b", "b"])
    assert set(found) == {"ssim"}
    expected = {"mean": 0.7, "std": np.std([0.85, 0.55]), "low": 0.55, "high": 0.85}
    assert found["ssim"] == pytest.approx(expected, rel=1e-6)


def test_slices_without_a_value_are_left_out() -> None:
    found = statistics_by_subject({"ssim_brain": torch.tensor([0.5, torch.nan, 0.7])}, ["a", "a", "b"])
    assert found["ssim_brain"]["mean"] == pytest.approx(0.6)


def test_interval_is_that_of_the_means_of_many_subjects() -> None:
    rng = np.random.default_rng(0)
    heads = rng.normal(0.9, 0.02, 40)
    values = np.repeat(heads, 8)
    found = statistics_by_subject({"ssim": torch.as_tensor(values)}, list(np.repeat(np.arange(40), 8)))["ssim"]
    half = stats.norm.ppf(0.975) * heads.std() / 40**0.5
    assert (found["high"] - found["low"]) / 2 == pytest.approx(half, rel=0.15)
    assert found["std"] == pytest.approx(heads.std())


def test_bits_of_each_slice_average_to_those_of_all() -> None:
    generator = torch.Generator().manual_seed(0)
    train, test = (torch.randint(5, (n, 3, 2), generator=generator) for n in (30, 7))
    of_slices, of_all = bits_of_baselines(train, test, 5), code_baselines(train, test, 5)
    for name, bits in of_slices.items():
        assert bits.shape == (7,)
        assert float(bits.mean()) == pytest.approx(of_all[name])
    log_probabilities = position_log_probabilities(train, 5).numpy()
    by_hand = [-log_probabilities[test[3, i, j], i, j] / np.log(2) for i in range(3) for j in range(2)]
    assert float(of_slices["bits_per_code_position_histogram"][3]) == pytest.approx(np.mean(by_hand))


def test_bits_of_a_slice() -> None:
    grids, histogram = torch.zeros(2, 4, 8), {"bits_per_code_position_histogram": 5.0}
    assert slice_bits({"bits_per_code": 3.0}, histogram, grids, (16, 32)) == {
        "bits_per_slice": 96.0, "bits_per_pixel": 0.1875
    }  # fmt: skip
    assert slice_bits({}, histogram, grids, (16, 32))["bits_per_slice"] == 160


def test_a_row_for_each_slice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def load(item: dict[str, Any]) -> dict[str, Any]:
        return {**item, "image": torch.zeros(1, 4, 4, dtype=torch.uint8)}

    data = [{"image": str(tmp_path / f"x/{i}.png"), "subject": f"s{i % 2}", "index": i} for i in range(3)]
    dataset = SliceDataset(data, load, 4, progress=False)
    details = {"ssim": torch.tensor([[0.5], [torch.nan], [0.25]]), "bits_per_code": torch.tensor([1.0, 2.0, 3.0])}
    path = write_slice_table(tmp_path / "metrics.csv", dataset, tmp_path, details)
    rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    assert rows[0] == {"subject": "s0", "index": "0", "image": "x/0.png", "ssim": "0.5", "bits_per_code": "1"}
    assert [row["ssim"] for row in rows] == ["0.5", "", "0.25"]
    assert str(path) in capsys.readouterr().out


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:64, :64]
    waves = [127 + 100 * np.sin(rows / rng.uniform(4, 9)) * np.cos(columns / rng.uniform(4, 9)) for _ in range(3)]
    return torch.as_tensor(np.stack(waves).astype(np.uint8))[:, None]


def test_codecs_keep_to_their_bits(pictures: torch.Tensor) -> None:
    bits = 8000.0
    found = codec_baselines(pictures, bits, progress=False)
    assert tuple(found) == CODECS
    for name, told in found.items():
        if told is not None:
            assert told["bits_per_pixel"] <= bits / 64**2, name
            assert told["ssim"] > 0.8, name
    for name, feature in (("JPEG", "jpg"), ("WEBP", "webp"), ("JPEG2000", "jpg_2000"), ("AVIF", "avif")):
        assert (found[name] is None) == (not features.check(feature))


def test_jpeg_by_hand(pictures: torch.Tensor, tmp_path: Path) -> None:
    found = codec_baselines(pictures, 8000.0, progress=False)["JPEG"]
    assert found is not None
    sizes: dict[int, list[int]] = {found["setting"]: [], found["setting"] + 1: []}
    similarity = []
    for image in pictures[:, 0].numpy():
        for quality, bytes_of in sizes.items():
            path = tmp_path / f"{quality}.jpg"
            Image.fromarray(image).save(path, quality=quality, optimize=True)
            bytes_of.append(path.stat().st_size)
        decoded = np.asarray(Image.open(tmp_path / f"{found['setting']}.jpg")) / 255
        options = {
            "gaussian_weights": True,
            "sigma": 1.5,
            "use_sample_covariance": False,
            "data_range": 1,
            "full": True,
        }
        similarity.append(structural_similarity(decoded, image / 255, **options)[1][5:-5, 5:-5].mean())
    assert 8 * np.mean(sizes[found["setting"]]) <= 8000 < 8 * np.mean(sizes[found["setting"] + 1])
    assert found["bits_per_pixel"] == pytest.approx(8 * np.mean(sizes[found["setting"]]) / 64**2)
    assert found["ssim"] == pytest.approx(np.mean(similarity), abs=1e-4)


def test_files_that_cannot_be_so_small_say_how_large_they_are(pictures: torch.Tensor) -> None:
    found = codec_baselines(pictures, 8.0, progress=False)["JPEG"]
    assert found is not None
    assert found["setting"] == 1
    assert found["bits_per_pixel"] > 0.1


def test_a_codec_that_pillow_lacks(pictures: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "check", lambda name: name == "jpg")
    found = codec_baselines(pictures, 8000.0, progress=False)
    assert [name for name, told in found.items() if told is not None] == ["JPEG"]
