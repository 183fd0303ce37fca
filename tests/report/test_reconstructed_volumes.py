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
"""Volumes through an autoencoder and back to their own geometry."""

from __future__ import annotations

import csv
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from monai_vqprior.cli import main
from monai_vqprior.data import prepare_volumes
from monai_vqprior.errors import InputError
from monai_vqprior.inferers import TokenizerInferer
from monai_vqprior.prepare_arguments import Cutting
from monai_vqprior.report import reconstruct_volumes

CUTTING = Cutting(space="native", size=48, voxel_size=2, num_slices=4, spacing=4, center=8)
LINEARS = [
    np.diag([-2.0, 2, 2]),
    Rotation.from_euler("xyz", (8, -5, 20), degrees=True).as_matrix() @ np.diag([2, 2, 3]),
]


def head(linear: np.ndarray, offset: float) -> nibabel.Nifti1Image:
    """A smooth ellipsoid of 52 x 64 x 48 mm in a background of ``offset``, brighter to the patient's right."""
    shape = np.ceil(80 / np.linalg.norm(linear, axis=0)).astype(int) + 1
    affine = np.eye(4)
    affine[:3, :3] = linear
    affine[:3, 3] = -linear @ ((shape - 1) / 2) + 10
    x, y, z = np.moveaxis(np.moveaxis(np.indices(shape), 0, -1) @ linear.T + affine[:3, 3] - 10, -1, 0)
    inside = (x / 26) ** 2 + (y / 32) ** 2 + (z / 24) ** 2 < 1
    return nibabel.Nifti1Image(np.where(inside, 600 + 8 * x + 3 * y, 0).astype(np.float32) + np.float32(offset), affine)


@pytest.fixture
def volumes(tmp_path: Path) -> Path:
    for number, linear in enumerate([*LINEARS, LINEARS[0]]):
        path = tmp_path / "in" / f"sub-{number}" / "anat" / f"sub-{number}_T1w.nii.gz"
        path.parent.mkdir(parents=True)
        nibabel.save(head(linear, -1000.0 if number == 2 else 0.0), path)
    return tmp_path / "in"


class Exact(torch.nn.Module):
    """An autoencoder that loses nothing: the codes are the image."""

    batches: list[int]

    def __init__(self) -> None:
        super().__init__()
        self.batches = []

    def index_quantize(self, images: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(images))
        return images

    def decode_samples(self, codes: torch.Tensor) -> torch.Tensor:
        return codes


class Black(Exact):
    """An autoencoder that loses everything."""

    def decode_samples(self, codes: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(codes)


class White(Exact):
    """A tokenizer that makes everything white, also what was black."""

    def decode_samples(self, codes: torch.Tensor) -> torch.Tensor:
        return torch.ones_like(codes)


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "volumes.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_what_loses_nothing_gives_the_volumes_back(volumes: Path, tmp_path: Path) -> None:
    network = Exact()
    reconstruct_volumes(volumes, tmp_path / "out", network, TokenizerInferer(), CUTTING, 48, 10, progress=False)
    assert max(network.batches) == 10
    rows = rows_of(tmp_path / "out")
    assert [row["file"] for row in rows] == [f"sub-{n}/anat/sub-{n}_T1w.nii.gz" for n in range(3)]
    for row in rows:
        assert float(row["ssim"]) == 1
        assert float(row["psnr"]) > 90
        assert int(row["slices"]) == pytest.approx(56 / 2, abs=4)  # from end to end, 2 mm apart, not the 4 of training
        before, after = nibabel.load(volumes / row["file"]), nibabel.load(tmp_path / "out" / "volumes" / row["file"])
        assert after.shape == before.shape
        assert after.get_data_dtype() == np.float32
        np.testing.assert_allclose(after.affine, before.affine, atol=1e-5)
        values, expected = after.get_fdata(), before.get_fdata()
        inside = expected > expected.min()
        assert np.median(np.abs(values - expected)[inside]) < 12  # of 600, after two interpolations and 8 bits
        assert np.corrcoef(values.ravel(), expected.ravel())[0, 1] > 0.94
        assert values.flat[0] == expected.flat[0]  # the background is that of the volume, 0 or -1000


def test_what_loses_everything_is_measured(volumes: Path, tmp_path: Path) -> None:
    reconstruct_volumes(volumes, tmp_path / "out", Black(), TokenizerInferer(), CUTTING, 48, progress=False)
    for row in rows_of(tmp_path / "out"):
        assert float(row["ssim"]) < 0.9
        assert float(row["psnr"]) < 20


def test_black_slices_beyond_a_head_stay_black(volumes: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The training has no black slices, so a network may make anything of them."""
    network = White()
    reconstruct_volumes(volumes, tmp_path / "out", network, TokenizerInferer(), CUTTING, 48, 1000, progress=False)
    values = nibabel.load(tmp_path / "out" / "volumes" / "sub-0" / "anat" / "sub-0_T1w.nii.gz").get_fdata()
    assert values[20, 20, 20] > 0
    assert not values[:, :, 33:].any()  # 26 mm above the middle of the head, which has 24
    assert network.batches[0] < int(rows_of(tmp_path / "out")[0]["slices"])
    warned = [record.getMessage() for record in caplog.records if "of the training over 16 mm" in record.getMessage()]
    assert len(warned) == 1


def test_results_are_kept_resumed_or_replaced(volumes: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    bad = volumes / "sub-1" / "anat" / "sub-1_T1w.nii.gz"
    whole = bad.read_bytes()
    bad.write_bytes(whole[:500])
    with pytest.raises(
        InputError, match=r"1 of 3 volumes cannot be used, .*sub-1_T1w\.nii\.gz cannot be read.*--resume"
    ):
        reconstruct_volumes(volumes, out, Exact(), TokenizerInferer(), CUTTING, 48, progress=False)
    assert len(rows_of(out)) == 2  # the others are there
    with pytest.raises(InputError, match=r"exists: pass --overwrite .* --resume"):
        reconstruct_volumes(volumes, out, Exact(), TokenizerInferer(), CUTTING, 48, progress=False)
    bad.write_bytes(whole)
    network = Exact()
    reconstruct_volumes(volumes, out, network, TokenizerInferer(), CUTTING, 48, 1000, resume=True, progress=False)
    assert len(network.batches) == 1
    assert {row["file"][:5] for row in rows_of(out)} == {"sub-0", "sub-1", "sub-2"}
    network = Exact()
    reconstruct_volumes(volumes, out, network, TokenizerInferer(), CUTTING, 48, 1000, overwrite=True, progress=False)
    assert len(network.batches) == 3
    bad.write_bytes(whole[:500])
    arguments = {"skip_bad": True, "overwrite": True, "progress": False}
    reconstruct_volumes(volumes, out, Exact(), TokenizerInferer(), CUTTING, 48, **arguments)
    assert len(rows_of(out)) == 2
    with pytest.raises(InputError, match="slices of 64 pixels, and the volumes were cut to slices of 48"):
        reconstruct_volumes(volumes, out, Exact(), TokenizerInferer(), CUTTING, 64, progress=False)


def test_from_volumes_to_volumes_by_the_command(
    volumes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run knows how its slices were cut; another one is told by the slices."""
    arguments = {"num_slices": 4, "size": 48, "voxel_size": 2, "spacing": 4, "center": 8, "progress": False}
    prepare_volumes(volumes, tmp_path / "slices", space="native", **arguments)
    run = tmp_path / "run"
    common = ["--output_dir", str(run), "--device", "cpu"]
    train = ["train", "--dataset_dir", str(tmp_path / "slices"), "--stage", "vqvae", "--spatial_size", "48"]
    train += ["--max_epochs", "1", "--channels", "[8]", "--num_embeddings", "16", "--batch_size", "4"]
    assert main([*train, *common]) == 0
    words = ["reconstruct", "--volumes", str(volumes), *common]
    assert main(words) == 0
    assert len(rows_of(run)) == 3
    assert nibabel.load(run / "volumes" / "sub-0" / "anat" / "sub-0_T1w.nii.gz").shape == (41, 41, 41)
    capsys.readouterr()
    assert main(words) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main([*words, "--resume"]) == 0
    (run / "splits.json").unlink()
    capsys.readouterr()
    assert main([*words, "--overwrite"]) == 2
    assert "nothing says how volumes were cut into the slices that" in capsys.readouterr().err
    assert main([*words, "--overwrite", "--dataset_dir", str(tmp_path / "slices")]) == 0
    assert main(["reconstruct", *common]) == 2
    assert "--dataset_dir, or --volumes" in capsys.readouterr().err
