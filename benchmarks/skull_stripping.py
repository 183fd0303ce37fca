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
How well do libraries that download nothing strip the skull of a T1-weighted head?

``--head`` is a head with its skull and ``--brain`` the same without, such as ``ch2.nii.gz`` and ``ch2bet.nii.gz`` of
MRIcron (Colin 27; Debian's package ``mricron-data``).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import nibabel
import nilearn
import numpy as np
import SimpleITK
from nilearn.masking import compute_brain_mask
from scipy import ndimage
from scipy.spatial.transform import Rotation

from benchmarks.record import Row, add_json_option, finish
from monai_vqprior.volumes import Volume, load_template, read_volume, resample, resample_to_cubes, sign_of_skull

_AIR = 0.1  # of the 99th percentile
_CUBE = 1.0  # mm
_ANGLES, _STRETCH, _SHIFT = (12, -4, 6), 1.06, (9, -14, 21)  # degrees; mm


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.skull_stripping", description="Brain masks by nilearn and SimpleITK."
    )
    parser.add_argument("--head", type=Path, required=True, metavar="FILE", help="a head with its skull")
    parser.add_argument(
        "--brain", type=Path, required=True, metavar="FILE", help="the same without, 0 out of the brain"
    )
    add_json_option(parser)
    options = parser.parse_args()

    head, brain = read_volume(options.head), read_volume(options.brain)
    expected = ndimage.binary_fill_holes(brain.data > 0)
    print(f"the head shows a skull: {sign_of_skull(_without_air(head))}")
    methods: dict[str, Callable[[Volume], np.ndarray]] = {
        "nilearn compute_brain_mask": _nilearn,
        "SimpleITK, affine to MNI152 with skull": _Atlas(),
    }
    rows: list[Row] = []
    for place, affine in {"as it lies": head.affine, "turned by 14 degrees": _moved(head.affine)}.items():
        volume = Volume(head.data, affine)
        for name, method in methods.items():
            started = time.process_time()
            mask = method(volume)
            rows.append(
                {
                    "method": name,
                    "head": place,
                    "Dice": round(float(2 * (mask & expected).sum() / (mask.sum() + expected.sum())), 3),
                    "too much, % of the brain": round(float(100 * (mask & ~expected).sum() / expected.sum()), 1),
                    "missing, %": round(float(100 * (expected & ~mask).sum() / expected.sum()), 1),
                    "seconds": round(time.process_time() - started, 1),
                }
            )
            print(*(f"{key} {value}" for key, value in rows[-1].items()), sep="; ")
    finish(parser, options, {}, {"masks": rows})


def _nilearn(head: Volume) -> np.ndarray:
    """Nilearn's mask, that of MNI152 resampled to the head."""
    return np.asarray(compute_brain_mask(nibabel.Nifti1Image(head.data, head.affine)).dataobj) > 0


class _Atlas:
    """The mask of MNI152's brain, brought to a head by an affine registration of both with their skulls."""

    def __init__(self) -> None:
        brain = load_template()
        folder = Path(nilearn.__file__).parent / "datasets" / "data"
        self.fixed = _image(read_volume(folder / "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"))
        self.brain = Volume(brain.mask.astype(np.float32), brain.volume.affine)

    def __call__(self, head: Volume) -> np.ndarray:
        moving = _image(head)
        moments = SimpleITK.CenteredTransformInitializerFilter.MOMENTS
        start = SimpleITK.CenteredTransformInitializer(self.fixed, moving, SimpleITK.AffineTransform(3), moments)
        method = SimpleITK.ImageRegistrationMethod()
        method.SetNumberOfThreads(1)
        method.SetMetricAsMattesMutualInformation(32)
        method.SetMetricSamplingStrategy(method.REGULAR)
        method.SetMetricSamplingPercentage(0.1, 1)
        method.SetInterpolator(SimpleITK.sitkLinear)
        method.SetOptimizerAsRegularStepGradientDescent(2.0, 1e-3, 100, 0.6, 1e-6)
        method.SetOptimizerScalesFromPhysicalShift()
        method.SetShrinkFactorsPerLevel([4, 2, 1])
        method.SetSmoothingSigmasPerLevel([4, 2, 0])
        method.SetInitialTransform(start, True)
        method.Execute(self.fixed, moving)
        return resample(self.brain, head.data.shape, head.affine, _matrix_of(start)).data > 0.5


def _image(head: Volume) -> SimpleITK.Image:
    """A head on cubes along the RAS axes, as SimpleITK has it."""
    cubes = resample_to_cubes(head, _CUBE, margin=8 * _CUBE)
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(cubes.data.transpose(2, 1, 0)))
    image.SetSpacing([_CUBE] * 3)
    image.SetOrigin(cubes.affine[:3, 3].tolist())
    return image


def _matrix_of(transform: SimpleITK.AffineTransform) -> np.ndarray:
    """(4, 4), mm of the template to mm of the head."""
    matrix, center = np.eye(4), np.array(transform.GetCenter())
    matrix[:3, :3] = np.array(transform.GetMatrix()).reshape(3, 3)
    matrix[:3, 3] = np.array(transform.GetTranslation()) + center - matrix[:3, :3] @ center
    return matrix


def _without_air(head: Volume) -> Volume:
    return Volume(np.where(head.data > _AIR * np.percentile(head.data, 99), head.data, 0), head.affine)


def _moved(affine: np.ndarray) -> np.ndarray:
    """The affine of a head that lies otherwise and is larger, as heads of a scanner are."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", _ANGLES, degrees=True).as_matrix() * _STRETCH
    matrix[:3, 3] = _SHIFT
    return matrix @ affine


if __name__ == "__main__":
    main()
