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

import shlex
import shutil
import subprocess
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn as nn
from hypothesis import example, given, settings
from hypothesis import strategies as st

from monai_vqprior.errors import InputError
from monai_vqprior.runs import load_weights, read_checkpoint

# Damaged and malicious checkpoints.


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as a training writes it."""
    path = tmp_path_factory.mktemp("saved") / "vqvae_last.pt"
    optimizer = torch.optim.AdamW(network().parameters())
    torch.save({"model": network().state_dict(), "optimizer": optimizer.state_dict(), "best": {"best": 0.5}}, path)
    return path


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other) and one.dtype == other.dtype
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    return bool(one == other)


@settings(derandomize=True, deadline=None, max_examples=600)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@example(0.0, 0)
def test_any_flipped_bit_is_found_or_changes_nothing(saved: Path, place: float, bit: int) -> None:
    content = bytearray(saved.read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    path = saved.with_name("flipped.pt")
    path.write_bytes(content)
    read, message = None, str(path)
    try:
        read = read_checkpoint(path)
    except InputError as error:
        message = str(error)
    assert len(message.splitlines()) == 1
    assert str(path) in message
    assert read is None or same(read, read_checkpoint(saved))


def test_every_byte_of_the_weights_counts(saved: Path) -> None:
    """Torch itself loads each of these without a word."""
    with zipfile.ZipFile(saved) as file:
        record = next(entry for entry in file.infolist() if entry.filename.endswith("data/0"))
        with file.open(record) as data:
            weights = data.read()
    content = saved.read_bytes()
    start = content.index(weights)
    path = saved.with_name("flipped.pt")
    for place in range(start, start + len(weights)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        torch.load(path, weights_only=True)
        with pytest.raises(
            InputError, match=r"flipped\.pt cannot be read as a checkpoint \(damaged record '.*data/0'\)"
        ):
            read_checkpoint(path)


class TestTheStateBefore:
    @pytest.mark.parametrize(
        ("name", "spare"),
        [
            ("model.pt", "model_before.pt"),
            ("model.pt", "vqvae_last.pt"),
            ("prior.pt", "prior_last.pt"),
            ("vqvae_last.pt", "vqvae_last_before.pt"),
        ],
    )
    def test_the_command_brings_it_back(self, saved: Path, tmp_path: Path, name: str, spare: str) -> None:
        folder = tmp_path / "a folder"
        folder.mkdir()
        shutil.copy(saved, folder / spare)
        (folder / name).write_bytes(saved.read_bytes()[:-100])
        message = rf"{name} cannot be read as a checkpoint \(.*\)\. {spare} beside it is whole, .* instead: cp "
        with pytest.raises(InputError, match=message) as raised:
            load_weights(network(1), folder / name)
        subprocess.run(shlex.split(str(raised.value).partition("instead: ")[2]), check=True)
        assert same(load_weights(network(1), folder / name).state_dict(), network().state_dict())

    def test_one_that_is_damaged_too_is_not_offered(self, saved: Path, tmp_path: Path) -> None:
        for name in ("model.pt", "model_before.pt", "prior_last.pt"):
            (tmp_path / name).write_bytes(saved.read_bytes()[:-100])
        with pytest.raises(InputError, match=r"as a checkpoint \([^)]*\)\.$"):
            read_checkpoint(tmp_path / "model.pt")


def rewrite(path: Path, saved: Path, compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(saved) as old, zipfile.ZipFile(path, "w", compression) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))


def test_compressed_records_are_refused(saved: Path, tmp_path: Path) -> None:
    """They could be a thousand times as large as the file."""
    rewrite(tmp_path / "a.pt", saved)
    assert same(read_checkpoint(tmp_path / "a.pt"), read_checkpoint(saved))
    rewrite(tmp_path / "a.pt", saved, zipfile.ZIP_DEFLATED)
    with pytest.raises(InputError, match=r"a\.pt cannot be read as a checkpoint \(compressed records"):
        read_checkpoint(tmp_path / "a.pt")


@pytest.mark.parametrize(
    ("tensor", "fault"),
    [
        (torch.zeros(1).expand(10**12), "a tensor that is larger than what it is stored in"),
        (torch.zeros(4).as_strided((4, 4), (1, 0)), "a tensor that is larger than what it is stored in"),
        (torch.zeros(2, device="meta"), "a tensor that is not a plain one"),
        (torch.eye(3).to_sparse(), "a tensor that is not a plain one"),
        (torch.tensor([0.0, float("nan")]), "NaN"),
        (torch.tensor([float("nan")], dtype=torch.bfloat16), "NaN"),
    ],
)
@pytest.mark.filterwarnings("ignore:Sparse:UserWarning")
def test_tensors_that_are_not_what_they_seem(tmp_path: Path, tensor: torch.Tensor, fault: str) -> None:
    torch.save({"model": {"a": [tensor]}}, tmp_path / "a.pt")
    with pytest.raises(InputError, match=rf"a\.pt cannot be read as a checkpoint \({fault} in 'a'\)\.$"):
        read_checkpoint(tmp_path / "a.pt")


def test_parts_of_a_tensor_and_tensors_that_share_are_read(tmp_path: Path) -> None:
    whole = torch.arange(12.0).view(3, 4)
    content = {"a": whole, "b": whole.T, "c": whole[1], "d": torch.zeros(0), "e": whole[:, ::2], "f": torch.tensor(3)}
    torch.save(content, tmp_path / "a.pt")
    assert same(read_checkpoint(tmp_path / "a.pt"), content)


def test_lists_that_hold_one_another_are_read_once(tmp_path: Path) -> None:
    content: Any = [torch.zeros(1)]
    for _ in range(60):
        content = [content, content]
    torch.save({"a": content}, tmp_path / "a.pt")
    assert list(read_checkpoint(tmp_path / "a.pt")) == ["a"]  # before anybody has counted to 2**60


class TestInfinity:
    def test_weights_are_refused(self, tmp_path: Path) -> None:
        weights = network().state_dict()
        weights["0.bias"][1] = float("-inf")
        torch.save(weights, tmp_path / "a.pt")
        own = network(1)
        with pytest.raises(InputError, match=r"a\.pt cannot be read as a checkpoint \(infinity in '0\.bias'\)"):
            load_weights(own, tmp_path / "a.pt")
        assert same(own.state_dict(), network(1).state_dict())

    def test_a_mask_is_not(self, tmp_path: Path) -> None:
        masked = nn.Linear(2, 2)
        masked.register_buffer("mask", torch.full((2, 2), float("-inf")).triu(1))
        torch.save(masked.state_dict(), tmp_path / "a.pt")
        load_weights(masked, tmp_path / "a.pt")


def test_what_a_state_dictionary_says_of_itself_is_not_used(tmp_path: Path) -> None:
    """Modules read versions from ``_metadata``, which a file can hold."""
    weights = OrderedDict(network().state_dict())
    weights._metadata = {"1": {"version": "old"}}  # type: ignore[attr-defined]
    torch.save({"model": weights}, tmp_path / "a.pt")
    assert same(load_weights(network(1), tmp_path / "a.pt").state_dict(), network().state_dict())
