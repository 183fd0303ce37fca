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

import torch

from monai_vqprior.networks.scripting import chunk_rows

__all__ = ["nearest_code"]


def nearest_code(vectors: torch.Tensor, codes: torch.Tensor, distances_at_once: int | None = None) -> torch.Tensor:
    """
    Nearest code of each vector by Euclidean distance, without ever holding the whole distance matrix.

    Args:
        vectors: (N, D), float32.
        codes: (K, D), float32.
        distances_at_once: distances that exist at a time; by default 1 MB of them on a CPU, where they stay in the
            cache, and 4 MB elsewhere.

    Returns:
        (N,) int64.
    """
    # |v - c|^2 = |v|^2 + (|c|^2 - 2 v.c): the term in brackets is one fused matrix product, |v|^2 moves no minimum.
    squared_norms = codes.square().sum(1)  # (K,)
    transposed = codes.t()
    number = vectors.shape[0]
    if distances_at_once is None:
        distances_at_once = 1 << 18 if vectors.device.type == "cpu" else 1 << 20
    rows = chunk_rows(number, max(1, distances_at_once // codes.shape[0]))
    # On a CPU min is more than twice as fast as argmin; of equal ones both take the first.
    if number <= rows:
        return torch.addmm(squared_norms, vectors, transposed, alpha=-2.0).min(1)[1]
    chunks = [torch.addmm(squared_norms, v, transposed, alpha=-2.0).min(1)[1] for v in vectors.split(rows)]
    return torch.cat(chunks)
