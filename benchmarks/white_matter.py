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

"""
How bright is white matter in prepared slices: from head to head, and within each head? How much contrast have they?

Where white matter is comes from the map of the template, not from the slices, so that ways of scaling can be compared.
PSNR depends on the contrast, SSIM a little.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.record import Row, add_json_option, finish
from monai_vqprior.errors import InputError
from monai_vqprior.volumes import Slab, Volume, cut_slices, read_placement
from monai_vqprior.volumes.template import MNI152

_SURE = 0.95  # of the probability of white matter
_WHITE = 255


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.white_matter",
        description="Brightness of white matter in slices of vqprior prepare in the space of MNI152.",
    )
    parser.add_argument("slices", nargs="+", type=Path, metavar="DIR", help="folders of prepared slices")
    add_json_option(parser)
    options = parser.parse_args()

    rows: list[Row] = []
    for folder in options.slices:
        stacks, inside = stacks_of(folder)
        heads = [stack[inside] for stack in stacks]
        medians = np.array([np.median(values) for values in heads])
        rows.append(
            {
                "slices": folder.name,
                "heads": len(heads),
                "mean brightness, of 255": round(float(medians.mean()), 1),
                "between heads, % of it": round(float(100 * medians.std() / medians.mean()), 2),
                "within a head, % of it": round(float(100 * np.mean([v.std() / v.mean() for v in heads])), 2),
                "clipped, % of the pixels": round(float(100 * np.mean([(v == _WHITE).mean() for v in heads])), 2),
                "contrast of the brain, of 255": round(float(np.mean([stack[stack > 0].std() for stack in stacks])), 1),
            }
        )
        print(*(f"{name} {value}" for name, value in rows[-1].items()), sep="; ")
    finish(parser, options, {}, {"brightness": rows})


def stacks_of(folder: Path) -> tuple[list[np.ndarray], np.ndarray]:
    """
    The slices of each head, and where they show white matter.

    Args:
        folder: slices of ``vqprior prepare --space template``.

    Returns:
        for each head its slices (num_slices, size, size), 0 to 255; and a mask of that shape, the same for all heads.

    Raises:
        InputError: naming the folder, when it holds no such slices.
    """
    placements = {
        path.stem.removeprefix("case_"): read_placement(path) for path in sorted(folder.glob("transforms/case_*.json"))
    }
    if not placements or any((p.space, p.template) != ("template", MNI152) for p in placements.values()):
        raise InputError(f"{folder} does not hold slices of vqprior prepare in the space of MNI152.")
    stacks = [
        np.stack([_picture(folder, case, index) for index in range(placement.slab.num_slices)])
        for case, placement in placements.items()
    ]
    return stacks, _white_matter(next(iter(placements.values())).slab)


def _white_matter(slab: Slab) -> np.ndarray:
    """Where the template has white matter in its slices, (num_slices, size, size)."""
    from nilearn.datasets import load_mni152_wm_template  # takes seconds

    image = load_mni152_wm_template(resolution=1)
    return cut_slices(Volume(image.get_fdata(dtype=np.float32), image.affine), slab) > _SURE


def _picture(folder: Path, case: str, index: int) -> np.ndarray:
    path = next(folder.glob(f"keras_png_slices_*/case_{case}_slice_{index}.nii.png"))
    with Image.open(path) as picture:
        return np.asarray(picture)


if __name__ == "__main__":
    main()
