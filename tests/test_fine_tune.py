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

import pytest
import torch
from small import ON_CPU, words

from monai_vqprior.bundles import copy_bundle
from monai_vqprior.cli import main
from monai_vqprior.data import write_phantom
from monai_vqprior.runs import load_pretrained

pytestmark = pytest.mark.integration

# Both stages trained from the weights of a bundle, by the overlay fine_tune.json.

QUICK = words({**ON_CPU, "max_epochs": 1})


@pytest.fixture(scope="module")
def bundle(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with weights of both networks and their settings."""
    bundle = copy_bundle(str(tmp_path_factory.mktemp("fine_tune") / "bundle"))
    for name in ("model.pt", "prior.pt", "settings.json", "prior_settings.json"):
        shutil.copy(small_run / "models" / name, bundle / "models" / name)
    return bundle


def tune(bundle: Path, phantom: Path, output: Path, *more: str) -> int:
    words = ["train", "--fine_tune", "--bundle", bundle, "--dataset_dir", phantom, "--output_dir", output]
    return main([*map(str, words), *QUICK, *more])


def without_weights(folder: Path) -> Path:
    """A copy of the bundle without weights."""
    bundle = copy_bundle(str(folder))
    for path in (bundle / "models").iterdir():
        path.unlink()
    return bundle


def weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = torch.load(folder / "models" / name, weights_only=True)
    return found


def test_both_stages_start_from_the_bundle(
    bundle: Path, phantom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a learning rate of 0 all weights but the codes, which follow the data, stay what they were."""
    assert tune(bundle, phantom, tmp_path, "--learning_rate", "0") == 0
    printed = capsys.readouterr().out
    assert printed.count("fine_tune.json") == 2
    assert "--spatial_size 32" in printed  # of the bundle's settings
    for name in ("model.pt", "prior.pt"):
        before, after = weights(bundle, name), weights(tmp_path, name)
        learned = [key for key in before if not key.startswith("codebook.")]
        assert learned
        assert all(torch.equal(before[key], after[key]) for key in learned)


def test_training_goes_on_from_there(bundle: Path, phantom: Path, tmp_path: Path) -> None:
    pretrained = str(bundle / "models" / "model.pt")
    assert (
        tune(without_weights(tmp_path / "empty"), phantom, tmp_path, "--pretrained", pretrained, "--stage", "vqvae")
        == 0
    )
    before, after = weights(bundle, "model.pt"), weights(tmp_path, "model.pt")
    assert any(not torch.equal(before[key], after[key]) for key in before if key.endswith("weight"))


def test_weights_that_are_missing_or_do_not_fit(
    bundle: Path, phantom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    without_prior = copy_bundle(str(tmp_path / "copy"), str(bundle))
    (without_prior / "models" / "prior.pt").unlink()
    model = str(bundle / "models" / "model.pt")
    for given, more, message in [
        (without_weights(tmp_path / "empty"), [], "there is no model.pt in"),
        (without_prior, [], "there is no prior.pt in"),  # before hours of the first stage
        (bundle, ["--pretrained", model], "--pretrained names the weights of one network"),
        (bundle, ["--pretrained", "none.pt", "--stage", "vqvae"], "none.pt does not exist: --pretrained takes"),
        (bundle, ["--channels", "[16]"], "is of another architecture"),
    ]:
        assert tune(given, phantom, tmp_path / "run", *more) == 2
        assert message in capsys.readouterr().err


def test_weights_that_the_run_would_replace(
    bundle: Path, phantom: Path, small_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the folder of the bundle, and with --overwrite in that of a training."""
    shutil.copytree(small_run, tmp_path / "run")
    copy = copy_bundle(str(tmp_path / "copy"), str(bundle))
    trained = tmp_path / "run" / "models" / "prior.pt"
    again = ["--stage", "prior", "--overwrite", "--pretrained", str(trained)]
    for given, folder, more, file in [
        (copy, copy, [], copy / "models" / "model.pt"),
        (bundle, tmp_path / "run", again, trained),
    ]:
        before = file.read_bytes()
        assert tune(given, phantom, folder, *more) == 2
        assert f"{file} would be replaced by the run that begins with it" in capsys.readouterr().err
        assert file.read_bytes() == before


def test_an_autoencoder_has_no_conditions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Those beside its weights are of the prior."""
    network = torch.nn.Linear(2, 2)
    torch.save(network.state_dict(), tmp_path / "model.pt")
    condition = {"name": "age", "mean": 50.0, "std": 20.0}
    (tmp_path / "prior_settings.json").write_text(json.dumps({"conditions": [condition]}), encoding="utf-8")
    load_pretrained(network, tmp_path / "model.pt", {"spatial_size": 32})
    assert capsys.readouterr().out == ""


def test_slices_of_another_size_a_context_and_a_condition(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The bundle knows slices of 32 pixels alone. With a learning rate of 0 the rest is what it was."""
    data = write_phantom(tmp_path / "data", 4, num_slices=2, size=64, progress=False)
    more = ["--spatial_size", "64", "--conditions", "[slice]", "--given_context", "true", "--learning_rate", "0"]
    assert tune(bundle, data, tmp_path, *more) == 0
    printed = capsys.readouterr().out
    assert "this training: new contexts given; what it has learned" in printed
    assert "learned for 8 x 8 positions is resampled to 16 x 16; new conditions slice" in printed
    before, after = weights(bundle, "prior.pt"), weights(tmp_path, "prior.pt")
    for key in ("code_prior.position", "code_prior.position_logits"):
        halved = torch.nn.functional.interpolate(before[key].float(), scale_factor=2, mode="bilinear")
        torch.testing.assert_close(after[key].float(), halved, atol=1e-2, rtol=0)
    assert torch.equal(after["sketch_prior.position"], before["sketch_prior.position"])  # blocks of 8 codes, not 4
    assert torch.equal(after["code_prior.head.3.weight"], before["code_prior.head.3.weight"])
    for part in ("sketch_prior.context_network.sources.0", "code_prior.context_network.sources.1"):
        assert not after[f"{part}.up.weight"].any()  # silent at first
    settings = json.loads((tmp_path / "models" / "prior_settings.json").read_text(encoding="utf-8"))
    assert (settings["prior_sketch_block"], settings["given_context"]) == (8, True)
    assert [condition["name"] for condition in settings["conditions"]] == ["slice"]


def test_codes_learn_from_a_part_of_each_batch(bundle: Path, phantom: Path, tmp_path: Path) -> None:
    part = ("--stage", "prior", "--prior_code_batch_size", "1", "--batch_size", "4")
    assert tune(bundle, phantom, tmp_path, *part) == 0
    before, after = weights(bundle, "prior.pt"), weights(tmp_path, "prior.pt")
    assert not torch.equal(before["code_prior.position"], after["code_prior.position"])


def test_the_sketches_alone_with_another_sketch(
    bundle: Path, phantom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Codes and first sketch stay as they are; the prior of the sketches begins with the histograms of these."""
    alone = ("--stage", "prior", "--prior_sketch_levels", "2", "--prior_code_batch_size", "0", "--batch_size", "4")
    assert tune(bundle, phantom, tmp_path, *alone, "--learning_rate", "0") == 0
    printed = capsys.readouterr().out
    assert "the prior of its sketches begins anew, with another number of sketches" in printed
    before, after = weights(bundle, "prior.pt"), weights(tmp_path, "prior.pt")
    kept = [key for key in before if not key.startswith("sketch_prior.")]
    assert kept
    assert all(torch.equal(before[key], after[key]) for key in kept)
    assert after["sketch_prior.sketch.vectors"].any()
    assert after["sketch_prior.sketch_prior.position_logits"].any()
    assert json.loads((tmp_path / "models" / "prior_settings.json").read_text())["prior_sketch_levels"] == 2
    sample = ["sample", "--num_samples", "2", "--bundle", str(bundle)]
    assert main([*sample, *words({**ON_CPU, "output_dir": tmp_path})]) == 0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ["--prior_code_batch_size", "0"],
            "--prior_code_batch_size 0 trains the sketches alone, and the codes of this prior are not trained yet",
        ),
        (
            ["--prior_code_batch_size", "0", "--prior_sketch_block", "0"],
            "--prior_code_batch_size is for a prior with a sketch",
        ),
        (["--sketch_temperature", "0.7", "--prior_sketch_block", "0"], "--sketch_temperature is for a prior with a"),
    ],
)
def test_options_of_sketches_that_make_no_prior(
    more: list[str],
    message: str,
    small_run: Path,
    phantom: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(small_run / "models", tmp_path / "models", ignore=shutil.ignore_patterns("prior*"))
    shutil.copy(small_run / "splits.json", tmp_path)
    train = ["train", "--stage", "prior", "--dataset_dir", str(phantom), "--output_dir", str(tmp_path)]
    assert main([*train, *QUICK, *more]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "models" / "prior_settings.json").exists()
