# Copyright (c) monai_vqprior contributors
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import monai.bundle
import pytest
import torch
from monai.bundle import ConfigWorkflow, create_workflow
from monai.data import CacheDataset, ThreadDataLoader

from monai_vqprior.errors import input_error_in
from monai_vqprior.networks import AutoencoderVQ, EMACodebook

from .conftest import NESTED, SMALL, SMALL_PRIOR, config_files

pytestmark = pytest.mark.integration

# The bundle in a Python session: MONAI's load and its workflows, from a local copy.

STACKS = {
    "train": ["train"],
    "train_prior": ["train", "train_prior"],
    "evaluate": ["train", "train_prior", "evaluate"],
    "inference": ["inference"],
}
CODEBOOK = {"_target_": "monai_vqprior.networks.EMACodebook", "num_embeddings": 16, "embedding_dim": 4}
TYPES = {"train": "train", "train_prior": "training", "evaluate": "evaluation", "inference": "infer"}


def workflow_of(bundle: Path, stack: str, **changes: Any) -> ConfigWorkflow:
    return ConfigWorkflow(
        config_file=config_files(bundle, *STACKS[stack]),
        workflow_type=TYPES[stack],
        logging_file=False,
        bundle_root=str(bundle),
        **SMALL,
        **(SMALL_PRIOR if stack in ("train_prior", "evaluate") else {}),
        **changes,
    )


def network_of(checkpoint: Path) -> AutoencoderVQ:
    """The network by hand, without any configuration."""
    network = AutoencoderVQ(channels=[8], codebook=EMACodebook(num_embeddings=16, embedding_dim=4))
    network.load_state_dict(torch.load(checkpoint, weights_only=True))
    return network.eval()


@pytest.mark.parametrize("workflow_type", ["train", "inference"])
def test_load(workflow_type: str, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network for one's own code: no data are needed, and nothing is written where one happens to be."""
    monkeypatch.chdir(tmp_path)
    network: Any = monai.bundle.load(
        bundle.name,
        bundle_dir=bundle.parent,
        workflow_type=workflow_type,
        device="cpu",
        net_override={"channels": [8], "codebook": CODEBOOK},
    )
    assert type(network) is AutoencoderVQ
    images = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(network.eval()(images), network_of(bundle / "models" / "model.pt")(images))
    assert list(tmp_path.iterdir()) == []


def test_train_step_by_step(bundle: Path, phantom: Path, tmp_path: Path) -> None:
    workflow: Any = create_workflow(
        config_file=config_files(bundle, "train"),
        workflow_type="train",
        logging_file=False,
        bundle_root=str(bundle),
        output_dir=str(tmp_path / "run"),
        **SMALL,
    )
    assert list(tmp_path.iterdir()) == []
    workflow.dataset_dir = str(phantom)
    workflow.max_epochs = 1
    workflow.initialize()
    assert (workflow.dataset_dir, workflow.max_epochs) == (str(phantom), 1)
    before = workflow.network_def.codebook.embedding.clone()
    workflow.run()
    assert workflow.trainer.state.epoch == workflow.trainer.state.max_epochs == 1
    assert 0 < workflow.evaluator.state.metrics["ssim"] < 1
    assert not torch.equal(workflow.network_def.codebook.embedding, before)
    saved = torch.load(tmp_path / "run" / "models" / "model.pt", weights_only=True)
    torch.testing.assert_close(saved, dict(workflow.network_def.state_dict()))
    workflow.finalize()

    # Another training would replace the first, whichever way it is begun.
    workflow.max_epochs = 2
    for begin in (lambda: workflow.run(), lambda: workflow.trainer):
        workflow.initialize()
        with pytest.raises(RuntimeError) as raised:
            begin()
        assert "this output_dir holds a run already" in str(input_error_in(raised.value))
    workflow.parser["resume"] = True
    workflow.initialize()
    workflow.trainer.run()
    assert workflow.trainer.state.epoch == 2
    workflow.finalize()


def test_infer_step_by_step(bundle: Path, run: Path, phantom: Path, tmp_path: Path) -> None:
    workflow: Any = create_workflow(
        config_file=config_files(bundle, "inference"),
        workflow_type="inference",
        logging_file=False,
        models_dir=str(run / "models"),
        output_dir=str(tmp_path / "run"),
        **SMALL,
    )
    workflow.dataset_dir = str(phantom)
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    assert workflow.evaluator.state.epoch == 1
    names = {Path(item["image"]).name for item in workflow.dataset_data}
    assert {path.name for path in (tmp_path / "run" / "reconstructions").rglob("*.png")} == names
    images = workflow.dataset.images.float() / 255
    with torch.no_grad():
        expected = network_of(run / "models" / "model.pt")(images)
        torch.testing.assert_close(workflow.evaluator.network.eval()(images), expected)

    # What is there is not written over, by a run nor by the engine alone.
    for begin in (lambda: workflow.run(), lambda: workflow.evaluator):
        workflow.initialize()
        with pytest.raises(RuntimeError) as raised:
            begin()
        assert "exists: pass --overwrite" in str(input_error_in(raised.value))


@pytest.mark.parametrize("stack", STACKS)
def test_properties(stack: str, bundle: Path, run: Path, phantom: Path, tmp_path: Path) -> None:
    """None that MONAI requires is missing, no other has a name of its own, and each is what its name says."""
    workflow: Any = workflow_of(
        bundle, stack, dataset_dir=str(phantom), output_dir=str(tmp_path), ckpt=str(run / "models" / "model.pt")
    )
    workflow.initialize()
    assert workflow.check_properties() == []
    absent = {name for name in workflow.properties if getattr(workflow, name) is None}
    expected = {
        "train": {"train_postprocessing", "train_key_metric"},
        "train_prior": {"train_postprocessing", "train_key_metric", "val_postprocessing"},
        "evaluate": set(),
        "inference": set(),
    }
    prior = {"train_dataset_data", "val_dataset_data"} if stack == "train_prior" else set()
    assert absent - prior == expected[stack]
    if "train" not in stack:
        assert (workflow.evaluator.inferer, workflow.evaluator.data_loader.dataset) == (
            workflow.inferer,
            workflow.dataset,
        )
    else:
        assert workflow.trainer.data_loader.dataset is workflow.train_dataset
        assert workflow.trainer.inferer is workflow.train_inferer


def test_train_prior(bundle: Path, run: Path, phantom: Path, tmp_path: Path) -> None:
    workflow: Any = workflow_of(
        bundle,
        "train_prior",
        dataset_dir=str(phantom),
        output_dir=str(tmp_path),
        ckpt=str(run / "models" / "model.pt"),
        max_epochs=1,
    )
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    assert workflow.trainer.state.epoch == 1
    assert 0 < workflow.evaluator.state.metrics["bits_per_code"] < 8
    assert (tmp_path / "models" / "prior.pt").is_file()


def test_evaluate(bundle: Path, run: Path, phantom: Path, tmp_path: Path) -> None:
    """The whole run, and the engine alone, as the property hands it out: the same networks, with their weights."""
    changes = {"dataset_dir": str(phantom), "models_dir": str(run / "models"), "output_dir": str(tmp_path)}
    workflow: Any = workflow_of(bundle, "evaluate", **changes)
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    metrics = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))

    alone: Any = workflow_of(bundle, "evaluate", **changes)
    alone.initialize()
    alone.evaluator.run()
    for name in ("ssim", "ssim_brain", "psnr", "codes_used", "bits_per_code"):
        assert metrics[name] == pytest.approx(alone.evaluator.state.metrics[name]), name
    pictures = {f"metrics_{name}" for name in ("bits.csv", "codes.csv", "codes.png", "sketches.png", "slices.png")}
    assert {path.name for path in tmp_path.iterdir()} == {"metrics.json", "metrics.csv", "codes"} | pictures


def test_nested_keys_on_the_command_line(run: Path) -> None:
    assert torch.load(run / "told.pt", weights_only=True) == list(NESTED.values())


def test_cache_dataset_and_thread_loader_by_override(bundle: Path, phantom: Path, tmp_path: Path) -> None:
    workflow: Any = workflow_of(
        bundle,
        "train",
        dataset_dir=str(phantom),
        output_dir=str(tmp_path),
        max_epochs=1,
        **{
            "train#dataset": {
                "_target_": "CacheDataset",
                "data": "@train#datalist",
                "transform": "$[*@train#preprocessing.transforms, *@train#augmentation.transforms]",
                "progress": False,
            },
            "train#dataloader#_target_": "ThreadDataLoader",
            "validate#dataloader#_target_": "ThreadDataLoader",
        },
    )
    workflow.initialize()
    workflow.run()
    for engine in (workflow.trainer, workflow.evaluator):
        assert type(engine.data_loader) is ThreadDataLoader
    assert type(workflow.trainer.data_loader.dataset) is CacheDataset
    assert len(workflow.train_dataset) == len(workflow.train_dataset_data)
    assert workflow.trainer.state.epoch == 1
    assert 0 < workflow.evaluator.state.metrics["ssim"] < 1
    workflow.finalize()
