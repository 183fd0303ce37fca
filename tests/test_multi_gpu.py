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

import pytest
import torch
from small import AUTOENCODER, ON_CPU, PRIOR
from warm_python import run_python, run_ranks

from monai_vqprior.data import SliceFolder
from monai_vqprior.errors import InputError
from monai_vqprior.runs import single_process, start_processes

pytestmark = pytest.mark.integration

# Both stages trained by two processes that torchrun starts, through MONAI's command and through vqprior.

ROOT = Path(__file__).resolve().parent.parent
BUNDLE = ROOT / "bundle"
STAGES = {"model": ["train.json"], "prior": ["train.json", "train_prior.json"]}
SMALL = {**AUTOENCODER, **ON_CPU}
SMALL_PRIOR = {**PRIOR, "conditions": ["slice"]}

#: What each process tells of itself at the end, in a file of its own: its weights, and what it found and holds.
TELL = (
    "$torch.save(dict(weights=monai_vqprior.runs.fingerprint(@network), metrics=@validate#evaluator.state.metrics, "
    "seen=len(@train#sampler), validated=len(@validate#sampler), board=@tensorboard is not None), "
    "os.path.join(@output_dir, @stage + '.' + str(@processes.rank) + '.pt'))"
)


def torchrun(cwd: Path, *words: str) -> str:
    """``torchrun --nproc_per_node 2 -m ...`` and what it printed."""
    options = ["--standalone", "--nproc_per_node", "2", "-m", *words]
    done = run_python(["-m", "torch.distributed.run", *options], cwd, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    return str(done.stdout)


def two_ranks(cwd: Path, *words: str) -> str:
    """The same two processes without ``torchrun``, which start faster, and what they printed."""
    ranks = run_ranks(["-m", *words], cwd)
    for done in ranks:
        assert done.returncode == 0, done.stderr[-4000:]
        assert "broadcast_buffers" not in done.stderr  # whose name has become another in PyTorch, which warns of it
    return "".join(done.stdout for done in ranks)


@pytest.fixture(scope="module")
def together(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both stages by MONAI's command, the second against the clock; the folder of the run."""
    cwd = tmp_path_factory.mktemp("together")
    (cwd / "tell.json").write_text(json.dumps({"+run": [TELL]}), encoding="utf-8")
    for name, stage in STAGES.items():
        files = [str(BUNDLE / "configs" / file) for file in [*stage, "multi_gpu_train.json"]]
        overrides = {**SMALL, "bundle_root": BUNDLE, "dataset_dir": phantom, "max_epochs": 2}
        if name == "prior":
            overrides |= {**SMALL_PRIOR, "max_minutes": 0.02, "max_epochs": 100000}
        options = [word for key, value in overrides.items() for word in (f"--{key}", str(value))]
        two_ranks(cwd, "monai.bundle", "run", "--config_file", str([*files, "tell.json"]), *options)
    return cwd / "output"


def reports(folder: Path, stage: str) -> list[dict[str, Any]]:
    return [torch.load(folder / f"{stage}.{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("stage", ["vqvae", "prior"])
def test_processes_train_one_network(stage: str, together: Path, phantom: Path) -> None:
    first, second = reports(together, stage)
    # Codebook, buffers and weights, bit by bit; and metrics over all slices of the split, whoever looks.
    assert first["weights"] == second["weights"]
    assert first["metrics"] == second["metrics"]
    slices = SliceFolder(phantom)
    assert first["seen"] == second["seen"] == -(-len(slices.datalist("train")) // 2)
    assert first["validated"] + second["validated"] == len(slices.datalist("validate"))
    assert (first["board"], second["board"]) == (True, False)
    assert len(list((together / "tensorboard" / stage).iterdir())) == 1


def test_weights_are_those_of_the_networks_themselves(together: Path) -> None:
    for name, key in {"model": "codebook.embedding", "prior": "code_prior.embedding.weight"}.items():
        weights = torch.load(together / "models" / f"{name}.pt", weights_only=True)
        assert not any(key.startswith("module.") for key in weights)
        assert key in weights, list(weights)


def test_vqprior_trains_together(phantom: Path, tmp_path: Path) -> None:
    overrides = {**SMALL, **SMALL_PRIOR, "dataset_dir": phantom, "max_epochs": 1}
    options = [word for key, value in overrides.items() for word in (f"--{key}", str(value))]
    torchrun(tmp_path, "monai_vqprior", "train", *options, "--stage", "vqvae")
    shutil.rmtree(tmp_path / "output" / "tensorboard")
    # The first stage is done; the second begins, in the process group that the first has left.
    resumed = two_ranks(tmp_path, "monai_vqprior", "train", *options, "--resume")
    assert resumed.count("stage vqvae: the run in") == 1
    assert resumed.count("multi_gpu_train.json") == 2  # the commands of two stages, each said once
    assert resumed.count("validation bits per code to beat") == 1
    assert "prior epoch 1" in resumed
    assert {path.name for path in (tmp_path / "output" / "models").iterdir()} == {
        "model.pt", "prior.pt", "settings.json", "prior_settings.json", "vqvae_last.pt", "prior_last.pt"
    }  # fmt: skip
    # The first stage goes on, to other codes; all processes agree that the prior begins anew.
    further = [*options[: options.index("--max_epochs")], "--max_epochs", "2", "--learning_rate", "0.01"]
    anew = two_ranks(tmp_path, "monai_vqprior", "train", *further, "--resume")
    assert anew.count("the prior begins anew") == 1
    assert anew.count("prior epoch 1") == 1


def test_processes_that_would_each_train_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert single_process().size == 1
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match=r"2 processes were started.*add configs/multi_gpu_train\.json as the last"):
        single_process()


def test_one_process_that_would_wait_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match="begin the command with 'torchrun --nproc_per_node 2"):
        start_processes("cpu")
