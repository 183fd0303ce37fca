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
The anatomy of the phantom as tables: shapes of structures at eight levels, intensities, lengths.

:mod:`monai_vqprior.data.phantom_renderer` draws it as T1-like, skull-stripped axial slices.

Every structure is a level function over anatomical coordinates: positive inside, negative outside, about a distance in
between. x runs from left to right, y from the back of the head (top of the picture, as in the preprocessed OASIS
slices) to the forehead, both from -1 to 1 across the slice; z runs from 0, the basal ganglia, to 1, just above the
lateral ventricles. Shapes and noise are functions of (x, y, z), so slices change smoothly, at any size and number.
"""

from __future__ import annotations

import numpy as np

__all__ = [
    "BIAS", "CALLOSUM_EXTRA", "CSF", "FOLD_WAVELENGTHS", "GRAY", "LENTIFORM", "LEVELS", "NOISE_DEPTH",
    "NOISE_EXTENT", "NOISE_SIZE", "OUTLINE_CENTER", "OUTLINE_FRONT", "OUTLINE_HIGH", "OUTLINE_LOW",
    "PHANTOM_LABELS", "PLEXUS_EXTRA", "POINT_SPREAD", "RIBBON", "SEPTUM", "SHAPES", "TEXTURE", "THALAMUS",
    "VENTRICLE", "WHITE",
]  # fmt: skip

#: classes of the label maps; ``csf`` is the fluid around the brain and in its folds, without the ventricles. The
#: highest slices hold no deep gray matter.
PHANTOM_LABELS: dict[str, int] = {
    "background": 0,
    "csf": 1,
    "grey_matter": 2,
    "white_matter": 3,
    "deep_grey_matter": 4,
    "ventricles": 5,
}

# Mean intensities of the tissues on the 8-bit scale, before contrast, bias field and noise.
CSF, GRAY, WHITE, VENTRICLE = 36.0, 124.0, 203.0, 27.0
LENTIFORM, THALAMUS = 150.0, 172.0  # the caudate is as gray as the lentiform nucleus
CALLOSUM_EXTRA = 14.0  # dense fibers are brighter than other white matter
PLEXUS_EXTRA = 38.0  # the choroid plexus in the atria is brighter than fluid
BIAS = 0.05  # standard deviation of the bias field, as a share of the intensity
TEXTURE = 2.0  # standard deviation of the slow variation inside a tissue

RIBBON = 0.050  # thickness of the cortex, in half slice widths as all lengths below: about 3 pixels of 128
POINT_SPREAD = 0.03  # width of the ramp between two tissues, pixel size aside
FOLD_WAVELENGTHS = (0.26, 0.14)  # two crossings a wavelength; the shorter one bends the folds
NOISE_EXTENT, NOISE_SIZE, NOISE_DEPTH = 2.2, 112, 24  # the fold noise: width covered, grid points in plane, along z
SEPTUM = 0.008  # half the thickness of the septum pellucidum

# Radius of the brain about (0, -0.02) at 15 angles from the back of the head to the forehead, at the lowest level and
# at the highest one.
OUTLINE_CENTER, OUTLINE_FRONT = -0.02, 0.86
OUTLINE_LOW = (0.855, 0.853, 0.858, 0.862, 0.862, 0.86, 0.843, 0.82, 0.785, 0.79, 0.84, 0.875, 0.88, 0.88, 0.88)
OUTLINE_HIGH = (0.775, 0.778, 0.79, 0.815, 0.828, 0.829, 0.829, 0.795, 0.775, 0.785, 0.803, 0.827, 0.843, 0.853, 0.86)

# Shapes of the right half at eight levels z, one row each; the left half is its mirror image, up to the subject's warp.
# A radius below zero makes a structure vanish between levels instead of ending at once.
LEVELS = (0.0, 0.13, 0.29, 0.42, 0.58, 0.71, 0.87, 1.0)
SHAPES: dict[str, np.ndarray] = {
    # lateral ventricle, (x, y, radius) of: occipital tip, atrium, base of the frontal horn, its middle, its tip
    "ventricle": np.array(
        [
            [[0.42, -0.32, 0.045], [0.40, -0.22, 0.060], [0.07, 0.26, -0.05], [0.06, 0.34, -0.05], [0.13, 0.40, -0.03]],
            [[0.41, -0.34, 0.060], [0.39, -0.22, 0.075], [0.06, 0.26, 0.005], [0.08, 0.35, 0.012], [0.16, 0.41, 0.03]],
            [[0.39, -0.36, 0.068], [0.30, -0.20, 0.070], [0.06, 0.19, 0.045], [0.05, 0.35, 0.035], [0.165, 0.41, 0.05]],
            [[0.37, -0.37, 0.068], [0.25, -0.21, 0.050], [0.07, 0.15, 0.055], [0.055, 0.34, 0.05], [0.175, 0.40, 0.06]],
            [[0.32, -0.32, 0.066], [0.12, -0.10, 0.050], [0.08, 0.10, 0.062], [0.06, 0.31, 0.055], [0.17, 0.37, 0.06]],
            [[0.28, -0.27, 0.056], [0.10, -0.02, 0.072], [0.09, 0.12, 0.078], [0.08, 0.25, 0.065], [0.155, 0.35, 0.06]],
            [[0.21, -0.21, 0.042], [0.11, 0.00, 0.075], [0.10, 0.13, 0.080], [0.11, 0.22, 0.065], [0.14, 0.31, 0.045]],
            [[0.19, -0.13, 0.028], [0.15, -0.02, 0.052], [0.135, 0.08, 0.058], [0.14, 0.14, 0.045], [0.15, 0.22, 0.03]],
        ]
    ),
    # radius of the ventricle's body halfway between atrium and frontal horn
    "body": np.array([[-0.2], [-0.2], [-0.2], [-0.06], [0.02], [0.08], [0.08], [0.06]]),
    # radius of the choroid plexus
    "plexus": np.array([[0.028], [0.028], [0.028], [0.028], [0.01], [-0.03], [-0.05], [-0.05]]),
    # interhemispheric fissure: y where its back part ends and where its front part begins
    "fissure": np.array(
        [
            [-0.42, 0.26],
            [-0.40, 0.36],
            [-0.33, 0.50],
            [-0.27, 0.52],
            [-0.21, 0.49],
            [-0.16, 0.45],
            [-0.10, 0.38],
            [-0.08, 0.33],
        ]
    ),
    # corpus callosum. Splenium: y at the midline, x and y of its end, radius; genu: radius (it follows the fissure)
    "callosum": np.array(
        [
            [-0.20, 0.20, -0.24, -0.06, -0.10],
            [-0.20, 0.20, -0.24, -0.03, -0.04],
            [-0.20, 0.20, -0.24, 0.012, 0.026],
            [-0.20, 0.27, -0.33, 0.028, 0.028],
            [-0.14, 0.27, -0.32, 0.030, 0.028],
            [-0.10, 0.24, -0.30, 0.030, 0.028],
            [-0.03, 0.17, -0.20, 0.030, 0.028],
            [-0.02, 0.12, -0.12, 0.020, 0.028],
        ]
    ),
    # third ventricle: y of both ends, radius
    "third": np.array(
        [
            [-0.02, 0.20, 0.024],
            [-0.02, 0.15, 0.024],
            [-0.08, 0.10, 0.011],
            [-0.06, 0.04, -0.010],
            [-0.05, 0.00, -0.040],
            [-0.05, 0.00, -0.080],
            [-0.05, 0.00, -0.100],
            [-0.05, 0.00, -0.100],
        ]
    ),
    # quadrigeminal cistern: y of both ends, radius, radius of its arms around the brain stem
    "cistern": np.array(
        [
            [-0.40, -0.24, 0.055, 0.008],
            [-0.36, -0.22, 0.065, 0.008],
            [-0.30, -0.18, 0.032, -0.015],
            [-0.15, -0.11, 0.012, -0.040],
            [-0.09, -0.06, -0.010, -0.080],
            [-0.06, -0.05, -0.030, -0.100],
            [-0.05, 0.00, -0.100, -0.100],
            [-0.05, 0.00, -0.100, -0.100],
        ]
    ),
    # deep gray matter, ellipses: center x and y, radii along x and y, tilt in radians
    "thalamus": np.array(
        [
            [0.14, 0.000, 0.100, 0.150, -0.30],
            [0.15, 0.000, 0.120, 0.160, -0.35],
            [0.155, 0.005, 0.125, 0.170, -0.40],
            [0.17, 0.000, 0.115, 0.155, -0.40],
            [0.19, 0.000, 0.075, 0.120, -0.40],
            [0.20, 0.000, 0.020, 0.060, -0.40],
            [0.20, 0.000, -0.050, 0.000, -0.40],
            [0.20, 0.000, -0.100, -0.050, -0.40],
        ]
    ),
    "lentiform": np.array(
        [
            [0.36, 0.12, 0.100, 0.20, 0.35],
            [0.36, 0.11, 0.100, 0.21, 0.35],
            [0.355, 0.12, 0.075, 0.21, 0.33],
            [0.345, 0.11, 0.062, 0.19, 0.30],
            [0.335, 0.10, 0.040, 0.15, 0.25],
            [0.33, 0.10, 0.000, 0.08, 0.20],
            [0.33, 0.10, -0.060, 0.00, 0.20],
            [0.33, 0.10, -0.100, -0.05, 0.20],
        ]
    ),
    "caudate": np.array(
        [
            [0.20, 0.33, 0.065, 0.10, 0.30],
            [0.21, 0.32, 0.065, 0.11, 0.35],
            [0.20, 0.29, 0.070, 0.13, 0.35],
            [0.21, 0.28, 0.066, 0.14, 0.35],
            [0.215, 0.25, 0.052, 0.16, 0.30],
            [0.215, 0.20, 0.045, 0.17, 0.22],
            [0.21, 0.12, 0.030, 0.17, 0.10],
            [0.21, 0.08, 0.015, 0.12, 0.10],
        ]
    ),
    # insula, a line along y: x at both ends, y at both ends, half the width of the fluid beside it
    "insula": np.array(
        [
            [0.60, 0.53, -0.06, 0.36, 0.020],
            [0.58, 0.52, -0.07, 0.36, 0.016],
            [0.545, 0.48, -0.08, 0.38, 0.010],
            [0.51, 0.47, -0.08, 0.36, 0.006],
            [0.48, 0.46, -0.08, 0.25, -0.004],
            [0.46, 0.45, -0.05, 0.10, -0.050],
            [0.46, 0.45, -0.05, 0.10, -0.150],
            [0.46, 0.45, -0.05, 0.10, -0.200],
        ]
    ),
    # Sylvian fissure, from the insula to the surface: x and y of both ends, half width
    "sylvian": np.array(
        [
            [0.53, 0.30, 0.74, 0.30, 0.018],
            [0.53, 0.30, 0.74, 0.30, 0.012],
            [0.52, 0.00, 0.78, -0.02, -0.030],
            [0.50, -0.06, 0.80, -0.09, 0.006],
            [0.44, -0.09, 0.80, -0.09, 0.010],
            [0.50, -0.10, 0.80, -0.10, -0.030],
            [0.50, -0.10, 0.80, -0.10, -0.100],
            [0.50, -0.10, 0.80, -0.10, -0.100],
        ]
    ),
    # the core that no fold enters, an ellipse on the midline: center y, radii along x and y
    "core": np.array(
        [
            [0.08, 0.44, 0.32],
            [0.08, 0.44, 0.34],
            [0.10, 0.41, 0.38],
            [0.08, 0.39, 0.40],
            [0.05, 0.35, 0.42],
            [0.04, 0.30, 0.40],
            [0.05, 0.30, 0.38],
            [0.05, 0.30, 0.32],
        ]
    ),
}
