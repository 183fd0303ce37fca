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
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, create_workflow
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from small import AUTOENCODER, ON_CPU, PRIOR
from warm_python import run_python

import monai_vqprior
from monai_vqprior.data import SliceDataset, SliceFolder
from monai_vqprior.errors import input_error_in
from monai_vqprior.files import write_png
from monai_vqprior.runs import SINGLE_SLICES, fingerprint
from monai_vqprior.transforms import LoadSliced
from monai_vqprior.values import SETTINGS

pytestmark = pytest.mark.integration

# The bundle through MONAI's own commands, and the package through a script that uses no bundle at all.

ROOT = Path(__file__).resolve().parent.parent
BUNDLE = ROOT / "bundle"
STACKS = {
    "train": ["train.json"],
    "train_prior": ["train.json", "train_prior.json"],
    "evaluate": ["train.json", "train_prior.json", "evaluate.json"],
    "audit": ["train.json", "train_prior.json", "evaluate.json", "audit.json"],
    "inference": ["inference.json"],
    "sample": ["inference.json", "sample.json"],
    "sample_volumes": ["inference.json", "sample.json", "sample_volumes.json"],
    "complete": ["inference.json", "sample.json", "complete.json"],
    "neighbors": ["neighbors.json"],
}
SMALL = {**AUTOENCODER, **ON_CPU}
SMALL_PRIOR = {
    **PRIOR, "prior_attention_every": 1, "prior_skip_connections": True, "prior_position_logits": True
}  # fmt: skip


def config_files(stack: str) -> list[str]:
    return [str(BUNDLE / "configs" / name) for name in STACKS[stack]]


def parser(stack: str) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config(config_files(stack))
    return parser


def monai_run(stack: str, cwd: Path, **overrides: Any) -> str:
    """``python -m monai.bundle run`` as a user types it, from a folder of their own; what it printed."""
    words: list[object] = ["-m", "monai.bundle", "run", "--config_file", config_files(stack)]
    for key, value in {"bundle_root": str(BUNDLE), **overrides}.items():
        words += [f"--{key}", value]
    done = run_python(words, cwd)
    assert done.returncode == 0, done.stderr[-3000:]
    return str(done.stdout)


def test_network_definitions_agree() -> None:
    """What training builds, inference rebuilds: the definitions and the values that they refer to."""
    train, inference = parser("train"), parser("inference")
    definition = dict(train["network_def"])
    for training_only in ("background", "predictability_weight"):
        assert definition.pop(training_only) == f"@{training_only}"
    assert definition == inference["network_def"]
    rebuilt = {
        "spatial_size", "max_value", "channels", "patch_size", "num_encoder_blocks", "num_decoder_blocks",
        "num_embeddings", "embedding_dim", "codebook", "split_by", "subject_pattern",
    }  # fmt: skip
    assert set(train["settings"]) == rebuilt
    assert {"split_by", "subject_pattern"} <= set(parser("train_prior")["settings"])
    for key in ("stride", *rebuilt):
        assert train[key] == inference[key], key
    assert train["train"]["preprocessing"] == inference["preprocessing"] == parser("neighbors")["preprocessing"]
    assert train["slices"] == inference["slices"] == parser("neighbors")["slices"]
    prior, sample = parser("train_prior"), parser("sample")
    of_no_use_after_training = {
        "code_prior_def": {"dropout": "@prior_dropout", "condition_dropout": "@condition_dropout"},
        "sketch_prior_def": {"dropout": "@prior_sketch_dropout", "condition_dropout": "@condition_dropout"},
        "prior_def": {"code_batch_size": "@prior_code_batch_size"},
    }
    for part in ("prior_def", "prior_size", "prior_sketch", "code_prior_def", "sketch_prior_def"):
        definition = prior[part]
        for key, value in of_no_use_after_training.get(part, {}).items():
            definition = dict(definition)
            assert definition.pop(key) == value
        assert definition == sample[part]
    for key in SMALL_PRIOR:
        assert prior[key] == sample[key], key
        assert key in prior["settings"]
    # What the data makes of a prior, the configurations that use one read beside its weights.
    for key, value in SINGLE_SLICES.items():
        assert key in prior["settings"]
        # A training has two slices below, and a convolution of what is given; settings without these keys have neither.
        # The temperature of its sketches depends on how many there are (test_prior_defaults.py).
        if key != "sketch_temperature":
            assert prior.get(key, value) == {"neighbor_slices": 2, "given_kernel_size": 3}.get(key, value)
        assert parser("sample_volumes")[key] == f"$@prior_settings['{key}']"
    for key in ("conditions", "neighbor_context", "neighbor_slices", "given_context", "given_kernel_size"):
        assert sample[key] == parser("evaluate")[key] == f"$@prior_settings['{key}']"


OVERLAYS = [(stack, overlay) for stack in ("train", "train_prior") for overlay in ("fine_tune", "multi_gpu_train")]


@pytest.mark.parametrize(("stack", "overlay"), [*((stack, None) for stack in STACKS), *OVERLAYS])
def test_every_setting_is_checked_before_anything_else(stack: str, overlay: str | None) -> None:
    """A setting that a configuration gets is in its ``checked`` too, and one call there checks them all."""
    config = ConfigParser()
    config.read_config([*config_files(stack), *([] if overlay is None else [f"{BUNDLE}/configs/{overlay}.json"])])
    settings = [key for key in config.get() if key in SETTINGS]
    assert len(settings) >= 9
    checked = dict(config["checked"])
    assert checked.pop("_target_") == "monai_vqprior.runs.checked_settings"
    assert checked == {key: f"@{key}" for key in settings}
    first = config["initialize" if stack == "neighbors" else "begin"][0]
    run = list(config[first.removeprefix("@")].items())
    assert run[0][0] == "_target_"
    # The device, which other settings are evaluated by, and then all settings.
    device = {"_target_": "monai_vqprior.runs.select_device", "name": "@device"}
    assert run[1:3] == [("device", device), ("settings", "@checked")]


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize(
    "wrong",
    [{"split_seed": "abc"}, {"output_dir": ""}, {"overwrite": "maybe"}, {"device": [1]}, {"spatial_size": "$1.5"}],
    ids=str,
)
def test_a_wrong_setting_is_refused_before_anything_is_read(
    stack: str, wrong: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By MONAI's own command, whose tracebacks end with the line."""
    monkeypatch.chdir(tmp_path)
    weights = {"ckpt": str(BUNDLE / "models" / "model.pt"), "ckpt_prior": str(BUNDLE / "models" / "prior.pt")}
    known = {key: value for key, value in weights.items() if key in parser(stack)}

    def run() -> None:
        create_workflow(
            config_file=config_files(stack), workflow_type="train", logging_file=False, bundle_root=str(BUNDLE),
            dataset_dir="nowhere", **known, **wrong,
        ).run()  # fmt: skip

    with pytest.raises(RuntimeError) as raised:
        run()
    (key,) = wrong
    found = input_error_in(raised.value)
    assert str(found).startswith(f"{key} must be") or "[1] is not a device" in str(found)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def trained(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both stages by MONAI's command alone, from another directory; the folder of the run is ``output`` there."""
    cwd = tmp_path_factory.mktemp("elsewhere")
    monai_run("train", cwd, dataset_dir=phantom, max_epochs=2, **SMALL)
    printed = monai_run("train_prior", cwd, dataset_dir=phantom, max_epochs=1, **SMALL, **SMALL_PRIOR)
    assert "validation bits per code to beat: bits_per_code_histogram" in printed
    return cwd / "output"


@pytest.mark.parametrize("workflow_type", ["train", "inference"])
def test_zoo_properties(workflow_type: str, trained: Path, phantom: Path) -> None:
    workflow = create_workflow(
        config_file=config_files(workflow_type),
        workflow_type=workflow_type,
        meta_file=str(BUNDLE / "configs" / "metadata.json"),
        logging_file=False,
        bundle_root=str(BUNDLE),
        dataset_dir=str(phantom),
        models_dir=str(trained / "models"),
        begin=[],
        **SMALL,
    )
    assert workflow.check_properties() == []
    assert workflow.dataset_dir == str(phantom)
    if workflow_type == "train":
        assert workflow.max_epochs == 30
        workflow.max_epochs = 1
        workflow.initialize()
        assert workflow.trainer.state.max_epochs == 1


def test_training_writes_what_it_promises(trained: Path, phantom: Path) -> None:
    weights = torch.load(trained / "models" / "model.pt", weights_only=True)
    of_data = {"split_by": "subject", "subject_pattern": None}
    told = json.loads((trained / "models" / "settings.json").read_text())
    low, middle, high = told.pop("reference")["ssim"]
    assert low <= middle <= high < 1
    assert told == {
        **{key: SMALL[key] for key in ("spatial_size", "channels", "num_embeddings", "embedding_dim")},
        "max_value": 255,
        "patch_size": 4,
        "num_encoder_blocks": 2,
        "num_decoder_blocks": 4,
        "codebook": {
            **parser("train")["codebook"],
            **{key: SMALL[key] for key in ("num_embeddings", "embedding_dim")},
        },
        **of_data,
    }
    told = json.loads((trained / "models" / "prior_settings.json").read_text())
    assert set(told.pop("reference")) == {"bits_per_code", "bits_per_code_by_position"}
    assert told == {
        "autoencoder_weights": fingerprint(weights),
        **SMALL_PRIOR,
        "conditions": [],
        "neighbor_context": False,
        "neighbor_slices": 2,
        **dict.fromkeys(("head_slices", "head_axis", "head_affine")),
        "given_context": False,
        "given_kernel_size": 3,
        "sketch_temperature": 0.9,
        **of_data,
    }
    rule = json.loads((trained / "splits.json").read_text())
    assert (rule["rule"], rule["subjects"], rule["dealt"]) == ("numbered names (patient7, case_441)", 8, False)
    assert len(rule["examples"]) == 3
    for subject, path in rule["examples"].items():
        assert Path(path).name.startswith(f"{subject}_slice_")
    rows = (trained / "splits.csv").read_text().splitlines()
    assert len(rows) == 1 + 8 * 4
    assert list((trained / "tensorboard" / "vqvae").iterdir())
    assert list((trained / "tensorboard" / "prior").iterdir())
    # The prior has begun at the histogram of each position.
    weights = torch.load(trained / "models" / "prior.pt", weights_only=True)
    for part, size in (("code_prior", (8, 8)), ("sketch_prior", (2, 2))):
        start = weights[f"{part}.position_logits"].float()
        torch.testing.assert_close(start.exp().sum(1), torch.ones(1, *size), atol=2e-3, rtol=0)
        assert start.std(1).min() > 0


def test_evaluate(trained: Path, phantom: Path) -> None:
    monai_run("evaluate", trained.parent, dataset_dir=phantom, **SMALL, **SMALL_PRIOR)
    metrics = json.loads((trained / "metrics.json").read_text())
    slices = SliceFolder(phantom).datalist("test")
    assert metrics["slices"] == len(slices)
    assert metrics["subjects"] == len({item["subject"] for item in slices})
    assert 0 < metrics["codes_used"] <= metrics["num_embeddings"] == 16
    assert 1 <= metrics["perplexity"] <= metrics["codes_used"]
    for key in ("bits_per_code", "bits_per_code_histogram", "bits_per_code_position_histogram"):
        assert 0 < metrics[key] < 6

    # The black image, by scikit-image; the reconstructions, by the network on its own.
    images = SliceDataset(slices, LoadSliced("image"), 32, progress=False).images.float() / 255
    options: dict[str, Any] = {
        "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1
    }  # fmt: skip
    black = [structural_similarity(image[0].numpy(), np.zeros((32, 32), np.float32), **options) for image in images]
    assert metrics["baselines"]["black"]["ssim"] == pytest.approx(np.mean(black), abs=1e-3)
    network = monai_vqprior.networks.AutoencoderVQ(
        channels=[8], codebook=monai_vqprior.networks.EMACodebook(num_embeddings=16, embedding_dim=4)
    ).eval()
    network.load_state_dict(torch.load(trained / "models" / "model.pt", weights_only=True))
    with torch.no_grad():
        rebuilt = network(images).clamp(0, 1)
    ours = [structural_similarity(a[0].numpy(), b[0].numpy(), **options) for a, b in zip(images, rebuilt, strict=True)]
    assert metrics["ssim"] == pytest.approx(np.mean(ours), abs=1e-3)
    noise = [peak_signal_noise_ratio(a.numpy(), b.numpy(), data_range=1) for a, b in zip(images, rebuilt, strict=True)]
    assert metrics["psnr"] == pytest.approx(np.mean(noise), abs=1e-3)
    assert metrics["mae"] == pytest.approx(np.abs(images.numpy() - rebuilt.numpy()).mean(), abs=1e-5)


def test_reconstruct_and_sample(trained: Path, phantom: Path) -> None:
    printed = monai_run("inference", trained.parent, dataset_dir=phantom, **SMALL)
    assert "mean SSIM" in printed
    monai_run("sample", trained.parent, num_samples=3, tile_size=4, **SMALL, **SMALL_PRIOR)
    assert len(list((trained / "samples").iterdir())) == 3
    assert (trained / "reconstructions.png").is_file()
    mask = np.zeros((32, 32), np.uint8)
    mask[8:20, 12:20] = 255
    inputs = {"image": trained / "samples" / "sample_00000.png", "mask": write_png(trained / "mask.png", mask)}
    printed = monai_run("complete", trained.parent, num_completions=2, **inputs, **SMALL, **SMALL_PRIOR)
    assert "trained without given_context" in printed
    assert len(list((trained / "completions").iterdir())) == 2
    assert "well below 1" in monai_run("neighbors", trained.parent, dataset_dir=phantom, num_pictures=2, device="cpu")
    assert len(json.loads((trained / "neighbors.json").read_text())["samples"]) == 3
    assert (trained / "neighbors.png").is_file()


def test_conditions(trained: Path, phantom: Path, tmp_path: Path) -> None:
    """What ``vqprior`` does with conditions, by MONAI's command: names are fitted, and read beside the weights."""
    options = {**SMALL, **SMALL_PRIOR, "ckpt": trained / "models" / "model.pt"}
    conditions = "[ventricle_size,slice]"
    printed = monai_run(
        "train_prior", tmp_path, dataset_dir=phantom, max_epochs=1, conditions=conditions, prior_views=2, **options
    )
    assert "conditions: ventricle_size (mean" in printed
    settings = json.loads((tmp_path / "output" / "models" / "prior_settings.json").read_text())
    assert [condition["name"] for condition in settings["conditions"]] == ["ventricle_size", "slice"]
    options |= {"condition": "slice=0.5,ventricle_size=0.9"}
    monai_run("sample", tmp_path, num_samples=1, tile_size=1, **options)
    assert len(list((tmp_path / "output" / "samples").iterdir())) == 1


@pytest.mark.parametrize("number", [0, 2])
def test_views_are_among_what_the_prior_learns(trained: Path, phantom: Path, number: int) -> None:
    config = parser("train_prior")
    options = {"bundle_root": str(BUNDLE), "dataset_dir": str(phantom), "prior_views": number, **SMALL, **SMALL_PRIOR}
    config.update({**options, "ckpt": str(trained / "models" / "model.pt")})
    dataset = config.get_parsed_content("train#dataset")
    if number == 0:
        assert dataset.views is None
    else:
        assert dataset.views.shape == (number, *dataset.grids.shape)
        assert (dataset.views != dataset.grids).flatten(2).any(2).float().mean() > 0.8  # all but a few were changed


def test_fifteen_lines_without_the_bundle(phantom: Path) -> None:
    """The networks, transforms and handlers in somebody's own MONAI code, as the guide shows."""
    page = (ROOT / "docs" / "how-to" / "own-code.md").read_text(encoding="utf-8")
    script = page.split("<!-- fifteen lines -->\n```python\n")[1].split("```")[0]
    assert len([line for line in script.splitlines() if line.strip()]) <= 15
    names: dict[str, Any] = {}
    exec(script.replace("128", "32").replace("path/to/slices", str(phantom)), names)
    metrics = names["evaluator"].state.metrics
    assert 0 < metrics["ssim"] < 1


def test_real_slices(oasis: Path, tmp_path: Path) -> None:
    """A few steps on real slices of 128 x 128: better already than the mean image, whose SSIM is 0.55."""
    data = tmp_path / "data"
    for split, number in (("train", 96), ("validate", 8)):
        folder = f"keras_png_slices_{split}"
        (data / folder).mkdir(parents=True)
        for path in sorted((oasis / folder).iterdir())[:number]:
            (data / folder / path.name).symlink_to(path)
    changes = {**SMALL, "spatial_size": 128, "channels": [32], "num_embeddings": 64}
    workflow = create_workflow(
        config_file=config_files("train"), workflow_type="train", logging_file=False, bundle_root=str(BUNDLE),
        dataset_dir=str(data), output_dir=str(tmp_path / "out"), max_epochs=3, **changes,
    )  # fmt: skip
    workflow.run()
    evaluator = workflow.parser.get_parsed_content("validate#evaluator")
    assert evaluator.state.metrics["ssim"] > 0.6
    workflow.finalize()
