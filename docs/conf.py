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

"""How Sphinx builds these pages: ``make docs``, with warnings as errors."""

from __future__ import annotations

import re
from typing import Any

import monai_vqprior

project = "monai_vqprior"
author = "monai_vqprior contributors"
copyright = author
version = release = monai_vqprior.__version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "myst_parser"]
exclude_patterns = ["_build"]
highlight_language = "none"  # of the diagrams; examples name theirs

myst_heading_anchors = 4
suppress_warnings = ["myst.header"]  # the model zoo's template goes from the second level to the fourth

autodoc_default_options = {"members": True, "show-inheritance": True, "member-order": "bysource"}
autodoc_inherit_docstrings = False  # torch's own explain torch
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False

# A reference into this package that leads nowhere is an error. Those into others are shown as names: their
# inventories lie on the network.
nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(collections|ignite|monai|numpy|os|pathlib|PIL|torch)\..*"),
    ("py:class", r"monai_vqprior\.[\w.]+\._\w+"),  # a private base, whose members its public classes list
    ("py:class", r"dict\[str"),  # half a type: Sphinx splits a signature at each comma where a default is a factory
]

html_theme = "pydata_sphinx_theme"
html_title = f"{project} {release}"
html_show_sourcelink = False
html_theme_options = {"navigation_with_keys": False, "show_toc_level": 2}


def _escape_shapes(app: Any, what: str, name: str, item: Any, options: Any, lines: list[str]) -> None:
    """A shape such as (B, *grid) would begin an emphasis."""
    lines[:] = [re.sub(r"(?<=[ (,\[])\*(?=\w+\W)", r"\*", line) for line in lines]


def _link_studies(app: Any, page: str, text: list[str]) -> None:
    """A study is a file outside of docs/, which the page of its name includes."""
    text[0] = re.sub(r"\]\((?:\.\./)+benchmarks/results/", "](/explanation/studies/", text[0])


def setup(app: Any) -> None:
    app.connect("autodoc-process-docstring", _escape_shapes)
    app.connect("source-read", _link_studies)
