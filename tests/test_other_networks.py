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

import shutil
from pathlib import Path

import pytest
import torch
from monai.bundle import ckpt_export
from monai.networks.nets import VQVAE

from monai_vqprior.cli import main
from monai_vqprior.errors import InputError
from monai_vqprior.networks import AutoencoderVQ, CodeSketch, EMACodebook, FSQCodebook, GatedPixelCNN
from monai_vqprior.runs import check_grids, check_trainable, code_vectors, fingerprint, load_weights, start_prior

pytestmark = pytest.mark.integration

# Networks of other makes in the place of this bundle's: MONAI's own, and one that was exported.

MONAI = {
    "_target_": "VQVAE", "spatial_dims": 2, "in_channels": 1, "out_channels": 1, "channels": [8, 8],
    "num_res_channels": 8, "num_res_layers": 1, "num_embeddings": 16, "embedding_dim": 5,
    "downsample_parameters": [2, 4, 1, 1], "upsample_parameters": [2, 4, 1, 1, 0],
}  # fmt: skip
QUICK = ["--spatial_size", "32", "--max_epochs", "1", "--amp", "false", "--num_embeddings", "16"]
QUICK += ["--prior_channels", "8", "--prior_layers", "2", "--device", "cpu"]
SKETCH = ["--prior_sketch_block", "4", "--prior_sketch_codes", "8", "--prior_sketch_channels", "8"]
SKETCH += ["--prior_sketch_layers", "2"]


@pytest.mark.parametrize("sketch", [[], SKETCH], ids=["plain", "sketch"])
def test_every_command_takes_the_network_of_monai(sketch: list[str], phantom: Path, tmp_path: Path) -> None:
    network = ["--network_def", str(MONAI), "--output_dir", str(tmp_path)]
    on_data = [*network, "--dataset_dir", str(phantom)]
    assert main(["train", *on_data, *QUICK, *sketch]) == 0
    for command in ("evaluate", "reconstruct") if sketch else ():  # once: the network is the same
        assert main([command, *on_data, "--device", "cpu"]) == 0
    assert main(["sample", *network, "--num_samples", "2", "--device", "cpu"]) == 0
    weights = torch.load(tmp_path / "models" / "model.pt", weights_only=True)
    assert weights["quantizer.quantizer.embedding.weight"].shape == (16, 5)
    if sketch:
        # The sketch is made of these vectors, on a scale of 1.
        vectors = torch.load(tmp_path / "models" / "prior.pt", weights_only=True)["sketch.vectors"]
        own = weights["quantizer.quantizer.embedding.weight"]
        torch.testing.assert_close(vectors, own / own.std())


@pytest.mark.parametrize(
    ("options", "told"),
    [(["--num_embeddings", "32"], "--num_embeddings 16"), (["--patch_size", "8"], "as --stride, 4")],
)
def test_settings_that_are_not_those_of_the_network(
    options: list[str], told: str, phantom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--dataset_dir", str(phantom), "--output_dir", str(tmp_path), "--network_def", str(MONAI), *QUICK]
    assert main(["train", *words, *options]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "models" / "prior.pt").exists()


def test_exported_network_keeps_its_weights(
    phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The zoo's recipe, --network_def "$torch.jit.load(...)", beside a checkpoint of other weights."""
    monkeypatch.chdir(tmp_path)
    small = ["--channels", "[8]", "--embedding_dim", "4", "--num_decoder_blocks", "1"]
    on_data = ["--dataset_dir", str(phantom), "--output_dir", "run"]
    assert main(["train", "--stage", "vqvae", *on_data, *QUICK, *small]) == 0
    config = Path("run/config.json")
    shutil.copy(Path(__file__).parent.parent / "bundle" / "configs" / "inference.json", config)
    overrides = {"channels": [8], "embedding_dim": 4, "num_decoder_blocks": 1, "num_embeddings": 16}
    ckpt_export("network_def", "run/model.ts", "run/models/model.pt", None, str(config), **overrides)
    assert main(["reconstruct", *on_data, "--device", "cpu"]) == 0
    expected = {path.name: path.read_bytes() for path in Path("run/reconstructions").rglob("*.png")}
    weights = torch.load("run/models/model.pt", weights_only=True)
    torch.save({name: torch.zeros_like(value) for name, value in weights.items()}, "run/models/model.pt")
    scripted = ["--network_def", "$torch.jit.load('run/model.ts')", "--device", "cpu"]
    assert main(["reconstruct", *on_data, *scripted, "--overwrite"]) == 0
    assert {path.name: path.read_bytes() for path in Path("run/reconstructions").rglob("*.png")} == expected
    assert "run/models/model.pt is not used" in capfd.readouterr().err
    assert main(["train", "--stage", "prior", *on_data, *QUICK, *scripted, *SKETCH]) == 0
    assert main(["sample", "--output_dir", "run", "--num_samples", "2", *scripted]) == 0
    assert "another autoencoder" not in capfd.readouterr().err
    assert main(["train", "--stage", "vqvae", *on_data, *QUICK, *scripted, "--overwrite"]) == 2


def test_vectors_of_codes() -> None:
    ours = AutoencoderVQ(channels=(8,), codebook=EMACodebook(16, 4))
    vectors = code_vectors(ours, 16)
    assert vectors is not None
    assert torch.equal(vectors, ours.codebook.embedding)
    assert code_vectors(AutoencoderVQ(channels=(8,), codebook=FSQCodebook((4, 3))), 12).shape == (12, 2)
    for dims in (2, 3):
        arguments = {name: value for name, value in MONAI.items() if name not in ("_target_", "spatial_dims")}
        theirs = VQVAE(spatial_dims=dims, **arguments)
        codes = torch.randint(16, (2, *[3] * dims))
        found = code_vectors(theirs, 16)
        assert not found.requires_grad
        # as the network embeds codes itself
        torch.testing.assert_close(found[codes].movedim(-1, 1), theirs.quantizer.embed(codes))
    assert code_vectors(torch.nn.Identity(), 16) is None
    with pytest.raises(InputError, match=r"Identity has neither .*leave out --prior_sketch_block"):
        code_vectors(torch.nn.Identity(), 16, needed=True)


def test_a_prior_begins_without_vectors(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    prior = GatedPixelCNN(num_embeddings=6, spatial_size=4, channels=8, num_layers=2, position_logits=True)
    before = prior.state_dict()["position_logits"].clone()
    grids = torch.randint(3, (20, 4, 4))
    start_prior(prior, grids, None)
    assert "has no vectors" in caplog.text
    assert not torch.equal(prior.state_dict()["position_logits"], before)
    assert prior(grids).softmax(1)[:, 3:].sum(1).max() < 0.2


def test_grids_of_other_sizes_and_codes() -> None:
    check_grids(torch.full((2, 4, 8), 15), (16, 32), num_embeddings=16, stride=4)
    with pytest.raises(InputError, match=r"grids of \(4, 8\) codes, not \(8, 16\).* --stride, 4"):
        check_grids(torch.zeros(2, 4, 8), (16, 32), num_embeddings=16, stride=2)
    with pytest.raises(InputError, match="code 16, but num_embeddings is 16"):
        check_grids(torch.full((2, 4, 4), 16), (16, 16), num_embeddings=16, stride=4)


def test_torchscript(tmp_path: Path) -> None:
    network = AutoencoderVQ(channels=(8,), codebook=EMACodebook(16, 4)).eval()
    scripted = torch.jit.script(network)
    assert fingerprint(scripted) == fingerprint(network)
    assert load_weights(scripted, tmp_path / "none.pt") is scripted
    check_trainable(network)
    with pytest.raises(InputError, match="TorchScript"):
        check_trainable(scripted)
    sketch = CodeSketch(num_embeddings=16, embedding_dim=network.embedding_dim, spatial_size=8)
    assert sketch.vectors.shape == code_vectors(scripted, 16).shape
