"""The look that all figures of our pages share, and figures as data URIs, drawn off screen."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "AFTER_COLOUR",
    "BEFORE_COLOUR",
    "FLAG_COLOUR",
    "INK",
    "STYLE",
    "WIDTH_IN",
    "data_uri",
    "figure_uri",
    "new_figure",
    "show_image",
]

BEFORE_COLOUR, AFTER_COLOUR, INK = "#b8621b", "#1f5f8b", "#22272e"
FLAG_COLOUR = "#a4161a"
STYLE = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.edgecolor": "#8a929c",
    "axes.linewidth": 0.8,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": "#4a525c",
    "ytick.color": "#4a525c",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}
"""For matplotlib's ``rc_context``."""

_DPI = (130, 115, 100, 88, 75)
_LARGEST_FIGURE_BYTES = 700_000
WIDTH_IN = 10.0


def new_figure(height_in: float) -> Figure:
    """An empty figure of the width of a page."""
    # Figure without pyplot: nothing global is touched, so it may run in a worker thread of a GUI.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def show_image(axes: Axes, image: NDArray[Any], spacing: tuple[float, float], title: str = "", **options: Any) -> Any:
    """Draw an image in true proportions, in mm from the first pixel's centre."""
    (rows, columns), (dy, dx) = image.shape, spacing
    extent = (-0.5 * dx, (columns - 0.5) * dx, (rows - 0.5) * dy, -0.5 * dy)
    drawn = axes.imshow(image, extent=extent, interpolation="nearest", **options)
    axes.set_title(title, loc="left")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    return drawn


def figure_uri(figure: Figure) -> str:
    """The data URI of a PNG as sharp as fits: noisy frames do not compress, and the page is to stay small enough to send."""
    for dpi in _DPI:
        data = io.BytesIO()
        figure.savefig(data, format="png", dpi=dpi)
        if len(data.getvalue()) <= _LARGEST_FIGURE_BYTES:
            break
    return data_uri(data.getvalue(), "image/png")


def data_uri(data: bytes, kind: str) -> str:
    """The data URI of bytes of a media type."""
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"
