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

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn as nn
from torch.nn.parallel import DistributedDataParallel

from monai_vqprior.errors import InputError
from monai_vqprior.runs import find_checkpoint, fingerprint, load_weights, read_checkpoint, unwrap


class Evil:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def network(seed: int = 0, width: int = 3, bias: bool = True) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(2, width, bias=bias), nn.BatchNorm1d(width))


def save(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def snapshot(module: nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in module.state_dict().items()}


def assert_same(module: nn.Module, weights: dict[str, torch.Tensor]) -> None:
    own = module.state_dict()
    assert set(own) == set(weights)
    assert all(torch.equal(own[key], weights[key]) for key in own)


@pytest.fixture
def parallel(tmp_path: Path) -> Iterator[DistributedDataParallel]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield DistributedDataParallel(network(seed=5))
    dist.destroy_process_group()


class TestFingerprint:
    def test_tells_weights_apart(self) -> None:
        one = network()
        others = [network(seed=1), network(width=4), network(bias=False), network().double(), network(), network()]
        with torch.no_grad():
            others[4][0].bias[2] += 1e-6
            others[5][1].running_mean[0] = 1e-6  # a buffer
        prints = [fingerprint(module) for module in (one, *others)]
        assert len(set(prints)) == len(prints)
        assert all(len(text) == 16 and int(text, 16) >= 0 for text in prints)

    def test_is_of_the_weights_alone(self, parallel: DistributedDataParallel) -> None:
        assert fingerprint(network().eval()) == fingerprint(network().to(memory_format=torch.channels_last))
        assert fingerprint(parallel) == fingerprint(network(seed=5))
        assert fingerprint(nn.Linear(2, 2).bfloat16()) != fingerprint(nn.Identity())


class TestFindCheckpoint:
    @pytest.fixture
    def folders(self, tmp_path: Path) -> list[Path]:
        folders = [tmp_path / name for name in ("output", "bundle", "absent")]
        for folder in folders[:2]:
            folder.mkdir()
        return folders

    @pytest.mark.parametrize(
        ("present", "expected"), [(["output", "bundle"], "output"), (["bundle"], "bundle"), (["output"], "output")]
    )
    def test_the_first_folder_that_has_it_wins(
        self, folders: list[Path], tmp_path: Path, present: list[str], expected: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        for name in present:
            (tmp_path / name / "model.pt").touch()
        found = find_checkpoint("model.pt", folders)
        assert found == tmp_path / expected / "model.pt"
        told = f"there is no model.pt in {folders[0]}: using {found}"  # nobody should take others for their own
        assert caplog.messages == ([told] if expected == "bundle" else [])

    @pytest.mark.parametrize("spelling", ["output", "./output", "output/", "output//"])
    def test_a_folder_may_be_spelled_in_any_way(
        self, folders: list[Path], tmp_path: Path, spelling: str,
        monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    ) -> None:  # fmt: skip
        (folders[0] / "model.pt").touch()
        monkeypatch.chdir(tmp_path)
        assert find_checkpoint("model.pt", [spelling, "bundle"]) == Path("output/model.pt")
        assert caplog.messages == []

    def test_a_path_given_wins_over_folders(self, folders: list[Path], tmp_path: Path) -> None:
        (folders[0] / "model.pt").touch()
        (tmp_path / "mine.pt").touch()
        assert find_checkpoint("model.pt", folders, ckpt=str(tmp_path / "mine.pt")) == tmp_path / "mine.pt"

    @pytest.mark.parametrize("required", [True, False])
    def test_a_path_given_must_exist(self, folders: list[Path], tmp_path: Path, required: bool) -> None:
        (folders[0] / "model.pt").touch()
        for wrong in (tmp_path / "mine.pt", folders[0]):
            with pytest.raises(InputError, match=f"{wrong} does not exist: --prior_ckpt takes the path"):
                find_checkpoint("model.pt", folders, ckpt=wrong, option="prior_ckpt", required=required)

    def test_there_is_none(self, folders: list[Path]) -> None:
        (folders[0] / "model.pt").mkdir()  # a folder is no checkpoint
        message = r"there is no model\.pt in .*output or .*bundle or .*absent: train first, or .* with --ckpt"
        with pytest.raises(InputError, match=message):
            find_checkpoint("model.pt", folders)
        assert find_checkpoint("model.pt", folders, required=False) is None


class TestReadCheckpoint:
    def test_reads_tensors_and_plain_values(self, tmp_path: Path) -> None:
        content = {"model": {"weight": torch.arange(3.0)}, "epoch": 3, "score": 0.5, "name": "x"}
        read = read_checkpoint(save(tmp_path / "a.pt", content))
        assert torch.equal(read["model"].pop("weight"), torch.arange(3.0))
        assert read == {"model": {}, "epoch": 3, "score": 0.5, "name": "x"}

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"hello world\n",
            b"<html>404 Not Found</html>",
            b"version https://git-lfs.github.com/spec/v1\n",
            b"\x89PNG\r\n\x1a\n",
            b"PK\x03\x04",
            b"a",
            b"K",
            b"h\x00.",
            b"\x80\x02X\x05\x00\x00\x00",
            bytes(range(256)),
        ],
    )
    def test_garbage(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "a.pt").write_bytes(content)
        with pytest.raises(InputError, match=r"a\.pt cannot be read as a checkpoint \(.+\)\.$"):
            read_checkpoint(tmp_path / "a.pt")

    @pytest.mark.parametrize("zipped", [True, False])
    @pytest.mark.parametrize("keep", [0.1, 0.5, 0.95])
    def test_truncated(self, tmp_path: Path, keep: float, zipped: bool) -> None:
        path = tmp_path / "a.pt"
        torch.save(network().state_dict(), path, _use_new_zipfile_serialization=zipped)
        content = path.read_bytes()
        path.write_bytes(content[: int(keep * len(content))])
        with pytest.raises(InputError, match=r"a\.pt cannot be read as a checkpoint"):
            read_checkpoint(path)

    def test_missing_file_and_folder(self, tmp_path: Path) -> None:
        for path in (tmp_path / "absent.pt", tmp_path):
            with pytest.raises(InputError, match=f"{path} cannot be read as a checkpoint"):
                read_checkpoint(path)

    @pytest.mark.parametrize("content", [[1, 2], torch.zeros(2), 3])
    def test_what_is_no_dictionary(self, tmp_path: Path, content: Any) -> None:
        message = f"holds a {type(content).__name__}, not the weights of a network"
        with pytest.raises(InputError, match=message):
            read_checkpoint(save(tmp_path / "a.pt", content))

    @pytest.mark.parametrize("pickled", [True, False])
    def test_code_in_a_file_is_not_run(self, tmp_path: Path, pickled: bool) -> None:
        mark = tmp_path / "mark"
        content = {"model": Evil(mark)}
        path = tmp_path / "a.pt"
        if pickled:
            path.write_bytes(pickle.dumps(content, protocol=2))
        else:
            save(path, content)
        with pytest.raises(InputError, match=r"a\.pt cannot be read as a checkpoint"):
            read_checkpoint(path)
        assert not mark.exists()
        pickle.loads(pickle.dumps(content))
        assert mark.exists()  # so it would have been, had the file been unpickled


class TestLoadWeights:
    @pytest.mark.parametrize("wrapped", [True, False])
    def test_loads_all(self, tmp_path: Path, wrapped: bool) -> None:
        weights = snapshot(network(seed=1))
        path = save(tmp_path / "a.pt", {"model": weights, "epoch": 2} if wrapped else weights)
        own = network(seed=2)
        assert load_weights(own, path) is own
        assert_same(own, weights)

    @pytest.mark.parametrize(
        ("saved", "message"),
        [
            (
                network(width=4),
                r"0 tensors missing, 0 unknown, 6 of another shape; 0\.weight is \(4, 2\), not \(3, 2\)",
            ),
            (network(bias=False), r"1 tensor missing, 0 unknown, 0 of another shape; 0\.bias is missing"),
            (
                nn.Sequential(network()[0], network()[1], nn.Linear(3, 1)),
                r"0 tensors missing, 2 unknown, 0 of another shape; 2\.weight is not known",
            ),
            (nn.Linear(2, 3), r"7 tensors missing, 2 unknown, 0 of another shape; 0\.weight is missing"),
        ],
    )
    def test_another_architecture(self, tmp_path: Path, saved: nn.Module, message: str) -> None:
        own = network(seed=2)
        before = snapshot(own)
        path = save(tmp_path / "a.pt", {"model": saved.state_dict()})
        with pytest.raises(InputError, match=rf"a\.pt is of another architecture \({message}\): use the settings"):
            load_weights(own, path)
        assert_same(own, before)

    @pytest.mark.parametrize(
        ("saved", "own", "setting"),
        [
            (["sketch_prior.embedding"], [], "--spatial_size"),
            ([], ["sketch_prior.embedding", "sketch_prior.context_network.a"], "--prior_sketch_block 0 "),
            (["sketch_prior.context_network.a"], [], "--neighbor_context and --given_context, true "),
            (["context_network.a"], [], "--neighbor_context and --given_context, true "),
            (
                [],
                ["sketch_prior.context_network.a", "code_prior.context_network.a"],
                "--neighbor_context and --given_context, false ",
            ),
            (["context_network.a"], ["context_network.a", "context_network.b"], "--neighbor_slices "),
            (
                ["sketch_prior.context_network.a", "sketch_prior.context_network.b"],
                ["sketch_prior.context_network.a"],
                "--neighbor_slices ",
            ),
            ([], ["code_prior.context_network.sources.1.surroundings"], "--given_kernel_size, "),
            (["context_network.sources.0.surroundings"], [], "--given_kernel_size, "),
            (["code_prior.b", "sketch_prior.embedding", "sketch_prior.context_network.a"], [], "--spatial_size"),
        ],
    )
    def test_names_the_setting_that_differs(
        self, tmp_path: Path, saved: list[str], own: list[str], setting: str
    ) -> None:
        def named(parts: list[str]) -> nn.Module:
            whole = nn.Module()
            for part in ["head", *parts]:
                module, *names = whole, *part.split(".")
                for name in names:
                    if not hasattr(module, name):
                        module.add_module(name, nn.Module())
                    module = getattr(module, name)
                module.weight = nn.Parameter(torch.zeros(2))
            return whole

        path = save(tmp_path / "a.pt", named(saved).state_dict())
        with pytest.raises(InputError, match=f"such as its {setting}"):
            load_weights(named(own), path)

    def test_half_a_checkpoint_changes_nothing(self, tmp_path: Path) -> None:
        own = network(seed=2)
        before = snapshot(own)
        weights = snapshot(network(seed=1))
        del weights["1.running_var"]
        with pytest.raises(InputError, match=r"1\.running_var is missing"):
            load_weights(own, save(tmp_path / "a.pt", weights))
        assert_same(own, before)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ({"model": 3}, "holds a int under 'model', not the weights of a network"),
            ({"model": [torch.zeros(2)]}, "holds a list under 'model'"),
            ({}, "7 tensors missing, 0 unknown"),
            ({**network().state_dict(), "0.weight": "x"}, r"holds a str under '0\.weight', not the weights"),
            ({**network().state_dict(), 3: torch.zeros(2)}, "holds a Tensor under 3, not the weights"),
            ({**network().state_dict(), "a\nb": torch.zeros(2)}, r"holds a Tensor under 'a\\nb', not the weights"),
        ],
    )
    def test_what_holds_no_weights(self, tmp_path: Path, content: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError, match=message):
            load_weights(network(), save(tmp_path / "a.pt", content))

    def test_into_a_distributed_network(self, tmp_path: Path, parallel: DistributedDataParallel) -> None:
        weights = snapshot(network(seed=1))
        assert load_weights(parallel, save(tmp_path / "a.pt", weights)) is parallel
        assert_same(parallel.module, weights)


def test_unwrap(parallel: DistributedDataParallel) -> None:
    assert unwrap(parallel) is parallel.module
    assert unwrap(parallel.module) is parallel.module
