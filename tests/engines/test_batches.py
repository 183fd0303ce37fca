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
from monai.data import DataLoader, Dataset

from monai_vqprior.engines import PrepareBatchCodes, PrepareBatchSlices


class TestPrepareBatchSlices:
    def test_8_bit_images_become_floating_point(self) -> None:
        images = np.random.default_rng(0).integers(0, 256, (3, 1, 4, 5), dtype=np.uint8)
        inputs, targets = PrepareBatchSlices()({"image": torch.from_numpy(images), "path": ["a", "b", "c"]}, "cpu")
        assert inputs is targets
        assert inputs.dtype == torch.float32
        np.testing.assert_allclose(inputs, images / 255, rtol=1e-6)

    def test_floating_point_images_stay_what_they_are(self) -> None:
        images = torch.rand(2, 1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
        inputs, targets = PrepareBatchSlices()({"image": images}, torch.device("cpu"), non_blocking=True)
        assert torch.equal(inputs, images)
        assert torch.equal(targets, images)

    def test_another_key_and_arguments_of_to(self) -> None:
        prepare = PrepareBatchSlices("slice")
        images = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
        inputs, _ = prepare({"slice": images}, "cpu", memory_format=torch.channels_last)
        assert inputs.is_contiguous(memory_format=torch.channels_last)
        with pytest.raises(KeyError, match="slice"):
            prepare({"image": images}, "cpu")

    def test_moves_bytes_and_converts_there(self) -> None:
        inputs, _ = PrepareBatchSlices()({"image": torch.zeros(2, 1, 4, 4, dtype=torch.uint8)}, "meta")
        assert inputs.device.type == "meta"
        assert inputs.dtype == torch.float32

    def test_conditions_follow_the_images(self) -> None:
        prepare = PrepareBatchSlices(label_keys=["sex"], value_keys=["slice", "age"])
        items = [
            {"image": torch.full((1, 4, 4), i / 2), "sex": i - 1, "age": 60.5, "slice": float("nan")} for i in (0, 1)
        ]
        batch = next(iter(DataLoader(Dataset(items), batch_size=2)))
        inputs, targets, arguments, conditions = prepare(batch, "cpu")
        assert inputs is targets
        assert inputs[:, 0, 0, 0].tolist() == [0, 0.5]
        assert arguments == ()
        assert conditions["labels"].tolist() == [[-1], [0]]
        assert conditions["values"].dtype == torch.float32
        np.testing.assert_array_equal(conditions["values"], [[np.nan, 60.5]] * 2)


class TestPrepareBatchCodes:
    def batch(self) -> dict[str, Any]:
        """A batch as a data loader collates it: Python numbers become int64 and float64."""
        items = [
            {"codes": torch.full((2, 3), i), "sex": i % 2, "cdr": -1, "age": 60.5 + i, "slice": float("nan")}
            for i in range(4)
        ]
        return next(iter(DataLoader(Dataset(items), batch_size=4)))

    def test_without_conditions(self) -> None:
        codes, targets, arguments, conditions = PrepareBatchCodes()(self.batch(), "cpu")
        assert codes is targets
        assert codes[:, 0, 0].tolist() == [0, 1, 2, 3]
        assert codes.shape == (4, 2, 3)
        assert arguments == ()
        assert conditions == {}

    def test_labels_and_values_in_the_order_of_their_keys(self) -> None:
        prepare = PrepareBatchCodes(label_keys=["cdr", "sex"], value_keys=["age", "slice"])
        *_, conditions = prepare(self.batch(), torch.device("cpu"), non_blocking=True)
        assert set(conditions) == {"labels", "values"}
        assert conditions["labels"].dtype == torch.int64
        assert conditions["labels"].tolist() == [[-1, 0], [-1, 1], [-1, 0], [-1, 1]]
        assert conditions["values"].dtype == torch.float32
        assert conditions["values"][:, 0].tolist() == [60.5, 61.5, 62.5, 63.5]
        assert conditions["values"][:, 1].isnan().all()

    @pytest.mark.parametrize(
        ("arguments", "name"), [({"label_keys": ["sex"]}, "labels"), ({"value_keys": ["age"]}, "values")]
    )
    def test_one_kind_of_condition(self, arguments: dict[str, list[str]], name: str) -> None:
        *_, conditions = PrepareBatchCodes(**arguments)(self.batch(), "cpu")
        assert set(conditions) == {name}
        assert conditions[name].shape == (4, 1)

    def test_plain_lists_and_another_key(self) -> None:
        batch = {"grid": np.ones((2, 3), np.int64), "sex": [0, 1], "age": (70, 71)}
        codes, _, _, conditions = PrepareBatchCodes("grid", ("sex",), ("age",))(batch, "cpu")
        assert codes.tolist() == [[1, 1, 1], [1, 1, 1]]
        assert conditions["labels"].tolist() == [[0], [1]]
        assert conditions["values"].tolist() == [[70], [71]]

    def test_everything_goes_to_the_device(self) -> None:
        codes, _, _, conditions = PrepareBatchCodes("codes", ["sex"], ["age"])(self.batch(), "meta")
        assert {tensor.device.type for tensor in (codes, *conditions.values())} == {"meta"}

    def test_context_in_the_order_of_its_keys(self) -> None:
        batch = {"codes": torch.zeros(2, 3, 4).long(), "neighbor": torch.ones(2, 3, 4).long()}
        prepare = PrepareBatchCodes(context_keys=["given", "neighbor"])
        *_, known = prepare(batch, "cpu")
        assert known["context"].shape == (2, 2, 3, 4)
        assert known["context"][:, :, 0, 0].tolist() == [[-1, 1]] * 2
        *_, known = prepare({"codes": batch["codes"]}, "cpu")  # as in validation
        assert known == {}

    def test_codes_that_are_given_are_no_target(self) -> None:
        given = torch.tensor([[[3, -1], [-1, 4]], [[-1, -1], [-1, -1]]])
        batch = {"codes": torch.tensor([[[3, 1], [2, 4]], [[0, 1], [2, 3]]]), "given": given}
        prepare = PrepareBatchCodes(context_keys=["neighbor", "given"])
        codes, target, _, known = prepare(batch, "cpu")
        assert torch.equal(codes, batch["codes"])
        assert target.tolist() == [[[-1, 1], [2, -1]], [[0, 1], [2, 3]]]
        assert torch.equal(known["context"][:, 1], given)
        assert torch.equal(PrepareBatchCodes(context_keys=["neighbor"])(batch | {"neighbor": given})[1], codes)

    def test_a_missing_condition(self) -> None:
        with pytest.raises(KeyError, match="absent"):
            PrepareBatchCodes(label_keys=["absent"])(self.batch(), "cpu")
