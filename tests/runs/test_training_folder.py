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

from collections.abc import Iterable
from pathlib import Path

import pytest

from monai_vqprior.errors import InputError
from monai_vqprior.runs import TrainingFolder

CKPT, LAST = "models/model.pt", "models/last.pt"
CKPT_BEFORE, BEFORE = "models/model_before.pt", "models/last_before.pt"


def files_below(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def write_files(folder: Path, names: Iterable[str]) -> None:
    """Each file has its name as its text."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def folder_of(run: Path, names: tuple[str, str] = (CKPT, LAST), **options: bool) -> TrainingFolder:
    return TrainingFolder(run, run / names[0], run / names[1], **options)


class TestTrainingFolder:
    @pytest.mark.parametrize(
        ("existing", "overwrite", "resume", "refusal"),
        [
            ([], False, False, None),
            ([], True, False, None),
            ([], False, True, None),
            ([], True, True, "contradict"),
            ([CKPT], True, False, None),
            ([CKPT], True, True, "contradict"),
            ([LAST], False, False, "last.pt exists: this output_dir holds a run already"),
            ([LAST], True, False, None),
            ([LAST], False, True, None),
            ([LAST], True, True, "contradict"),
            (
                [CKPT, LAST],
                False,
                False,
                "model.pt exists: this output_dir holds a run already; pass --resume .* --overwrite",
            ),
            ([CKPT, BEFORE], False, False, "model.pt exists: this output_dir holds a run already"),
            ([BEFORE], False, True, None),
            ([CKPT, CKPT_BEFORE, LAST, BEFORE], True, False, None),
            ([CKPT, LAST], True, False, None),
            ([CKPT, LAST], False, True, None),
            ([CKPT, LAST], True, True, "contradict"),
        ],
    )
    def test_every_combination(
        self, tmp_path: Path, existing: list[str], overwrite: bool, resume: bool, refusal: str | None
    ) -> None:
        run = tmp_path / "run"
        others = ["models/prior.pt", "metrics.json"] if existing else []
        write_files(run, [*existing, *others])
        folder = folder_of(run, overwrite=overwrite, resume=resume)
        before = files_below(tmp_path)
        if refusal is None:
            folder.check()
            assert files_below(tmp_path) == before  # it only looks
            assert run.exists() == bool(existing)
            folder.claim()
            assert (run / "models").is_dir()
        else:
            with pytest.raises(InputError, match=refusal):
                folder.check()
            with pytest.raises(InputError, match=refusal):
                folder.claim()
            assert run.exists() == bool(existing)
        kept = others if overwrite and refusal is None else [*existing, *others]
        assert files_below(tmp_path) == {f"run/{name}": name for name in kept}

    @pytest.mark.parametrize("resume", [False, True])
    def test_weights_without_a_state_are_moved_aside(
        self, tmp_path: Path, resume: bool, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A training was killed before its first state, again and again: nothing is lost."""
        (tmp_path / "models").mkdir()
        for killed in ("first", "second", "third"):
            (tmp_path / CKPT).write_text(killed)
            folder_of(tmp_path, resume=resume).claim()
            assert "model.pt belongs to no training that has begun: moved to" in capsys.readouterr().out
        assert files_below(tmp_path) == {
            "models/model_before.pt": "first",
            "models/model_before_2.pt": "second",
            "models/model_before_3.pt": "third",
        }

    @pytest.mark.parametrize(
        ("pretrained", "existing", "options"),
        [
            (CKPT, [CKPT], {}),
            (CKPT, [CKPT], {"resume": True}),
            (CKPT, [CKPT, LAST], {"overwrite": True}),
            (CKPT_BEFORE, [CKPT_BEFORE, LAST], {"overwrite": True}),
        ],
    )
    def test_a_run_does_not_replace_what_it_begins_with(
        self, tmp_path: Path, pretrained: str, existing: list[str], options: dict[str, bool]
    ) -> None:
        write_files(tmp_path, existing)
        (tmp_path / "link").symlink_to(tmp_path)
        for way in (tmp_path, tmp_path / "link"):
            folder = TrainingFolder(tmp_path, tmp_path / CKPT, tmp_path / LAST, **options, pretrained=way / pretrained)
            with pytest.raises(InputError, match="would be replaced by the run that begins with it: give another"):
                folder.claim()
        assert {name: name for name in existing}.items() <= files_below(tmp_path).items()

    @pytest.mark.parametrize(
        ("pretrained", "existing", "options"),
        [
            (CKPT, [CKPT, LAST], {"resume": True}),
            (CKPT_BEFORE, [CKPT_BEFORE], {}),
            ("other.pt", ["other.pt", CKPT], {"overwrite": True}),
        ],
    )
    def test_it_may_begin_with_what_it_leaves(
        self, tmp_path: Path, pretrained: str, existing: list[str], options: dict[str, bool]
    ) -> None:
        write_files(tmp_path, existing)
        kept = tmp_path / pretrained
        TrainingFolder(tmp_path, tmp_path / CKPT, tmp_path / LAST, **options, pretrained=kept).claim()
        assert kept.read_text() == pretrained

    def test_files_may_lie_elsewhere(self, tmp_path: Path) -> None:
        TrainingFolder(tmp_path / "run", tmp_path / "a" / "model.pt", tmp_path / "b" / "last.pt").claim()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "run"]

    @pytest.mark.parametrize("below", ["", "deeper/run"])
    def test_a_folder_that_cannot_be_made(self, tmp_path: Path, below: str) -> None:
        (tmp_path / "file").write_text("mine")
        run = tmp_path / "file" / below
        with pytest.raises(
            InputError,
            match=r"(cannot be written to \(.*\): name another|is a file: name a) folder for the results",
        ):
            folder_of(run, ("model.pt", "last.pt")).claim()
        assert files_below(tmp_path) == {"file": "mine"}
