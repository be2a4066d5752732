"""What the plots of the widgets share: a small matplotlib figure in the colours of napari's theme, as wide as there is room."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.backends.backend_qtagg import FigureCanvasQTAgg
from matplotlib.figure import Figure
from napari.utils.theme import get_theme
from qtpy.QtCore import QSize
from qtpy.QtWidgets import QSizePolicy

__all__ = ["AFTER", "BEFORE", "Plot"]

# Told apart by people with any colour vision, on dark and on light.
BEFORE, AFTER = "#e69f00", "#3fa0dc"
_LETTERS_PT = 7.5


class Plot(FigureCanvasQTAgg):
    """One pair of axes without a frame.

    Parameters
    ----------
    least_width, height
        In pixels of the widget.
    """

    def __init__(self, *, least_width: int, height: int) -> None:
        super().__init__(Figure(facecolor="none", layout="constrained"))
        self._least = QSize(least_width, height)
        self.setStyleSheet("background-color: transparent;")
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.axes: Axes = self.figure.add_subplot(facecolor="none")
        self.axes.spines[["top", "right"]].set_visible(False)
        self.axes.set_axisbelow(True)

    def sizeHint(self) -> QSize:  # noqa: N802
        """Qt: preferred size; matplotlib's own is that of a page."""
        return self._least

    def minimumSizeHint(self) -> QSize:  # noqa: N802
        """Qt: least size."""
        return self._least

    def show_theme(self, theme: str) -> None:
        """Ink that can be read on this theme of napari."""
        ink = get_theme(theme).text.as_hex()
        for axes in self.figure.axes:
            axes.tick_params(colors=ink, labelsize=_LETTERS_PT, length=3)
            axes.spines[:].set_color(ink)
            for label in (axes.xaxis.label, axes.yaxis.label):
                label.set(color=ink, fontsize=_LETTERS_PT)
        self.axes.grid(axis="y", color=ink, alpha=0.2, linewidth=0.6)
        for legend in self.figure.legends:
            for text in legend.get_texts():
                text.set(color=ink, fontsize=_LETTERS_PT)
        self.draw_idle()
