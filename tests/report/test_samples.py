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

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
import torch.nn as nn
from PIL import Image

from monai_vqprior.errors import InputError
from monai_vqprior.inferers import VQPriorInferer
from monai_vqprior.networks import GatedPixelCNN
from monai_vqprior.report import write_samples

GRID, CODES, SCALE = (3, 4), 6, 5
HEIGHT, WIDTH = GRID[0] * SCALE, GRID[1] * SCALE
GAP = 4


class Blocks(nn.Module):
    """Decodes a code to a square of one gray level; the largest two levels lie outside of 0..1."""

    levels = np.array([0.1, 0.3004, 0.55, 0.78, -0.2, 1.3], dtype=np.float32)

    def decode_samples(self, grids: torch.Tensor) -> torch.Tensor:
        assert not self.training
        images = torch.from_numpy(self.levels)[grids][:, None]
        return images.repeat_interleave(SCALE, 2).repeat_interleave(SCALE, 3)


@pytest.fixture
def prior() -> GatedPixelCNN:
    torch.manual_seed(0)
    network = GatedPixelCNN(
        num_embeddings=CODES, spatial_size=GRID, channels=8, num_layers=1, kernel_size=3, num_classes=[2], num_values=1
    )
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if not name.endswith("bias"):
                parameter.normal_(0, 1)
    return network


def sample(folder: Path, prior: nn.Module, tile_size: int = 16, **arguments: Any) -> None:
    write_samples(folder, Blocks(), prior, VQPriorInferer(tile_size=tile_size), **arguments)


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.mode == "L"
        return np.asarray(image)


def expected_pixels(grid: torch.Tensor) -> np.ndarray:
    """The slice that :class:`Blocks` decodes a grid to, 8-bit."""
    levels = np.rint(255 * np.clip(Blocks.levels, 0, 1))
    return np.kron(levels[grid.numpy()], np.ones((SCALE, SCALE)))


@pytest.mark.parametrize(("tile_size", "number"), [(16, 3), (2, 5), (1, 2), (4, 8)])
def test_slices_are_the_decoded_samples(tmp_path: Path, prior: GatedPixelCNN, tile_size: int, number: int) -> None:
    sample(tmp_path, prior, tile_size, num_samples=number, seed=3)
    names = [f"sample_{i:05d}.png" for i in range(number)]
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == names
    assert sorted(path.name for path in tmp_path.iterdir()) == ["samples", "samples.json", "samples.png"]
    grids = VQPriorInferer(tile_size=tile_size).sample(prior, range(number), seed=3)
    for name, grid in zip(names, grids, strict=True):
        assert np.array_equal(read(tmp_path / "samples" / name), expected_pixels(grid))


def test_says_where_they_are(tmp_path: Path, prior: GatedPixelCNN, capsys: pytest.CaptureFixture[str]) -> None:
    sample(tmp_path, prior, num_samples=2)
    output = capsys.readouterr().out
    assert output.startswith(f"2 samples written to {tmp_path / 'samples'}")
    assert str(tmp_path / "samples.png") in output


@pytest.mark.parametrize(("number", "rows", "columns"), [(1, 1, 1), (10, 1, 10), (13, 2, 10), (103, 10, 10)])
def test_contact_sheet(tmp_path: Path, prior: GatedPixelCNN, number: int, rows: int, columns: int) -> None:
    sample(tmp_path, prior, 64, num_samples=number)
    sheet = read(tmp_path / "samples.png")
    assert sheet.shape == (GAP + rows * (HEIGHT + GAP), GAP + columns * (WIDTH + GAP))
    for index in range(min(number, 100)):
        row, column = divmod(index, 10)
        top, left = GAP + row * (HEIGHT + GAP), GAP + column * (WIDTH + GAP)
        shown = sheet[top : top + HEIGHT, left : left + WIDTH]
        assert np.array_equal(shown, read(tmp_path / "samples" / f"sample_{index:05d}.png"))
    assert len(list((tmp_path / "samples").iterdir())) == number


def test_a_sample_is_the_same_among_few_or_many(tmp_path: Path, prior: GatedPixelCNN) -> None:
    sample(tmp_path / "few", prior, 4, num_samples=2, seed=1)
    sample(tmp_path / "many", prior, 4, num_samples=7, seed=1)
    for path in (tmp_path / "few" / "samples").iterdir():
        assert path.read_bytes() == (tmp_path / "many" / "samples" / path.name).read_bytes()


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine with one core
def test_workers_write_the_same_files(tmp_path: Path, prior: GatedPixelCNN) -> None:
    for num_workers in (0, 2):
        inferer = VQPriorInferer(tile_size=2, num_workers=num_workers)
        write_samples(
            tmp_path / str(num_workers), Blocks(), prior, inferer, num_samples=5, values=[[i] for i in range(5)]
        )
    one, other = (sorted((tmp_path / folder / "samples").iterdir()) for folder in ("0", "2"))
    assert [path.name for path in one] == [path.name for path in other]
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in other]


def test_conditions_and_seed_reach_the_prior(tmp_path: Path, prior: GatedPixelCNN) -> None:
    settings = [{}, {"seed": 1}, {"labels": [0]}, {"labels": [1]}, {"values": [0.5]}, {"values": [-3.0]}]
    sheets = []
    for number, arguments in enumerate(settings):
        sample(tmp_path / str(number), prior, num_samples=5, **arguments)
        sheets.append((tmp_path / str(number) / "samples.png").read_bytes())
        grids = VQPriorInferer().sample(prior, range(5), **arguments)
        last = read(tmp_path / str(number) / "samples" / "sample_00004.png")
        assert np.array_equal(last, expected_pixels(grids[4]))
    assert len(set(sheets)) == len(settings)


def test_nifti_shows_the_picture(tmp_path: Path, prior: GatedPixelCNN) -> None:
    sample(tmp_path, prior, num_samples=3, nifti=True)
    assert len(list((tmp_path / "samples").iterdir())) == 6
    for index in range(3):
        volume = nib.load(tmp_path / "samples" / f"sample_{index:05d}.nii.gz")
        assert volume.shape == (WIDTH, HEIGHT, 1)
        assert nib.aff2axcodes(volume.affine) == ("R", "A", "S")  # x to the right, y upward
        voxels = np.asarray(volume.dataobj)
        assert voxels.dtype == np.float32
        assert voxels.min() >= 0
        assert voxels.max() <= 1
        picture = read(tmp_path / "samples" / f"sample_{index:05d}.png")
        for x, y in [(0, 0), (WIDTH - 1, 0), (7, 11), (WIDTH - 1, HEIGHT - 1)]:
            assert voxels[x, y, 0] * 255 == pytest.approx(picture[HEIGHT - 1 - y, x], abs=0.5001)
        assert np.array_equal(np.rint(np.rot90(voxels[:, :, 0]) * 255), picture)
        assert len({picture[0, 0], picture[-1, 0], picture[0, -1], picture[-1, -1]}) > 1


def test_overwrite_removes_samples_of_an_earlier_run(tmp_path: Path, prior: GatedPixelCNN) -> None:
    sample(tmp_path, prior, num_samples=4, seed=1, nifti=True)
    for name in ("metrics.json", "neighbors.json", "neighbors.png"):
        (tmp_path / name).write_text("{}")
    sample(tmp_path, prior, num_samples=2, seed=2, overwrite=True)
    left = {path.name for path in (tmp_path / "samples").iterdir()}
    assert left == {"sample_00000.png", "sample_00001.png"}
    assert (tmp_path / "metrics.json").exists()
    assert not list(tmp_path.glob("neighbors.*"))  # of the samples that are gone
    grids = VQPriorInferer().sample(prior, range(2), seed=2)
    assert np.array_equal(read(tmp_path / "samples" / "sample_00001.png"), expected_pixels(grids[1]))


@pytest.mark.parametrize("number", [0, -3])
def test_too_few(tmp_path: Path, prior: GatedPixelCNN, number: int) -> None:
    (tmp_path / "samples").mkdir()
    with pytest.raises(InputError, match=f"num_samples must be at least 1, got {number}"):
        sample(tmp_path, prior, num_samples=number, overwrite=True)
    assert [path.name for path in tmp_path.rglob("*")] == ["samples"]


def test_is_deterministic_to_the_byte(tmp_path: Path, prior: GatedPixelCNN) -> None:
    for seed, run in enumerate(("one", "two")):
        torch.manual_seed(seed)  # of no effect
        sample(tmp_path / run, prior, num_samples=3)
    for path in (tmp_path / "one").rglob("*.png"):
        assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()
