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
"""The weights that the bundle ships, right after installation, on phantoms that they were not trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser

from monai_vqprior.bundles import bundle_root, load_configs
from monai_vqprior.cli import main
from monai_vqprior.errors import input_error_in
from monai_vqprior.networks import AutoencoderVQ, EMACodebook, GatedPixelCNN, HierarchicalPrior

# Which prior the configurations make, and what becomes of weights from before there were sketches.


@pytest.mark.parametrize(
    ("size", "block", "sketches"),
    [
        (512, 4, [(32, 32), (16, 16), (8, 8)]),
        (256, 4, [(16, 16), (8, 8)]),
        (128, 4, [(8, 8)]),
        (32, 2, [(4, 4)]),
        ([96, 160], 4, [(6, 10), (3, 5)]),
        (4, 2, [(1, 1)]),
    ],
)
@pytest.mark.parametrize("names", [["inference.json", "sample.json"], ["train.json", "train_prior.json"]])
def test_the_coarsest_sketch_has_at_most_eight_positions_an_axis(
    names: list[str], size: int | list[int], block: int, sketches: list[tuple[int, int]], phantom: Path
) -> None:
    parser = ConfigParser({**load_configs(bundle_root(), names), "bundle_root": str(bundle_root())})
    parser.update({"spatial_size": size, "dataset_dir": str(phantom), "prior_channels": 8, "prior_layers": 1})
    prior = parser.get_parsed_content("prior_def")
    assert isinstance(prior, HierarchicalPrior)
    assert prior.sketch.block == block
    found = []
    while isinstance(prior, HierarchicalPrior):
        found.append(prior.sketch.spatial_size)
        prior = prior.sketch_prior
    assert found == sketches


@pytest.mark.parametrize(
    ("settings", "temperature"),
    [
        ({"spatial_size": 128}, 0.9),
        ({"spatial_size": 256}, 0.6),
        ({"spatial_size": 256, "prior_sketch_levels": 1}, 0.9),
        ({"prior_sketch_block": 0}, None),
        ({"prior_sketch_block": 0, "prior_sketch_levels": 2}, None),
        ({"sketch_temperature": 0.7}, 0.7),
    ],
    ids=str,
)
def test_a_training_tells_the_temperature_of_its_sketches(settings: dict[str, Any], temperature: float | None) -> None:
    parser = ConfigParser(load_configs(bundle_root(), ["train.json", "train_prior.json"]))
    parser.update(settings)
    assert parser.get_parsed_content("sketch_temperature") == temperature


@pytest.fixture
def before(tmp_path: Path) -> Path:
    """A run whose settings name no sketch, as those of weights of the first version do."""
    models = tmp_path / "run" / "models"
    models.mkdir(parents=True)
    torch.manual_seed(0)
    autoencoder = AutoencoderVQ(channels=[8], codebook=EMACodebook(16, 4))
    torch.save(autoencoder.state_dict(), models / "model.pt")
    prior = GatedPixelCNN(num_embeddings=16, spatial_size=8, channels=8, num_layers=2, position_logits=True)
    torch.save(prior.state_dict(), models / "prior.pt")
    settings = {"spatial_size": 32, "channels": [8], "num_embeddings": 16, "embedding_dim": 4}
    settings |= {"prior_channels": 8, "prior_layers": 2, "prior_kernel_size": 3, "prior_attention_every": 0}
    settings |= {"prior_skip_connections": False, "prior_position_logits": True, "conditions": []}
    (models / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    return models.parent


def test_a_prior_of_before_draws_as_it_did(before: Path) -> None:
    assert main(["sample", "--output_dir", str(before), "--num_samples", "2", "--device", "cpu"]) == 0
    assert len(list((before / "samples").glob("*.png"))) == 2


def test_monais_command_says_what_a_prior_of_before_needs(before: Path) -> None:
    parser = ConfigParser(load_configs(bundle_root(), ["inference.json", "sample.json"]))
    parser.update({"bundle_root": str(bundle_root()), "output_dir": str(before), "device": "cpu"})
    parser.update({"spatial_size": 32, "channels": [8], "num_embeddings": 16, "embedding_dim": 4})
    parser.update({"prior_channels": 8, "prior_layers": 2})
    with pytest.raises(RuntimeError) as failed:
        parser.get_parsed_content("prior")
    assert "such as its --prior_sketch_block 0 for a prior without sketch." in str(input_error_in(failed.value))
    parser.update({"prior_sketch_block": 0})
    parser.parse(reset=True)
    assert isinstance(parser.get_parsed_content("prior"), GatedPixelCNN)
