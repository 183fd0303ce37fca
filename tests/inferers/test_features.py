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

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from monai_vqprior.data import SliceDataset
from monai_vqprior.inferers import (
    VQPriorInferer,
    cached_bits,
    cached_grids,
    encode_images,
    grids_of_rows,
    keep_bits,
    keep_grids,
    pooled_encodings,
    rate_grids,
    reconstruct_images,
)
from monai_vqprior.networks import AutoencoderVQ, EMACodebook, GatedPixelCNN


@pytest.fixture
def network() -> AutoencoderVQ:
    torch.manual_seed(0)
    return AutoencoderVQ(channels=(8,), codebook=EMACodebook(num_embeddings=8, embedding_dim=4))


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randint(256, (5, 1, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def dataset_of(images: torch.Tensor) -> SliceDataset:
    def load(item: dict[str, Any]) -> dict[str, Any]:
        return {**item, "image": images[item["image"]]}

    return SliceDataset([{"image": i} for i in range(len(images))], load, 32, progress=False)


def test_what_the_network_says_of_all_images_at_once(network: AutoencoderVQ, images: torch.Tensor) -> None:
    network.eval()
    with torch.no_grad():
        encodings = network.encode(images / 255)
        codes = network.index_quantize(images / 255)
        decoded = network.decode_samples(codes)
    network.train()
    options: dict[str, Any] = {"batch_size": 2, "progress": False}
    blocks = encodings.unflatten(2, (4, 2)).unflatten(4, (4, 2)).mean((3, 5)).flatten(1)
    torch.testing.assert_close(pooled_encodings(network, images, **options), blocks, atol=1e-5, rtol=1e-4)
    assert torch.equal(encode_images(network, images, **options), codes.int())
    rebuilt = reconstruct_images(network, images, **options)
    assert rebuilt.dtype == torch.uint8
    torch.testing.assert_close(rebuilt.float(), decoded.clamp(0, 1) * 255, atol=0.51, rtol=0)
    assert network.training


@pytest.fixture
def prior() -> GatedPixelCNN:
    """A prior of grids of 3 x 3 codes of 4, with a label and a value."""
    torch.manual_seed(0)
    prior = GatedPixelCNN(num_embeddings=4, spatial_size=3, channels=4, num_layers=1, num_classes=[2], num_values=1)
    for parameter in prior.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return prior


GRIDS = torch.randint(4, (5, 3, 3), generator=torch.Generator().manual_seed(0))
CONDITIONS: list[dict[str, Any]] = [{"sex": i % 2, "age": i / 4, "image": "x"} for i in range(5)]


def test_bits_of_grids_with_their_conditions(prior: GatedPixelCNN) -> None:
    found = rate_grids(prior, GRIDS, CONDITIONS, ["sex"], ["age"], batch_size=2, progress=False)
    for i in range(5):
        labels, values = torch.tensor([[i % 2]]), torch.tensor([[i / 4]])
        bits = VQPriorInferer().bits(GRIDS[i : i + 1], prior, labels, values)
        assert float(found[i]) == pytest.approx(float(bits.mean()), rel=1e-5)
    other = rate_grids(prior, GRIDS, [{**item, "sex": 0} for item in CONDITIONS], ["sex"], ["age"], progress=False)
    assert not torch.allclose(found, other)


def test_bits_are_kept_for_a_prior_and_a_grid_with_its_conditions(
    prior: GatedPixelCNN, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    rated: list[int] = []
    rows = VQPriorInferer.bits

    def counted(inferer: VQPriorInferer, inputs: torch.Tensor, *words: Any, **more: Any) -> torch.Tensor:
        rated.append(len(inputs))
        return rows(inferer, inputs, *words, **more)

    monkeypatch.setattr(VQPriorInferer, "bits", counted)

    def bits(grids: torch.Tensor, data: list[dict[str, Any]], expected: int) -> None:
        """What is kept is what the prior says, and as many grids are rated as are expected."""
        rated.clear()
        found = cached_bits(prior, grids, data, tmp_path, ["sex"], ["age"], progress=False)
        assert sum(rated) == expected
        torch.testing.assert_close(found, rate_grids(prior, grids, data, ["sex"], ["age"], progress=False))

    keep_bits(prior, GRIDS[:2], CONDITIONS[:2], torch.tensor([1.0, 2.0]), tmp_path, ["sex"], ["age"])
    found = cached_bits(prior, GRIDS[:3], CONDITIONS[:3], tmp_path, ["sex"], ["age"], progress=False)
    assert found[:2].tolist() == [1, 2]  # what was kept is what is read
    assert rated == [1]
    (path,) = tmp_path.iterdir()
    path.unlink()
    bits(GRIDS[:3], CONDITIONS[:3], 3)
    bits(GRIDS.flip(0), CONDITIONS[::-1], 2)
    bits(GRIDS, CONDITIONS, 0)
    bits(GRIDS, [{**item, "sex": 1} for item in CONDITIONS], 3)
    bits(GRIDS, [{**item, "age": 0.0} for item in CONDITIONS], 4)
    other = GRIDS.clone()
    other[1, 2, 2] ^= 1
    bits(other, CONDITIONS, 1)
    with torch.no_grad():
        next(iter(prior.parameters())).mul_(1.1)
    bits(GRIDS, CONDITIONS, 5)

    (path,) = set(tmp_path.iterdir()) - {path}
    for content in ("no JSON", "[]", '{"0123456789abcdef": "many"}'):
        path.write_text(content, encoding="utf-8")
        caplog.clear()
        bits(GRIDS, CONDITIONS, 5)
        assert "is damaged: the codes are rated again" in caplog.text


def test_codes_are_kept_for_a_network_and_its_slices(
    network: AutoencoderVQ, images: torch.Tensor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = dataset_of(images)
    first = cached_grids(network, dataset, tmp_path, progress=False)
    assert torch.equal(first, encode_images(network, images, progress=False))
    (path,) = tmp_path.iterdir()
    torch.save(torch.ones_like(first), path)  # what is kept is what is read
    assert cached_grids(network, dataset, tmp_path, progress=False).eq(1).all()
    rows = np.array([3, 1])
    assert grids_of_rows(network, dataset, rows, tmp_path, progress=False).eq(1).all()
    keep_grids(network, dataset, first.long(), tmp_path)
    assert torch.equal(grids_of_rows(network, dataset, rows, tmp_path, progress=False), first[rows])

    changed = images.clone()
    changed[0, 0, 0, 0] ^= 1
    cached_grids(network, dataset_of(changed), tmp_path, progress=False)
    with torch.no_grad():
        network.encoder[0].conv.weight.mul_(1.1)
    cached_grids(network, dataset, tmp_path, progress=False)
    assert len(list(tmp_path.iterdir())) == 3
    path.unlink()
    first = encode_images(network, images, progress=False)
    for folder in (None, tmp_path / "none"):
        assert torch.equal(grids_of_rows(network, dataset, rows, folder, progress=False), first[rows])

    for content in (b"no file of torch", None):
        name = max(tmp_path.iterdir(), key=lambda file: file.stat().st_mtime_ns)
        if content is None:
            torch.save(first[:2], name)  # of other slices
        else:
            name.write_bytes(content)
        caplog.clear()
        again = cached_grids(network, dataset, tmp_path, progress=False)
        assert torch.equal(again, encode_images(network, images, progress=False))
        assert "is damaged: the slices are encoded again" in caplog.text


def test_codes_that_were_not_used_for_longest_are_removed(
    network: AutoencoderVQ, images: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def keep(number: int) -> Path:
        """The codes of as many slices, used at that time."""
        before = set(tmp_path.iterdir())
        cached_grids(network, dataset_of(images[:number]), tmp_path, progress=False)
        (path,) = set(tmp_path.iterdir()) - before
        os.utime(path, (number, number))
        return path

    others = [tmp_path / name for name in ("notes.pt", ".partial-0123.pt", "0123456789abcdef_0123456789abcdef_cpu.txt")]
    for path in others:  # files of the user, and one that another process is writing
        path.touch()
        os.utime(path, (0, 0))
    files = [keep(number) for number in (1, 2, 3, 4)]
    cached_grids(network, dataset_of(images[:1]), tmp_path, progress=False)  # used again
    files.append(keep(5))
    assert set(tmp_path.iterdir()) == {*others, *files} - {files[1]}

    # Another process may remove the same file first.
    unlink = Path.unlink

    def twice(path: Path, missing_ok: bool = False) -> None:
        if not path.name.startswith(".partial-"):
            unlink(path)
        unlink(path, missing_ok)

    os.utime(files[0], (9, 9))
    monkeypatch.setattr(Path, "unlink", twice)
    first = images[:2].flip(0)
    expected = encode_images(network, first, progress=False)
    assert torch.equal(cached_grids(network, dataset_of(first), tmp_path, progress=False), expected)
    assert not files[2].exists()
