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

import argparse
from collections.abc import Callable

import torch
from monai.losses import SSIMLoss
from skimage.metrics import structural_similarity

from benchmarks.record import Row, add_json_option, finish
from benchmarks.timing import medians_of
from monai_vqprior.data import phantom_slice
from monai_vqprior.losses import ssim_map


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ssim", description="SSIM as a loss, forward and backward: ours and MONAI's SSIMLoss."
    )
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[64, 128, 256, 512], help="sides of the images in pixels"
    )
    parser.add_argument("--batch", type=int, default=8, help="images a batch")
    parser.add_argument("--repeats", type=int, default=9, help="timed calls of each; the median counts")
    add_json_option(parser)
    options = parser.parse_args()

    result = {}
    rows: list[Row] = []
    print(f"{'size':>6} {'ours, ms':>10} {'MONAI, ms':>10} {'ratio':>7} {'largest difference to scikit-image':>36}")
    for size in options.sizes:
        torch.manual_seed(0)
        slices = [phantom_slice(0, index, size=size).image for index in range(options.batch)]
        target = torch.stack([torch.from_numpy(image) for image in slices])[:, None].float() / 255
        prediction = (target + 0.05 * torch.randn_like(target)).clamp(0, 1).requires_grad_()
        monai_loss = SSIMLoss(spatial_dims=2)

        calls: dict[str, Callable[[], object]] = {
            "ours": lambda p=prediction, t=target: (1 - ssim_map(p, t).mean()).backward(),
            "peer": lambda p=prediction, t=target, f=monai_loss: f(p, t).backward(),
        }
        ours, peer = (1000 * seconds for seconds in medians_of(calls, options.repeats).values())
        means = ssim_map(prediction.detach(), target).mean((1, 2, 3))
        references = [
            structural_similarity(
                p[0].numpy(), t[0].numpy(), gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1
            )
            for p, t in zip(prediction.detach(), target, strict=True)
        ]
        difference = max(abs(float(m) - r) for m, r in zip(means, references, strict=True))
        result[f"ratio_{size}"] = round(peer / ours, 2)
        rows.append(
            {
                "side, pixels": size,
                "ours, ms": round(ours, 2),
                "MONAI, ms": round(peer, 2),
                "times": round(peer / ours, 1),
                "largest difference to scikit-image": f"{difference:.0e}",
            }
        )
        print(f"{size:>6} {ours:>10.2f} {peer:>10.2f} {peer / ours:>7.1f} {difference:>36.1e}")
    finish(parser, options, result, {"times": rows})


if __name__ == "__main__":
    main()
