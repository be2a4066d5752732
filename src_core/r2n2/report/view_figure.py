"""A picture of a window's canvas as a figure, with a scale bar that stays a shape in a format that has shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from r2n2.movies.drawing import bar_length
from r2n2.report.style import STYLE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["view_figure"]

_PIXELS_AN_INCH = 150
_BELOW_MM = 0.5
_MARGIN, _THICK = 0.025, 0.008


def view_figure(picture: NDArray[np.uint8], mm_a_pixel: float | None = None) -> Figure:
    """The picture fills the figure; the bar lies in its lower right corner.

    Parameters
    ----------
    picture
        (H, W, 3 or 4).
    mm_a_pixel
        Length of one of its pixels; None: there is no bar.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    height, width = picture.shape[:2]
    with rc_context(STYLE):
        figure = Figure(figsize=(width / _PIXELS_AN_INCH, height / _PIXELS_AN_INCH))
        FigureCanvasAgg(figure)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.imshow(picture[..., :3], interpolation="none", extent=(0, width, height, 0), aspect="auto")
        axes.set_axis_off()
        axes.set_xlim(0, width)
        axes.set_ylim(height, 0)
        if mm_a_pixel is not None:
            small = width * mm_a_pixel * 0.2 < _BELOW_MM
            per_mm, unit = (1000.0, "µm") if small else (1.0, "mm")
            length = bar_length(width * mm_a_pixel * per_mm)
            pixels = length / per_mm / mm_a_pixel
            margin, thick = _MARGIN * width, max(_THICK * height, 2)
            bar = Rectangle((width - margin - pixels, height - margin - thick), pixels, thick, facecolor="white", edgecolor="black")
            bar.set(linewidth=0.6, gid="scale bar")
            axes.add_patch(bar)
            # A dark ground and no outline: an outlined text is no text in an SVG.
            ground = {"facecolor": "black", "alpha": 0.45, "edgecolor": "none", "pad": 1.5}
            place = (width - margin - pixels / 2, height - margin - 1.8 * thick)
            axes.text(*place, f"{length:g} {unit}", color="white", ha="center", va="bottom", bbox=ground)
    return figure
