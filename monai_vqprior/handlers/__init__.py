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

from monai_vqprior.handlers.baselines import ConstantBaselines
from monai_vqprior.handlers.best_weights import BestWeights
from monai_vqprior.handlers.cosine_budget import CosineBudget, cosine_factor
from monai_vqprior.handlers.early_stop import EarlyStop
from monai_vqprior.handlers.final_validation import FinalValidation
from monai_vqprior.handlers.finite_steps import FiniteSteps
from monai_vqprior.handlers.input_check import InputCheck, ValidationReference
from monai_vqprior.handlers.last_state import LastState
from monai_vqprior.handlers.metric_handlers import (
    SSIM,
    BitsPerCode,
    BrainSSIM,
    CodebookPerplexity,
    CodebookUsage,
    MultiScaleSSIM,
)
from monai_vqprior.handlers.reconstruction_writer import ReconstructionWriter, comparison, contact_sheet, to_pixels
from monai_vqprior.handlers.step_seeds import StepSeeds
from monai_vqprior.handlers.training_progress import TrainingProgress

__all__ = [
    "SSIM",
    "BestWeights",
    "BitsPerCode",
    "BrainSSIM",
    "CodebookPerplexity",
    "CodebookUsage",
    "ConstantBaselines",
    "CosineBudget",
    "EarlyStop",
    "FinalValidation",
    "FiniteSteps",
    "InputCheck",
    "LastState",
    "MultiScaleSSIM",
    "ReconstructionWriter",
    "StepSeeds",
    "TrainingProgress",
    "ValidationReference",
    "comparison",
    "contact_sheet",
    "cosine_factor",
    "to_pixels",
]
