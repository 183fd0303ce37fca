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

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from chromium import Chromium, find_chromium

pytestmark = pytest.mark.integration

# The page of a run, as a reader with a phone, a printer or no eyes has it: by its text, and in a browser where one is.

COLOR = "getComputedStyle(document.body).%s"
VOID = {"meta", "link", "img", "br", "hr"}


class Elements(HTMLParser):
    """All elements of a page with their attributes, the text of its style sheet, and what was left open."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.style = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["style"]:
            self.style += data


def luminance(color: str) -> float:
    """Relative luminance of rgb(r, g, b), as WCAG 2 defines it."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", color)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.fixture(scope="module")
def elements(evaluated: Path) -> Elements:
    return Elements(evaluated / "report.html")


def test_every_element_is_closed(elements: Elements) -> None:
    assert elements.open == []


def test_nothing_comes_from_elsewhere(elements: Elements) -> None:
    """One file: every address is inside the page, and a browser is told to fetch nothing."""
    addresses = [
        str(value)
        for _, attrs in elements.found
        for key, value in attrs.items()
        if key in ("src", "href", "srcset", "data")
    ]
    assert addresses
    assert all(address.startswith(("#", "data:")) for address in addresses)
    assert not re.search(r"url\(|@import|https?:", elements.style)
    assert not {"script", "iframe", "object", "embed", "form"} & {tag for tag, _ in elements.found}
    policies = [attrs["content"] for _, attrs in elements.found if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_every_link_has_its_target(elements: Elements) -> None:
    names = [attrs["id"] for _, attrs in elements.found if "id" in attrs]
    assert len(names) == len(set(names))
    links = {str(attrs["href"])[1:] for tag, attrs in elements.found if tag == "a"}
    assert {"training", "reconstructions", "codebook", "bits", "fidelity", "newness"} <= links
    assert links <= set(names)


def test_every_picture_says_what_it_shows(elements: Elements) -> None:
    shown = [attrs.get("alt") for tag, attrs in elements.found if tag == "img"]
    drawn = [attrs.get("aria-label") for tag, attrs in elements.found if tag == "svg"]
    assert len(shown) == 4  # slices, codes, samples, sketches
    assert len(drawn) >= 10  # curves, subjects, usage, map of bits
    assert all(text and len(text) > 10 for text in (*shown, *drawn))


def test_nothing_is_wider_than_a_phone(elements: Elements) -> None:
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in elements.found
    assert not [
        attrs for tag, attrs in elements.found if tag in ("table", "td", "th", "img", "svg") and "width" in attrs
    ]
    fixed = re.findall(r"(?<![-\w])(?:min-)?width:\s*([\d.]+)(px|rem|em)", elements.style)
    assert all(float(number) * (1 if unit == "px" else 16) <= 390 for number, unit in fixed)
    assert elements.style.count("@media (prefers-color-scheme: dark)") == 1
    assert elements.style.count("@media print") == 1


def test_each_figure_has_its_command(evaluated: Path) -> None:
    text = (evaluated / "report.html").read_text(encoding="utf-8")
    sections = re.split(r'<h2 id="(\w+)">', text)[1:]
    for name, content in zip(sections[::2], sections[1::2], strict=True):
        assert name == "summary" or "<code>vqprior " in content, name
    assert "vqprior audit --dataset_dir DIR --output_dir OUT" in sections[1 + 2 * sections[::2].index("fidelity")]
    # Both trainings, with what they were given.
    for told in ("seed of the training vqvae", "seed of the samples", "predictability_weight", "Apache-2.0"):
        assert told in text
    assert str(evaluated.parent) not in text


def test_in_a_browser(evaluated: Path, tmp_path: Path) -> None:
    """No message on the console, no request, and nothing sticks out of a phone; all pictures are decoded."""
    program = find_chromium()
    if program is None:
        pytest.skip("there is no Chromium: neither chromium nor google-chrome is on the path")
    address = (evaluated / "report.html").as_uri()
    with Chromium(program, tmp_path) as browser:
        browser.call("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=1, mobile=True)
        browser.open(address)
        assert browser.messages == []
        assert [url for url in browser.requests if not url.startswith("data:")] == [address]
        assert browser.value("document.documentElement.scrollWidth") == 390
        assert browser.value("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
        # What is written, on what it is written on, in both schemes: 4.5 to 1 is what WCAG asks for.
        for scheme in ("light", "dark"):
            browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
            back, front = (luminance(browser.value(COLOR % name)) for name in ("backgroundColor", "color"))
            assert (back > 0.5) == (scheme == "light")
            assert (max(back, front) + 0.05) / (min(back, front) + 0.05) > 4.5
