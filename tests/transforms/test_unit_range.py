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

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from monai.transforms import Compose

from monai_vqprior.transforms import BytesToUnit, BytesToUnitd, UnitToBytes

ALL_BYTES = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)


class TestBytesToUnit:
    def test_divides_by_255(self) -> None:
        unit = BytesToUnit()(torch.from_numpy(ALL_BYTES))
        assert unit.dtype == torch.float32
        np.testing.assert_allclose(unit, ALL_BYTES / 255.0, rtol=1e-6)
        assert (unit.min(), unit.max()) == (0, 1)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
    def test_leaves_floating_point_alone(self, dtype: torch.dtype) -> None:
        image = torch.tensor([[-1.0, 0.5, 300.0]], dtype=dtype)
        assert BytesToUnit()(image) is image

    @pytest.mark.parametrize("shape", [(3,), (2, 1, 4, 4), (1, 2, 3, 4, 5)])
    def test_any_shape_and_back(self, shape: tuple[int, ...]) -> None:
        image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))
        assert torch.equal(UnitToBytes()(BytesToUnit()(image)), image)


class TestUnitToBytes:
    def test_every_byte_comes_back(self) -> None:
        image = torch.from_numpy(ALL_BYTES)
        back = UnitToBytes()(BytesToUnit()(image))
        assert back.dtype == torch.uint8
        assert torch.equal(back, image)

    @settings(derandomize=True, deadline=None, max_examples=100)
    @given(image=arrays(np.float32, (1, 3, 4), elements=st.floats(-3, 4, width=32) | st.sampled_from([-1e30, 1e30])))
    def test_is_the_nearest_byte(self, image: np.ndarray) -> None:
        shown = UnitToBytes()(torch.from_numpy(image)).numpy().astype(np.float64)
        assert np.all(np.abs(shown - np.clip(image.astype(np.float64), 0, 1) * 255) <= 0.5 + 1e-4)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_other_floating_point(self, dtype: torch.dtype) -> None:
        image = torch.tensor([[0.0, 0.25, 0.5, 1.0, 2.0, -1.0]], dtype=dtype)
        assert UnitToBytes()(image).tolist() == [[0, 64, 128, 255, 255, 0]]  # 63.75 and 127.5, half to even

    def test_leaves_its_input_alone(self) -> None:
        image = torch.tensor([[-1.0, 2.0]])
        UnitToBytes()(image)
        assert image.tolist() == [[-1.0, 2.0]]


class TestBytesToUnitd:
    def items(self) -> dict[str, Any]:
        return {"image": torch.from_numpy(ALL_BYTES), "label": torch.ones(1, dtype=torch.uint8), "path": "a.png"}

    def test_converts_its_keys_only(self) -> None:
        items = self.items()
        converted = BytesToUnitd("image")(items)
        np.testing.assert_allclose(converted["image"], ALL_BYTES / 255.0, rtol=1e-6)
        assert converted["label"] is items["label"]
        assert converted["path"] == "a.png"
        assert items["image"].dtype == torch.uint8  # the caller's dictionary is as it was

    def test_compose_inverts_it(self) -> None:
        transform = Compose([BytesToUnitd(["image", "label"])])
        back = transform.inverse(transform(self.items()))
        for key, value in self.items().items():
            assert torch.equal(back[key], value) if isinstance(value, torch.Tensor) else back[key] == value
        assert back["label"].dtype == torch.uint8

    @pytest.mark.parametrize("inverse", [False, True])
    def test_missing_keys(self, inverse: bool) -> None:
        strict, lenient = (BytesToUnitd("absent", allow_missing_keys=allowed) for allowed in (False, True))
        with pytest.raises(KeyError, match="absent"):
            (strict.inverse if inverse else strict)(self.items())
        assert set((lenient.inverse if inverse else lenient)(self.items())) == {"image", "label", "path"}
