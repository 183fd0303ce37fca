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

import os
from collections.abc import Callable
from pathlib import Path

import pytest

# Of all processes that tests start: two threads each on cores that other workers use are many times slower than one.
os.environ["OMP_NUM_THREADS"] = "1"

import torch
from small import QUICK, words
from warm_python import run_together

from monai_vqprior.cli import main
from monai_vqprior.data import write_phantom

ROOT = Path(__file__).resolve().parent.parent
OASIS = ROOT.parent / "shared" / "data" / "oasis1_slices"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """
    Mark as ``fast`` what has no other mark for what it costs or needs, and begin with the others: a long test that
    comes last would keep one worker busy and the other ones waiting.
    """
    for item in items:
        if not any(item.get_closest_marker(name) for name in ("integration", "zoo", "gpu")):
            item.add_marker("fast")
    items.sort(key=lambda item: (item.get_closest_marker("zoo") is None, item.get_closest_marker("fast") is not None))


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Tiny networks run faster on one thread, and a busy machine then slows nothing down."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def oasis() -> Path:
    """Real slices, which are not part of the repository."""
    if not OASIS.is_dir():
        pytest.skip("the OASIS slices are not at ../shared/data/oasis1_slices")
    return OASIS


@pytest.fixture(scope="session")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cohort of 8 subjects of 4 slices of 32 x 32 pixels on disk."""
    return write_phantom(tmp_path_factory.mktemp("data") / "phantom", 8, num_slices=4, size=32, progress=False)


@pytest.fixture(scope="session")
def small_run(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training of both stages on the phantom, an epoch each; tests copy what they change."""
    output = tmp_path_factory.mktemp("small_run") / "run"
    assert main(["train", "--dataset_dir", str(phantom), "--output_dir", str(output), *words(QUICK)]) == 0
    return output


@pytest.fixture(scope="session")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """
    Runs a test file as a program in two processes, with a rank (0 or 1) and a folder as its arguments, and returns the
    folder, which holds what the processes have written.
    """

    def launch(program: str) -> Path:
        folder = tmp_path_factory.mktemp("two_processes")
        runs = run_together([[program, rank, folder] for rank in range(2)])
        assert [run.returncode for run in runs] == [0, 0], "\n".join(run.stderr for run in runs)
        return folder

    return launch
