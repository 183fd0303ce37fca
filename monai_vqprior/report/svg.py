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
from collections.abc import Mapping, Sequence
from xml.etree import ElementTree

from markupsafe import Markup

__all__ = ["heat_map", "line_chart", "strip_plot"]

# Drawings are written as elements, so that every text is escaped. Their colors are classes of the page's style sheet,
# which has them for light and dark; nothing has a size in pixels, so a drawing is as wide as the page lets it be.

_WIDTH, _HEIGHT = 400, 200  # of a chart, in units of the drawing
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 16, 24, 40  # room for labels
_MOST_MARKED = 40  # points of a line that are marked
_MOST_POINTS = 200
_LEVELS = 12  # shades of a heat map


def line_chart(
    lines: Mapping[str, Sequence[tuple[float, float]]], title: str, x_label: str, y_label: str = ""
) -> Markup:
    """
    Draw lines over an axis of whole numbers, such as steps.

    Args:
        lines: points (x, y) of each line, from left to right, by what the line is; at least one point in all. Of many
            points, neighbors are averaged.
        title: what the drawing shows, for readers who cannot see it.
        x_label: what is along the horizontal axis.
        y_label: what is along the vertical one.

    Returns:
        an SVG element.
    """
    drawn = {name: _averaged(points) for name, points in lines.items()}
    every = [point for points in drawn.values() for point in points]
    first, last = min(x for x, _ in every), max(x for x, _ in every)
    ticks = [tick for tick in _ticks([first, last]) if first <= tick <= last and tick.is_integer()]
    y_ticks = _ticks([y for _, y in every])
    svg = _drawing(_WIDTH, _HEIGHT, title)
    width, height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            _LEFT + width * ((x - first) / (last - first) if last > first else 0.5),
            _TOP + height * (1 - (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])),
        )

    bottom = _TOP + height
    for tick in ticks:
        x, _ = place(tick, y_ticks[0])
        _line(svg, "grid", x, _TOP, x, bottom)
        _text(svg, f"{tick:g}", x, bottom + 14, "middle")
    for tick in y_ticks:
        _, y = place(first, tick)
        _line(svg, "grid", _LEFT, y, _WIDTH - _RIGHT, y)
        _text(svg, f"{tick:g}", _LEFT - 5, y + 4, "end")
    _text(svg, x_label, _LEFT + width / 2, _HEIGHT - 8, "middle")
    _text(svg, y_label, 4, 13, "start")
    for number, (name, points) in enumerate(drawn.items()):
        _draw_line(svg, [place(*point) for point in points], number)
        if len(drawn) > 1:
            _line(svg, f"line s{number}", _LEFT + 90 + 120 * number, 9, _LEFT + 106 + 120 * number, 9)
            _text(svg, name, _LEFT + 110 + 120 * number, 13, "start")
    return _markup(svg)


def strip_plot(values: Sequence[float], title: str, interval: tuple[float, float, float] | None = None) -> Markup:
    """
    Draw a point for each value along one axis.

    Args:
        values: at least one.
        title: what the drawing shows, for readers who cannot see it.
        interval: lower end, mean and upper end of an interval of the mean, drawn below the points.

    Returns:
        an SVG element.
    """
    ticks = _ticks([*values, *(interval or ())])
    svg = _drawing(_WIDTH, 66, title)

    def place(value: float) -> float:
        return 20 + (_WIDTH - 40) * (value - ticks[0]) / (ticks[-1] - ticks[0])

    for tick in ticks:
        _line(svg, "grid", place(tick), 4, place(tick), 48)
        _text(svg, f"{tick:g}", place(tick), 62, "middle")
    for value in values:
        _circle(svg, "point", place(value), 18, 4)
    if interval is not None:
        low, mean, high = map(place, interval)
        _line(svg, "interval", low, 38, high, 38)
        _circle(svg, "mean", mean, 38, 4)
    return _markup(svg)


def heat_map(rows: Sequence[Sequence[float]], title: str) -> Markup:
    """
    Draw a grid of values in shades, with a scale of the shades below it.

    Args:
        rows: the values, row by row from top to bottom.
        title: what the drawing shows, for readers who cannot see it.

    Returns:
        an SVG element.
    """
    width, height = len(rows[0]), len(rows)
    least, most = min(map(min, rows)), max(map(max, rows))
    span = most - least or 1.0
    unit = width / 32  # of the scale and its numbers
    svg = _drawing(width, height + 4.5 * unit, title)
    levels = [[min(_LEVELS - 1, int(_LEVELS * (value - least) / span)) for value in row] for row in rows]
    for level in range(_LEVELS):
        cells = "".join(f"M{x} {y}h{length}v1h-{length}z" for x, y, length in _runs(levels, level))
        if cells:
            ElementTree.SubElement(svg, "path", {"class": "shade", "d": cells, **_shade(level)})
        box = {"x": _number(level * width / _LEVELS), "y": _number(height + unit), "class": "shade"}
        size = {"width": _number(width / _LEVELS), "height": _number(unit)}
        ElementTree.SubElement(svg, "rect", {**box, **size, **_shade(level)})
    for value, x, anchor in ((least, 0, "start"), ((least + most) / 2, width / 2, "middle"), (most, width, "end")):
        _text(svg, f"{value:.3g}", x, height + 4 * unit, anchor, 1.6 * unit)
    return _markup(svg)


def _runs(levels: Sequence[Sequence[int]], level: int) -> list[tuple[int, int, int]]:
    """Left end, row and length of each run of cells of a level."""
    runs = []
    for y, row in enumerate(levels):
        x = 0
        while x < len(row):
            length = 0
            while x + length < len(row) and row[x + length] == level:
                length += 1
            if length:
                runs.append((x, y, length))
            x += max(length, 1)
    return runs


def _shade(level: int) -> dict[str, str]:
    return {"fill-opacity": _number((level + 0.5) / _LEVELS)}


def _averaged(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most some hundred points, each the mean of neighbors."""
    size = math.ceil(len(points) / _MOST_POINTS)
    parts = [points[start : start + size] for start in range(0, len(points), size or 1)]
    return [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts]


def _ticks(values: Sequence[float], most: int = 5) -> list[float]:
    """Round numbers, evenly spaced, of which the first and the last enclose the values."""
    low, high = min(values), max(values)
    if high - low <= 1e-9 * max(abs(low), abs(high)):  # one value: an axis around it
        room = abs(low) / 2 or 1.0
        low, high = low - room, high + room
    step = 10.0 ** math.floor(math.log10((high - low) / most))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (factor * step) <= most)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, last + 1)]


def _drawing(width: float, height: float, title: str) -> ElementTree.Element:
    size = f"0 0 {_number(width)} {_number(height)}"
    return ElementTree.Element("svg", {"viewBox": size, "role": "img", "aria-label": title})


def _draw_line(svg: ElementTree.Element, places: Sequence[tuple[float, float]], number: int) -> None:
    """A line through places, which are marked where there are few."""
    way = "".join(f"{'L' if i else 'M'}{_number(x)} {_number(y)}" for i, (x, y) in enumerate(places))
    ElementTree.SubElement(svg, "path", {"class": f"line s{number}", "d": way})
    if len(places) <= _MOST_MARKED:
        for x, y in places:
            _circle(svg, f"mark s{number}", x, y, 2.5)


def _line(svg: ElementTree.Element, kind: str, x1: float, y1: float, x2: float, y2: float) -> None:
    ends = {"x1": _number(x1), "y1": _number(y1), "x2": _number(x2), "y2": _number(y2)}
    ElementTree.SubElement(svg, "line", {"class": kind, **ends})


def _circle(svg: ElementTree.Element, kind: str, x: float, y: float, radius: float) -> None:
    ElementTree.SubElement(svg, "circle", {"class": kind, "cx": _number(x), "cy": _number(y), "r": _number(radius)})


def _text(svg: ElementTree.Element, text: str, x: float, y: float, anchor: str, size: float = 11) -> None:
    place = {"x": _number(x), "y": _number(y), "text-anchor": anchor, "font-size": _number(size)}
    ElementTree.SubElement(svg, "text", place).text = text


def _number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _markup(svg: ElementTree.Element) -> Markup:
    return Markup(ElementTree.tostring(svg, encoding="unicode"))
