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
import torch.nn as nn
from PIL import Image
from scipy.ndimage import distance_transform_edt

from monai_vqprior.data import SliceDataset
from monai_vqprior.errors import InputError
from monai_vqprior.inferers import VQPriorInferer
from monai_vqprior.networks import GatedPixelCNN
from monai_vqprior.report import write_completions
from monai_vqprior.report.completions import complete_pixels, seam_weights

GRID, CODES, SCALE = (3, 4), 6, 5
SIZE = (GRID[0] * SCALE, GRID[1] * SCALE)


class Blocks(nn.Module):
    """A code for each square, its mean grey level in steps of 40, and back."""

    def index_quantize(self, images: torch.Tensor) -> torch.Tensor:
        means = nn.functional.avg_pool2d(images * 255, SCALE)[:, 0]
        return (means / 40).round().long().clamp(0, CODES - 1)

    def decode_samples(self, grids: torch.Tensor) -> torch.Tensor:
        images = grids[:, None].float() * 40 / 255
        return images.repeat_interleave(SCALE, 2).repeat_interleave(SCALE, 3)


@pytest.fixture
def prior() -> GatedPixelCNN:
    torch.manual_seed(0)
    network = GatedPixelCNN(num_embeddings=CODES, spatial_size=GRID, channels=8, num_layers=1, num_classes=[2])
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if not name.endswith("bias"):
                parameter.normal_(0, 1)
    return network.eval()


def read(item: dict[str, Any]) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(len(item["name"]))
    return {**item, "image": torch.randint(256, (1, *SIZE), generator=generator).to(torch.uint8)}


def dataset(*names: str) -> SliceDataset:
    return SliceDataset([{"image": name, "name": name} for name in names], read, SIZE, progress=False)


def holes(number: int) -> torch.Tensor:
    """Holes that no block covers exactly: the codes of the second row from the second column on are drawn."""
    masks = torch.zeros(number, 1, *SIZE, dtype=torch.bool)
    masks[:, :, 7:9, 6:16] = True
    return masks


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def complete(folder: Path, prior: nn.Module, *names: str, **arguments: Any) -> dict[str, np.ndarray]:
    """The completions of slices, by their paths."""
    inferer = VQPriorInferer(tile_size=arguments.pop("tile_size", 4))
    write_completions(folder, Blocks(), prior, inferer, dataset(*names), holes(len(names)), **arguments)
    found = sorted((folder / "completions").rglob("*.png"))
    return {path.relative_to(folder / "completions").as_posix(): pixels(path) for path in found}


def test_what_is_given_stays_and_the_rest_is_drawn(tmp_path: Path, prior: GatedPixelCNN) -> None:
    found = complete(tmp_path, prior, "a", "sub/b2", num_completions=5, seed=3)
    assert list(found) == [*(f"a_{j:02d}.png" for j in range(5)), *(f"sub/b2_{j:02d}.png" for j in range(5))]
    slices, mask = dataset("a", "sub/b2"), holes(1)[0, 0].numpy()
    for name, picture in found.items():
        image = slices.images[int(name.startswith("sub")), 0].numpy()
        assert np.array_equal(picture[~mask], image[~mask])
        assert set(picture[mask]) <= set(range(0, 201, 40))
    assert len({picture.tobytes() for picture in found.values()}) > 7
    # As the inferer completes the codes itself: greedily, so that no random numbers matter.
    greedy = VQPriorInferer(tile_size=4, top_k=1)
    write_completions(tmp_path / "greedy", Blocks(), prior, greedy, slices, holes(2), num_completions=1)
    whole = slices.images.float() / 255
    codes = Blocks().index_quantize(whole)
    kept = torch.ones(GRID, dtype=torch.bool)
    kept[1, 1:] = False
    grids = VQPriorInferer(top_k=1).sample(prior, range(2), given=codes, mask=kept)
    expected = np.kron(40 * grids[1].numpy(), np.ones((SCALE, SCALE)))
    assert np.array_equal(pixels(tmp_path / "greedy" / "completions" / "sub" / "b2_00.png")[mask], expected[mask])


def test_a_completion_depends_on_its_seed_name_and_number_alone(tmp_path: Path, prior: GatedPixelCNN) -> None:
    together = complete(tmp_path / "1", prior, "a", "bb", "ccc", num_completions=6, seed=1)
    for folder, names, number in (("2", ["bb"], 6), ("3", ["ccc", "a"], 3)):
        for name, picture in complete(tmp_path / folder, prior, *names, num_completions=number, seed=1).items():
            assert np.array_equal(picture, together[name])
    other = complete(tmp_path / "4", prior, "a", num_completions=3, seed=2)
    assert any(not np.array_equal(other[f"a_{j:02d}.png"], together[f"a_{j:02d}.png"]) for j in range(3))


def test_the_record_the_sheet_and_the_line_of_a_prior_without_context(
    tmp_path: Path, prior: GatedPixelCNN, capsys: pytest.CaptureFixture[str]
) -> None:
    complete(tmp_path, prior, "a", "bb", num_completions=2, labels=[1], seam=2)
    record = json.loads((tmp_path / "completions.json").read_text())
    assert record["num_completions"] == 2
    assert record["seam"] == 2
    assert record["labels"] == [[1]]
    assert len(record["inputs"]) == 16
    assert record["temperature"] == 1
    sheet = pixels(tmp_path / "completions.png")
    assert sheet.shape == (4 + 2 * (SIZE[0] + 4) + 18, 4 + 4 * (SIZE[1] + 4))
    lines = capsys.readouterr().out.splitlines()
    assert "trained without given_context" in lines[0]
    assert "--given_context true" in lines[0]
    assert lines[1].startswith("2 completions of 2 slices written to")


def test_resumed_runs_end_as_one_run(tmp_path: Path, prior: GatedPixelCNN) -> None:
    whole = complete(tmp_path / "whole", prior, "a", "bb", num_completions=6)
    folder = tmp_path / "parts"
    complete(folder, prior, "a", "bb", num_completions=5)
    (folder / "completions" / "bb_01.png").unlink()
    before = (folder / "completions" / "a_00.png").stat().st_mtime_ns
    resumed = complete(folder, prior, "a", "bb", num_completions=6, resume=True)
    assert resumed.keys() == whole.keys()
    assert all(np.array_equal(resumed[name], whole[name]) for name in whole)
    assert (folder / "completions" / "a_00.png").stat().st_mtime_ns == before
    with pytest.raises(InputError, match=r"completions exists: pass --resume to go on with its completions"):
        complete(folder, prior, "a", "bb")
    with pytest.raises(InputError, match=r"was drawn with seed 0, not 1"):
        complete(folder, prior, "a", "bb", num_completions=6, seed=1, resume=True)
    with pytest.raises(InputError, match=r"was drawn with inputs "):
        complete(folder, prior, "a", "ccc", num_completions=6, resume=True)
    with pytest.raises(InputError, match=r"is a run of 6 completions: pass --num_completions 6 or more"):
        complete(folder, prior, "a", "bb", num_completions=2, resume=True)
    assert len(complete(folder, prior, "ccc", num_completions=1, overwrite=True)) == 1


@pytest.mark.parametrize("seam", [1, 2.5])
def test_the_seam_is_a_ramp_of_the_distance(seam: float) -> None:
    mask = holes(1)[0]
    weights = seam_weights(mask, seam)[0].numpy()
    distance = distance_transform_edt(~mask[0].numpy())
    assert (weights[mask[0].numpy()] == 1).all()
    assert (weights[distance >= seam + 1] == 0).all()
    near = (distance > 0) & (distance < seam + 1)
    np.testing.assert_allclose(weights[near], 1 - distance[near] / (seam + 1), rtol=1e-6)
    image, drawn = torch.rand(2, 1, *SIZE)
    mixed = complete_pixels(image, mask, drawn, seam)[0].numpy()
    expected = image[0].numpy() * (1 - weights) + drawn[0].numpy() * weights
    np.testing.assert_allclose(mixed, expected, rtol=1e-5)


def test_without_a_seam_nothing_given_changes() -> None:
    image, drawn = torch.rand(2, 1, *SIZE)
    mask = holes(1)[0]
    assert torch.equal(complete_pixels(image, mask, drawn), torch.where(mask, drawn, image))


def test_what_lies_in_the_hole_has_no_effect(tmp_path: Path, prior: GatedPixelCNN) -> None:
    found = complete(tmp_path / "a", prior, "a", num_completions=2)
    slices = dataset("a")
    slices.images[holes(1)] = 255
    write_completions(tmp_path / "b", Blocks(), prior, VQPriorInferer(tile_size=4), slices, holes(1), 2)
    for name, picture in found.items():
        assert np.array_equal(pixels(tmp_path / "b" / "completions" / name), picture)
