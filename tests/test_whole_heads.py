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
"""Whole heads: from the training of a prior that knows the slice below to volumes."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import create_workflow
from PIL import Image
from small import AUTOENCODER, ON_CPU, PRIOR, QUICK, words

from monai_vqprior.bundles import bundle_root
from monai_vqprior.cli import main
from monai_vqprior.data import Conditions, SliceFolder
from monai_vqprior.errors import InputError
from monai_vqprior.prepare_arguments import Cutting
from monai_vqprior.report.drawn_heads import slice_conditions
from monai_vqprior.runs import head_settings

DOCS = Path(__file__).resolve().parent.parent / "docs"
HEIGHT = 4  # slices of a subject of the phantom


@pytest.fixture(scope="module")
def run(phantom: Path, small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training whose prior knows the slice below."""
    output = tmp_path_factory.mktemp("heads") / "run"
    shutil.copytree(small_run, output)
    options = words({**QUICK, "neighbor_context": True, "overwrite": True, "prior_views": 1})
    assert (
        main(["train", "--stage", "prior", "--dataset_dir", str(phantom), "--output_dir", str(output), *options]) == 0
    )
    return output


def sample(run: Path, output: Path, *more: str) -> int:
    checkpoints = [f"--ckpt={run / 'models' / 'model.pt'}", f"--ckpt_prior={run / 'models' / 'prior.pt'}"]
    return main(["sample", f"--output_dir={output}", "--tile_size=2", *words(ON_CPU)[:2], *checkpoints, *more])


def volumes(output: Path) -> dict[str, np.ndarray]:
    return {path.name: nibabel.load(path).get_fdata() for path in sorted((output / "volumes").iterdir())}


@pytest.mark.integration
def test_settings_of_the_training(run: Path) -> None:
    settings = json.loads((run / "models" / "prior_settings.json").read_text())
    assert settings["neighbor_context"] is True
    assert [settings[key] for key in ("head_slices", "head_axis", "head_affine")] == [HEIGHT, None, None]
    assert [condition["name"] for condition in settings["conditions"]] == ["slice"]


@pytest.mark.integration
def test_volumes_and_single_slices(run: Path, tmp_path: Path) -> None:
    assert sample(run, tmp_path, "--num_volumes", "3") == 0
    first = volumes(tmp_path)
    assert list(first) == [f"volume_{i:05d}.nii.gz" for i in range(3)]
    assert all(volume.shape == (32, 32, HEIGHT) for volume in first.values())
    assert all(0 <= volume.min() < volume.max() <= 1 for volume in first.values())
    record = json.loads((tmp_path / "volumes.json").read_text())
    assert record["num_volumes"] == 3
    section = (DOCS / "reference" / "output-files.md").read_text().split("## volumes.json")[1].split("\n## ")[0]
    told = set(re.findall(r"`(\w+)`", section)) | {"seed", "_target_", "num_workers", "device"}
    told |= {"temperature", "sketch_temperature", "guidance_scale", "tile_size", "autoencoder_weights", "prior_weights"}
    assert set(record) | {"num_samples"} == told
    with Image.open(tmp_path / "volumes.png") as sheet:
        assert sheet.height > 3 * 32
    assert sample(run, tmp_path, "--num_volumes", "5", "--resume") == 0
    longer = volumes(tmp_path)
    assert all(np.array_equal(longer[name], first[name]) for name in first)
    assert sample(run, tmp_path / "workers", "--num_volumes", "5", "--num_workers", "1") == 0
    assert all(np.array_equal(volumes(tmp_path / "workers")[name], longer[name]) for name in longer)
    assert sample(run, tmp_path, "--num_samples", "2", "--condition", "slice=0.5") == 0
    assert len(list((tmp_path / "samples").iterdir())) == 2


@pytest.mark.integration
def test_monais_command_reads_what_the_data_has_made_of_the_prior(run: Path, tmp_path: Path) -> None:
    """Neither the context nor the condition nor the number of slices is told; sizes of networks are."""
    root = bundle_root()
    create_workflow(
        config_file=[str(root / "configs" / f"{name}.json") for name in ("inference", "sample", "sample_volumes")],
        workflow_type="train", logging_file=False, bundle_root=str(root), models_dir=str(run / "models"),
        output_dir=str(tmp_path), num_volumes=2, tile_size=2, **ON_CPU, **AUTOENCODER, **PRIOR,
    ).run()  # fmt: skip
    assert sample(run, tmp_path / "ours", "--num_volumes", "2") == 0
    ours, found = volumes(tmp_path / "ours"), volumes(tmp_path)
    assert set(found) == set(ours)
    assert all(np.array_equal(found[name], ours[name]) for name in ours)


@pytest.mark.integration
def test_the_middle_of_a_head(run: Path, tmp_path: Path) -> None:
    assert sample(run, tmp_path, "--num_volumes", "1", "--num_slices", "2") == 0
    (path,) = (tmp_path / "volumes").iterdir()
    head = nibabel.load(path)
    assert head.shape == (32, 32, 2)
    np.testing.assert_array_equal(head.affine[:3, 3], [0, 0, 1])


@pytest.mark.integration
@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--num_volumes", "1", "--num_slices", "9"], "num_slices must be at most 4"),
        (["--num_volumes", "1", "--condition", "slice=0.5"], "slice is each slice's own in a volume"),
        (["--num_volumes", "1", "--num_samples", "2"], "--num_samples is for single slices"),
        (["--num_slices", "2"], "--num_slices is for volumes: pass --num_volumes"),
        (["--num_volumes", "1", "--neighbor_context", "false"], "this prior draws single slices, not volumes"),
        (["--num_samples", "1", "--neighbor_context", "false"], "such as its --neighbor_context and --given_context"),
    ],
)
def test_what_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    assert sample(run, tmp_path, *more) == 2
    assert message in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


@pytest.mark.integration
def test_a_prior_of_single_slices_says_how_to_train_one(
    small_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sample(small_run, tmp_path, "--num_volumes", "1") == 2
    assert "vqprior train --stage prior --neighbor_context true" in capsys.readouterr().err


def test_geometry_of_a_prepared_data_set(tmp_path: Path) -> None:
    """Voxel (0, 0, 0) is the corner of the lowest slice, half a slab below its middle."""
    cutting = Cutting(axis=1, num_slices=3, center=-20, spacing=2.5, voxel_size=0.5, size=32)
    for case in range(3):
        for index in range(3):
            path = tmp_path / f"keras_png_slices_train/case_{case}_slice_{index}.nii.png"
            path.parent.mkdir(exist_ok=True)
            path.touch()
    slices = SliceFolder(tmp_path)
    assert head_settings(slices, True) == {"head_slices": 3, "head_axis": None, "head_affine": None}
    (tmp_path / "prepare.json").write_text(json.dumps(cutting.cutting))
    known = head_settings(slices, True)
    assert (known["head_slices"], known["head_axis"]) == (3, 1)
    affine = np.array(known["head_affine"])
    np.testing.assert_allclose(np.diag(affine), [0.5, 2.5, 0.5, 1])
    assert affine[1, 3] == -20 - 2.5
    assert affine[0, 3] == -15.5 * 0.5
    assert head_settings(slices, False) == dict.fromkeys(known)


def test_conditions_of_slices() -> None:
    known = Conditions([{"name": "age", "mean": 50, "std": 20}, {"name": "slice", "mean": 0.5, "std": 0.25}])
    asked = {"values": torch.tensor([[1.0, torch.nan], [2.0, torch.nan]])}
    lowest, highest = slice_conditions(known, asked, [0, 1])
    assert lowest["values"].tolist() == [[1, -2], [2, -2]]
    assert highest["values"].tolist() == [[1, 2], [2, 2]]
    (alone,) = slice_conditions(known, {}, [0.5])
    np.testing.assert_array_equal(alone["values"], [[np.nan, 0]])
    with pytest.raises(InputError, match="does not know the condition slice"):
        slice_conditions(Conditions([]), {}, [0])
