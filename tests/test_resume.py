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

import hashlib
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from monai_vqprior.cli import main
from monai_vqprior.inferers import TokenizerInferer
from monai_vqprior.losses import BitsPerCodeLoss, TokenizerLoss
from monai_vqprior.metrics import BitsPerCodeMetric

pytestmark = pytest.mark.integration

# Trainings of both stages that are cut off anywhere and resumed: they end with the bits of one that was not.

EPOCHS = 3
STEPS = 6  # an epoch
COMMON: dict[str, Any] = {
    "spatial_size": 32, "channels": [8], "num_embeddings": 16, "embedding_dim": 4, "device": "cpu", "amp": False,
    "max_epochs": EPOCHS, "batch_size": 4, "early_stop": 9,
}  # fmt: skip
OF_STAGE: dict[str, dict[str, Any]] = {
    # Whatever draws random numbers.
    "vqvae": {
        "affine_prob": 1, "intensity_prob": 0.5, "flip_prob": 0.5, "network_def#dropout": 0.1,
        "codebook#revival_threshold": 0.5, "codebook#decay": 0.5,
    },
    "prior": {
        "prior_channels": 8, "prior_layers": 2, "prior_dropout": 0.1, "prior_views": 2,
        "prior_sketch_block": 4, "prior_sketch_codes": 8, "prior_sketch_channels": 8, "prior_sketch_layers": 2,
        "conditions": ["slice"], "condition_dropout": 0.5, "flip_prob": 0.5,
        "neighbor_context": True, "neighbor_dropout": 0.5, "given_context": True,
    },
}  # fmt: skip
WEIGHTS = {"vqvae": "model.pt", "prior": "prior.pt"}
LOSSES = {"vqvae": TokenizerLoss, "prior": BitsPerCodeLoss}


class PowerCutError(BaseException):
    """Stands for a kill: nothing is saved on its account."""


class Training:
    """Runs ``vqprior train`` of one stage, watches its batches, and cuts it off."""

    def __init__(self, stage: str, phantom: Path, monkeypatch: pytest.MonkeyPatch, weights: Path | None = None) -> None:
        self.stage = stage
        self.data = phantom
        self.weights = weights
        #: of each step the digest of its batch.
        self.batches: list[str] = []
        #: what to do in a step of this number, counted from 1 in this run, and in a validation.
        self.in_step: tuple[int, Callable[[], None]] | None = None
        self.in_validation: tuple[int, Callable[[], None]] | None = None
        self._validated = 0
        loss = LOSSES[stage]
        forward = loss.forward

        def watched(module: Any, output: Any, target: torch.Tensor) -> torch.Tensor:
            self.batches.append(hashlib.sha1(target.numpy().tobytes()).hexdigest())
            if self.in_step is not None and len(self.batches) == self.in_step[0]:
                self.in_step[1]()
            return forward(module, output, target)

        monkeypatch.setattr(loss, "forward", watched)
        # What only the validation calls, once: it has one batch.
        owner, name = {"vqvae": (TokenizerInferer, "__call__"), "prior": (BitsPerCodeMetric, "_compute_tensor")}[stage]
        measure = getattr(owner, name)

        def validated(this: Any, *arguments: Any, **more: Any) -> Any:
            self._validated += 1
            if self.in_validation is not None and self._validated == self.in_validation[0]:
                self.in_validation[1]()
            return measure(this, *arguments, **more)

        monkeypatch.setattr(owner, name, validated)

    def run(
        self,
        output: Path,
        *more: str,
        in_step: tuple[int, Callable[[], None]] | None = None,
        in_validation: tuple[int, Callable[[], None]] | None = None,
    ) -> int:
        self.in_step, self.in_validation, self.batches, self._validated = in_step, in_validation, [], 0
        settings = {**COMMON, **OF_STAGE[self.stage], "dataset_dir": self.data, "output_dir": output}
        if self.weights is not None:
            settings["ckpt"] = self.weights
        words = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
        return main(["train", "--stage", self.stage, *words, *more])


def interrupt() -> None:
    """Ctrl-C."""
    signal.raise_signal(signal.SIGINT)


def cut() -> None:
    raise PowerCutError


@pytest.fixture(autouse=True)
def _ctrl_c_interrupts() -> Iterator[None]:
    """Programs in the background of a shell ignore Ctrl-C; here it is what is tested."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def autoencoder(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The folder of a training of the autoencoder in one go, and its batches."""
    return in_one_go("vqvae", phantom, tmp_path_factory.mktemp("autoencoder"))


@pytest.fixture(scope="module", params=["vqvae", "prior"])
def whole(
    request: pytest.FixtureRequest,
    phantom: Path,
    autoencoder: tuple[Path, list[str]],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[str, Path, list[str]]:
    """A stage, the folder of its training in one go, and the batches of that."""
    if request.param == "vqvae":
        return request.param, *autoencoder
    return request.param, *in_one_go("prior", phantom, tmp_path_factory.mktemp("prior"), weights_of(autoencoder))


def in_one_go(stage: str, phantom: Path, output: Path, weights: Path | None = None) -> tuple[Path, list[str]]:
    with pytest.MonkeyPatch.context() as patch:
        training = Training(stage, phantom, patch, weights)
        assert training.run(output) == 0
    return output, training.batches


def weights_of(run: tuple[Path, list[str]]) -> Path:
    return run[0] / "models" / "model.pt"


@pytest.fixture
def training(
    whole: tuple[str, Path, list[str]],
    phantom: Path,
    autoencoder: tuple[Path, list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> Training:
    return Training(whole[0], phantom, monkeypatch, weights_of(autoencoder) if whole[0] == "prior" else None)


def assert_same_run(stage: str, one: Path, other: Path) -> None:
    """Best weights, all of the last state, and the best value are the same, bit by bit."""
    for name in (WEIGHTS[stage], f"{stage}_last.pt"):
        a, b = (torch.load(folder / "models" / name, weights_only=True) for folder in (one, other))
        for content in (a, b):
            content.pop("schedule", None)  # the seconds on the clock
        assert_same(a, b, name)


def assert_same(a: Any, b: Any, where: str) -> None:
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}: {key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}: {i}")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    else:
        assert a == b, where


def test_no_batch_comes_twice(whole: tuple[str, Path, list[str]]) -> None:
    _, _, batches = whole
    assert len(batches) == EPOCHS * STEPS
    assert len(set(batches)) == len(batches)


def test_cut_off_after_each_epoch(whole: tuple[str, Path, list[str]], training: Training, tmp_path: Path) -> None:
    stage, uncut, batches = whole
    seen = []
    for epoch in range(EPOCHS):
        last = epoch == EPOCHS - 1
        resume = ["--resume"] if epoch else []
        if last:
            assert training.run(tmp_path, *resume) == 0
        else:
            with pytest.raises(PowerCutError):
                training.run(tmp_path, *resume, in_step=(STEPS + 1, cut))
        seen += training.batches[:STEPS]
    assert seen == batches
    assert_same_run(stage, uncut, tmp_path)


def test_killed_in_mid_epoch(whole: tuple[str, Path, list[str]], training: Training, tmp_path: Path) -> None:
    """The state of the end of the epoch before counts."""
    stage, uncut, batches = whole
    with pytest.raises(PowerCutError):
        training.run(tmp_path, in_step=(STEPS + 4, cut))
    assert training.run(tmp_path, "--resume") == 0
    assert training.batches == batches[STEPS:]
    assert_same_run(stage, uncut, tmp_path)


def test_interrupted_in_steps(whole: tuple[str, Path, list[str]], training: Training, tmp_path: Path) -> None:
    """Again and again: a step is made, and nothing of the work is lost; nor is the validation that would follow."""
    stage, uncut, batches = whole
    done = 0
    for step in (1, STEPS - 1, STEPS, STEPS + 3, EPOCHS * STEPS):
        assert training.run(tmp_path, *["--resume"][: done > 0], in_step=(step - done, interrupt)) == 130
        assert training.batches == batches[done:step]
        state = torch.load(tmp_path / "models" / f"{stage}_last.pt", weights_only=True)
        assert state["trainer"]["iteration"] == step
        done = step
    assert training.run(tmp_path, "--resume") == 0
    assert training.batches == []
    assert_same_run(stage, uncut, tmp_path)


def test_interrupted_in_validations(
    whole: tuple[str, Path, list[str]], training: Training, tmp_path: Path, capsys: Any
) -> None:
    """A validation is run on resume, that of the last epoch too, and only then is the run over."""
    stage, uncut, batches = whole
    assert training.run(tmp_path, in_validation=(1, interrupt)) == 130
    # The first validation again, the second, and the last.
    assert training.run(tmp_path, "--resume", in_validation=(EPOCHS, interrupt)) == 130
    assert training.batches == batches[STEPS:]
    assert f"{stage} epoch 1: " in capsys.readouterr().out
    assert training.run(tmp_path, "--resume") == 0
    assert training.batches == []
    assert f"{stage} epoch {EPOCHS}: " in capsys.readouterr().out
    assert_same_run(stage, uncut, tmp_path)
    assert training.run(tmp_path, "--resume") == 2
    assert "raise --max_epochs to go on" in capsys.readouterr().err


def test_killed_before_the_first_state(
    whole: tuple[str, Path, list[str]], training: Training, tmp_path: Path, capsys: Any
) -> None:
    """Weights without a state are no run; a queue needs one command, whether or not there is a run."""
    stage, uncut, batches = whole
    kept = tmp_path / "models" / WEIGHTS[stage]
    kept.parent.mkdir()
    kept.write_bytes(b"weights of a training that was killed")
    assert training.run(tmp_path, "--resume") == 0
    assert "belongs to no training that has begun: moved to" in capsys.readouterr().out
    assert kept.with_stem(f"{kept.stem}_before").read_bytes() == b"weights of a training that was killed"
    assert training.batches == batches
    assert_same_run(stage, uncut, tmp_path)
