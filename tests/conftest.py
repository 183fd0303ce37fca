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

import functools
import os
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
from coverage import Coverage

# Of all processes that tests start: two threads each on cores that other workers use are many times slower than one.
os.environ["OMP_NUM_THREADS"] = "1"

from small import QUICK, words
from warm_python import run_together

from monai_vqprior.cli import main
from monai_vqprior.cli.options import command_parser

# torch and MONAI are imported in the fixtures: the process that deals the tests to others reads this file, too.

ROOT = Path(__file__).resolve().parent.parent
OASIS = ROOT.parent / "shared" / "data" / "oasis1_slices"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """
    Mark as ``fast`` what has no other mark for what it costs or needs, and begin with the others: a long test that
    comes last would keep one worker busy and the other ones waiting. Exporters are long Python programs,
    which coverage slows down, and run no line of this package that other tests do not run.
    """
    for item in items:
        if item.get_closest_marker("zoo"):
            item.add_marker("no_cover")
        if not any(item.get_closest_marker(name) for name in ("integration", "zoo", "gpu")):
            item.add_marker("fast")
    items.sort(key=lambda item: (item.get_closest_marker("zoo") is None, item.get_closest_marker("fast") is not None))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None]:
    """``no_cover`` of pytest-cov is for calls alone; here it is for fixtures, too."""
    measured = Coverage.current() if item.get_closest_marker("no_cover") else None
    if measured is None:
        return (yield)
    measured.stop()
    try:
        return (yield)
    finally:
        measured.start()


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Tiny networks run faster on one thread, and a busy machine then slows nothing down."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _made_once() -> Iterator[None]:
    """
    What programs make once and the commands of the tests would make hundreds of times: the parser of the command line,
    and the table of all classes and functions of MONAI, which each configuration with a bare ``_target_`` looks up.
    """
    from monai.bundle import ComponentLocator

    scan = ComponentLocator._find_classes_or_functions
    scan_once = functools.cache(lambda names: scan(ComponentLocator(), names))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("monai_vqprior.cli.parsing.command_parser", functools.cache(command_parser))
        patch.setattr(ComponentLocator, "_find_classes_or_functions", lambda self, names: scan_once(tuple(names)))
        yield


@pytest.fixture(scope="session")
def oasis() -> Path:
    """Real slices, which are not part of the repository."""
    if not OASIS.is_dir():
        pytest.skip("the OASIS slices are not at ../shared/data/oasis1_slices")
    return OASIS


@pytest.fixture(scope="session")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cohort of 8 subjects of 4 slices of 32 x 32 pixels on disk."""
    from monai_vqprior.data import write_phantom

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
