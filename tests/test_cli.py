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

import numpy as np
import pytest
import small
import torch
from monai.bundle import ConfigParser
from PIL import Image

from monai_vqprior.bundles import copy_bundle
from monai_vqprior.cli import main
from monai_vqprior.files import write_png
from monai_vqprior.networks import AutoencoderVQ

pytestmark = pytest.mark.integration

# Networks and trainings that a test can afford.
QUICK = small.words(small.QUICK)


def train(dataset_dir: Path, output_dir: Path, *more: str) -> int:
    return main(["train", "--dataset_dir", str(dataset_dir), "--output_dir", str(output_dir), *QUICK, *more])


@pytest.fixture
def run(small_run: Path) -> Path:
    """The folder of a finished training of both stages; tests copy what they change."""
    return small_run


def fails(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """The one line that a command prints about wrong input."""
    assert main([str(word) for word in words]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("vqprior: ")]
    assert len(lines) == 1
    return lines[0]


def test_training_leaves_weights_states_and_settings(run: Path) -> None:
    files = {path.name for path in (run / "models").iterdir()}
    assert files == {"model.pt", "prior.pt", "vqvae_last.pt", "prior_last.pt", "settings.json", "prior_settings.json"}
    weights = torch.load(run / "models" / "model.pt", weights_only=True)
    assert weights["codebook.embedding"].shape == (16, 4)


def test_later_commands_know_the_settings(
    run: Path, phantom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Evaluate, reconstruct and sample need neither the size nor the channels of the training."""
    output = shutil.copytree(run, tmp_path / "run")
    on_data = [[command, "--dataset_dir", phantom] for command in ("evaluate", "reconstruct", "neighbors")]
    for words in (*on_data[:2], ["sample"], on_data[2]):
        assert main([*map(str, words), "--output_dir", str(output), "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("$ python -m monai.bundle run") == 4
    assert "--spatial_size 32" in printed
    assert main(["report", "--output_dir", str(output)]) == 0
    names = {path.relative_to(output).parts[0] for path in output.rglob("*")}
    expected = {"metrics.json", "reconstructions", "reconstructions.png", "samples", "samples.png", "report.html"}
    expected |= {"neighbors.png", "neighbors.json", "metrics.csv", "codes", "metrics_slices.png", "metrics_bits.csv"}
    assert expected <= names
    samples = sorted((output / "samples").iterdir())
    assert len(samples) == 10
    assert np.asarray(Image.open(samples[0])).shape == (32, 32)
    test = sorted(path.name for path in (phantom / "keras_png_slices_test").iterdir())
    rebuilt = sorted(path.name for path in (output / "reconstructions" / "keras_png_slices_test").iterdir())
    assert rebuilt == test


@pytest.mark.parametrize(
    "codebook",
    [
        {"_target_": "monai_vqprior.networks.CosineCodebook", "num_embeddings": 16, "embedding_dim": 4},
        {"_target_": "monai_vqprior.networks.FSQCodebook", "levels": [4, 4]},
    ],
    ids=["cosine", "FSQ"],
)
def test_later_commands_know_the_codebook(codebook: dict[str, object], phantom: Path, tmp_path: Path) -> None:
    """Codes of another codebook, read by the default one, would be wrong and look right."""
    assert train(phantom, tmp_path, "--codebook", str(codebook)) == 0
    assert main(["reconstruct", "--dataset_dir", str(phantom), "--output_dir", str(tmp_path), "--device", "cpu"]) == 0
    network = AutoencoderVQ(channels=[8], codebook=ConfigParser({"c": codebook}).get_parsed_content("c")).eval()
    network.load_state_dict(torch.load(tmp_path / "models" / "model.pt", weights_only=True))
    for path in sorted((phantom / "keras_png_slices_test").iterdir())[:3]:
        image = torch.from_numpy(np.asarray(Image.open(path)) / np.float32(255))[None, None]
        expected = network(image)[0, 0].detach().clamp(0, 1).mul(255).numpy()
        rebuilt = np.asarray(Image.open(tmp_path / "reconstructions" / "keras_png_slices_test" / path.name))
        np.testing.assert_allclose(rebuilt, expected, atol=0.51)


def test_codebook_of_another_size_is_refused(phantom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    codebook = "{'_target_': 'monai_vqprior.networks.FSQCodebook', 'levels': [8, 5]}"
    words = ["train", "--dataset_dir", phantom, "--output_dir", tmp_path / "new", *QUICK, "--codebook", codebook]
    assert "--num_embeddings 40" in fails(capsys, *words)
    assert not (tmp_path / "new").exists()


def test_damaged_settings_are_named(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = shutil.copytree(run, tmp_path / "run")
    (output / "models" / "settings.json").write_text('{"spatial_size": 3')
    assert "settings.json cannot be read" in fails(capsys, "sample", "--output_dir", output)


def test_results_are_not_replaced_unless_asked(
    run: Path, phantom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = shutil.copytree(run, tmp_path / "run")
    words = ["sample", "--output_dir", output, "--num_samples", 2, "--tile_size", 2, "--device", "cpu"]
    assert main([str(word) for word in words]) == 0
    assert "--overwrite" in fails(capsys, *words)
    assert "contradict" in fails(capsys, *words, "--overwrite", "--resume")
    assert main([str(word) for word in [*words, "--overwrite", "--num_samples", 1]]) == 0
    assert [path.name for path in (output / "samples").iterdir()] == ["sample_00000.png"]


def test_sampling_goes_on_where_it_was_cut_off(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A resumed run ends with the slices of a run that was not cut off, if it has the same settings."""
    words = ["sample", "--ckpt", run / "models" / "model.pt", "--ckpt_prior", run / "models" / "prior.pt"]
    words += ["--device", "cpu", "--num_samples", 5, "--tile_size", 2, "--top_p", 0.9, "--output_dir"]
    for output in (tmp_path / "whole", tmp_path / "cut"):
        assert main([str(word) for word in [*words, output, "--resume"]]) == 0
    (tmp_path / "cut" / "samples.png").unlink()
    (tmp_path / "cut" / "samples" / "sample_00003.png").unlink()
    assert "drawn with top_p 0.9, not 0.8" in fails(capsys, *words, tmp_path / "cut", "--resume", "--top_p", 0.8)
    assert main([str(word) for word in [*words, tmp_path / "cut", "--resume"]]) == 0
    for path in (tmp_path / "whole").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "cut" / path.relative_to(tmp_path / "whole")).read_bytes()


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--top_p", "1.5"], "--top_p must be a number above 0 and at most 1, or None, got 1.5"),
        (["--guidance_scale", "-1"], "--guidance_scale must be a number of at least 0 and at most 1e+06, got -1"),
        (["--guidance_scale", "2"], "guidance_scale stresses a condition"),
        (["--temperature", "0"], "--temperature must be a number above 0 and at most 1e+06, got 0"),
        (["--num_samples", "0"], "--num_samples must be a whole number in 1..10000000, got 0"),
        (["--seed", "-1"], "--seed must be a whole number in 0..4294967295, got -1"),
    ],
)
def test_wrong_options_of_sample(
    words: list[str], named: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample = ["sample", "--ckpt", run / "models" / "model.pt", "--ckpt_prior", run / "models" / "prior.pt"]
    assert named in fails(capsys, *sample, "--device", "cpu", "--output_dir", tmp_path / "out", *words)
    assert not list(tmp_path.rglob("*.png"))


def test_a_finished_run_is_neither_trained_over_nor_lost(
    run: Path, phantom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = shutil.copytree(run, tmp_path / "run")
    before = (output / "models" / "model.pt").read_bytes()
    words = ["train", "--dataset_dir", phantom, "--output_dir", output, *QUICK, "--stage", "vqvae"]
    message = fails(capsys, *words)
    assert "--resume" in message
    assert "--overwrite" in message
    assert "contradict" in fails(capsys, *words, "--resume", "--overwrite")
    assert "raise --max_epochs" in fails(capsys, *words, "--resume")
    assert (output / "models" / "model.pt").read_bytes() == before


def test_resume_goes_on_with_both_stages(
    run: Path, phantom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = shutil.copytree(run, tmp_path / "run")
    (output / "models" / "prior.pt").unlink()
    (output / "models" / "prior_last.pt").unlink()
    assert train(phantom, output, "--resume") == 0
    assert "raise --max_epochs" in capsys.readouterr().out  # stage 1 is done and is left alone
    assert (output / "models" / "prior.pt").is_file()
    assert train(phantom, output, "--resume", "--max_epochs", "2") == 0
    state = torch.load(output / "models" / "vqvae_last.pt", weights_only=True)
    assert state["trainer"]["iteration"] == 2 * state["trainer"]["epoch_length"]


def test_an_argument_of_one_stage_is_meant_for_it_alone(
    phantom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(phantom, tmp_path / "run", "--train#loss#ssim_weight", "2") == 0
    first, second = (line for line in capsys.readouterr().out.splitlines() if line.startswith("$ "))
    assert "ssim_weight" in first
    assert "ssim_weight" not in second
    words = [
        "--train#loss#ssim_weight",
        "2",
        "--stage",
        "prior",
        "--ckpt",
        str(tmp_path / "run" / "models" / "model.pt"),
    ]
    assert train(phantom, tmp_path / "prior", *words) == 0
    # A run of the prior alone tells which slices it has seen, too.
    splits = [(tmp_path / name / "splits.csv").read_text(encoding="utf-8") for name in ("run", "prior")]
    assert splits[0] == splits[1]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--train#loss#ssim_wieght", "2"], "TokenizerLoss takes no ssim_wieght, did you mean ssim_weight?"),
        (["--network_def#chanels", "[8]"], "AutoencoderVQ takes no chanels, did you mean channels?"),
        (["--codebook#levels", "[8,8]"], "EMACodebook takes no levels, but num_embeddings, "),
        (["--learning_rate", "-1"], "--learning_rate must be a number of at least 0 and at most 1e+12, got -1"),
        (["--learning_rate", "abc"], "--learning_rate must be a number of at least 0 and at most 1e+12, got 'abc'"),
    ],
)
def test_an_argument_that_no_component_takes(
    phantom: Path, words: list[str], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    assert named in fails(capsys, "train", "--dataset_dir", phantom, "--output_dir", output, *QUICK, *words)
    assert not output.exists()


def test_an_argument_of_a_component_that_is_asked_for(
    phantom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The component that the command line names counts, not the one of the configuration."""
    words = ["--stage", "vqvae", "--num_embeddings", "16", "--embedding_dim", "2", "--codebook#_target_"]
    words += ["monai_vqprior.networks.FSQCodebook", "--codebook#level", "[4,4]"]
    command = ["train", "--dataset_dir", phantom, "--output_dir", tmp_path / "out", *QUICK, *words]
    assert "FSQCodebook takes no level, did you mean levels?" in fails(capsys, *command)


def test_a_prior_of_other_codes_does_not_go_on(
    run: Path, phantom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An autoencoder that is trained further has other codes, of which the prior of before knows nothing."""
    output = shutil.copytree(run, tmp_path / "run")
    assert train(phantom, output, "--stage", "vqvae", "--resume", "--max_epochs", "3", "--learning_rate", "0.01") == 0
    assert (output / "models" / "model.pt").read_bytes() != (run / "models" / "model.pt").read_bytes()
    capsys.readouterr()
    words = ["--output_dir", output, "--device", "cpu"]
    resumed = ["train", "--stage", "prior", "--dataset_dir", phantom, *words, "--resume", "--max_epochs", "2"]
    assert "trained on the codes of another autoencoder" in fails(capsys, *resumed)
    assert main([str(word) for word in ["sample", *words, "--num_samples", 1]]) == 0
    assert "prior.pt was trained on the codes of another autoencoder" in capsys.readouterr().err
    before = (output / "models" / "prior.pt").read_bytes()
    assert train(phantom, output, "--resume", "--max_epochs", "3") == 0  # both stages, of which the first is done
    assert "the prior begins anew" in capsys.readouterr().out
    assert (output / "models" / "prior.pt").read_bytes() != before
    assert main([str(word) for word in ["sample", *words, "--num_samples", 1, "--overwrite"]]) == 0
    assert "another autoencoder" not in capsys.readouterr().err


def test_evaluate_without_a_prior(run: Path, phantom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "models").mkdir()
    for name in ("model.pt", "settings.json"):
        shutil.copy(run / "models" / name, tmp_path / "models")
    words = ["evaluate", "--dataset_dir", str(phantom), "--output_dir", str(tmp_path), "--device", "cpu"]
    assert main(words) == 0
    assert "no prior yet" in capsys.readouterr().out
    # That of the bundle knows the codes of the bundle's autoencoder, not of this one.
    assert "there is no prior.pt in" in fails(capsys, "sample", "--output_dir", tmp_path, "--device", "cpu")


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--dataset_dir", "/no/such/folder"], "/no/such/folder is not a directory"),
        (["--spatial_size", "30"], "spatial_size 30 is not a multiple of the network's stride 4: take 28 or 32"),
        (["--spatial_size", "64"], "pass the size of yours as --spatial_size"),
        (["--spatial_siz", "64"], "did you mean --spatial_size?"),
        (["--device", "cuda:7"], "pass --device cpu"),
        (["--device", "gpu"], "'gpu' is not a device"),
        (["--num_embeddings", "1"], "--num_embeddings must be a whole number in 2..1048576, got 1"),
        (["--max_minutes", "-1"], "--max_minutes must be a number above 0 and at most 1e+07, or None, got -1"),
        (["--max_epochs", "0"], "--max_epochs must be a whole number in 1..1000000000, got 0"),
        (["--batch_size", "0.5"], "--batch_size must be a whole number in 1..65536, got 0.5"),
        (["--bundle", "/no/such/bundle"], "/no/such/bundle is not a bundle"),
        (["stray"], "'stray' belongs to no option"),
    ],
)
def test_wrong_options_of_train(
    words: list[str], named: str, phantom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    assert named in fails(capsys, "train", "--dataset_dir", phantom, "--output_dir", output, *QUICK, *words)
    assert not list(output.rglob("*.pt"))


def test_bad_slices(phantom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A truncated slice is named; skip_bad leaves it out. An empty split is named too."""
    data = shutil.copytree(phantom, tmp_path / "data")
    victim = sorted((data / "keras_png_slices_train").iterdir())[5]
    victim.write_bytes(victim.read_bytes()[:200])
    words = ["train", "--dataset_dir", data, "--output_dir", tmp_path / "run", *QUICK, "--stage", "vqvae"]
    message = fails(capsys, *words)
    assert str(victim) in message
    assert "--skip_bad" in message
    assert not list((tmp_path / "run").rglob("*.pt"))
    assert main([*map(str, words), "--skip_bad"]) == 0
    for path in (data / "keras_png_slices_validate").iterdir():
        path.unlink()
    assert "keras_png_slices_validate holds no slices" in fails(capsys, *words, "--overwrite", "--skip_bad")


def test_slices_of_mixed_sizes(phantom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = shutil.copytree(phantom, tmp_path / "data")
    odd = data / "keras_png_slices_train" / "case_001_slice_99.nii.png"
    write_png(odd, np.zeros((32, 36), np.uint8))
    message = fails(capsys, "train", "--dataset_dir", data, "--output_dir", tmp_path / "run", *QUICK)
    assert f"{odd} is 32 x 36 pixels, but spatial_size is 32 x 32" in message


def test_evaluate_before_train(phantom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["evaluate", "--dataset_dir", phantom], ["reconstruct", "--dataset_dir", phantom], ["sample"]):
        message = fails(capsys, *words, "--output_dir", tmp_path / "run", "--bundle", empty_bundle(tmp_path))
        assert "there is no model.pt" in message
        assert "train first" in message


def empty_bundle(tmp_path: Path) -> Path:
    """A copy of the bundle without weights."""
    target = tmp_path / "bundle"
    if not target.exists():
        assert main(["bundle", "--output", str(target)]) == 0
        for path in (target / "models").glob("*.pt"):
            path.unlink()
    return target


def test_checkpoint_of_another_architecture(
    run: Path, phantom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["reconstruct", "--dataset_dir", phantom, "--output_dir", tmp_path / "out", "--device", "cpu"]
    words += ["--ckpt", run / "models" / "model.pt"]
    assert "another architecture" in fails(capsys, *words, "--channels", "[12]")
    garbage = tmp_path / "garbage.pt"
    garbage.write_bytes(b"not a checkpoint")
    assert "garbage.pt cannot be read" in fails(capsys, *words[:-1], garbage)
    assert "nowhere.pt does not exist" in fails(capsys, *words[:-1], tmp_path / "nowhere.pt")
    assert not (tmp_path / "out").exists()


def test_bugs_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(output_dir: str) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("monai_vqprior.report.write_report", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["report"])


@pytest.mark.parametrize(
    "command",
    [
        "",
        "train",
        "evaluate",
        "reconstruct",
        "sample",
        "audit",
        "neighbors",
        "prepare",
        "phantom",
        "report",
        "bundle",
        "demo",
    ],
)
def test_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*command.split(), "--help"])
    assert stop.value.code == 0
    assert "usage: vqprior" in capsys.readouterr().out


def test_phantom_prepare_and_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["phantom", "--output", tmp_path / "cohort", "--subjects", 3, "--num_slices", 2, "--size", 32]
    assert main([str(word) for word in words]) == 0
    assert len(list((tmp_path / "cohort").rglob("case_*.png"))) == 6
    assert "--overwrite" in fails(capsys, *words)
    assert "is not" in fails(capsys, "prepare", "--volumes", tmp_path / "none", "--output", tmp_path / "slices")
    assert main(["bundle", "--output", str(tmp_path / "copy")]) == 0
    assert (tmp_path / "copy" / "configs" / "train.json").is_file()
    assert "is not empty" in fails(capsys, "bundle", "--output", tmp_path / "copy")


def test_demo(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The demo, as short as it gets: it ends with samples of the bundle and the mean SSIM of the test split."""
    bundle = copy_bundle(str(tmp_path / "bundle"))
    for name in ("model.pt", "prior.pt", "settings.json", "prior_settings.json"):
        shutil.copy(run / "models" / name, bundle / "models")
    words = ["demo", "--output_dir", str(tmp_path / "demo"), "--subjects", "3", "--max_minutes", "0.005"]
    words += ["--bundle", str(bundle)]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert printed.count("$ python -m monai.bundle run") == 8
    shipped = tmp_path / "demo" / "shipped"
    assert f"those of the phantom: {shipped / 'samples.png'}" in printed.splitlines()[-2]
    with Image.open(shipped / "samples" / "sample_00000.png") as sample:
        assert sample.size == (32, 32)  # of the bundle; the demo's own are of 128 pixels
    assert printed.splitlines()[-1].startswith("mean SSIM of the test split: 0.")
    names = {path.name for path in (tmp_path / "demo").iterdir()}
    assert "look: 10 samples are few" in printed
    assert "Are the 10 samples new?" in (tmp_path / "demo" / "report.html").read_text(encoding="utf-8")
    assert {
        "audit.json",
        "metrics.json",
        "reconstructions.png",
        "samples.png",
        "report.html",
        "samples",
        "reconstructions",
    } <= names
    assert "--overwrite" in fails(capsys, *words)


def test_resume_knows_the_settings(
    run: Path, phantom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "--dataset_dir", phantom, "--device", "cpu", "--resume"]
    output = shutil.copytree(run, tmp_path / "run")
    again = [*words, "--output_dir", output, "--stage", "vqvae", "--max_epochs", 2, "--amp", "false"]
    assert main([str(word) for word in again]) == 0
    assert "--spatial_size 32" in capsys.readouterr().out


def test_resume_begins_where_there_is_no_run(phantom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the settings given: those beside the bundle's weights are of another run."""
    assert train(phantom, tmp_path, "--resume") == 0
    commands = [line for line in capsys.readouterr().out.splitlines() if line.startswith("$ ")]
    assert "entropy_weight" not in commands[0]  # which the bundle's codebook has another one of
    settings = json.loads((tmp_path / "models" / "settings.json").read_text(encoding="utf-8"))
    settings |= json.loads((tmp_path / "models" / "prior_settings.json").read_text(encoding="utf-8"))
    assert settings["codebook"]["entropy_weight"] == 0.012
    assert (settings["spatial_size"], settings["prior_layers"]) == (32, 2)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--ckpt", "missing.pt"], "--ckpt names an autoencoder that is trained already: pass --stage prior with it"),
        (["--conditions", "0"], "conditions must be a list of names of columns, such as [dementia,slice], got 0"),
        (["--conditions", "height"], "there is no condition 'height'"),
        (["--prior_layers", "0"], "prior_layers must be a whole number in 1..1024, got 0"),
        (["--prior_kernel_size", "4"], "prior_kernel_size must be an odd number in 3..63, got 4"),
        (["--prior_views", "-1"], "prior_views must be a whole number in 0..1024, got -1"),
        (["--condition_dropout", "2"], "condition_dropout must be a number of at least 0 and below 1, got 2"),
        (["--prior_layer", "8"], "there is no option --prior_layer: did you mean --prior_layers?"),
    ],
)
def test_what_the_second_stage_refuses_is_refused_before_the_first(
    words: list[str], named: str, phantom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "--dataset_dir", phantom, "--output_dir", tmp_path / "run", *QUICK, *words]
    assert named in fails(capsys, *command)
    assert not (tmp_path / "run").exists()


def test_a_prior_that_has_learned_nothing_is_called_so(
    run: Path, phantom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = shutil.copytree(run, tmp_path / "run")
    weights = torch.load(output / "models" / "prior.pt", weights_only=True)
    torch.save({key: torch.full_like(value, 9.0) for key, value in weights.items()}, output / "models" / "prior.pt")
    words = ["evaluate", "--dataset_dir", str(phantom), "--output_dir", str(output), "--device", "cpu"]
    assert main(words) == 0
    metrics = json.loads((output / "metrics.json").read_text())
    worse = metrics["bits_per_code"] >= metrics["bits_per_code_position_histogram"]
    assert worse == ("Train longer" in capsys.readouterr().out)
    assert worse
