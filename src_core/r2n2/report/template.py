"""Pages from templates: one environment for all of them, in which what is undefined is an error and all text is escaped."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

__all__ = ["number_text", "render_template"]


def render_template(name: str, context: Mapping[str, Any], filters: Mapping[str, Any]) -> str:
    """The text of a template of this package; ``filters`` are functions by the names that it calls them."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("r2n2.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= filters
    return environment.get_template(name).render(**context)


def number_text(value: float, digits: int = 3) -> str:
    """A number as pages show it; a dash where it is not known."""
    return f"{value:.{digits}f}" if math.isfinite(value) else "\N{EN DASH}"
