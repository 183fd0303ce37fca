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
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from ignite.engine import Engine
from scipy.special import log_softmax
from scipy.stats import entropy
from skimage.metrics import structural_similarity

from monai_vqprior.handlers import SSIM, BitsPerCode, CodebookPerplexity, CodebookUsage

pytestmark = pytest.mark.integration

#: sizes of the batches of each process: unequal numbers of images and of batches, as at the end of a split.
BATCHES = ((3, 2), (1,))
NUM_CODES = 16
Batch = dict[str, np.ndarray]


def batches_of(rank: int) -> list[Batch]:
    """The data of a process; the two see different codes and differ in how good their reconstructions are."""
    rng = np.random.default_rng(rank)
    result = []
    for number in BATCHES[rank]:
        image = rng.random((number, 1, 16, 16))
        noise = rng.normal(0, 0.1 + 0.4 * rank, image.shape)
        codes = rng.integers(6 * rank, 6 * rank + 8, (number, 4, 4))  # 0..7 and 6..13
        logits = rng.normal(0, 1 + 2 * rank, (number, NUM_CODES, 4, 4))
        result.append({"image": image, "reconstruction": image + noise, "codes": codes, "logits": logits})
    return result


def worker(rank: int, folder: Path) -> None:
    """What each process runs: evaluate its own batches and write down the metrics that its engine reports."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=(folder / "meet").as_uri(), rank=rank, world_size=2)
    engine = Engine(lambda _, batch: {name: torch.from_numpy(array) for name, array in batch.items()})
    SSIM(output_transform=lambda x: (x["reconstruction"].float(), x["image"].float())).attach(engine, "ssim")
    BitsPerCode(output_transform=lambda x: (x["logits"], x["codes"])).attach(engine, "bits_per_code")
    usage = CodebookUsage(NUM_CODES, output_transform=lambda x: x["codes"])
    usage.attach(engine, "codes_used")
    CodebookPerplexity(NUM_CODES, output_transform=lambda x: x["codes"]).attach(engine, "perplexity")
    engine.run(batches_of(rank))
    again = usage.compute()  # reducing must not spoil the counts
    details = engine.state.metric_details["ssim"].flatten().tolist()
    report = {**engine.state.metrics, "again": again, "details": details}
    (folder / f"{rank}.json").write_text(json.dumps(report))
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def reports(two_processes: Callable[[str], Path]) -> list[dict]:
    """What each of two processes reports; this file is the program that they run."""
    folder = two_processes(__file__)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.fixture(scope="module")
def joined() -> Batch:
    """The data of both processes as one batch."""
    batches = batches_of(0) + batches_of(1)
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def similarities(data: Batch) -> list[float]:
    values = []
    for one, two in zip(data["reconstruction"], data["image"], strict=True):
        _, full = structural_similarity(
            one[0], two[0], gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1, full=True
        )
        values.append(full[5:-5, 5:-5].mean())
    return values


@pytest.mark.parametrize("rank", [0, 1])
class TestEachProcessReportsTheJoinedData:
    def test_ssim(self, reports: list[dict], joined: Batch, rank: int) -> None:
        expected = similarities(joined)
        assert reports[rank]["ssim"] == pytest.approx(np.mean(expected), abs=1e-4)
        assert abs(np.mean(expected) - (np.mean(expected[:5]) + expected[5]) / 2) > 0.05  # no mean of means
        assert reports[rank]["details"] == pytest.approx(expected, abs=1e-4)

    def test_bits_per_code(self, reports: list[dict], joined: Batch, rank: int) -> None:
        chosen = np.take_along_axis(log_softmax(joined["logits"], axis=1), joined["codes"][:, None], axis=1)
        assert reports[rank]["bits_per_code"] == pytest.approx(-chosen.mean() / np.log(2), abs=1e-5)

    def test_codes_used(self, reports: list[dict], joined: Batch, rank: int) -> None:
        assert reports[rank]["codes_used"] == reports[rank]["again"] == len(np.unique(joined["codes"]))

    def test_perplexity(self, reports: list[dict], joined: Batch, rank: int) -> None:
        expected = np.exp(entropy(np.bincount(joined["codes"].ravel())))
        assert reports[rank]["perplexity"] == pytest.approx(expected, rel=1e-9)


if __name__ == "__main__":
    worker(int(sys.argv[1]), Path(sys.argv[2]))
