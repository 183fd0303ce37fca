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
from pathlib import Path

import pytest
import torch

from monai_vqprior.errors import InputError
from monai_vqprior.runs import check_samples, fingerprint

AUTOENCODER, PRIOR, OTHER = (torch.nn.Linear(2, 2) for _ in range(3))


@pytest.fixture
def record(tmp_path: Path) -> Path:
    path = tmp_path / "samples.json"
    weights = {"autoencoder_weights": fingerprint(AUTOENCODER), "prior_weights": fingerprint(PRIOR)}
    path.write_text(json.dumps({"seed": 0, **weights}), encoding="utf-8")
    return path


def test_samples_of_these_networks(record: Path) -> None:
    check_samples(record, AUTOENCODER, PRIOR)
    check_samples(record, AUTOENCODER, None)


@pytest.mark.parametrize(
    ("autoencoder", "prior", "named"), [(OTHER, PRIOR, "another autoencoder"), (AUTOENCODER, OTHER, "another prior")]
)
def test_samples_of_other_networks(
    autoencoder: torch.nn.Module, prior: torch.nn.Module, named: str, record: Path
) -> None:
    with pytest.raises(InputError, match=named) as refused:
        check_samples(record, autoencoder, prior)
    assert str(record) in str(refused.value)
    assert ("--ckpt_prior" in str(refused.value)) == (prior is OTHER)


def test_samples_that_were_not_drawn_by_the_package(record: Path) -> None:
    record.write_text("{}", encoding="utf-8")
    check_samples(record, OTHER, OTHER)
    record.unlink()
    check_samples(record, OTHER, OTHER)
    record.write_text("[", encoding="utf-8")
    with pytest.raises(InputError, match=r"samples\.json cannot be read"):
        check_samples(record, OTHER, OTHER)
