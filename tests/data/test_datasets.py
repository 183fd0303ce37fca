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

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import DataLoader
from monai.transforms import Compose, Lambdad, OneOf, RandFlipd, RandGaussianNoised
from PIL import Image

from monai_vqprior.data.datasets import CodeGridDataset, SliceDataset, mean_image
from monai_vqprior.data.given_codes import GivenCodes
from monai_vqprior.data.slices import SliceFolder
from monai_vqprior.errors import InputError
from monai_vqprior.transforms import BytesToUnitd, LoadSliced

SIZE = (12, 10)


def write(path: Path, seed: int, size: tuple[int, int] = SIZE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)).save(path)
    return path


def read(path: str) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def truncate(item: dict[str, Any]) -> str:
    path = Path(item["image"])
    path.write_bytes(path.read_bytes()[:80])
    return str(path)


def make(items: Sequence[dict[str, Any]], transform: Any = None, **arguments: Any) -> SliceDataset:
    transform = LoadSliced("image") if transform is None else transform
    return SliceDataset(items, transform, **({"spatial_size": SIZE, "progress": False} | arguments))


@pytest.fixture
def items(tmp_path: Path) -> list[dict[str, Any]]:
    """Twelve slices of three subjects."""
    for case in range(3):
        for index in range(4):
            write(tmp_path / f"case_{case}_slice_{index + 7}.png", 4 * case + index)
    return SliceFolder(tmp_path, fractions={"train": 1.0}).datalist("train")


class TestSliceDataset:
    def test_holds_the_pixels_in_natural_order(self, items: list[dict[str, Any]]) -> None:
        dataset = make(items)
        assert dataset.images.dtype == torch.uint8
        assert dataset.images.shape == (12, 1, *SIZE)
        assert len(dataset) == 12
        assert dataset.num_skipped == 0
        assert dataset.num_subjects == 3
        expected = [(f"case_{case}", index) for case in range(3) for index in (7, 8, 9, 10)]
        for position, (subject, index) in enumerate(expected):
            item = dataset[position]
            assert (item["subject"], item["index"]) == (subject, index)
            assert Path(item["path"]).name == f"{subject}_slice_{index}.png"
            assert item["image"].dtype == torch.uint8
            np.testing.assert_array_equal(item["image"][0], read(item["path"]))

    def test_hands_on_what_else_is_known(self, items: list[dict[str, Any]]) -> None:
        for position, item in enumerate(items):
            item["age"] = 60.0 + position
        dataset = make(items)
        assert [dataset[i]["age"] for i in range(12)] == [60.0 + i for i in range(12)]
        assert set(dataset[0]) == {"image", "subject", "index", "age", "path"}
        assert all(isinstance(item["image"], str) for item in items)  # the caller's list is as it was

    @pytest.mark.parametrize("num_threads", [1, 7])
    def test_reads_once_and_with_any_number_of_threads(self, items: list[dict[str, Any]], num_threads: int) -> None:
        seen: list[str] = []
        transform = Compose([Lambdad("subject", lambda name: (seen.append(name), name)[1]), LoadSliced("image")])
        dataset = make(items, transform, num_threads=num_threads)
        for _ in range(3):
            for i in range(12):
                np.testing.assert_array_equal(dataset[i]["image"][0], read(items[i]["image"]))
        assert sorted(seen) == sorted(item["subject"] for item in items)

    def test_one_number_is_a_square(self, tmp_path: Path) -> None:
        dataset = make([{"image": str(write(tmp_path / "a.png", 0, (8, 8)))}], spatial_size=8)
        assert dataset.images.shape == (1, 1, 8, 8)

    def test_augments_each_time_anew(self, items: list[dict[str, Any]]) -> None:
        calls: list[int] = []

        def add(image: torch.Tensor) -> torch.Tensor:
            calls.append(len(calls))
            return image + len(calls)

        dataset = make(items, augmentation=[BytesToUnitd("image"), Lambdad("image", add)])
        assert calls == []
        before = dataset.images.clone()
        first, second = dataset[3], dataset[3]
        original = read(items[3]["image"]) / 255
        np.testing.assert_allclose(first["image"][0], original + 1, atol=1e-6)
        np.testing.assert_allclose(second["image"][0], original + 2, atol=1e-6)
        assert torch.equal(dataset.images, before)
        assert first["path"] == items[3]["image"]

    def test_random_transforms_differ_from_one_time_to_the_next(self, items: list[dict[str, Any]]) -> None:
        augmentation = Compose([RandFlipd("image", prob=0.5, spatial_axis=1)]).set_random_state(0)
        dataset = make(items, augmentation=augmentation)
        original = read(items[0]["image"])
        flipped = [np.array_equal(dataset[0]["image"][0], original[:, ::-1]) for _ in range(20)]
        upright = [np.array_equal(dataset[0]["image"][0], original) for _ in range(20)]
        assert 0 < sum(flipped) < 20
        assert 0 < sum(upright) < 20

    @pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
    @pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # on a single core
    @pytest.mark.parametrize("nested", [False, True])
    def test_draws_depend_on_seed_epoch_and_slice_alone(self, items: list[dict[str, Any]], nested: bool) -> None:
        """Not on the order of the slices, what was drawn before, the workers, nor the size of a batch."""
        noise: list[Any] = [RandGaussianNoised("image", prob=0.9), RandFlipd("image", prob=0.5, spatial_axis=1)]
        transforms = [BytesToUnitd("image"), OneOf(noise) if nested else Compose(noise), *noise]
        dataset = make(items, augmentation=transforms, seed=3)
        other = make(items, augmentation=transforms, seed=4)

        def epoch(number: int, order: Sequence[int] = range(12)) -> torch.Tensor:
            dataset.set_epoch(number)
            images = {i: dataset[i]["image"] for i in order}
            return torch.stack([images[i] for i in range(12)])

        first, second = epoch(1), epoch(2)
        assert torch.equal(epoch(1, range(11, -1, -1)), first)
        assert not torch.equal(first, second)
        assert not torch.equal(first, torch.stack([other[i]["image"] for i in range(12)]))
        residuals = first - dataset.images / 255
        assert len(residuals.flatten(1).unique(dim=0)) > 8  # another draw for each slice
        dataset.set_epoch(2)
        for loader in (DataLoader(dataset, batch_size=5), DataLoader(dataset, batch_size=4, num_workers=2)):
            assert torch.equal(torch.cat([batch["image"] for batch in loader]), second)

    def test_names_a_slice_of_another_size(self, items: list[dict[str, Any]]) -> None:
        write(Path(items[5]["image"]), 0, (20, 14))
        message = r"case_1_slice_8\.png is 20 x 14 pixels, but spatial_size is 12 x 10: .* as --spatial_size"
        with pytest.raises(InputError, match=message):
            make(items)

    def test_names_a_truncated_file(self, items: list[dict[str, Any]]) -> None:
        broken = truncate(items[9])
        with pytest.raises(InputError, match="cannot be read as an image") as raised:
            make(items)
        assert broken in str(raised.value)

    def test_skips_and_counts_what_is_bad(self, items: list[dict[str, Any]], caplog: pytest.LogCaptureFixture) -> None:
        write(Path(items[2]["image"]), 0, (20, 14))
        truncate(items[7])
        Path(items[8]["image"]).unlink()
        with caplog.at_level(logging.WARNING):
            dataset = make(items, skip_bad=True)
        kept = [item for i, item in enumerate(items) if i not in (2, 7, 8)]
        assert (len(dataset), dataset.num_skipped) == (9, 3)
        assert dataset.images.shape[0] == 9
        for i, item in enumerate(kept):
            assert dataset[i]["path"] == item["image"]
            np.testing.assert_array_equal(dataset[i]["image"][0], read(item["image"]))
        for i in (2, 7, 8):
            assert items[i]["image"] in caplog.text
        assert "left out 3 of 12 slices" in caplog.text

    @pytest.mark.parametrize(("max_value", "told"), [(None, True), (4095, False)])
    def test_tells_of_slices_that_are_nearly_black(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, max_value: float | None, told: bool
    ) -> None:
        for number in range(3):
            image = np.full(SIZE, 2000 if number < 2 else 4095, np.uint16)  # 12 bits in 16: white is 16 of 255
            Image.fromarray(image).save(tmp_path / f"{number}.png")
        items = [{"image": str(tmp_path / f"{number}.png")} for number in range(3)]
        with caplog.at_level(logging.WARNING):
            make(items, LoadSliced("image", max_value))
        assert ("no pixel of 3 slices is brighter than 16 of 255" in caplog.text) is told

    def test_refuses_when_none_is_left(self, items: list[dict[str, Any]]) -> None:
        with pytest.raises(InputError, match="no slice is left"):
            make(items, spatial_size=8, skip_bad=True)

    @pytest.mark.parametrize("skip_bad", [False, True])
    def test_refuses_floating_point(self, items: list[dict[str, Any]], skip_bad: bool) -> None:
        with pytest.raises(ValueError, match=r"transform must end in a uint8 image, got torch\.float32"):
            make(items, [LoadSliced("image"), BytesToUnitd("image")], skip_bad=skip_bad)

    def test_a_bug_in_a_transform_is_not_a_bad_slice(self, items: list[dict[str, Any]]) -> None:
        def divide(image: torch.Tensor) -> float:
            return 1 / 0

        with pytest.raises(Exception, match=r"division by zero|applying transform") as raised:
            make(items, [LoadSliced("image"), Lambdad("image", divide)], skip_bad=True)
        assert not isinstance(raised.value, InputError)

    @pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
    @pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # on a single core
    def test_workers_of_a_data_loader(self, items: list[dict[str, Any]]) -> None:
        dataset = make(items, augmentation=[BytesToUnitd("image")])
        loader = DataLoader(dataset, batch_size=5, num_workers=2)
        batches = list(loader)
        assert [len(batch["path"]) for batch in batches] == [5, 5, 2]
        assert [path for batch in batches for path in batch["path"]] == [item["image"] for item in items]
        assert [int(i) for batch in batches for i in batch["index"]] == [item["index"] for item in items]
        images = torch.cat([batch["image"] for batch in batches])
        expected = np.stack([read(item["image"]) for item in items])[:, None] / 255
        np.testing.assert_allclose(images, expected, atol=1e-6)


class TestCodeGridDataset:
    @pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64])
    @pytest.mark.parametrize("grid", [(4, 3), (2, 3, 2)])
    def test_items(self, grid: tuple[int, ...], dtype: torch.dtype) -> None:
        grids = torch.arange(5 * int(np.prod(grid))).reshape(5, *grid).to(dtype)
        data = [{"label": i, "path": f"{i}.png"} for i in range(5)]
        dataset = CodeGridDataset(grids, data)
        assert len(dataset) == 5
        for i in range(5):
            item = dataset[i]
            assert (item["label"], item["path"]) == (i, f"{i}.png")
            assert item["codes"].dtype == torch.int64
            np.testing.assert_array_equal(item["codes"], grids[i].numpy())
        assert "codes" not in data[0]

    def test_grids_alone(self) -> None:
        batch = next(iter(DataLoader(CodeGridDataset(torch.ones(3, 2, 2, dtype=torch.int32)), batch_size=3)))
        assert set(batch) == {"codes"}
        assert batch["codes"].shape == (3, 2, 2)

    def test_half_of_the_time_a_view(self) -> None:
        """Grid i holds 10 i, its views 10 i + 1 to 10 i + 3."""
        values = torch.arange(0, 40, 10)[:, None, None].expand(4, 2, 3)
        views = torch.stack([values + v for v in (1, 2, 3)])
        dataset = CodeGridDataset(values, [{"label": i} for i in range(4)], views)
        torch.manual_seed(0)
        drawn = [dataset[i % 4] for i in range(4000)]
        assert all((item["codes"] == item["codes"][0, 0]).all() for item in drawn)
        assert all(int(item["codes"][0, 0]) // 10 == item["label"] for item in drawn)
        shares = np.bincount([int(item["codes"][0, 0]) % 10 for item in drawn]) / len(drawn)
        np.testing.assert_allclose(shares, [1 / 2, 1 / 6, 1 / 6, 1 / 6], atol=0.04)
        torch.manual_seed(0)
        assert all(torch.equal(dataset[i % 4]["codes"], drawn[i]["codes"]) for i in range(20))

    def test_views_depend_on_seed_epoch_and_grid_alone(self) -> None:
        views = torch.arange(1, 7).view(6, 1, 1, 1).expand(6, 50, 1, 1)
        dataset = CodeGridDataset(torch.zeros(50, 1, 1), views=views, seed=1)
        drawn = []
        for epoch in (1, 2, 1):
            dataset.set_epoch(epoch)
            torch.manual_seed(len(drawn))
            drawn.append([int(dataset[i]["codes"]) for i in (range(50) if len(drawn) < 2 else range(49, -1, -1))])
        assert drawn[0] == drawn[2][::-1]
        assert drawn[0] != drawn[1]
        assert 10 < drawn[0].count(0) < 40
        assert len(set(drawn[0])) == 7

    def test_neighbor_is_of_the_same_view_and_withheld_at_random(self) -> None:
        """Grid i holds 10 i, its views 10 i + 1 and 10 i + 2; the first grid has no neighbor."""
        values = torch.arange(0, 40, 10)[:, None, None].expand(4, 2, 3)
        views = torch.stack([values + v for v in (1, 2)])
        dataset = CodeGridDataset(values, None, views, 0, torch.tensor([-1, 0, 1, 2]), neighbor_dropout=0.25)
        shares = []
        for epoch in range(500):
            dataset.set_epoch(epoch)
            for i in range(4):
                code, neighbor = (dataset[i][name] for name in ("codes", "neighbor"))
                assert neighbor.shape == (2, 3)
                withheld = bool((neighbor == -1).all())
                assert withheld or (neighbor == code - 10).all()
                if i:
                    shares.append(withheld)
                else:
                    assert withheld
        assert 0.2 < np.mean(shares) < 0.3
        dataset.set_epoch(3)
        first = [dataset[i]["neighbor"] for i in range(4)]
        torch.rand(1)
        assert all(torch.equal(dataset[i]["neighbor"], first[i]) for i in reversed(range(4)))

    def test_slices_farther_below_are_those_of_the_neighbors(self) -> None:
        """Two stacks, 0-1-2-3 and 4-5; what is withheld is withheld together, and the draws are those of one slice."""
        grids, below = torch.arange(6)[:, None, None].expand(6, 2, 2), torch.tensor([-1, 0, 1, 2, -1, 4])
        three = CodeGridDataset(grids, neighbors=below, neighbor_slices=3)
        names = ("neighbor", "neighbor_2", "neighbor_3")
        found = [[int(three[i][name][0, 0]) for name in names] for i in range(6)]
        assert found == [[-1, -1, -1], [0, -1, -1], [1, 0, -1], [2, 1, 0], [-1, -1, -1], [4, -1, -1]]
        one, two = (
            CodeGridDataset(grids, seed=0, neighbors=below, neighbor_dropout=0.5, neighbor_slices=n) for n in (1, 2)
        )
        seen = set()
        for epoch in range(20):
            for dataset in (one, two):
                dataset.set_epoch(epoch)
            assert torch.equal(one[3]["neighbor"], two[3]["neighbor"])
            seen.add(tuple(int(two[3][name][0, 0]) for name in names[:2]))
        assert seen == {(2, 1), (-1, -1)}

    def test_what_is_given_is_drawn_of_the_view_that_is_returned(self) -> None:
        grids = torch.randint(5, (3, 4, 4), generator=torch.manual_seed(0))
        dataset = CodeGridDataset(grids, None, grids[None] + 5, 0, given=GivenCodes(dropout=0.2))
        seen = []
        for epoch in range(40):
            dataset.set_epoch(epoch)
            for item in (dataset[i] for i in range(3)):
                known = item["given"] >= 0
                assert torch.equal(item["given"][known], item["codes"][known])
                assert (item["given"][~known] == -1).all()
                seen.append(int(known.sum()))
        assert 0.1 < np.mean(np.equal(seen, 0)) < 0.3
        assert len(set(seen)) > 8
        dataset.set_epoch(3)
        again = [dataset[i]["given"] for i in range(3)]
        torch.rand(1)
        assert all(torch.equal(dataset[i]["given"], again[i]) for i in reversed(range(3)))

    def test_codes_that_are_given_are_those_beside_the_hole(self) -> None:
        """Of the slice with its hole hidden; in the hole the codes are those of the whole slice."""
        grids = torch.arange(3)[:, None, None].repeat(1, 2, 2)
        hidden = grids[None] + 5
        hidden[..., 0, 0] = -1
        dataset = CodeGridDataset(grids, views=grids[None] + 10, seed=0, given=GivenCodes(0, 0), given_views=hidden)
        changed = 0
        for epoch in range(10):
            dataset.set_epoch(epoch)
            for i in range(3):
                codes, given = dataset[i]["codes"], dataset[i]["given"]
                known = given >= 0
                assert torch.equal(given[known], codes[known])
                if codes.max() < 10:
                    assert given.tolist() == [[-1, i + 5], [i + 5, i + 5]]
                    assert codes.tolist() == [[i, i + 5], [i + 5, i + 5]]
                changed += int(codes.max() >= 10)
        assert 5 < changed < 25
        for options in ({"given": None}, {"given_views": hidden[:0]}, {"given_views": hidden[0]}):
            with pytest.raises(ValueError, match=r"given_views must be \(V, 3, 2, 2\) and need given"):
                CodeGridDataset(grids, **{"given": GivenCodes(), "given_views": hidden, **options})

    def test_all_neighbors_are_there_without_dropout(self) -> None:
        grids = torch.arange(3)[:, None, None].expand(3, 2, 2)
        dataset = CodeGridDataset(grids, neighbors=torch.tensor([2, -1, 0]))
        assert [int(dataset[i]["neighbor"][0, 0]) for i in range(3)] == [2, -1, 0]
        with pytest.raises(ValueError, match=r"neighbors must be \(3,\), got \(2,\)"):
            CodeGridDataset(grids, neighbors=torch.zeros(2))

    @pytest.mark.parametrize("shape", [(0, 3, 2, 2), (2, 4, 2, 2), (3, 2, 2)])
    def test_refuses_views_of_other_grids(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match=r"views must be \(V, 3, 2, 2\)"):
            CodeGridDataset(torch.zeros(3, 2, 2), views=torch.zeros(shape))

    @pytest.mark.parametrize("count", [0, 2, 4])
    def test_refuses_another_number_of_entries(self, count: int) -> None:
        with pytest.raises(ValueError, match=f"an entry for each of the 3 grids, got {count}"):
            CodeGridDataset(torch.zeros(3, 2, 2), [{}] * count)


@pytest.mark.parametrize("count", [1, 256, 600])
def test_mean_image(count: int) -> None:
    pixels = np.random.default_rng(count).integers(0, 256, (count, 1, 3, 5), dtype=np.uint8)
    transform = Lambdad("image", lambda i: torch.from_numpy(pixels[i]))
    mean = mean_image(make([{"image": i} for i in range(count)], transform, spatial_size=(3, 5), num_threads=1))
    assert mean.dtype == torch.float32
    np.testing.assert_allclose(mean, pixels.astype(np.float64).mean(0) / 255, rtol=1e-6)


def test_mean_image_of_white_slices_is_one() -> None:
    transform = Lambdad("image", lambda i: torch.full((1, 2, 2), 255, dtype=torch.uint8))
    dataset = make([{"image": i} for i in range(300)], transform, spatial_size=2)
    assert torch.equal(mean_image(dataset), torch.ones(1, 2, 2))


@pytest.mark.parametrize("progress", [True, False])
def test_progress_bar(items: list[dict[str, Any]], capsys: pytest.CaptureFixture[str], progress: bool) -> None:
    make(items, progress=progress)
    assert ("reading slices" in capsys.readouterr().err) is progress
