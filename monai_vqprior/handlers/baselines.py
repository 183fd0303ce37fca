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

import copy
from collections.abc import Callable, Mapping
from operator import itemgetter
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.handlers import IgniteMetricHandler

from monai_vqprior.inferers import ConstantInferer

__all__ = ["ConstantBaselines"]


class ConstantBaselines:
    """
    Measure what metrics say of constant images in the place of reconstructions, in the pass of the reconstructions.

    Args:
        images: the constant images (C, *spatial) by name; None for a black image.
        metrics: handlers of the evaluator by name, such as :class:`~monai_vqprior.handlers.SSIM`. Their metrics are
            copied for each image, so the figures of the evaluator do not change.
        output_transform: takes the engine's output to the images (B, C, *spatial) that are reconstructed.
    """

    def __init__(
        self,
        images: Mapping[str, torch.Tensor | None],
        metrics: Mapping[str, IgniteMetricHandler],
        output_transform: Callable[[Any], torch.Tensor] = itemgetter("image"),
    ) -> None:
        self.output_transform = output_transform
        self._answers = {name: ConstantInferer(image) for name, image in images.items()}
        self._metrics = {
            name: {key: copy.deepcopy(handler.metric_fn) for key, handler in metrics.items()} for name in images
        }
        #: the value of each metric by the name of the image and of the metric, once the engine has completed a run.
        self.values: dict[str, dict[str, float]] = {}

    def attach(self, engine: Engine) -> None:
        """Measure in the epochs of an engine."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._reset)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._update)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._compute)

    def _reset(self) -> None:
        for metrics in self._metrics.values():
            for metric in metrics.values():
                metric.reset()

    def _update(self, engine: Engine) -> None:
        images = self.output_transform(engine.state.output)
        for name, metrics in self._metrics.items():
            answer = self._answers[name](images, None)["reconstruction"]
            for metric in metrics.values():
                metric(answer, images)

    def _compute(self) -> None:
        self.values = {
            name: {key: float(metric.aggregate()) for key, metric in metrics.items()}
            for name, metrics in self._metrics.items()
        }
