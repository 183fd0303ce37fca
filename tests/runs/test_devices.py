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

import pytest
import torch

from monai_vqprior.errors import InputError
from monai_vqprior.runs import mixed_precision, select_device


def set_gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


class TestSelectDevice:
    @pytest.mark.parametrize(("gpus", "expected"), [(0, "cpu"), (1, "cuda:0"), (3, "cuda:0")])
    def test_takes_a_gpu_where_there_is_one(self, monkeypatch: pytest.MonkeyPatch, gpus: int, expected: str) -> None:
        set_gpus(monkeypatch, gpus)
        assert select_device() == torch.device(expected)

    @pytest.mark.parametrize(("rank", "expected"), [(0, "cuda:0"), (1, "cuda:1"), (5, "cuda:2")])
    def test_gives_each_of_torchruns_processes_its_own(
        self, monkeypatch: pytest.MonkeyPatch, rank: int, expected: str
    ) -> None:
        set_gpus(monkeypatch, 3)
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        assert select_device() == torch.device(expected)

    @pytest.mark.parametrize("name", ["cpu", "cuda", "cuda:0", "cuda:1", torch.device("cuda:1"), torch.device("cpu")])
    def test_takes_the_one_asked_for(self, monkeypatch: pytest.MonkeyPatch, name: str | torch.device) -> None:
        set_gpus(monkeypatch, 2)
        assert select_device(name) == torch.device(name)

    @pytest.mark.parametrize(("gpus", "name"), [(0, "cuda"), (0, "cuda:0"), (1, "cuda:1"), (2, torch.device("cuda:2"))])
    def test_refuses_one_that_is_not_there(
        self, monkeypatch: pytest.MonkeyPatch, gpus: int, name: str | torch.device
    ) -> None:
        set_gpus(monkeypatch, gpus)
        message = f"{name} was asked for, but this machine has {gpus} CUDA devices: pass --device cpu"
        with pytest.raises(InputError, match=message):
            select_device(name)

    @pytest.mark.parametrize("name", ["gpu", "", "cuda:x", "cpu cuda"])
    def test_refuses_what_is_no_device(self, name: str) -> None:
        with pytest.raises(InputError, match=f"'{name}' is not a device: pass --device cpu or --device cuda:0"):
            select_device(name)


class TestMixedPrecision:
    @pytest.mark.parametrize(
        ("capabilities", "expected"),
        [
            ({"avx512_bf16": True, "amx_bf16": False}, torch.bfloat16),
            ({"avx512_bf16": False, "amx_bf16": True}, torch.bfloat16),
            ({"arm_bf16": True}, torch.bfloat16),
            ({"avx512_bf16": False, "avx512_f": True, "avx2": True}, None),
            ({}, None),
        ],
    )
    def test_cpu(
        self, monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], expected: torch.dtype | None
    ) -> None:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
        assert mixed_precision("cpu") == expected
        assert mixed_precision(torch.device("cpu"), wanted=False) is None

    @pytest.mark.parametrize("native", [True, False])
    def test_gpu_without_emulation(self, monkeypatch: pytest.MonkeyPatch, native: bool) -> None:
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or native
        )
        assert mixed_precision("cuda:0") == (torch.bfloat16 if native else None)
        assert mixed_precision("cuda:0", wanted=False) is None

    def test_an_older_pytorch_cannot_tell(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
        assert mixed_precision("cpu") is None


@pytest.mark.parametrize("name", ["meta", "gpu", "", "xpu", 7.5, [1], None.__class__])
def test_select_device_refuses_what_is_no_device_here(name: object) -> None:
    with pytest.raises(InputError, match="device"):
        select_device(name)  # type: ignore[arg-type]
