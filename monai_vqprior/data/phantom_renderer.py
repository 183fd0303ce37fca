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
Draws the anatomy of :mod:`monai_vqprior.data.phantom_anatomy`: a subject, and planes of it.

The cortex is a ribbon around folds, and the folds are the zero crossings of a smooth 3-D noise. The noise is looked up
where a pixel is after a move toward the nearest brain surface, so the folds run into the brain, and a depth ends them::

    ~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~    outer fluid
    gggggg   gggggggggggg   ggggggggggg    gray matter follows the fluid at an even thickness
    wwwwwgg ggwwwwwwwwwwgg ggwwwwwwwwww    a fold, widest at its mouth
    wwwwwgg ggwwwwwwwwwwgg ggwwwwwwwwww    white matter is what is left: fingers between the folds
    wwwwwwgggwwwwwwwwwwwgg ggwwwwwwwwww    each fold ends at a depth of its own
    wwwwwwwwwwwwwwwwwwwwwgggwwwwwwwwwww
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.interpolate import BSpline, CubicSpline, PchipInterpolator
from scipy.ndimage import map_coordinates

from monai_vqprior.data.phantom_anatomy import (
    BIAS,
    CALLOSUM_EXTRA,
    CSF,
    FOLD_WAVELENGTHS,
    GRAY,
    LENTIFORM,
    LEVELS,
    NOISE_DEPTH,
    NOISE_EXTENT,
    NOISE_SIZE,
    OUTLINE_CENTER,
    OUTLINE_FRONT,
    OUTLINE_HIGH,
    OUTLINE_LOW,
    PHANTOM_LABELS,
    PLEXUS_EXTRA,
    POINT_SPREAD,
    RIBBON,
    SEPTUM,
    SHAPES,
    TEXTURE,
    THALAMUS,
    VENTRICLE,
    WHITE,
)

__all__ = ["render", "subject_anatomy"]


# ---------------------------------------------------------------------------------------------------------------------
# smooth functions: ramps, signed distances, noise


def _ramp(level: np.ndarray, width: float) -> np.ndarray:
    """Share of a pixel that is inside: 0 to 1 as the level goes from minus to plus half the width."""
    return np.clip(0.5 + level / width, 0, 1)


def _smooth_max(a: np.ndarray, b: np.ndarray, radius: float) -> np.ndarray:
    """Union of two levels with the corner between them rounded."""
    share = np.clip(0.5 + (a - b) / (2 * radius), 0, 1)
    return b + (a - b) * share + radius * share * (1 - share)


def _capsule(
    x: np.ndarray, y: np.ndarray, start: Sequence[float], end: Sequence[float], middle: float | None = None
) -> np.ndarray:
    """Level of a line from (x, y, radius) to (x, y, radius) whose radius changes on the way, by ``middle`` if given."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    along = np.clip(((x - start[0]) * dx + (y - start[1]) * dy) / (dx * dx + dy * dy), 0, 1)
    radius = start[2] + along * (end[2] - start[2])
    if middle is not None:
        radius = radius + (middle - 0.5 * (start[2] + end[2])) * 4 * along * (1 - along)
    return radius - np.hypot(x - start[0] - along * dx, y - start[1] - along * dy)


def _ellipse(x: np.ndarray, y: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """Level of a tilted ellipse (center x, center y, radius x, radius y, tilt); a radius below zero leaves nothing."""
    center_x, center_y, radius_x, radius_y, tilt = shape
    cos, sin = np.cos(tilt), np.sin(tilt)
    u = (x - center_x) * cos + (y - center_y) * sin
    v = (y - center_y) * cos - (x - center_x) * sin
    inner_x, inner_y = max(radius_x, np.float32(0.01)), max(radius_y, np.float32(0.01))
    return (1 - np.hypot(u / inner_x, v / inner_y)) * min(inner_x, inner_y) + min(radius_x, np.float32(0))


def _spline_basis(points: np.ndarray, count: int) -> np.ndarray:
    """Weights of ``count`` evenly spread cubic B-splines at points in 0..1, of shape (points, count)."""
    knots = np.arange(-3, count + 1) / (count - 3)
    return BSpline.design_matrix(np.clip(points, 0, 1 - 1e-9), knots, 3).toarray().astype(np.float32)


@lru_cache(maxsize=16)
def _pixel_basis(size: int, count: int) -> np.ndarray:
    """Spline weights at the pixel centers of a slice, of shape (size, count)."""
    return _spline_basis((np.arange(size) + 0.5) / size, count)


def _lattice_fields(lattices: np.ndarray, z: float, size: int) -> np.ndarray:
    """Evaluate smooth noise, given by its values (F, Z, N, N) on a lattice, on a slice: (F, size, size)."""
    plane = np.einsum("z,fzyx->fyx", _spline_basis(np.array([z]), lattices.shape[1])[0], lattices)
    basis = _pixel_basis(size, lattices.shape[2])
    return basis @ plane @ basis.T


def _random_lattices(rng: np.random.Generator, count: int, depth: int, size: int) -> np.ndarray:
    """Draw ``count`` lattices whose splines have a standard deviation of about 1: (count, depth, size, size)."""
    mean_square = 151 / 315  # of the four weights of a cubic spline, in each of three dimensions
    return (rng.standard_normal((count, depth, size, size)) / mean_square**1.5).astype(np.float32)


def _band_noise(rng: np.random.Generator, wavelength: float, width: float, length_z: float) -> np.ndarray:
    """Draw periodic 3-D noise of one wavelength in plane that changes along z over ``length_z``: (Z, N, N)."""
    noise = rng.standard_normal((NOISE_DEPTH, NOISE_SIZE, NOISE_SIZE))
    in_plane = np.fft.fftfreq(NOISE_SIZE, NOISE_EXTENT / NOISE_SIZE)
    along_z = np.fft.fftfreq(NOISE_DEPTH, 1.6 / NOISE_DEPTH)[:, None, None]
    cycles = np.hypot(in_plane[:, None], in_plane[None, :]) * wavelength
    gain = np.exp(-0.5 * ((cycles - 1) / width) ** 2 - 2 * (np.pi * along_z * length_z) ** 2)
    filtered = np.fft.ifftn(np.fft.fftn(noise) * gain).real
    return (filtered / filtered.std()).astype(np.float32)


# ---------------------------------------------------------------------------------------------------------------------
# a subject, and one plane of it


class _Subject:
    """What makes a subject different from the next: a few numbers and noise fields, drawn from (seed, subject)."""

    def __init__(self, seed: int, subject: int) -> None:
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(subject, 0)))
        self.ventricle_size = rng.uniform()
        self.atrophy = 0.65 * self.ventricle_size + 0.35 * rng.uniform()  # 0..1; opens the folds
        self.scale_x, self.scale_y = (0.985 + np.clip(0.02 * rng.standard_normal(2), -0.04, 0.04)).tolist()
        self.offset_z = rng.uniform(-0.05, 0.05)
        self.asymmetry = rng.uniform(-0.007, 0.007)  # how much the ventricle of one side is wider
        self.contrast = rng.uniform(0.94, 1.08)
        self.noise = rng.uniform(2, 4.5)  # in gray values
        self.coarse = _random_lattices(rng, count=3, depth=6, size=8)  # warp along x, along y; bias
        self.fine = _random_lattices(rng, count=5, depth=8, size=24)  # ripple along x, along y; depth; width; texture
        long, short = FOLD_WAVELENGTHS
        self.folds = _band_noise(rng, long, 0.28, 0.13) + 0.35 * _band_noise(rng, short, 0.25, 0.1)


@lru_cache(maxsize=4)
def subject_anatomy(seed: int, subject: int) -> _Subject:
    """The subject, kept while its slices are drawn."""
    return _Subject(seed, subject)


@lru_cache(maxsize=1)
def _shape_curves() -> PchipInterpolator:
    """All shapes as one curve over z, each flattened and joined in the order of their names."""
    return PchipInterpolator(LEVELS, np.hstack([shape.reshape(len(LEVELS), -1) for shape in SHAPES.values()]))


def _shapes_at(z: float) -> dict[str, np.ndarray]:
    """Shapes of all structures at one level."""
    ends = np.cumsum([shape[0].size for shape in SHAPES.values()])
    parts = np.split(_shape_curves()(z).astype(np.float32), ends[:-1])
    return {name: part.reshape(SHAPES[name].shape[1:]) for name, part in zip(SHAPES, parts, strict=True)}


@lru_cache(maxsize=1)
def _outline_curves() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Angles from back to front, and the radius of the brain there at the lowest and at the highest level."""
    knots, angles = np.linspace(0, np.pi, len(OUTLINE_LOW)), np.linspace(0, np.pi, 200)
    low, high = (CubicSpline(knots, radii, bc_type="clamped")(angles) for radii in (OUTLINE_LOW, OUTLINE_HIGH))
    return angles, low, high


@dataclass(frozen=True, eq=False)
class _Plane:
    """One slice of a subject: the pixels inside the brain, all arrays flat, and their properties."""

    subject: _Subject
    noise_z: float  # where the slice is in the noise fields, in 0..1
    size: int
    inside: np.ndarray  # flat indices of the pixels inside the brain, of shape (P,); arrays below have this shape too
    x: np.ndarray  # anatomical coordinates
    y: np.ndarray
    surface_depth: np.ndarray  # distance to the outer surface of the brain
    ripple_x: np.ndarray  # noise with mean 0 and standard deviation 1, this and the next ones
    ripple_y: np.ndarray
    fold_depth: np.ndarray
    fold_width: np.ndarray
    texture: np.ndarray
    bias: np.ndarray
    shapes: dict[str, np.ndarray]

    @property
    def pixel(self) -> float:
        """Width of a pixel."""
        return 2 / self.size

    @property
    def blur(self) -> float:
        """Width of the ramp between two tissues."""
        return float(np.hypot(POINT_SPREAD, self.pixel))

    @property
    def lateral(self) -> np.ndarray:
        """Distance to the midline."""
        return np.abs(self.x)

    @property
    def deep(self) -> tuple[np.ndarray, np.ndarray]:
        """Distance to the midline and y, slightly rippled: outlines of deep structures are not quite smooth."""
        lateral = self.lateral
        return lateral + 0.004 * self.ripple_x * np.minimum(1, lateral * 5), self.y + 0.004 * self.ripple_y


def _make_plane(subject: _Subject, position: float, size: int) -> _Plane:
    """Find the pixels inside the brain on the slice at ``position`` in 0..1, and evaluate the noise there."""
    z = min(max(0.02 + 0.96 * position + subject.offset_z, 0.0), 1.0)
    noise_z = (position + 0.1) / 1.2
    warp_x, warp_y, bias = _lattice_fields(subject.coarse, noise_z, size)
    centers = ((np.arange(size) + 0.5) / size * 2 - 1).astype(np.float32)
    # The midline bends less than the rest.
    x = (centers[None, :] + 0.010 * warp_x * np.minimum(1, np.abs(centers) * 4 + 0.25)[None, :]) / subject.scale_x
    y = (centers[:, None] + 0.010 * warp_y) / subject.scale_y
    depth = _surface_depth(x, y, z)
    inside = np.flatnonzero(depth > 0)
    ripple_x, ripple_y, fold_depth, fold_width, texture = (
        field.ravel()[inside] for field in _lattice_fields(subject.fine, noise_z, size)
    )
    return _Plane(
        subject=subject,
        noise_z=noise_z,
        size=size,
        inside=inside,
        x=x.ravel()[inside],
        y=y.ravel()[inside],
        surface_depth=depth.ravel()[inside],
        ripple_x=ripple_x,
        ripple_y=ripple_y,
        fold_depth=fold_depth,
        fold_width=fold_width,
        texture=texture,
        bias=bias.ravel()[inside],
        shapes=_shapes_at(z),
    )


def _surface_depth(x: np.ndarray, y: np.ndarray, z: float) -> np.ndarray:
    """Distance to the outer surface of the brain, positive inside."""
    angles, low, high = _outline_curves()
    angle = np.arctan2(np.abs(x), OUTLINE_CENTER - y)
    radius = np.interp(angle, angles, low + (high - low) * z).astype(np.float32)
    return np.minimum(radius - np.hypot(x, y - OUTLINE_CENTER), OUTLINE_FRONT - y)


# ---------------------------------------------------------------------------------------------------------------------
# structures: each function returns a level, positive inside


def _ventricle_points(plane: _Plane) -> tuple[np.ndarray, float]:
    """Points (x, y, radius) of the lateral ventricle and the radius of its body, for this subject's ventricle size."""
    gain = 0.62 + 0.75 * plane.subject.ventricle_size
    points, body = plane.shapes["ventricle"].copy(), plane.shapes["body"][0]
    points[:, 2] = np.where(points[:, 2] > 0, points[:, 2] * gain, points[:, 2])
    points[:, 0] += 0.035 * (plane.subject.ventricle_size - 0.5)
    return points, float(body * gain if body > 0 else body)


def _lateral_ventricles(plane: _Plane) -> np.ndarray:
    """Both lateral ventricles: horns and body, with the septum between them."""
    x, y = plane.deep
    (occipital, atrium, base, middle, tip), body = _ventricle_points(plane)
    level = _smooth_max(_capsule(x, y, occipital, atrium), _capsule(x, y, atrium, base, body), 0.02)
    for start, end in ((base, tip), (base, middle), (middle, tip)):
        level = _smooth_max(level, _capsule(x, y, start, end), 0.02)
    level = level + plane.subject.asymmetry * np.tanh(plane.x * 20)
    return np.minimum(level, x - SEPTUM)


def _third_ventricle(plane: _Plane) -> np.ndarray:
    """The third ventricle, a slit on the midline."""
    x, y = plane.deep
    back, front, radius = plane.shapes["third"]
    radius = radius + 0.012 * (plane.subject.ventricle_size - 0.4)
    return _capsule(x, y, (0, back, radius), (0, front, radius))


def _choroid_plexus(plane: _Plane) -> np.ndarray:
    """The plexus that hangs in the atrium of each lateral ventricle."""
    (occipital, atrium, *_), _ = _ventricle_points(plane)
    radius = plane.shapes["plexus"][0]
    end = 0.6 * atrium + 0.4 * occipital
    return _capsule(*plane.deep, (atrium[0], atrium[1] - 0.02, radius), (end[0], end[1], radius - 0.008))


def _cistern(plane: _Plane) -> np.ndarray:
    """The quadrigeminal cistern behind the brain stem, and its arms around it."""
    x, y = plane.deep
    back, front, radius, arm = plane.shapes["cistern"]
    body = _capsule(x, y, (0, back, radius * 0.5), (0, front, radius))
    return _smooth_max(body, _capsule(x, y, (0, front, radius * 0.6), (0.20, front + 0.03, arm)), 0.02)


def _callosum(plane: _Plane) -> np.ndarray:
    """The corpus callosum where an axial slice cuts it: the splenium behind the ventricles, the genu before them."""
    middle, end_x, end_y, splenium, genu = plane.shapes["callosum"]
    front = plane.shapes["fissure"][1]
    return np.maximum(
        _capsule(plane.lateral, plane.y, (0, middle, splenium), (end_x, end_y, splenium)),
        _capsule(plane.lateral, plane.y, (0, front - 0.055, genu), (0.2, front - 0.02, genu)),
    )


def _deep_gray(plane: _Plane) -> tuple[np.ndarray, np.ndarray]:
    """Share of deep gray matter in each pixel, and its intensity."""
    x, y = plane.deep
    thalamus, lentiform, caudate = (
        _ramp(_ellipse(x, y, plane.shapes[name]), softness * plane.blur)
        for name, softness in (("thalamus", 1.8), ("lentiform", 1.2), ("caudate", 1.2))
    )
    nuclei = np.maximum(lentiform, caudate)
    return np.maximum(thalamus, nuclei), LENTIFORM + (THALAMUS - LENTIFORM) * thalamus * (1 - nuclei)


@dataclass(frozen=True, eq=False)
class _Surfaces:
    """Distances of each pixel to the three surfaces that fold: the outer one, the medial one and the insula."""

    outer: np.ndarray
    medial: np.ndarray
    insula: np.ndarray
    insula_hidden: float  # added to the distance where the insula is not in this slice

    @property
    def nearest(self) -> np.ndarray:
        """Depth below the nearest surface."""
        return np.minimum(np.minimum(self.outer, self.medial), self.insula + self.insula_hidden)


def _surfaces(plane: _Plane) -> _Surfaces:
    """Measure the distances to the surfaces that fold."""
    back, front = plane.shapes["fissure"]
    beyond = np.maximum(np.minimum(plane.y - back, front - plane.y), 0)  # how far past the ends of the fissure
    start_x, end_x, start_y, end_y, half_width = plane.shapes["insula"]
    rippled = plane.lateral + _insula_ripple(plane)
    return _Surfaces(
        outer=plane.surface_depth,
        medial=np.hypot(plane.x + 0.002 * plane.ripple_x, beyond),
        insula=-_capsule(rippled, plane.y, (start_x, start_y, 0), (end_x, end_y, 0)),
        insula_hidden=8 * max(0.0, 0.012 - float(half_width)),
    )


def _insula_ripple(plane: _Plane) -> np.ndarray:
    """The short gyri of the insula, which its line follows."""
    return 0.02 * np.sin((plane.y - plane.shapes["insula"][2]) * 28 + np.sign(plane.x))


def _fold_coordinates(plane: _Plane, surfaces: _Surfaces) -> tuple[np.ndarray, np.ndarray]:
    """
    Where in the fold noise each pixel looks: near the surface beneath which it lies.

    Pixels beneath one point of a surface see nearly the same noise, so its zero crossings run into the brain. Both
    halves look into the same noise, shifted a little, so that they resemble each other without being mirror images.
    """
    lateral, upright = plane.lateral, plane.y - OUTLINE_CENTER
    radius = np.maximum(np.hypot(lateral, upright), 0.05)
    near = [np.exp(-distance / 0.08) for distance in (surfaces.outer, surfaces.medial)]
    total = near[0] + near[1] + np.exp(-(surfaces.insula + surfaces.insula_hidden) / 0.08) + 1e-6
    # The move toward the surface fades in the depth of the brain, where the surfaces meet halfway.
    outward, inward = (
        weight * 0.85 * distance * np.exp(-((distance / 0.42) ** 2)) / total
        for weight, distance in zip(near, (surfaces.outer, surfaces.medial), strict=True)
    )
    ripple = 0.014 * np.minimum(surfaces.nearest * 6 + 0.3, 1)
    x = lateral + outward * lateral / radius - inward + ripple * plane.ripple_x
    y = plane.y + outward * upright / radius + ripple * plane.ripple_y + 0.04 * np.sign(plane.x)
    return x, y


def _fold_distance(plane: _Plane, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Signed distance to the nearest fold, to first order: noise over the length of its gradient."""
    weights = _spline_basis(np.array([0.2 + 0.6 * plane.noise_z]), NOISE_DEPTH)[0]
    noise = np.tensordot(weights, plane.subject.folds, axes=1)  # (Z, N, N) -> (N, N)
    where = [(q / NOISE_EXTENT + 0.5) * NOISE_SIZE - 0.5 for q in (y, x)]
    value = map_coordinates(noise, where, order=3, prefilter=False, mode="grid-wrap")
    grid = np.zeros((plane.size, plane.size), np.float32)
    grid.ravel()[plane.inside] = value
    slope_y, slope_x = (slope.ravel()[plane.inside] for slope in np.gradient(grid, np.float32(plane.pixel)))
    return value / np.sqrt(slope_x * slope_x + slope_y * slope_y + 9)


def _cortex(plane: _Plane, ventricles: np.ndarray, callosum: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Levels of the fluid around the brain and in its folds, and of the cortex, which follows it."""
    surfaces = _surfaces(plane)
    depth, atrophy = surfaces.nearest, plane.subject.atrophy
    center, radius_x, radius_y = plane.shapes["core"]
    core = (1 - np.hypot(plane.lateral / radius_x, (plane.y - center) / radius_y)) * 0.35
    barred = np.maximum(np.maximum(core + 0.04, ventricles + 0.07), np.maximum(callosum + 0.04, 0))
    beyond = np.maximum(depth - 0.25 - 0.04 * np.clip(plane.fold_depth, -3, 1.5), 0) + 2 * barred
    distance = np.hypot(_fold_distance(plane, *_fold_coordinates(plane, surfaces)), beyond)

    half_width = np.maximum(0.003 + 0.015 * atrophy + 0.008 * plane.fold_width, 0)
    fluid = half_width * (0.8 + 1.6 * np.exp(-depth / 0.05)) - distance
    fluid = np.maximum(fluid, 0.008 + 0.012 * atrophy - surfaces.outer)
    fluid = np.maximum(fluid, 0.007 + 0.006 * atrophy - surfaces.medial)
    fluid = np.maximum(fluid, plane.shapes["insula"][4] * (0.7 + 0.6 * atrophy) - surfaces.insula)
    start_x, start_y, end_x, end_y, radius = plane.shapes["sylvian"]
    rippled_y = plane.y + _insula_ripple(plane) + 0.02 * plane.ripple_y
    sylvian = _capsule(plane.lateral, rippled_y, (start_x, start_y, radius), (end_x, end_y, radius))
    fluid = np.maximum(fluid, sylvian + 0.004 * plane.fold_width)
    fluid = np.minimum(fluid, -callosum - 0.01)
    return fluid, np.minimum(fluid + RIBBON, -callosum)


# ---------------------------------------------------------------------------------------------------------------------
# pictures


def render(subject: _Subject, position: float, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw a slice without noise: intensities (H, W), and the share of each class but the background (5, H, W)."""
    plane = _make_plane(subject, position, size)
    lateral, callosum = _lateral_ventricles(plane), _callosum(plane)
    fluid, cortex = _cortex(plane, lateral, callosum)
    deep, deep_intensity = _deep_gray(plane)
    layers = {  # each layer hides what the layers before it left
        "ventricles": _ramp(np.maximum(lateral, _third_ventricle(plane)), plane.blur),
        "csf": _ramp(np.maximum(fluid, _cistern(plane)), plane.blur),
        "deep_grey_matter": deep,
        "grey_matter": _ramp(cortex, 1.5 * plane.blur),
        "white_matter": np.ones_like(deep),
    }
    plexus = _ramp(_choroid_plexus(plane), 0.04) * np.clip(1 + 0.3 * plane.texture, 0, 2)
    texture = TEXTURE * plane.texture
    intensities = {
        "ventricles": VENTRICLE + PLEXUS_EXTRA * plexus,
        "csf": CSF + texture,
        "deep_grey_matter": deep_intensity + texture,
        "grey_matter": GRAY + texture,
        "white_matter": WHITE + 0.6 * texture + CALLOSUM_EXTRA * _ramp(callosum + 0.01, 0.06),
    }
    signal = np.zeros((size, size), np.float32)
    shares = np.zeros((len(layers), size, size), np.float32)
    left = np.ones_like(deep)
    for name, layer in layers.items():
        share = left * layer
        left = left - share
        shares[PHANTOM_LABELS[name] - 1].ravel()[plane.inside] = share
        signal.ravel()[plane.inside] += share * intensities[name]
    signal.ravel()[plane.inside] *= subject.contrast * (1 + BIAS * plane.bias)
    return signal, shares
