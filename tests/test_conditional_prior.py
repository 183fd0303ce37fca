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

import csv
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small
import torch
from monai.bundle import ConfigParser, create_workflow
from PIL import Image

from monai_vqprior.bundles import bundle_root
from monai_vqprior.cli import main
from monai_vqprior.data import Conditions, SliceFolder, without_distributions
from monai_vqprior.inferers import VQPriorInferer
from monai_vqprior.networks import AutoencoderVQ, EMACodebook, GatedPixelCNN

pytestmark = pytest.mark.integration

# Conditions from tables to samples, through the command line.

QUICK = small.words({**small.QUICK, "prior_sketch_block": 0})
CONDITIONS = "[group,ventricle_size,slice]"


@pytest.fixture(scope="module")
def cohort(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The phantom in groups: one subject of training has none, one has no row; that of test is of an unknown group."""
    folder = shutil.copytree(phantom, tmp_path_factory.mktemp("cohort") / "data")
    with (folder / "subjects.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    training = [row for row in rows if row["split"] == "train"]
    for i, row in enumerate(rows):
        row["group"] = "stranger" if row["split"] == "test" else "AB"[i % 2]
    training[1]["group"] = ""
    rows.remove(training[-1])
    with (folder / "subjects.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder


def train(dataset_dir: Path, output_dir: Path, *more: str) -> int:
    return main(["train", "--dataset_dir", str(dataset_dir), "--output_dir", str(output_dir), *QUICK, *more])


@pytest.fixture(scope="module")
def run(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished training on three conditions; tests copy what they change."""
    output = tmp_path_factory.mktemp("run")
    assert train(cohort, output, "--conditions", CONDITIONS) == 0
    return output


def fails(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """The one line that a command prints about wrong input."""
    capsys.readouterr()
    assert main([str(word) for word in words]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("vqprior: ")]
    assert len(lines) == 1
    return lines[0]


def settings(run: Path) -> dict[str, Any]:
    """The settings of both networks, without what the validation slices come to."""
    files = (run / "models" / name for name in ("settings.json", "prior_settings.json"))
    found = {key: value for file in files for key, value in json.loads(file.read_text()).items()}
    return {key: value for key, value in found.items() if key != "reference"}


def networks(run: Path) -> tuple[AutoencoderVQ, GatedPixelCNN]:
    """Both networks of a run, without the bundle."""
    autoencoder = AutoencoderVQ(channels=[8], codebook=EMACodebook(16, 4)).eval()
    prior = GatedPixelCNN(
        2, 16, 8, channels=8, num_layers=2, kernel_size=3, num_classes=[2], num_values=2, position_logits=True
    ).eval()
    for network, name in ((autoencoder, "model.pt"), (prior, "prior.pt")):
        network.load_state_dict(torch.load(run / "models" / name, weights_only=True))
    return autoencoder, prior


def true_conditions(cohort: Path, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels (N, 1) and values (N, 2) of the slices of a split, from the tables by hand."""
    subjects = {row["case"]: row for row in csv.DictReader((cohort / "subjects.csv").read_text().splitlines())}
    rows = list(csv.DictReader((cohort / "slices.csv").read_text().splitlines()))
    training = np.array(
        [[float(row["ventricle_size"]), int(row["index"]) / 3] for row in rows if row["split"] == "train"]
    )
    labels, values = [], []
    for row in rows:
        if row["split"] == split:
            group = subjects.get(row["case"], {}).get("group", "")
            labels.append([{"A": 0, "B": 1}.get(group, -1)])
            values.append([float(row["ventricle_size"]), int(row["index"]) / 3])
    standardized = (np.array(values) - training.mean(0)) / training.std(0)
    return torch.tensor(labels), torch.tensor(standardized, dtype=torch.float32)


def bits_by_hand(run: Path, cohort: Path, split: str, *conditions: torch.Tensor) -> float:
    """Bits a code of a split under the prior."""
    autoencoder, prior = networks(run)
    paths = [item["image"] for item in SliceFolder(cohort).datalist(split)]
    images = torch.stack([torch.from_numpy(np.asarray(Image.open(path)) / np.float32(255))[None] for path in paths])
    with torch.no_grad():
        codes = autoencoder.index_quantize(images)
        return torch.nn.functional.cross_entropy(prior(codes, *conditions), codes).item() / math.log(2)


def exaggerate(run: Path) -> None:
    """Make the conditions matter more than so short a training could teach."""
    path = run / "models" / "prior.pt"
    weights = torch.load(path, weights_only=True)
    louder = ("condition_heads.", "head.")
    torch.save({key: 60 * v if key.startswith(louder) else v for key, v in weights.items()}, path)


def test_settings_hold_what_later_commands_need(run: Path, cohort: Path) -> None:
    group, ventricles, position = settings(run)["conditions"]
    assert group == {"name": "group", "classes": ["A", "B"], "shares": [0.5, 0.5]}
    rows = csv.DictReader((cohort / "slices.csv").read_text().splitlines())
    sizes = [float(row["ventricle_size"]) for row in rows if row["split"] == "train"]
    assert ventricles["name"] == "ventricle_size"
    np.testing.assert_allclose([ventricles["mean"], ventricles["std"]], [np.mean(sizes), np.std(sizes)], rtol=1e-5)
    numbers, counts = np.unique(sizes, return_counts=True)
    np.testing.assert_allclose(ventricles["numbers"], numbers, rtol=1e-5)
    np.testing.assert_allclose(ventricles["shares"], counts / len(sizes), rtol=1e-5)
    assert ventricles["related"] == ["group"]  # of so few subjects
    assert without_distributions([position]) == [{"name": "slice", "mean": 0.5, "std": 0.372678}]
    assert (position["numbers"], position["shares"]) == ([0, 0.333333, 0.666667, 1], [0.25] * 4)


def test_training_drops_conditions_and_validation_does_not(run: Path, cohort: Path) -> None:
    stack = [str(bundle_root() / "configs" / name) for name in ("train.json", "train_prior.json")]
    parser = ConfigParser()
    parser.read_config(stack)
    parser.update({"dataset_dir": str(cohort), "bundle_root": str(bundle_root()), "device": "cpu", "amp": False})
    parser.update({"ckpt": str(run / "models" / "model.pt"), "conditions": ["group", "ventricle_size", "slice"]})
    parser.update({key: value for key, value in settings(run).items() if key != "conditions"})
    network = parser.get_parsed_content("network")
    assert network.condition_dropout == 0.1
    assert (network.num_classes, network.num_values) == ((2,), 2)
    dataset = parser.get_parsed_content("train#dataset")
    labels, values = true_conditions(cohort, "train")
    assert [item["group"] for item in dataset] == labels[:, 0].tolist()
    assert labels.min() == -1
    np.testing.assert_allclose([[item["ventricle_size"], item["slice"]] for item in dataset], values, atol=1e-4)

    # The best validation of the training is the one that the true conditions give.
    state = torch.load(run / "models" / "prior_last.pt", weights_only=True)
    expected = bits_by_hand(run, cohort, "validate", *true_conditions(cohort, "validate"))
    assert state["best"]["best"] == pytest.approx(expected, abs=1e-5)


def test_evaluate_feeds_the_true_conditions(run: Path, cohort: Path, tmp_path: Path) -> None:
    output = shutil.copytree(run, tmp_path / "run")
    exaggerate(output)
    labels, values = true_conditions(cohort, "test")
    assert (labels == -1).all()  # a group that the training has not seen
    for split in ("test", "train"):
        words = ["evaluate", "--dataset_dir", cohort, "--output_dir", output, "--device", "cpu", "--split", split]
        assert main([*map(str, words), "--overwrite"]) == 0
        metrics = json.loads((output / "metrics.json").read_text())
        labels, values = true_conditions(cohort, split)
        bits = bits_by_hand(output, cohort, split, labels, values)
        assert metrics["bits_per_code"] == pytest.approx(bits, abs=1e-4)
        assert abs(bits_by_hand(output, cohort, split) - bits) > 0.01
        if split == "train":
            assert abs(bits_by_hand(output, cohort, split, labels.clamp_max(-1), values) - bits) > 0.01


def test_evaluate_where_the_tables_are_missing(
    run: Path, cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A prior with conditions rates slices of which they are not known; the position always is."""
    output, data = shutil.copytree(run, tmp_path / "run"), shutil.copytree(cohort, tmp_path / "data")
    for name in ("subjects.csv", "slices.csv"):
        (data / name).unlink()
    assert main(["evaluate", "--dataset_dir", str(data), "--output_dir", str(output), "--device", "cpu"]) == 0
    told = capsys.readouterr().err
    for name in ("group", "ventricle_size"):
        assert told.count(f"{data} does not tell {name}: it is missing") == 1
    labels, values = true_conditions(cohort, "test")
    values[:, 0] = torch.nan
    bits = json.loads((output / "metrics.json").read_text())["bits_per_code"]
    assert bits == pytest.approx(bits_by_hand(run, cohort, "test", torch.full_like(labels, -1), values), abs=1e-5)


def drawn(output: Path, *more: str) -> np.ndarray:
    """Samples as the command draws them, (4, 32, 32)."""
    words = ["sample", "--output_dir", str(output), "--device", "cpu", "--num_samples", "4", "--tile_size", "4"]
    assert main([*words, "--overwrite", *more]) == 0
    return np.stack([np.asarray(Image.open(path)) for path in sorted((output / "samples").iterdir())])


def test_samples_follow_the_condition(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = shutil.copytree(run, tmp_path / "run")
    exaggerate(output)
    asked = [[], *(["--condition", text] for text in ("group=A", "group=B", "slice=0", "slice=1,group=B"))]
    samples = [drawn(output, *words) for words in asked]
    for i, some in enumerate(samples):
        assert all(not np.array_equal(some, others) for others in samples[:i])
    assert np.array_equal(drawn(output, "--condition", "group=B,slice=1.0"), samples[4])
    printed = capsys.readouterr().out
    assert "--condition group=A" in printed
    assert "--conditions" not in printed  # the configurations read them beside the weights

    # The first tile by hand: group B, the last slice, ventricles unknown; then the same with guidance.
    autoencoder, prior = networks(output)
    words = [*asked[4], "--draw_conditions", "false"]
    plain, guided = drawn(output, *words), drawn(output, *words, "--guidance_scale", "2")
    assert not np.array_equal(guided, plain)
    for shown, scale in ((plain, 1), (guided, 2)):
        inferer = VQPriorInferer(tile_size=4, temperature=0.8, guidance_scale=scale)
        grids = inferer.sample(prior, range(4), seed=0, labels=[1], values=[math.nan, (1 - 0.5) / 0.372678])
        with torch.no_grad():
            expected = autoencoder.decode_samples(grids)[:, 0].clamp(0, 1).mul(255).numpy()
        np.testing.assert_allclose(shown, expected, atol=0.51)


def test_conditions_that_nobody_asked_for(run: Path, tmp_path: Path) -> None:
    """They are drawn, by MONAI's command too, or left missing as of a prior that does not know their distributions."""
    output = shutil.copytree(run, tmp_path / "run")
    exaggerate(output)
    samples, missing = drawn(output), drawn(output, "--draw_conditions", "false")
    assert not np.array_equal(samples, missing)
    known = Conditions(settings(run)["conditions"])
    rows = known.draw({}, range(4), seed=0)
    assert known.drawn_names({}) == ["group", "slice"]  # ventricles are related to the group
    autoencoder, prior = networks(output)
    for shown, asked in ((samples, rows), (missing, {})):
        grids = VQPriorInferer(tile_size=4, temperature=0.8).sample(prior, range(4), seed=0, **asked)
        with torch.no_grad():
            expected = autoencoder.decode_samples(grids)[:, 0].clamp(0, 1).mul(255).numpy()
        np.testing.assert_allclose(shown, expected, atol=0.51)
    root = bundle_root()
    create_workflow(
        config_file=[str(root / "configs" / f"{name}.json") for name in ("inference", "sample")],
        workflow_type="train", logging_file=False, bundle_root=str(root), models_dir=str(output / "models"),
        output_dir=str(tmp_path), num_samples=4, tile_size=4, **small.ON_CPU, **small.AUTOENCODER,
        **{**small.PRIOR, "prior_sketch_block": 0},
    ).run()  # fmt: skip
    for path in sorted((tmp_path / "samples").iterdir()):
        assert np.array_equal(np.asarray(Image.open(path)), samples[int(path.stem[-1])])

    path = output / "models" / "prior_settings.json"
    told = json.loads(path.read_text())
    path.write_text(json.dumps({**told, "conditions": without_distributions(told["conditions"])}))
    assert np.array_equal(drawn(output), missing)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--condition", "agee=7"], "no condition 'agee': the prior knows group, ventricle_size, slice"),
        (["--condition", "group=C"], "group has no class 'C': the prior knows A, B"),
        (["--condition", "slice=half"], "slice must be a number, got 'half'"),
        (["--condition", "slice"], "condition must look like name=value"),
        (["--condition", "0.5"], "condition must look like name=value"),
        (["--conditions", "slice=0.5"], "--condition asks for one"),
        (["--conditions", "[]", "--condition", "slice=0.5"], "the prior was trained without --conditions"),
    ],
)
def test_wrong_conditions_of_sample(
    run: Path, words: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert named in fails(capsys, "sample", "--output_dir", run, "--device", "cpu", *words)
    assert not (run / "samples").exists()


@pytest.mark.parametrize(("named", "file_name"), [(True, "prior_settings.json"), (False, "settings.json")])
def test_a_conditional_prior_in_a_folder_of_its_own(
    run: Path, named: bool, file_name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each network has its settings beside its weights."""
    (tmp_path / "vqvae").mkdir()
    (tmp_path / "prior" / "models").mkdir(parents=True)
    known = settings(run)
    shutil.copy(run / "models" / "model.pt", tmp_path / "vqvae")
    shutil.copy(run / "models" / "prior.pt", tmp_path / "prior" / "models")
    own = {key: value for key, value in known.items() if key.startswith("prior_") or key == "conditions"}
    of_autoencoder = {key: value for key, value in known.items() if key not in own}
    (tmp_path / "prior" / "models" / file_name).write_text(json.dumps(own))
    (tmp_path / "vqvae" / "settings.json").write_text(json.dumps(of_autoencoder))
    words = ["sample", "--ckpt", tmp_path / "vqvae" / "model.pt", "--device", "cpu", "--num_samples", 2]
    if named:
        words += ["--ckpt_prior", tmp_path / "prior" / "models" / "prior.pt", "--output_dir", tmp_path / "out"]
    else:
        words += ["--output_dir", tmp_path / "prior"]
    assert main([*map(str, words), "--condition", "group=A"]) == 0
    assert len(list(tmp_path.rglob("samples/*.png"))) == 2


@pytest.mark.parametrize("stage", ["both", "prior"])
def test_wrong_conditions_of_train(
    run: Path, cohort: Path, stage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Refused before the first stage, not after it."""
    if stage == "prior":
        (tmp_path / "models").mkdir()
        shutil.copy(run / "models" / "model.pt", tmp_path / "models")
    words = ["train", "--dataset_dir", cohort, "--output_dir", tmp_path, *QUICK, "--stage", stage, "--conditions"]
    before = sorted(tmp_path.rglob("*"))
    assert "'groop': did you mean group? subjects.csv and slices.csv" in fails(capsys, *words, "[groop,slice]")
    assert "have ventricle_size, group" in fails(capsys, *words, "groop")
    assert sorted(tmp_path.rglob("*")) == before


def test_no_probability(run: Path, cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "--stage", "prior", "--dataset_dir", cohort, "--output_dir", tmp_path, *QUICK]
    words += ["--ckpt", run / "models" / "model.pt", "--condition_dropout", "3"]
    assert "--condition_dropout must be a number of at least 0 and below 1, got 3" in fails(capsys, *words)


def test_a_run_goes_on_with_its_conditions_and_a_new_one_without(
    run: Path, cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = shutil.copytree(run, tmp_path / "run")
    words = ["train", "--stage", "prior", "--dataset_dir", cohort, "--output_dir", output, "--device", "cpu"]
    words += ["--amp", "false", "--max_epochs", "2"]
    assert "was trained with the conditions" in fails(capsys, *words, "--resume", "--conditions", "[slice]")
    path = output / "models" / "prior_settings.json"  # from before there were distributions
    told = json.loads(path.read_text())
    path.write_text(json.dumps({**told, "conditions": without_distributions(told["conditions"])}))
    assert main([*map(str, words), "--resume"]) == 0
    printed = capsys.readouterr().out
    assert "conditions: group (A 8, B 8; missing 8), ventricle_size (mean" in printed
    assert settings(output) == settings(run)
    assert main([*map(str, words), "--overwrite"]) == 0
    assert "conditions:" not in capsys.readouterr().out
    assert settings(output)["conditions"] == []
    assert "trained without --conditions" in fails(
        capsys, "sample", "--output_dir", output, "--device", "cpu", "--condition", "slice=1"
    )
