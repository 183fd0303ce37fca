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
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from monai_vqprior.data import SliceDataset
from monai_vqprior.report import code_baselines, summarize, write_metrics, write_report

KEYS = {
    *("split", "slices", "subjects", "skipped", "spatial_size", "ssim", "ssim_brain", "ms_ssim", "psnr", "codes_used"),
    *("num_embeddings", "perplexity", "bits_per_code", "bits_per_code_histogram", "bits_per_code_position_histogram"),
    *("mae", "bits_per_slice", "bits_per_pixel", "ssim_definition", "baselines", "by_subject", "codecs"),
}
BITS = {"bits_per_code_histogram": 8.0, "bits_per_code_position_histogram": 5.0}
BASELINES = {name: {"ssim": 0.1, "ssim_brain": 0.2} for name in ("black", "mean")}


class TestCodeBaselines:
    @pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
    def test_are_those_of_numpy(self, dtype: torch.dtype) -> None:
        rng = np.random.default_rng(0)
        columns = rng.integers(0, 9, 6)  # each position has a code that it likes
        train, test = (np.where(rng.random((n, 6)) < 0.8, columns, rng.integers(0, 9, (n, 6))) for n in (40, 15))
        overall = (np.bincount(train.ravel(), minlength=9) + 1) / (train.size + 9)
        positions = np.stack([np.bincount(train[:, i], minlength=9) for i in range(6)])
        local = (positions + 64 * overall) / (40 + 64)
        values = code_baselines(
            *(torch.from_numpy(grids).to(dtype).view(-1, 2, 3) for grids in (train, test)), num_embeddings=9
        )
        assert values == {
            "bits_per_code_histogram": pytest.approx(-np.log2(overall[test]).mean()),
            "bits_per_code_position_histogram": pytest.approx(-np.log2(local[np.arange(6), test]).mean()),
        }
        assert values["bits_per_code_position_histogram"] < values["bits_per_code_histogram"]

    def test_codes_that_training_has_not_seen_are_finite(self) -> None:
        values = code_baselines(torch.zeros(3, 2, 2).long(), torch.full((1, 2, 2), 4), num_embeddings=5)
        assert values["bits_per_code_histogram"] == pytest.approx(np.log2(17))  # 12 codes and 5 pseudo-counts
        assert np.isfinite(values["bits_per_code_position_histogram"])


class TestSummarize:
    def test_keys(self, summary: dict[str, Any]) -> None:
        assert set(summary) == KEYS
        scores = {"ssim", "ssim_brain"}
        assert {name: set(values) for name, values in summary["baselines"].items()} == {"black": scores, "mean": scores}

    def test_values(self, summary: dict[str, Any], measured: dict[str, float]) -> None:
        assert (summary["split"], summary["slices"], summary["subjects"], summary["skipped"]) == ("test", 5, 2, 1)
        assert summary["spatial_size"] == [64, 48]
        assert summary["num_embeddings"] == 512
        for key in ("ssim", "ssim_brain", "ms_ssim", "psnr", "codes_used", "perplexity", "bits_per_code"):
            assert summary[key] == measured[key]
        assert summary["bits_per_code_histogram"] == 8.0712
        assert summary["bits_per_code_position_histogram"] == 5.9134
        assert summary["baselines"] == {
            "black": {"ssim": 0.3219, "ssim_brain": 0.0011},
            "mean": {"ssim": 0.5432, "ssim_brain": 0.3456},
        }

    def test_says_what_ssim_is(self, summary: dict[str, Any]) -> None:
        for words in ("11 x 11", "sigma 1.5", "data range 1", "above 0.02", "with 3 scales"):
            assert words in summary["ssim_definition"]

    def test_without_a_prior(self, dataset: SliceDataset, measured: dict[str, float]) -> None:
        del measured["bits_per_code"]
        summary = summarize("validate", dataset, measured, 512, BITS, BASELINES)
        assert summary["bits_per_code"] is None
        assert set(summary) == KEYS

    @pytest.mark.parametrize("key", ["bits_per_code", "bits_per_code_position_histogram"])
    def test_bits_of_a_slice_have_the_interval_of_its_codes(
        self, dataset: SliceDataset, measured: dict[str, float], key: str
    ) -> None:
        """Bits of 16 codes, of 64 x 48 pixels; the histogram's where there is no prior."""
        bits = torch.tensor([3.0, 4, 5, 6, 2])
        told = {"bits_per_slice": 64.0, "bits_per_pixel": 64 / 64 / 48}
        found = summarize("test", dataset, measured | told, 512, BITS, BASELINES, {key: bits})["by_subject"]
        for name, value in found[key].items():
            assert found["bits_per_slice"][name] == pytest.approx(16 * value)
            assert found["bits_per_pixel"][name] == pytest.approx(16 * value / 64 / 48)

    @pytest.mark.parametrize("key", ["ssim", "perplexity"])
    def test_a_metric_that_was_not_measured(self, dataset: SliceDataset, measured: dict[str, float], key: str) -> None:
        del measured[key]
        with pytest.raises(KeyError, match=key):
            summarize("test", dataset, measured, 512, BITS, BASELINES)

    def test_a_metric_that_a_configuration_adds(
        self, dataset: SliceDataset, measured: dict[str, float], capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        """It needs no other entry: it is in the file, on the terminal and on the page."""
        more = {"mse": 0.012345, "nothing": math.nan, "histogram": torch.ones(2)}
        summary = summarize("test", dataset, measured | more, 512, BITS, BASELINES)
        assert set(summary) == KEYS | {"mse", "nothing"}
        assert (summary["mse"], summary["nothing"]) == (0.012345, None)
        write_metrics(tmp_path / "metrics.json", summary)
        assert "mse 0.01235\n" in re.sub(" +", " ", capsys.readouterr().out)
        page = write_report(tmp_path).read_text(encoding="utf-8")
        assert '<tr><th scope="row">mse</th><td class="number">0.01235</td>' in page


class TestWriteMetrics:
    def test_file_holds_the_summary(self, tmp_path: Path, summary: dict[str, Any]) -> None:
        path = tmp_path / "new" / "metrics.json"
        write_metrics(path, summary)
        assert json.loads(path.read_text(encoding="utf-8")) == summary
        assert [one.name for one in path.parent.iterdir()] == ["metrics.json"]

    def test_prints_what_it_says(
        self, tmp_path: Path, summary: dict[str, Any], capsys: pytest.CaptureFixture[str]
    ) -> None:
        write_metrics(tmp_path / "metrics.json", summary)
        lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
        assert lines == [
            "test: 5 slices of 2 subjects",
            "reconstructions black image mean training image",
            "SSIM, mean over the slices 0.9542 0.3219 0.5432",
            "SSIM over brain windows 0.9234 0.0011 0.3456",
            "multi-scale SSIM 0.9877",
            "PSNR, dB 29.88",
            "mean absolute error 0.0123",
            "codes used 500",
            "codes in the codebook 512",
            "perplexity of the codes 321.7",
            "bits a code under the prior 5.432",
            "bits a slice 1043",
            "bits a pixel 0.3397",
            "bits a code under the histogram of the codes 8.071",
            "bits a code under the histogram of each position 5.913",
            f"written to {tmp_path / 'metrics.json'}",
        ]

    def test_says_that_there_is_no_prior(
        self, tmp_path: Path, summary: dict[str, Any], capsys: pytest.CaptureFixture[str]
    ) -> None:
        write_metrics(tmp_path / "metrics.json", summary | {"bits_per_code": None})
        assert "bits a code under the prior no prior yet\n" in re.sub(" +", " ", capsys.readouterr().out)
        assert json.loads((tmp_path / "metrics.json").read_text())["bits_per_code"] is None

    @pytest.mark.parametrize(
        ("changes", "label", "other"),
        [
            (
                {"bits_per_code": 5.9134},
                "bits a code under the prior",
                "bits a code under the histogram of each position",
            ),
            ({"ssim": 0.5}, "SSIM, mean over the slices", "mean training image"),
            ({"ssim_brain": 0.001}, "SSIM over brain windows", "black image"),
        ],
    )
    def test_says_what_is_no_better_than_its_baseline(
        self,
        tmp_path: Path,
        summary: dict[str, Any],
        capsys: pytest.CaptureFixture[str],
        changes: dict[str, float],
        label: str,
        other: str,
    ) -> None:
        write_metrics(tmp_path / "metrics.json", summary)
        assert "no better" not in capsys.readouterr().out
        write_metrics(tmp_path / "metrics.json", summary | changes)
        assert f"  {label}: no better than {other}. Train longer.\n" in capsys.readouterr().out
