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

import re
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_vqprior.engines import (
    check_counts,
    check_not_negative,
    check_num_embeddings,
    check_output,
    check_run,
    check_shares,
    check_spatial_size,
    check_window,
    claim_run,
    mixed_precision,
    select_device,
)
from monai_vqprior.engines.processes import Processes
from monai_vqprior.errors import InputError
from monai_vqprior.networks import FSQCodebook


def set_gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


def files_below(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


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


class TestCheckSpatialSize:
    @settings(derandomize=True, deadline=None, max_examples=200)
    @given(size=st.integers(-5, 300), stride=st.sampled_from([1, 2, 4, 8, 12]))
    def test_accepts_multiples_and_suggests_the_neighbors(self, size: int, stride: int) -> None:
        multiples = range(stride, 400, stride)
        if size in multiples:
            check_spatial_size(size, stride)
            return
        with pytest.raises(InputError) as raised:
            check_spatial_size(size, stride)
        found = re.search(
            r"spatial_size (-?\d+) is not a multiple .* stride (\d+): take (\d+) or (\d+)", str(raised.value)
        )
        assert found is not None
        below = max([m for m in multiples if m < size], default=stride)
        assert tuple(map(int, found.groups())) == (size, stride, below, below + stride)

    @pytest.mark.parametrize("sizes", [(64, 48), [8, 16, 24], (8,)])
    def test_accepts_one_an_axis(self, sizes: tuple[int, ...] | list[int]) -> None:
        check_spatial_size(sizes, 8)

    @pytest.mark.parametrize("sizes", [(64, 50), [50, 64], (8, 50, 8)])
    def test_refuses_any_axis(self, sizes: tuple[int, ...] | list[int]) -> None:
        with pytest.raises(
            InputError, match="spatial_size 50 is not a multiple of the network's stride 8: take 48 or 56"
        ):
            check_spatial_size(sizes, 8)


class TestCheckOutput:
    @pytest.mark.parametrize("content", ["absent", "empty folder", "folder", "file"])
    @pytest.mark.parametrize("overwrite", [True, False])
    def test_refuses_what_holds_something(self, tmp_path: Path, content: str, overwrite: bool) -> None:
        path = tmp_path / "result"
        if "folder" in content:
            path.mkdir()
        if content == "folder":
            (path / "a.png").write_text("mine")
        if content == "file":
            path.write_text("mine")
        before = files_below(tmp_path)
        if content in ("absent", "empty folder") or overwrite:
            check_output(path, overwrite)
        else:
            with pytest.raises(
                InputError, match="result exists: pass --overwrite to replace it, or another --output_dir"
            ):
                check_output(str(path), overwrite)
        assert files_below(tmp_path) == before


class TestClaimRun:
    CKPT, LAST = "models/model.pt", "models/last.pt"
    CKPT_BEFORE, BEFORE = "models/model_before.pt", "models/last_before.pt"

    @pytest.mark.parametrize(
        ("existing", "overwrite", "resume", "refusal"),
        [
            ([], False, False, None),
            ([], True, False, None),
            ([], False, True, None),
            ([], True, True, "contradict"),
            ([CKPT], True, False, None),
            ([CKPT], True, True, "contradict"),
            ([LAST], False, False, "last.pt exists: this output_dir holds a run already"),
            ([LAST], True, False, None),
            ([LAST], False, True, None),
            ([LAST], True, True, "contradict"),
            (
                [CKPT, LAST],
                False,
                False,
                "model.pt exists: this output_dir holds a run already; pass --resume .* --overwrite",
            ),
            ([CKPT, BEFORE], False, False, "model.pt exists: this output_dir holds a run already"),
            ([BEFORE], False, True, None),
            ([CKPT, CKPT_BEFORE, LAST, BEFORE], True, False, None),
            ([CKPT, LAST], True, False, None),
            ([CKPT, LAST], False, True, None),
            ([CKPT, LAST], True, True, "contradict"),
        ],
    )
    def test_every_combination(
        self, tmp_path: Path, existing: list[str], overwrite: bool, resume: bool, refusal: str | None
    ) -> None:
        run = tmp_path / "run"
        others = ["models/prior.pt", "metrics.json"] if existing else []
        for name in [*existing, *others]:
            (run / name).parent.mkdir(parents=True, exist_ok=True)
            (run / name).write_text(name)
        before = files_below(tmp_path)
        if refusal is None:
            check_run(str(run / self.CKPT), run / self.LAST, overwrite, resume)
            assert files_below(tmp_path) == before  # it only looks
            assert run.exists() == bool(existing)
            claim_run(str(run), run / self.CKPT, run / self.LAST, overwrite, resume)
            assert (run / "models").is_dir()
        else:
            with pytest.raises(InputError, match=refusal):
                check_run(run / self.CKPT, run / self.LAST, overwrite, resume)
            with pytest.raises(InputError, match=refusal):
                claim_run(run, run / self.CKPT, run / self.LAST, overwrite, resume)
            assert run.exists() == bool(existing)
        kept = others if overwrite and refusal is None else [*existing, *others]
        assert files_below(tmp_path) == {f"run/{name}": name for name in kept}

    @pytest.mark.parametrize("resume", [False, True])
    def test_weights_without_a_state_are_moved_aside(
        self, tmp_path: Path, resume: bool, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A training was killed before its first state, again and again: nothing is lost."""
        (tmp_path / "models").mkdir()
        for killed in ("first", "second", "third"):
            (tmp_path / self.CKPT).write_text(killed)
            claim_run(tmp_path, tmp_path / self.CKPT, tmp_path / self.LAST, resume=resume)
            assert "model.pt belongs to no training that has begun: moved to" in capsys.readouterr().out
        assert files_below(tmp_path) == {
            "models/model_before.pt": "first",
            "models/model_before_2.pt": "second",
            "models/model_before_3.pt": "third",
        }

    def test_files_may_lie_elsewhere(self, tmp_path: Path) -> None:
        claim_run(tmp_path / "run", tmp_path / "a" / "model.pt", tmp_path / "b" / "last.pt")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "run"]

    @pytest.mark.parametrize("below", ["", "deeper/run"])
    def test_a_folder_that_cannot_be_made(self, tmp_path: Path, below: str) -> None:
        (tmp_path / "file").write_text("mine")
        run = tmp_path / "file" / below
        with pytest.raises(
            InputError,
            match=r"(cannot be written to \(.*\): name another|is a file: name a) folder for the results",
        ):
            claim_run(run, run / "model.pt", run / "last.pt")
        assert files_below(tmp_path) == {"file": "mine"}


@pytest.mark.parametrize("value", [-1, -0.001, float("inf"), float("nan"), "abc", None, True])
def test_check_not_negative_refuses_what_is_not(value: object) -> None:
    check_not_negative(learning_rate=0, other=2.5)
    with pytest.raises(InputError, match=r"learning_rate must be a number of at least 0, got "):
        check_not_negative(other=1.0, learning_rate=value)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [0, -3, 0.5, True, "4", None])
def test_check_counts_refuses_what_is_no_count(value: object) -> None:
    check_counts(batch_size=1, max_epochs=10**6)
    with pytest.raises(InputError, match="batch_size must be a whole number of at least 1"):
        check_counts(max_epochs=1, batch_size=value)  # type: ignore[arg-type]


def test_number_of_codes_that_differs_is_an_error_with_the_option_to_pass() -> None:
    check_num_embeddings(FSQCodebook((8, 8, 8)), 512)
    with pytest.raises(InputError, match=r"has 1000 codes, but num_embeddings is 512: pass --num_embeddings 1000"):
        check_num_embeddings(FSQCodebook((8, 5, 5, 5)), 512)


@pytest.mark.parametrize("size", [10, [11, 8], (4, 64)])
def test_check_window_refuses_slices_without_a_window(size: int | list[int]) -> None:
    check_window(11)
    check_window([11, 64])
    with pytest.raises(InputError, match="is smaller than the window of SSIM, 11 pixels"):
        check_window(size)


def test_check_shares_refuses_more_processes_than_slices() -> None:
    check_shares(Processes(), train=1, validate=1)
    check_shares(Processes(1, 3), train=3, validate=4)
    with pytest.raises(InputError, match="3 processes cannot share the 2 slices of the split 'validate'"):
        check_shares(Processes(1, 3), train=3, validate=2)


@pytest.mark.parametrize("name", ["meta", "gpu", "", "xpu", 7.5, [1], None.__class__])
def test_select_device_refuses_what_is_no_device_here(name: object) -> None:
    with pytest.raises(InputError, match="device"):
        select_device(name)  # type: ignore[arg-type]


@pytest.mark.parametrize(("folder", "is_folder"), [(True, False), (False, True)])
def test_check_output_refuses_a_folder_where_a_file_goes(folder: bool, is_folder: bool, tmp_path: Path) -> None:
    path = tmp_path / "result"
    if is_folder:
        path.mkdir()
    else:
        path.write_text("mine")
    check_output(path, overwrite=True, folder=not folder)
    with pytest.raises(InputError, match="result must be a"):
        check_output(path, overwrite=True, folder=folder)
