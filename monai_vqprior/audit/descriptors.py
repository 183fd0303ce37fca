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

from functools import lru_cache

import numpy as np
import torch
from scipy import ndimage

__all__ = ["ANATOMY", "DESCRIPTORS", "coarse_pictures", "describe"]

#: What each descriptor of a slice is, by its name.
DESCRIPTORS = {
    "brain_area": "share of the slice that is brain",
    "fluid_share": "share of the inner brain that is fluid",
    "fluid_asymmetry": "difference of the fluid on both sides, of their sum",
    "fluid_parts": "connected parts of the fluid",
    "mirror_correlation": "correlation of the smoothed brain with its mirror image",
    "mirror_difference": "mean absolute difference from the mirror image",
    "mean": "mean intensity of the brain",
    "std": "standard deviation of the brain",
    "edges": "mean gradient magnitude of the brain",
    "fine_detail": "standard deviation of what a Gaussian filter of 1 pixel removes",
    "spectrum_slope": "slope of the logarithm of the power spectrum",
}

#: The descriptors of anatomy. The others are of texture, which a lossy autoencoder changes whatever the prior draws.
ANATOMY = (
    "brain_area", "fluid_share", "fluid_asymmetry", "fluid_parts", "mirror_correlation", "mirror_difference"
)  # fmt: skip

_BRAIN = 0.15  # a pixel is brain above this intensity
_INNER = 0.11  # of the side: nearer to the edge than this lie the folds, whose fluid is not counted
_FLUID = 0.5  # fluid is darker than this share of the median of the inner brain
_LEAST_PIXELS = 50  # of both sides together, for a comparison of the sides
_COARSE = 8  # side of a coarse picture
_BACKGROUND = 0.1  # darker pixels are black in a coarse picture


def describe(images: torch.Tensor) -> dict[str, np.ndarray]:
    """
    Describe what is large and what is fine in each slice, for the comparison of sets of slices.

    The sides are compared about the middle column of the brain. The slices are meant to be axial or coronal.

    Args:
        images: (N, 1, H, W) uint8, or in 0..1.

    Returns:
        (N,) float64 by the names in ``DESCRIPTORS``, all finite. What a slice without a brain does not have is 0.
    """
    rows = [_describe(image) for image in _arrays(images)]
    return {name: np.array([row[name] for row in rows]) for name in DESCRIPTORS}


def coarse_pictures(images: torch.Tensor) -> np.ndarray:
    """
    The slices at 8 x 8 pixels, which show where things are and no texture.

    What is darker than 0.1 counts as black, and values are rounded to 0.01: a background of one or two grey levels,
    which a decoder leaves, would tell it from real slices whatever the slice shows.

    Args:
        images: (N, 1, H, W) uint8, or in 0..1.

    Returns:
        (N, 64) float64, in 0..1.
    """
    values = torch.as_tensor(_arrays(images)).double()[:, None]
    values = torch.where(values < _BACKGROUND, 0.0, values)
    return torch.nn.functional.adaptive_avg_pool2d(values, _COARSE).flatten(1).numpy().round(2)


def _arrays(images: torch.Tensor) -> np.ndarray:
    """(N, 1, H, W) -> (N, H, W) float32 in 0..1."""
    scale = 255 if images.dtype == torch.uint8 else 1
    return (images[:, 0].float() / scale).cpu().numpy()


def _describe(image: np.ndarray) -> dict[str, float]:
    """The descriptors of a slice (H, W)."""
    brain = ndimage.binary_fill_holes(image > _BRAIN)
    if not brain.any():
        return dict.fromkeys(DESCRIPTORS, 0.0)
    inside = image[brain]
    detail = image - ndimage.gaussian_filter(image, 1)
    return {
        "brain_area": float(brain.mean()),
        **_fluid(image, brain),
        **_mirror(image, brain),
        "mean": float(inside.mean()),
        "std": float(inside.std()),
        "edges": float(ndimage.gaussian_gradient_magnitude(image, 1)[brain].mean()),
        "fine_detail": float(detail[brain].std()),
        "spectrum_slope": _spectrum_slope(image),
    }


def _fluid(image: np.ndarray, brain: np.ndarray) -> dict[str, float]:
    """Fluid of the inner brain, which is that of the ventricles."""
    # A frame of background: the brain may touch the edge of the slice.
    depth = ndimage.distance_transform_edt(np.pad(brain, 1))[1:-1, 1:-1]
    inner = depth > _INNER * max(image.shape)
    if not inner.any():
        return {"fluid_share": 0.0, "fluid_asymmetry": 0.0, "fluid_parts": 0.0}
    fluid = ndimage.binary_opening(inner & (image < _FLUID * np.median(image[inner])))
    left, right = (float(side.sum()) for side in _sides(fluid, brain))
    return {
        "fluid_share": float(fluid.sum() / inner.sum()),
        # A few pixels of fluid say nothing of sides.
        "fluid_asymmetry": abs(left - right) / (left + right + 8),
        "fluid_parts": float(ndimage.label(fluid)[1]),
    }


def _mirror(image: np.ndarray, brain: np.ndarray) -> dict[str, float]:
    """How like its mirror image the brain is, without its texture."""
    smooth = ndimage.gaussian_filter(image, 3 * max(image.shape) / 128)
    (left, right), (brain_left, brain_right) = _sides(smooth, brain), _sides(brain, brain)
    both = brain_left & brain_right
    if both.sum() < _LEAST_PIXELS or min(left[both].std(), right[both].std()) == 0:
        return {"mirror_correlation": 0.0, "mirror_difference": 0.0}
    return {
        "mirror_correlation": float(np.corrcoef(left[both], right[both])[0, 1]),
        "mirror_difference": float(np.abs(left - right)[both].mean()),
    }


def _sides(image: np.ndarray, brain: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The columns left of the middle of the brain, and as many on its right, mirrored."""
    columns = np.flatnonzero(brain.any(0))
    middle = round((columns[0] + columns[-1] + 1) / 2)
    half = min(middle, image.shape[1] - middle)
    return image[:, middle - half : middle], image[:, middle : middle + half][:, ::-1]


def _spectrum_slope(image: np.ndarray) -> float:
    """Slope of log power on log frequency, from a sixteenth of the sampling frequency to half of it."""
    band, frequency = _band(image.shape)
    power = np.abs(np.fft.rfft2(image - image.mean())[band]) ** 2
    # A constant image has no power at any frequency.
    return float(frequency @ np.log(power + 1e-12) / (frequency @ frequency))


@lru_cache(maxsize=8)
def _band(size: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The frequencies of a spectrum (H, W / 2 + 1) that count, and the logarithms of these, less their mean."""
    frequency = np.hypot(np.fft.fftfreq(size[0])[:, None], np.fft.rfftfreq(size[1])[None])
    band = (frequency >= 1 / 16) & (frequency <= 1 / 2)
    logarithm = np.log(frequency[band])
    return band, logarithm - logarithm.mean()
