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

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn as nn

from monai_vqprior.inferers import ConstantInferer, MixedPrecisionInferer


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(3, 1, 16, 16, generator=torch.manual_seed(1))


class Spy(nn.Module):
    """Notes what it is given and under which autocast; answers with its layer's output in some form."""

    def __init__(self, form: Callable[[torch.Tensor], Any] = lambda x: x) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 2, 3)
        self.form = form

    def forward(self, inputs: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        self.given = (inputs, args, kwargs)
        self.autocast = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None
        self.output = self.layer(inputs.float())
        return self.form(self.output)


class TestMixedPrecisionInferer:
    @pytest.mark.parametrize("dtype", [None, torch.bfloat16])
    def test_autocast_is_in_effect_and_the_output_is_float32(
        self, images: torch.Tensor, dtype: torch.dtype | None
    ) -> None:
        network = Spy()
        output = MixedPrecisionInferer(dtype)(images, network)
        assert network.autocast == dtype
        assert network.output.dtype == (dtype or torch.float32)
        assert output.dtype == torch.float32
        assert torch.equal(output, network.output.float())
        exact = network.layer(images)
        torch.testing.assert_close(output, exact, atol=0.02 if dtype else 1e-6, rtol=0)

    def test_tuples_and_dictionaries(self, images: torch.Tensor) -> None:
        def form(x: torch.Tensor) -> dict[str, Any]:
            return {"pair": (x, x.mean()), "codes": x.argmax(1), "nested": {"list": [x]}}

        output = MixedPrecisionInferer(torch.bfloat16)(images, Spy(form))
        assert set(output) == {"pair", "codes", "nested"}
        assert isinstance(output["pair"], tuple)
        assert [x.dtype for x in output["pair"]] == [torch.float32] * 2
        assert output["codes"].dtype == torch.int64
        assert output["nested"]["list"][0].dtype == torch.float32

    def test_arguments_reach_the_network(self, images: torch.Tensor) -> None:
        network = Spy()
        MixedPrecisionInferer()(images, network, 1, labels=2)
        assert network.given[1:] == ((1,), {"labels": 2})
        assert torch.equal(network.given[0], images)
        assert network.given[0].is_contiguous(memory_format=torch.channels_last)

    def test_gradients_flow(self, images: torch.Tensor) -> None:
        network = Spy()
        MixedPrecisionInferer(torch.bfloat16)(images, network).mean().backward()
        assert network.layer.weight.grad.abs().sum() > 0


class TestConstantInferer:
    def test_black(self, images: torch.Tensor) -> None:
        assert torch.equal(ConstantInferer()(images, None)["reconstruction"], torch.zeros(3, 1, 16, 16))

    def test_one_image_for_all(self, images: torch.Tensor) -> None:
        image = torch.linspace(0, 1, 256, dtype=torch.float64).view(1, 16, 16)
        answer = ConstantInferer(image)(images, None, 1, labels=2)["reconstruction"]
        assert answer.shape == images.shape
        assert answer.dtype == images.dtype
        for reconstruction in answer:
            torch.testing.assert_close(reconstruction, image.float())
