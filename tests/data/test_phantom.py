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
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import binary_erosion
from scipy.stats import spearmanr

from monai_vqprior.data import phantom
from monai_vqprior.data.layout import SPLITS
from monai_vqprior.data.phantom import PHANTOM_LABELS, phantom_slice, write_phantom
from monai_vqprior.errors import InputError


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """Mean absolute difference in gray values over the pixels where either image shows brain."""
    return float(np.abs(a.astype(float) - b)[(a > 0) | (b > 0)].mean())


def area_averaged(image: np.ndarray) -> np.ndarray:
    """Halve the size of an image: each pixel is the mean of four."""
    return (image[0::2, 0::2].astype(float) + image[1::2, 0::2] + image[0::2, 1::2] + image[1::2, 1::2]) / 4


def labeled(labels: np.ndarray, name: str) -> np.ndarray:
    return labels == PHANTOM_LABELS[name]


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.mode == "L"
        return np.asarray(image)


def read_table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def written_files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def write_small(folder: Path, **arguments: Any) -> Path:
    return write_phantom(folder, **({"subjects": 4, "num_slices": 2, "size": 32, "progress": False} | arguments))


class TestPhantomSlice:
    def test_same_numbers_draw_the_same_bytes(self) -> None:
        first = phantom_slice(subject=2, index=5, size=64, seed=3)
        phantom.subject_anatomy.cache_clear()
        phantom_slice(subject=1, index=0, size=64, seed=3)
        again = phantom_slice(subject=2, index=5, size=64, seed=3)
        assert first.image.tobytes() == again.image.tobytes()
        assert first.labels.tobytes() == again.labels.tobytes()
        assert first.attributes == again.attributes

    @pytest.mark.parametrize("other", [{"subject": 1}, {"seed": 1}, {"subject": 1, "seed": 1}])
    def test_another_subject_or_seed_is_another_anatomy(self, other: dict[str, int]) -> None:
        numbers = {"subject": 0, "index": 10, "size": 64, "seed": 0}
        one, two = phantom_slice(**numbers), phantom_slice(**(numbers | other))
        assert np.mean(one.labels != two.labels) > 0.1
        assert one.attributes["ventricle_size"] != two.attributes["ventricle_size"]

    def test_anatomy_depends_on_the_position_and_noise_on_the_index(self) -> None:
        one = phantom_slice(subject=0, index=2, num_slices=5, size=64)
        two = phantom_slice(subject=0, index=4, num_slices=9, size=64)
        assert one.attributes == two.attributes
        assert np.array_equal(one.labels, two.labels)
        noise = one.image.astype(float)[one.labels > 0] - two.image[one.labels > 0]
        assert abs(noise.mean()) < 0.5
        assert 1 < noise.std() < 10

    def test_noise_is_not_shared_by_subjects(self) -> None:
        residuals = []
        for subject in (0, 1):
            anatomy = phantom.subject_anatomy(0, subject)
            signal, _ = phantom.render(anatomy, 0.5, 128)
            noisy = phantom_slice(subject, index=1, num_slices=3, size=128).image
            white = labeled(phantom_slice(subject, index=1, num_slices=3, size=128).labels, "white_matter")
            residuals.append(np.where(white, noisy - signal, 0) / anatomy.noise)
        both = (residuals[0] != 0) & (residuals[1] != 0)
        assert abs(np.corrcoef(residuals[0][both], residuals[1][both])[0, 1]) < 0.1
        assert residuals[0][both].std() == pytest.approx(1, abs=0.1)

    @pytest.mark.parametrize("size", [32, 90, 128, 256])
    def test_shapes_types_and_background(self, size: int) -> None:
        drawn = phantom_slice(subject=0, index=3, num_slices=8, size=size)
        for array in (drawn.image, drawn.labels):
            assert array.shape == (size, size)
            assert array.dtype == np.uint8
        assert set(np.unique(drawn.labels)) == set(PHANTOM_LABELS.values())
        assert np.array_equal(drawn.image == 0, drawn.labels == PHANTOM_LABELS["background"])
        border = np.concatenate([drawn.image[0], drawn.image[-1], drawn.image[:, 0], drawn.image[:, -1]])
        assert not border.any()

    def test_no_pixel_of_the_brain_is_black(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(phantom, "_rician", lambda signal, sigma, rng: 0 * signal)
        drawn = phantom_slice(subject=0, index=3, size=64)
        assert np.array_equal(drawn.image, (drawn.labels > 0).astype(np.uint8))

    @pytest.mark.parametrize("index", [0, 12, 22])
    def test_tissues_are_ordered_as_in_t1(self, index: int) -> None:
        for subject in range(4):
            drawn = phantom_slice(subject, index, size=128)
            median = {name: np.median(drawn.image[drawn.labels == label]) for name, label in PHANTOM_LABELS.items()}
            assert median["background"] == 0
            assert median["ventricles"] < 60
            assert 20 < median["csf"] < 80
            assert 100 < median["grey_matter"] < 150
            assert 175 < median["white_matter"] < 230
            assert median["grey_matter"] < median["deep_grey_matter"] < median["white_matter"]

    def test_brain_fraction_is_that_of_real_slices(self) -> None:
        fractions = [
            np.mean(phantom_slice(subject, index, num_slices=3, size=64).labels > 0)
            for subject in range(8)
            for index in range(3)
        ]
        assert min(fractions) > 0.35
        assert max(fractions) < 0.7
        assert 0.48 < np.mean(fractions) < 0.6

    def test_white_matter_is_wrapped_in_cortex_and_cortex_in_fluid(self) -> None:
        labels = phantom_slice(subject=0, index=20, size=128).labels
        for row in (labels, labels.T):
            for line in row[24:104]:
                brain = line[line > 0]
                for first in (brain[0], brain[-1]):
                    assert first == PHANTOM_LABELS["csf"]
        beside_background = np.zeros(labels.shape, bool)
        beside_background[1:-1, 1:-1] = (
            (labels[:-2, 1:-1] == 0) | (labels[2:, 1:-1] == 0) | (labels[1:-1, :-2] == 0) | (labels[1:-1, 2:] == 0)
        )
        assert not (beside_background & labeled(labels, "white_matter")).any()

    def test_neighbors_along_z_are_alike_and_subjects_are_not(self) -> None:
        stacks = [[phantom_slice(subject, index, size=64).image for index in range(32)] for subject in (0, 1)]
        steps = [difference(stack[i], stack[i + 1]) for stack in stacks for i in range(31)]
        between = np.mean([difference(a, b) for a, b in zip(*stacks, strict=True)])
        assert max(steps) < 0.5 * between
        assert np.mean(steps) < 0.33 * between
        assert difference(stacks[0][0], stacks[0][-1]) > 2 * max(steps)

    @pytest.mark.parametrize("size", [64, 128])
    def test_anatomy_is_the_same_at_any_size(self, size: int) -> None:
        for index in (4, 26):
            small, large = (phantom_slice(0, index, size=pixels) for pixels in (size, 2 * size))
            stranger = phantom_slice(1, index, size=size)
            averaged = area_averaged(large.image)
            assert difference(small.image, averaged) < 0.15 * difference(small.image, stranger.image)
            for name in ("ventricles", "white_matter", "grey_matter"):
                share = area_averaged(labeled(large.labels, name))
                assert labeled(small.labels, name).mean() == pytest.approx(share.mean(), rel=0.1)

    def test_ventricles_grow_with_their_attribute(self) -> None:
        sizes, areas, fluid = [], [], []
        for subject in range(20):
            drawn = [phantom_slice(subject, index, num_slices=4, size=64) for index in range(4)]
            (size,) = {one.attributes["ventricle_size"] for one in drawn}
            sizes.append(size)
            areas.append(sum(labeled(one.labels, "ventricles").sum() for one in drawn))
            insides = [binary_erosion(one.labels > 0, iterations=3) for one in drawn]  # the folds, not the rim
            fluid.append(sum((labeled(a.labels, "csf") & b).sum() for a, b in zip(drawn, insides, strict=True)))
        assert min(sizes) >= 0
        assert max(sizes) <= 1
        assert spearmanr(sizes, areas).statistic > 0.9
        assert spearmanr(sizes, fluid).statistic > 0.6
        assert max(areas) > 1.5 * min(areas)

    def test_halves_are_nearly_symmetric(self) -> None:
        labels = phantom_slice(subject=0, index=10, size=128).labels
        mirrored = labels[:, ::-1]
        for name, least in (("ventricles", 0.6), ("deep_grey_matter", 0.6)):
            one, two = labeled(labels, name), labeled(mirrored, name)
            dice = 2 * (one & two).sum() / (one.sum() + two.sum())
            assert least < dice < 1
        assert np.mean((labels != mirrored)[labels > 0]) > 0.2

    def test_attributes_tell_the_position(self) -> None:
        positions = [phantom_slice(0, index, num_slices=5, size=32).attributes["slice"] for index in range(5)]
        assert positions == [0, 0.25, 0.5, 0.75, 1]
        assert phantom_slice(0, 0, num_slices=1, size=32).attributes["slice"] == 0.5

    @pytest.mark.parametrize(
        ("numbers", "message"),
        [
            ({"size": 30}, "size must be an even number in 32..8192, got 30"),
            ({"size": 65}, "size must be an even number in 32..8192, got 65"),
            ({"index": 32}, r"index must be in 0\.\.31, got 32"),
            ({"index": -1}, r"index must be in 0\.\.31, got -1"),
            ({"subject": -2}, "subject must be 0 or more, got -2"),
            ({"seed": -3}, "seed must be a whole number in 0..4294967295, got -3"),
            ({"num_slices": 0}, "num_slices must be a whole number in 1..100000, got 0"),
        ],
    )
    def test_bad_numbers(self, numbers: dict[str, int], message: str) -> None:
        with pytest.raises(InputError, match=message):
            phantom_slice(**({"subject": 0, "index": 0} | numbers))


class TestWritePhantom:
    def test_layout(self, tmp_path: Path) -> None:
        folder = write_small(tmp_path / "new" / "cohort", subjects=20, num_slices=1)
        assert folder == tmp_path / "new" / "cohort"
        cases = {split: [p.name for p in (folder / f"keras_png_slices_{split}").iterdir()] for split in SPLITS}
        assert [len(cases[split]) for split in SPLITS] == [14, 3, 3]
        names = sorted(name for split in SPLITS for name in cases[split])
        assert names == [f"case_{number:03d}_slice_0.nii.png" for number in range(1, 21)]
        tables = {"phantom.json", "slices.csv", "subjects.csv"}
        assert written_files(folder) == tables | {f"keras_png_slices_{s}/{name}" for s in SPLITS for name in cases[s]}
        assert json.loads((folder / "phantom.json").read_text()) == {
            "subjects": 20,
            "num_slices": 1,
            "size": 32,
            "seed": 0,
        }

    def test_files_hold_the_slices(self, tmp_path: Path) -> None:
        folder = write_small(tmp_path, seed=5, labels=True)
        for split in SPLITS:
            images = sorted((folder / f"keras_png_slices_{split}").iterdir())
            assert images
            assert [p.name for p in images] == [p.name for p in sorted((folder / f"labels_{split}").iterdir())]
            for path in images:
                name = re.fullmatch(r"case_(\d+)_slice_(\d+)\.nii\.png", path.name)
                assert name is not None
                drawn = phantom_slice(int(name[1]) - 1, int(name[2]), num_slices=2, size=32, seed=5)
                assert np.array_equal(read(path), drawn.image)
                assert np.array_equal(read(folder / f"labels_{split}" / path.name), drawn.labels)

    def test_tables(self, tmp_path: Path) -> None:
        folder = write_small(tmp_path)
        subjects, slices = read_table(folder / "subjects.csv"), read_table(folder / "slices.csv")
        assert list(subjects[0]) == ["case", "split", "ventricle_size"]
        assert list(slices[0]) == ["case", "index", "split", "slice", "ventricle_size"]
        assert [row["case"] for row in subjects] == ["001", "002", "003", "004"]
        assert [(row["case"], row["index"]) for row in slices] == [
            (row["case"], str(i)) for row in subjects for i in (0, 1)
        ]
        for row in slices:
            drawn = phantom_slice(int(row["case"]) - 1, int(row["index"]), num_slices=2, size=32)
            assert float(row["slice"]) == pytest.approx(drawn.attributes["slice"], abs=1e-5)
            assert float(row["ventricle_size"]) == pytest.approx(drawn.attributes["ventricle_size"], abs=1e-5)
            name = f"case_{row['case']}_slice_{row['index']}.nii.png"
            assert [s for s in SPLITS if (folder / f"keras_png_slices_{s}" / name).exists()] == [row["split"]]
            assert {"case": row["case"], "split": row["split"], "ventricle_size": row["ventricle_size"]} in subjects

    def test_refuses_a_folder_that_is_not_empty(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("mine")
        with pytest.raises(InputError, match="not empty"):
            write_small(tmp_path)
        assert written_files(tmp_path) == {"notes.txt"}

    def test_overwrite_leaves_no_stale_file(self, tmp_path: Path) -> None:
        write_small(tmp_path, subjects=6, num_slices=3, labels=True)
        (tmp_path / "notes.txt").write_text("mine")
        write_small(tmp_path, subjects=3, num_slices=2, overwrite=True)
        fresh = write_small(tmp_path.with_name("fresh"), subjects=3, num_slices=2)
        assert written_files(tmp_path) == written_files(fresh) | {"notes.txt"}
        assert len(read_table(tmp_path / "subjects.csv")) == 3
        assert not list(tmp_path.glob("labels_*"))

    def test_overwrite_spares_slices_of_another_origin(self, tmp_path: Path) -> None:
        real = tmp_path / "keras_png_slices_test" / "case_441_slice_0.nii.png"
        real.parent.mkdir()
        real.write_bytes(b"a real slice")
        with pytest.raises(InputError, match=r"no phantom cohort \(case_441_slice_0.nii.png\)"):
            write_small(tmp_path, overwrite=True)
        assert written_files(tmp_path) == {"keras_png_slices_test/case_441_slice_0.nii.png"}
        assert real.read_bytes() == b"a real slice"

    def test_interrupted_cohort_has_no_tables_and_can_be_overwritten(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_small(tmp_path)
        calls = []

        def failing(path: Path, image: np.ndarray) -> Path:
            calls.append(path)
            if len(calls) == 4:
                raise OSError("disk full")
            return write_png(path, image)

        write_png = phantom.write_png
        with monkeypatch.context() as patch:
            patch.setattr(phantom, "write_png", failing)
            with pytest.raises(OSError, match="disk full"):
                write_small(tmp_path, overwrite=True)
        assert len(list(tmp_path.rglob("*.png"))) == 3
        assert not list(tmp_path.glob("*.csv"))
        write_small(tmp_path, overwrite=True)
        assert len(list(tmp_path.rglob("*.png"))) == 8

    @pytest.mark.parametrize(
        ("numbers", "message"),
        [
            ({"size": 33}, "size must be an even number in 32..8192, got 33"),
            ({"subjects": 2}, "subjects must be a whole number in 3..1000000, got 2"),
            ({"num_slices": 0}, "num_slices must be a whole number in 1..100000, got 0"),
            ({"seed": -1}, "seed must be a whole number in 0..4294967295, got -1"),
        ],
    )
    def test_bad_numbers_make_no_folder(self, tmp_path: Path, numbers: dict[str, int], message: str) -> None:
        with pytest.raises(InputError, match=message):
            write_small(tmp_path / "cohort", **numbers)
        assert not (tmp_path / "cohort").exists()

    @pytest.mark.parametrize("progress", [True, False])
    def test_progress_bar(self, tmp_path: Path, capsys: pytest.CaptureFixture[str], progress: bool) -> None:
        write_small(tmp_path, progress=progress)
        assert ("8/8" in capsys.readouterr().err) is progress
