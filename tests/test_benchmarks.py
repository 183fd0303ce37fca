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

import importlib
import json
import re
import sys
from collections.abc import Callable, Mapping
from functools import partial
from operator import mul
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import codebook, gpu, planted, sampler, white_matter
from benchmarks.memory import peak_in_new_process
from benchmarks.prior import Transformer
from benchmarks.record import make_record
from benchmarks.tables import DOCUMENTS, RESULTS, ROOT, filled, records_of
from monai_vqprior.errors import InputError
from monai_vqprior.files import write_png
from monai_vqprior.volumes import Placement, Slab, write_placement
from monai_vqprior.volumes.template import MNI152

FIELDS = {"command", "date", "commit", "machine", "versions", "summary", "tables"}
RECORDS = sorted(RESULTS.glob("*.json"))


def half_a_second(calls: Mapping[str, Callable[[], object]], *_: object) -> dict[str, float]:
    """In the place of ``medians_of``: each call once, whatever the machine is busy with."""
    for call in calls.values():
        call()
    return dict.fromkeys(calls, 0.5)


def run(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", [benchmark.__name__, *map(str, words)])
    benchmark.main()


def record_of(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, folder: Path, *words: object) -> dict[str, Any]:
    path = folder / "record.json"
    run(benchmark, monkeypatch, *words, "--json", path)
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return record


def test_the_benchmark_of_a_gpu_on_a_cpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All of it runs once; what takes half a second each has the rates of the table."""
    monkeypatch.setattr(gpu, "medians_of", half_a_second)
    path = tmp_path / "new" / "gpu.json"
    run(gpu, monkeypatch, "--device", "cpu", "--quick", "--json", path)
    record = json.loads(path.read_text(encoding="utf-8"))
    assert set(record) == FIELDS
    assert record["command"] == "python -m benchmarks.gpu --device cpu --quick"
    assert record["versions"]["torch"].startswith(torch.__version__.split("+")[0])
    assert record["machine"]["threads"] == torch.get_num_threads()
    tables = record["tables"]
    assert [(row["network"], row["batch"]) for row in tables["autoencoders"]] == [
        ("AutoencoderVQ", 2), ("MONAI VQVAE", 2),
    ]  # fmt: skip
    assert [row["images/s"] for row in tables["autoencoders"]] == [4, 4]
    assert [row["codes/s"] for row in tables["priors"]] == [2 * 2 * 8 * 8] * 2
    assert [(row["batch"], row["samples/s"]) for row in tables["samplers"]] == [(1, 2), (3, 6)]
    assert all(row["MONAI's, samples/s"] > 0 for row in tables["samplers"])
    # Two operations for a weight and a position forward and four backward; of 12 layers of attention two products.
    weights = sum(p.numel() for p in Transformer(512, 64).network.parameters() if p.dim() > 1) - (513 + 64) * 96
    operations = 6 * weights * 2 * 64 + 6 * 12 * 2 * 2 * 64**2 * 96
    assert tables["priors"][1]["of peak"] == pytest.approx(operations / (2 * 256**3), abs=1e-3)
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == record["summary"]


def times_by_name(calls: Mapping[str, Callable[[], object]], *_: object) -> dict[str, float]:
    """In the place of ``medians_of``: a second for the first call, two for the second, ..., and none is made."""
    return {name: float(number) for number, name in enumerate(calls, 1)}


def test_the_record_of_the_codebooks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each step is made once; their peaks are measured apart, by name."""
    megabytes = dict(zip([*codebook.OURS, *codebook.PEERS], (10, 20, 30, 50, 80), strict=True))
    made = []

    def call_each(calls: Mapping[str, Callable[[], object]], *_: object) -> dict[str, float]:
        for name, call in calls.items():
            call()
            made.append(name)
        return times_by_name(calls)

    monkeypatch.setattr(codebook, "medians_of", call_each)
    monkeypatch.setattr(codebook, "peak_in_new_process", lambda make, name, codes, batch: megabytes[name])
    record = record_of(codebook, monkeypatch, tmp_path, "--codes", 16, "--batch", 1)
    assert record["summary"] == {"k16_vs_monai": 4, "k16_vs_vqpytorch": 5, "k16_memory_vs_monai": 0.2}
    assert made == [*megabytes, codebook.SCALARS]
    *rows, scalars = record["tables"]["steps"]
    assert [(row["quantizer"], row["ms a step"], row["peak, MB"]) for row in rows] == [
        (name, 1000 * number, peak) for number, (name, peak) in enumerate(megabytes.items(), 1)
    ]
    assert scalars == {"quantizer": codebook.SCALARS, "codes": 512, "ms a step": 1000}


def test_the_record_of_the_sampler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A grid of 4 x 4 has 16 positions: one pass for each takes 16 times as long as one pass."""
    monkeypatch.setattr(sampler, "medians_of", times_by_name)
    monkeypatch.setattr(sampler, "transformer_seconds", lambda *_: 40.0)
    record = record_of(sampler, monkeypatch, tmp_path, "--size", 4, "--channels", 8, "--layers", 1, "--peer_rows", 2)
    tables = record["tables"]
    assert tables["times"][0] == {
        "batch": "1", "sampler, s": 1, "one pass, s": 2, "one pass a position, s": 32, "times ours": 32,
        "MONAI's, s": 40, "MONAI's, times ours": 40,
    }  # fmt: skip
    assert [row["batch"] for row in tables["times"]] == ["1", "16", "64", f"64, {torch.get_num_threads()} workers"]
    assert [row["batch"] for row in tables["sketches"]] == [1, 16, 64]
    assert [row["microseconds a position"] for row in tables["positions"]] == [
        round(1e6 * seconds / side**2) for seconds, side in ((1, 16), (2, 32), (3, 64))
    ]
    assert record["summary"]["b64_vs_forward"] == 3
    assert record["summary"]["b64_one_process_vs_forward"] == 2


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured on Linux alone")
def test_the_peak_of_a_call_in_a_process_of_its_own() -> None:
    """64 MB of text, whatever this process has in use."""
    assert peak_in_new_process(partial, mul, b"x", 64 * 2**20) == pytest.approx(64, abs=2)


def test_copies_are_planted_and_counted(phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of two samples becomes a moved, brighter training slice; then test slices take the place of both."""
    seen: list[list[np.ndarray]] = []

    def pictures(folder: Path) -> list[np.ndarray]:
        return [np.asarray(Image.open(path)) for path in sorted(folder.glob("sample_*.png"))]

    def say(run: Path, dataset_dir: str, more: object) -> dict[str, Any]:
        """An audit that takes the first sample for a copy, and nothing else."""
        seen.append(pictures(run / "samples"))
        names = [f"samples/sample_{number:05d}.png" for number in range(2)]
        nearest = [
            {"file": name, "nearest": f"a/{first.name}", "copy": not number} for number, name in enumerate(names)
        ]
        threshold = {"false_alarms": 0.25}
        return {
            "nearest": nearest, "verdict": "look", "validation_slices": 4, "newness": {"copy_threshold": threshold}
        }  # fmt: skip

    first = min((phantom / "keras_png_slices_train").iterdir())
    monkeypatch.setattr(planted, "audited", say)
    drawn = tmp_path / "drawn"
    for number in range(2):
        write_png(drawn / "samples" / f"sample_{number:05d}.png", np.full((32, 32), number, np.uint8))
    before = pictures(drawn / "samples")
    told = planted.measure(str(phantom), str(drawn), tmp_path / "run", 1)
    assert told == {
        "planted": 1, "found": 1, "named": 1, "samples": 1, "flagged": 0, "unseen": 2, "false_alarms": 1,
        "validation": 4, "validation_alarms": 1, "verdict": "look", "verdict_unseen": "look",
    }  # fmt: skip
    (copy, other), unseen = seen
    source = np.roll(np.asarray(Image.open(first)), 3, 1)
    np.testing.assert_allclose(copy, np.clip(1.15 * source + 6, 0, 255), atol=0.51)
    assert np.array_equal(other, before[1])
    tests = [np.asarray(Image.open(path)) for path in (phantom / "keras_png_slices_test").iterdir()]
    assert all(any(np.array_equal(image, real) for real in tests) for image in unseen)
    assert all(map(np.array_equal, pictures(drawn / "samples"), before))  # the run is left as it is
    with pytest.raises(InputError, match="of 2 samples"):
        planted.measure(str(phantom), str(drawn), tmp_path / "other", 3)


def test_the_brightness_of_white_matter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two heads whose white matter has 200 and 220 of 255 throughout, but for a quarter that is white in the second."""
    slab = Slab(num_slices=2, size=8)
    inside = np.zeros((2, 8, 8), bool)
    inside[:, 2:6, 2:6] = True
    monkeypatch.setattr(white_matter, "_white_matter", lambda asked: inside if asked == slab else None)
    for case, brightness in (("001", 200), ("002", 220)):
        placement = Placement("head.nii", (8, 8, 8), np.eye(4), np.eye(4), slab, "template", MNI152)
        write_placement(tmp_path / "transforms" / f"case_{case}.json", placement)
        for index in range(2):
            picture = np.where(inside[index], brightness, 100).astype(np.uint8)
            picture[0] = 0
            if case == "002":
                picture[2:4, 2:4] = 255
            write_png(tmp_path / "keras_png_slices_train" / f"case_{case}_slice_{index}.nii.png", picture)
    row = record_of(white_matter, monkeypatch, tmp_path, tmp_path)["tables"]["brightness"][0]
    assert (row["heads"], row["mean brightness, of 255"]) == (2, 210.0)
    assert row["between heads, % of it"] == round(100 * 10 / 210, 2)
    white_of_second = [255] * 4 + [220] * 12
    assert row["within a head, % of it"] == round(50 * float(np.std(white_of_second) / np.mean(white_of_second)), 2)
    assert row["clipped, % of the pixels"] == 12.5
    brains = [[200] * 16 + [100] * 40, white_of_second + [100] * 40]
    assert row["contrast of the brain, of 255"] == round(float(np.mean([np.std(brain) for brain in brains])), 1)


def test_brightness_of_slices_that_are_in_no_template(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not hold slices of vqprior prepare in the space of MNI152"):
        run(white_matter, monkeypatch, tmp_path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_benchmark_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match=r"^torch \S+ finds no CUDA device, [^\n]*$"):
        run(gpu, monkeypatch, "--quick")


def test_the_command_of_a_record_has_no_path(tmp_path: Path) -> None:
    words = ["--json", "a.json", "--dataset_dir", str(tmp_path), "--table", "no/such.csv", "--only", "two levels"]
    record = make_record("python -m benchmarks.x", words, {}, {})
    assert record["command"] == "python -m benchmarks.x --dataset_dir DIR --table DIR --only 'two levels'"
    assert make_record("x", ["--json=a.json"], {}, {})["command"] == "x"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A folder with one record of one table."""
    rows: list[dict[str, Any]] = [
        {"network": "ours", "ms": 3.0, "times": 1.25},
        {"network": "theirs", "ms": None, "peak": 12},
    ]
    (tmp_path / "one.json").write_text(json.dumps(make_record("python -m benchmarks.one", [], {}, {"steps": rows})))
    return tmp_path


def test_a_table_is_made_of_a_record(results: Path) -> None:
    text = "Before.\n\n<!-- table: one.json steps -->\nold\n<!-- end of table -->\n\nAfter.\n"
    new = filled(text, results)
    assert re.fullmatch(
        r"Before\.\n\n<!-- table: one\.json steps -->\n\n"
        r"\| network \| ms \| times \| peak \|\n\| --- \| --- \| --- \| --- \|\n"
        r"\| ours \| 3 \| 1\.25 \|  \|\n\| theirs \|  \|  \| 12 \|\n\n"
        r"`python -m benchmarks\.one` on .*, torch .*\.\n\n<!-- end of table -->\n\nAfter\.\n",
        new,
    )
    assert filled(new, results) == new
    assert list(records_of(new)) == ["one.json"]


def test_a_table_without_a_record(results: Path) -> None:
    with pytest.raises(InputError, match=r"two\.json"):
        filled("<!-- table: two.json steps -->\n<!-- end of table -->", results)
    with pytest.raises(KeyError, match="other"):
        filled("<!-- table: one.json other -->\n<!-- end of table -->", results)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_documents_agree_with_the_records(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert filled(text) == text, "run make tables"
    assert text.count("<!-- table:") == text.count("<!-- end of table -->") == len(list(records_of(text)))


def test_the_fields_of_a_record_are_documented() -> None:
    page = (ROOT / "docs" / "reference" / "output-files.md").read_text(encoding="utf-8")
    section = page.split("## Records of benchmarks\n")[1].split("\n## ")[0]
    cells = re.findall(r"^\| (`[^|]*) \|", section, re.MULTILINE)
    assert {name for cell in cells for name in re.findall(r"`(\w+)`", cell)} == FIELDS


def test_each_record_is_complete_and_shown() -> None:
    shown = {name for path in DOCUMENTS for name in records_of(path.read_text(encoding="utf-8"))}
    assert {path.name for path in RECORDS} == shown
    for path in RECORDS:
        record = json.loads(path.read_text(encoding="utf-8"))
        assert set(record) == FIELDS, path
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", record["date"]), path
        assert record["command"].startswith("python -m benchmarks."), path


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "benchmarks").glob("[a-z]*.py")))
def test_every_benchmark_finds_what_it_imports(name: str) -> None:
    importlib.import_module(f"benchmarks.{name}")
