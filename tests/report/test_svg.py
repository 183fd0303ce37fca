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

import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from monai_vqprior.report.svg import heat_map, line_chart, strip_plot

SCRIPT = '"><script>alert(1)</script>'


def elements(drawing: str, tag: str, kind: str = "") -> list[ElementTree.Element]:
    """Elements of a drawing, which is well-formed, by tag and beginning of the class."""
    return [
        element for element in ElementTree.fromstring(drawing).iter(tag) if element.get("class", "").startswith(kind)
    ]


def texts(drawing: str) -> list[str]:
    return [str(element.text) for element in elements(drawing, "text")]


def test_a_line_goes_through_its_points() -> None:
    drawing = line_chart({"a": [(1, 0.0), (2, 10.0), (5, 5.0)]}, "a title", "epoch", "value")
    assert ElementTree.fromstring(drawing).get("aria-label") == "a title"
    (path,) = elements(drawing, "path", "line s0")
    x, y = np.array(re.findall(r"[ML]([\d.]+) ([\d.]+)", str(path.get("d"))), float).T
    # Equal steps are equally wide; the largest value is on top, and half of it half way.
    assert (x[1] - x[0]) * 3 == pytest.approx(x[2] - x[1], abs=0.1)
    assert y[1] < y[2] < y[0]
    assert y[2] == pytest.approx((y[0] + y[1]) / 2, abs=0.1)
    marks = [(float(str(mark.get("cx"))), float(str(mark.get("cy")))) for mark in elements(drawing, "circle", "mark")]
    assert marks == list(zip(x, y, strict=True))
    assert {"epoch", "value", "0", "10", "1", "5"} <= set(texts(drawing))
    assert "1.5" not in texts(drawing)  # epochs are whole


def test_neighbors_of_a_long_line_are_averaged() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=2000)
    drawing = line_chart({"loss": list(enumerate(values.tolist()))}, "", "step")
    (path,) = elements(drawing, "path", "line")
    assert str(path.get("d")).count("L") == 199
    assert not elements(drawing, "circle")


@pytest.mark.parametrize(
    "points", [[(3, 2.0)], [(1, 0.0), (2, 0.0)], [(1, -1e30), (2, 1e30)], [(1, 1.0), (2, 1.0 + 1e-13)]]
)
def test_axes_of_any_values(points: list[tuple[float, float]]) -> None:
    drawing = line_chart({"a": points}, "", "step")
    assert "nan" not in drawing
    assert "inf" not in drawing
    places = [float(number) for number in re.findall(r'"(-?[\d.]+)"', drawing)]
    assert all(math.isfinite(place) and -1 <= place <= 400 for place in places)


def test_lines_are_told_apart_without_color() -> None:
    drawing = line_chart({"train": [(0, 0.0), (2, 1.0)], "test": [(0, 0.0), (2, 0.5)]}, "", "codes")
    assert {"train", "test"} <= set(texts(drawing))
    assert len(elements(drawing, "path", "line s1")) == 1


def test_points_and_interval_of_a_strip() -> None:
    drawing = strip_plot([1.0, 2.0, 4.0], "three subjects", (1.5, 2.0, 3.0))
    places = [float(str(point.get("cx"))) for point in elements(drawing, "circle", "point")]
    (mean,) = elements(drawing, "circle", "mean")
    (interval,) = elements(drawing, "line", "interval")
    assert float(str(mean.get("cx"))) == places[1]
    assert (places[2] - places[1]) == pytest.approx(2 * (places[1] - places[0]), abs=0.1)
    assert float(str(interval.get("x1"))) == pytest.approx((places[0] + places[1]) / 2, abs=0.1)
    assert float(str(interval.get("x2"))) == pytest.approx((places[1] + places[2]) / 2, abs=0.1)


def test_each_cell_of_a_map_has_one_shade_by_its_value() -> None:
    rows = np.random.default_rng(0).uniform(2, 8, (5, 7))
    drawing = heat_map(rows.tolist(), "a map")
    shades = np.full(rows.shape, np.nan)
    for path in elements(drawing, "path", "shade"):
        for x, y, length in re.findall(r"M(\d+) (\d+)h(\d+)v1h-\d+z", str(path.get("d"))):
            part = shades[int(y), int(x) : int(x) + int(length)]
            assert np.isnan(part).all()
            part[:] = float(str(path.get("fill-opacity")))
    # Twelve shades between the least and the largest value.
    expected = (np.minimum(11, np.floor(12 * (rows - rows.min()) / np.ptp(rows))) + 0.5) / 12
    np.testing.assert_allclose(shades, expected, atol=0.006)
    assert texts(drawing) == [f"{rows.min():.3g}", f"{(rows.min() + rows.max()) / 2:.3g}", f"{rows.max():.3g}"]
    assert "nan" not in heat_map([[1.0, 1.0]], "of one value")


def test_texts_are_escaped() -> None:
    drawings = [line_chart({SCRIPT: [(0, 1)], "b": [(0, 1)]}, SCRIPT, SCRIPT, SCRIPT), strip_plot([1.0], SCRIPT)]
    for drawing in [*drawings, heat_map([[1.0]], SCRIPT)]:
        assert "<script" not in drawing
        assert ElementTree.fromstring(drawing).get("aria-label") == SCRIPT
