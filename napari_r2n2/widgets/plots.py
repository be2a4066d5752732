"""What the plots of the widgets share: ink that follows the theme, a size, small letters, and round distances between ticks."""

from __future__ import annotations

import math

from qtpy.QtCore import QSize
from qtpy.QtGui import QColor, QPainter
from qtpy.QtWidgets import QSizePolicy, QWidget

__all__ = ["Plot", "nice_step"]


class Plot(QWidget):
    """A plot as wide as there is room.

    Parameters
    ----------
    width, least_width, height
        In pixels.
    """

    def __init__(self, parent: QWidget | None, *, width: int, least_width: int, height: int) -> None:
        super().__init__(parent)
        self._preferred, self._least = QSize(width, height), QSize(least_width, height)
        self._ink = QColor("#909090")
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)

    def sizeHint(self) -> QSize:  # noqa: N802
        """Qt: preferred size."""
        return self._preferred

    def minimumSizeHint(self) -> QSize:  # noqa: N802
        """Qt: least size."""
        return self._least

    def set_ink(self, colour: str) -> None:
        """Colour of axes and words."""
        self._ink = QColor(colour)
        self.update()

    def painter(self) -> QPainter:
        """Begins to draw; end it."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        font = self.font()
        font.setPointSizeF(max(7.0, font.pointSizeF() - 1))
        painter.setFont(font)
        return painter


def nice_step(extent: float, most: int) -> float:
    """The smallest of 1, 2, 5, 10, 20, ... (and 0.5, 0.2, ...) that divides ``extent`` into at most ``most`` parts."""
    if extent <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(extent / most))
    return next(power * factor for factor in (1, 2, 5, 10, 20) if extent <= most * power * factor * (1 + 1e-9))
