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

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ignite.engine import Engine
from PIL import Image
from skimage.metrics import structural_similarity

from monai_vqprior.handlers import ReconstructionWriter, contact_sheet, reconstruction_writer, to_pixels

GAP, CAPTION, BACKGROUND = 4, 18, 32
SIZE = (24, 40)
NAMES = [
    "keras_png_slices_test/case_001_slice_0.nii.png",
    "keras_png_slices_test/case_001_slice_1.nii.png",
    "more/deep/photo.v2.jpg",
    "case_002_slice_0.tif",
    "case_002_slice_1.png",
]


def noise(number: int, size: tuple[int, int] = SIZE, seed: int = 0) -> list[np.ndarray]:
    """Random pictures, none of whose pixels has the sheet's gray."""
    return list(np.random.default_rng(seed).integers(40, 256, (number, *size), dtype=np.uint8))


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.mode == "L"
        return np.asarray(image)


class TestToPixels:
    @settings(deadline=None, derandomize=True)
    @given(st.lists(st.floats(-2, 3, width=32), min_size=1, max_size=20))
    def test_clips_and_rounds(self, values: list[float]) -> None:
        image = torch.tensor([[values]], dtype=torch.float32)
        expected = np.rint(np.clip(np.array([values], dtype=np.float32), 0, 1) * np.float32(255)).astype(np.uint8)
        assert np.array_equal(to_pixels(image), expected)


class TestContactSheet:
    @pytest.mark.parametrize("rows", [1, 2, 3])
    @pytest.mark.parametrize("columns", [1, 4])
    def test_pictures_are_where_they_belong(self, rows: int, columns: int) -> None:
        shown = noise(rows * columns)
        sheet = contact_sheet([shown[i * columns : (i + 1) * columns] for i in range(rows)])
        height, width = SIZE
        assert sheet.shape == (GAP + rows * (height + GAP), GAP + columns * (width + GAP))
        assert sheet.dtype == np.uint8
        rest = sheet.copy()
        for number, picture in enumerate(shown):
            row, column = divmod(number, columns)
            top, left = GAP + row * (height + GAP), GAP + column * (width + GAP)
            assert np.array_equal(sheet[top : top + height, left : left + width], picture)
            rest[top : top + height, left : left + width] = BACKGROUND
        assert (rest == BACKGROUND).all()

    def test_the_last_row_may_be_shorter(self) -> None:
        first, second, third = noise(3)
        sheet = contact_sheet([[first, second], [third]])
        assert sheet.shape == (GAP + 2 * (SIZE[0] + GAP), GAP + 2 * (SIZE[1] + GAP))
        assert np.array_equal(sheet[-GAP - SIZE[0] : -GAP, GAP : GAP + SIZE[1]], third)
        assert (sheet[-GAP - SIZE[0] : -GAP, GAP + SIZE[1] :] == BACKGROUND).all()

    @pytest.mark.parametrize("captions", [[["0.9", "0.8"]], [["0.9", "0.8"], []], [["0.9", "0.8"], [], []]])
    def test_captions_make_room_above_their_row(self, captions: list[list[str]]) -> None:
        one, two, three, four = noise(4)
        sheet = contact_sheet([[one, two], [three, four]], captions)
        height, width = SIZE
        assert sheet.shape == (GAP + CAPTION + 2 * (height + GAP), GAP + 2 * (width + GAP))
        top = GAP + CAPTION
        assert np.array_equal(sheet[top : top + height, GAP : GAP + width], one)
        assert np.array_equal(sheet[-GAP - height : -GAP, -GAP - width : -GAP], four)
        for left in (GAP, 2 * GAP + width):
            text = sheet[GAP:top, left : left + width]
            assert text.max() == 255
            assert 0.02 < (text > 128).mean() < 0.5
        assert (sheet[top + height : -GAP - height] == BACKGROUND).all()

    def test_other_words_look_otherwise_and_the_same_word_the_same(self) -> None:
        picture = noise(1)[0]
        texts = [contact_sheet([[picture]], [[word]])[: GAP + CAPTION] for word in ("0.91", "0.91", "0.87")]
        assert np.array_equal(texts[0], texts[1])
        assert not np.array_equal(texts[0], texts[2])

    @pytest.mark.parametrize("rows", [[], [[]]])
    def test_no_picture(self, rows: list) -> None:
        with pytest.raises(ValueError, match="at least one picture, got none"):
            contact_sheet(rows)


class TestReconstructionWriter:
    @pytest.fixture
    def outputs(self) -> list[dict[str, torch.Tensor]]:
        """Three batches of unequal size; reconstructions leave 0..1 in places."""
        rng = np.random.default_rng(0)
        images = torch.from_numpy(rng.random((5, 1, *SIZE))).float()
        scales = torch.linspace(0.05, 0.4, 5).view(5, 1, 1, 1)
        reconstructions = images + scales * torch.from_numpy(rng.normal(size=images.shape)).float()
        return [
            {"image": a, "reconstruction": b}
            for a, b in zip(images.split([2, 2, 1]), reconstructions.split([2, 2, 1]), strict=True)
        ]

    def run(
        self, writer: ReconstructionWriter, outputs: Sequence[dict[str, torch.Tensor]], dataset: Path, times: int = 1
    ) -> None:
        """Evaluate ``outputs`` as if they came from the slices ``NAMES``."""
        engine = Engine(lambda engine, batch: outputs[engine.state.iteration - 1])
        writer.attach(engine)
        paths = [str(dataset / name) for name in NAMES]
        for _ in range(times):
            engine.run([{"path": paths[0:2]}, {"path": paths[2:4]}, {"path": paths[4:]}])

    def test_slices_keep_their_folders_and_names(self, tmp_path: Path, outputs: list[dict[str, torch.Tensor]]) -> None:
        dataset, output = tmp_path / "oasis", tmp_path / "output"
        self.run(ReconstructionWriter(output, dataset, length=5), outputs, dataset)
        folder = output / "reconstructions"
        expected = [name if name.endswith(".png") else f"{name}.png" for name in NAMES]
        assert expected[2] == "more/deep/photo.v2.jpg.png"
        assert {path.relative_to(folder).as_posix() for path in folder.rglob("*.*")} == set(expected)
        assert {path.name for path in output.iterdir()} == {"reconstructions", "reconstructions.png"}
        assert not dataset.exists()

    def test_slices_hold_the_rounded_reconstructions(
        self, tmp_path: Path, outputs: list[dict[str, torch.Tensor]]
    ) -> None:
        self.run(ReconstructionWriter(tmp_path, "data", length=5), outputs, Path("data"))
        joined = torch.cat([output["reconstruction"] for output in outputs]).numpy()
        assert joined.max() > 1
        assert joined.min() < 0
        for name, image in zip(NAMES, joined, strict=True):
            expected = np.rint(np.clip(image[0], 0, 1) * np.float32(255))
            assert np.array_equal(
                read(tmp_path / "reconstructions" / (name if name.endswith(".png") else f"{name}.png")), expected
            )

    @pytest.mark.parametrize(("wanted", "columns"), [(10, 5), (3, 3), (1, 1)])
    def test_sheet_shows_drawn_slices_above_their_reconstructions(
        self, tmp_path: Path, outputs: list[dict[str, torch.Tensor]], wanted: int, columns: int
    ) -> None:
        self.run(ReconstructionWriter(tmp_path, "data", 5, num_pictures=wanted), outputs, Path("data"))
        sheet = read(tmp_path / "reconstructions.png")
        height, width = SIZE
        assert sheet.shape == (GAP + CAPTION + 3 * (height + GAP), GAP + columns * (width + GAP))
        images, reconstructions = (
            torch.cat([output[key] for output in outputs])[:, 0].numpy() for key in ("image", "reconstruction")
        )
        shown = []
        for column in range(columns):
            left = GAP + column * (width + GAP)
            tops = [GAP + CAPTION + row * (height + GAP) for row in range(3)]
            above, below, difference = (sheet[top : top + height, left : left + width] / 255 for top in tops)
            slices = [i for i in range(5) if np.abs(above - images[i]).max() < 0.003]
            assert len(slices) == 1
            shown += slices
            np.testing.assert_allclose(below, np.clip(reconstructions[slices[0]], 0, 1), atol=0.003)
            error = np.abs(images[slices[0]] - reconstructions[slices[0]])
            np.testing.assert_allclose(difference, np.clip(4 * error, 0, 1), atol=0.003)
        assert shown == sorted(set(shown))

    def test_captions_tell_the_ssim(
        self, tmp_path: Path, outputs: list[dict[str, torch.Tensor]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        captions: list[str] = []

        def spy(rows: Sequence[Sequence[np.ndarray]], texts: Sequence[Sequence[str]]) -> np.ndarray:
            captions.extend(*texts)
            return contact_sheet(rows, texts)

        monkeypatch.setattr(reconstruction_writer, "contact_sheet", spy)
        self.run(ReconstructionWriter(tmp_path, "data", length=5), outputs, Path("data"))
        pairs = zip(*(torch.cat([output[key] for output in outputs])[:, 0].numpy() for key in outputs[0]), strict=True)
        for caption, (one, two) in zip(captions, pairs, strict=True):
            _, full = structural_similarity(
                one, two, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1, full=True
            )
            assert caption.startswith("SSIM ")
            assert float(caption.removeprefix("SSIM ")) == pytest.approx(full[5:-5, 5:-5].mean(), abs=6e-4)

    def test_only_the_sheet(self, tmp_path: Path, outputs: list[dict[str, torch.Tensor]]) -> None:
        self.run(ReconstructionWriter(tmp_path, "data", length=5, save_slices=False), outputs, Path("data"))
        assert [path.name for path in tmp_path.rglob("*")] == ["reconstructions.png"]

    def test_seed_draws_the_slices_and_another_run_the_same(
        self, tmp_path: Path, outputs: list[dict[str, torch.Tensor]]
    ) -> None:
        sheets = {}
        for name, seed, times in (("one", 0, 1), ("again", 0, 2), ("other", 2, 1)):
            writer = ReconstructionWriter(tmp_path / name, "data", 5, num_pictures=2, seed=seed, save_slices=False)
            self.run(writer, outputs, Path("data"), times)
            sheets[name] = read(tmp_path / name / "reconstructions.png")
        assert np.array_equal(sheets["one"], sheets["again"])
        assert not np.array_equal(sheets["one"], sheets["other"])
