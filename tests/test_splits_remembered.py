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
from small import ON_CPU, QUICK, words
from warm_python import run_python

from monai_vqprior.bundles import copy_bundle
from monai_vqprior.cli import main
from monai_vqprior.data import SliceFolder
from monai_vqprior.data.layout import SPLITS

pytestmark = pytest.mark.integration

# How the slices were dealt is a setting of a run: later commands deal them in the same way.

SMALL = words(QUICK)
PATTERN = r"^slice(\d\d)\d\.png$"


@pytest.fixture(scope="module")
def nameless(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Slices whose names tell nothing, unless one knows that the first two digits are the person."""
    folder = tmp_path_factory.mktemp("nameless")
    for number, path in enumerate(sorted(phantom.rglob("*.png"))):
        shutil.copy(path, folder / f"slice{number // 4:02d}{number % 4}.png")
    return folder


def command(name: str, data: Path, output: Path, *more: str) -> int:
    return main([name, "--dataset_dir", str(data), "--output_dir", str(output), "--device", "cpu", *more])


@pytest.fixture(scope="module")
def run(nameless: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained with a pattern; in the folder of the data, where results are no data."""
    output = nameless / "output"
    assert command("train", nameless, output, *SMALL, "--subject_pattern", PATTERN) == 0
    return output


def test_training_refuses_what_it_cannot_tell_apart(
    nameless: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("train", nameless, tmp_path / "out", *SMALL) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("vqprior: error: nothing tells for certain the subject of 32 of the 32 files")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("pattern", "named"),
    [(r"slice0(\d)", "finds the subject of 4"), ("(x)", "finds the subject of 0"), ("(", "got '('")],
)
def test_a_pattern_that_does_not_fit(
    pattern: str, named: str, nameless: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").mkdir()
    for number in (*range(4), 10, 11):
        shutil.copy(
            nameless / f"slice{number // 4:02d}{number % 4}.png", tmp_path / "data" / f"slice{number}{number}.png"
        )
    for name in ("slice00.png", "slice11.png", "slice22.png", "slice33.png"):
        (tmp_path / "data" / name).rename(tmp_path / "data" / name.replace("slice", "slice0"))
    assert command("train", tmp_path / "data", tmp_path / "out", *SMALL, "--subject_pattern", pattern) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("vqprior: ")]
    assert len(lines) == 1
    assert named in lines[0]
    assert not (tmp_path / "out").exists()


def test_later_commands_deal_alike(run: Path, nameless: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = json.loads((run / "models" / "settings.json").read_text())
    assert (settings["split_by"], settings["subject_pattern"]) == ("subject", PATTERN)
    rule = json.loads((run / "splits.json").read_text())
    assert (rule["rule"], rule["subjects"]) == (f"--subject_pattern {PATTERN}", 8)
    capsys.readouterr()
    assert main(["sample", "--output_dir", str(run), "--device", "cpu", "--num_samples", "2"]) == 0
    for name in ("evaluate", "reconstruct", "neighbors"):
        assert command(name, nameless, run) == 0
        assert f"8 subjects by --subject_pattern {PATTERN}: 00 (slice000.png)" in capsys.readouterr().out
    expected = SliceFolder(nameless, subject_pattern=PATTERN)
    test = sorted(Path(item["image"]).name for item in expected.datalist("test"))
    assert sorted(path.name for path in (run / "reconstructions").iterdir()) == test
    metrics = json.loads((run / "metrics.json").read_text())
    assert (metrics["slices"], metrics["subjects"]) == (4, 1)
    assert json.loads((run / "neighbors.json").read_text())["summary"]["train_subjects"] == 6


def test_a_prior_of_its_own_and_a_run_that_is_tuned(run: Path, nameless: Path, phantom: Path, tmp_path: Path) -> None:
    """A prior in another folder remembers the splits of its autoencoder; weights tuned on other data do not."""
    weights = str(run / "models" / "model.pt")
    assert command("train", nameless, tmp_path / "prior", *SMALL, "--stage", "prior", "--ckpt", weights) == 0
    assert json.loads((tmp_path / "prior" / "models" / "prior_settings.json").read_text())["subject_pattern"] == PATTERN
    bundle = copy_bundle(str(tmp_path / "bundle"))
    for name in ("model.pt", "prior.pt", "settings.json", "prior_settings.json"):
        shutil.copy(run / "models" / name, bundle / "models" / name)
    tune = ["--fine_tune", "--bundle", str(bundle), *words({**ON_CPU, "max_epochs": 1})]
    assert command("train", phantom, tmp_path / "tuned", *tune) == 0
    assert json.loads((tmp_path / "tuned" / "models" / "settings.json").read_text())["subject_pattern"] is None
    assert command("train", nameless, tmp_path / "by_file", *tune, "--split_by", "file") == 0
    assert command("reconstruct", nameless, tmp_path / "by_file", "--split", "train") == 0
    assert len(list((tmp_path / "by_file" / "reconstructions").iterdir())) == 26  # of 32 files


def test_a_run_of_an_earlier_version(run: Path, phantom: Path, tmp_path: Path) -> None:
    """Its settings say nothing of all this."""
    output = shutil.copytree(run, tmp_path / "run")
    models = output / "models"
    before = {**json.loads((models / "settings.json").read_text())}
    before |= json.loads((models / "prior_settings.json").read_text())
    (models / "prior_settings.json").unlink()
    path = models / "settings.json"
    path.write_text(json.dumps({key: before[key] for key in before if key not in ("split_by", "subject_pattern")}))
    assert command("evaluate", phantom, output, "--overwrite") == 0


def test_slices_that_have_changed_their_split(
    run: Path, nameless: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """By another seed here; files that come or go do the same. Some that were trained on are in the test split then."""
    SliceFolder(nameless, subject_pattern=PATTERN).check_splits(run / "splits.csv")
    SliceFolder(nameless, subject_pattern=PATTERN).check_splits(tmp_path / "absent.csv")
    assert "another split" not in caplog.text
    caplog.clear()
    changed = SliceFolder(nameless, seed=1, subject_pattern=PATTERN)
    changed.check_splits(run / "splits.csv")
    rows = [line.split(",") for line in (run / "splits.csv").read_text().splitlines()[1:]]
    before = {Path(image).name: split for split, _, _, image in rows}
    now = {Path(item["image"]).name: split for split in SPLITS for item in changed.datalist(split)}
    moved = sum(before[name] != now[name] for name in now)
    trained = sum(before[name] == "train" and now[name] != "train" for name in now)
    assert 0 < trained < moved
    told = f"{moved} slices in another split than {run / 'splits.csv'} says, {trained} of them trained on"
    assert caplog.messages[-1].startswith(told)
    # A command tells it too, by the bundle's own logging.
    words = ["-m", "monai_vqprior", "evaluate", "--dataset_dir", nameless, "--output_dir", run]
    words += ["--device", "cpu", "--overwrite", "--split_seed", "1"]
    done = run_python(words)
    assert done.returncode == 0, done.stderr
    assert "in another split than" in done.stderr
