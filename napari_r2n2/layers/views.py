"""What can be shown of a registration, by the names that layers and buttons bear."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["IMAGES", "INTENSITIES", "LENGTHS", "LINE", "LINES_ALONG", "MEASURES", "View"]

LINES_ALONG = 26
"""Lines of the deformed grid along the longer side."""

LINE = 0.004
"""Width of a line as a share of the longer side."""


class View(StrEnum):
    """What can be shown of a registration; the value is the end of the layer's name."""

    ALIGNED = "aligned"
    GAUSSIANS = "Gaussians"
    ARROWS = "displacement"
    GRID = "deformed grid"
    MAGNITUDE = "magnitude"
    JACOBIAN = "Jacobian"
    RESIDUAL = "residual"
    UNCERTAINTY = "uncertainty"
    CHECKERBOARD = "checkerboard"
    REFERENCE = "reference"


IMAGES = (
    View.ALIGNED,
    View.MAGNITUDE,
    View.JACOBIAN,
    View.RESIDUAL,
    View.UNCERTAINTY,
    View.CHECKERBOARD,
    View.REFERENCE,
)
"""Views that are image layers; the others are drawn on them."""

MEASURES = (View.MAGNITUDE, View.JACOBIAN, View.RESIDUAL, View.UNCERTAINTY)
"""Images of something measured, with colours of their own."""

LENGTHS = (View.MAGNITUDE, View.UNCERTAINTY)
"""Images of lengths."""

INTENSITIES = (View.ALIGNED, View.CHECKERBOARD, View.REFERENCE)
"""Images of the series' own intensities."""
