"""Settings of the documentation; built by ``make docs``, where every warning is an error."""

from __future__ import annotations

import re
from importlib.util import find_spec
from typing import Any

from sphinx.application import Sphinx

import r2n2

project = "napari-r2n2"
author = "napari-r2n2 developers"
project_copyright = "napari-r2n2 developers, Apache-2.0"
version = release = r2n2.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"napari-r2n2 {release}"
html_logo = html_favicon = "../resources/icons/r2n2.svg"

myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3

# The pages of the plugin are built where it is not installed, too.
autodoc_mock_imports = [name for name in ("napari", "psygnal", "platformdirs") if find_spec(name) is None]
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_preserve_defaults = True
napoleon_google_docstring = False
napoleon_use_ivar = True

_LITERAL = re.compile(r"(``.*?``|`[^`]+`)")
_EMPHASIS = re.compile(r"(?<!\w)\*[^*\s](?:[^*]*[^*\s])?\*(?!\w)")


def _escape_formulas(_app: Sphinx, _what: str, _name: str, _object: Any, _options: Any, lines: list[str]) -> None:
    """Take shapes such as (B, *shape) and lengths such as |v| in docstrings as they are meant, not as markup."""
    for number, line in enumerate(lines):
        parts = _LITERAL.split(line)
        parts[::2] = [_escape(part) for part in parts[::2]]
        lines[number] = "".join(parts)


def _escape(text: str) -> str:
    kept = _EMPHASIS.findall(text)
    plain = [part.replace("*", r"\*").replace("|", r"\|") for part in _EMPHASIS.split(text)]
    return "".join(part + word for part, word in zip(plain, [*kept, ""], strict=True))


def setup(app: Sphinx) -> None:
    """Escape before napoleon, which adds markup of its own."""
    app.connect("autodoc-process-docstring", _escape_formulas, priority=400)
