"""The mean landmark error of every frame before and after, drawn in mm over the frame number."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

from qtpy.QtCore import QPointF, QRectF, Qt, Signal
from qtpy.QtGui import QColor, QFontMetrics, QMouseEvent, QPainter, QPaintEvent, QPen, QTextOption
from qtpy.QtWidgets import QWidget

from napari_r2n2.widgets.plots import Plot, nice_step

__all__ = ["ErrorPlot"]

# Told apart by people with any colour vision, on dark and on light.
_BEFORE, _AFTER = QColor("#e69f00"), QColor("#3fa0dc")
_RIGHT = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
_LEFT = Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter
_CENTRE = Qt.AlignmentFlag.AlignHCenter
_MARGIN = QRectF(38, 20, 8, 30)  # left, top, right, bottom


class ErrorPlot(Plot):
    """Two curves with points; a click goes to the nearest frame."""

    frame_chosen = Signal(int)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent, width=320, least_width=220, height=150)
        self._before: dict[int, float] = {}
        self._after: dict[int, float] = {}
        self._frames, self._current, self._reference = 1, 0, 0
        self.setCursor(Qt.CursorShape.PointingHandCursor)

    def show_errors(self, before: Mapping[int, float], after: Mapping[int, float], frames: int, reference: int) -> None:
        """Frame -> mean in mm, NaN where there is none."""
        self._before = {frame: value for frame, value in before.items() if not math.isnan(value)}
        self._after = {frame: value for frame, value in after.items() if not math.isnan(value)}
        self._frames, self._reference = max(frames, 1), reference
        self.update()

    def show_frame(self, frame: int) -> None:
        """Mark the frame on the screen."""
        if frame != self._current:
            self._current = frame
            self.update()

    # Where things are

    @property
    def _top_mm(self) -> float:
        largest = max([*self._before.values(), *self._after.values()], default=0.0)
        step = nice_step(largest or 1.0, 4)
        return step * max(1, math.ceil(largest / step - 1e-9))

    def position(self, frame: float, value_mm: float) -> QPointF:
        """Of a point of a curve, in pixels of the widget."""
        area = self._area()
        x = area.left() + area.width() * (frame + 0.5) / self._frames
        return QPointF(x, area.bottom() - area.height() * value_mm / self._top_mm)

    def _area(self) -> QRectF:
        return QRectF(
            _MARGIN.x(),
            _MARGIN.y(),
            max(1.0, self.width() - _MARGIN.x() - _MARGIN.width()),
            max(1.0, self.height() - _MARGIN.y() - _MARGIN.height()),
        )

    def mousePressEvent(self, event: QMouseEvent | None) -> None:  # noqa: N802
        """Qt: a click."""
        if event is not None and event.button() == Qt.MouseButton.LeftButton:
            area = self._area()
            frame = math.floor((event.pos().x() - area.left()) / area.width() * self._frames)
            self.frame_chosen.emit(min(max(frame, 0), self._frames - 1))

    # Drawing

    def paintEvent(self, _event: QPaintEvent | None) -> None:  # noqa: N802
        """Qt: draw."""
        painter = self.painter()
        self._draw_axes(painter)
        self._draw_legend(painter)
        for values, colour in ((self._before, _BEFORE), (self._after, _AFTER)):
            self._draw_curve(painter, values, colour)
        painter.end()

    def _draw_axes(self, painter: QPainter) -> None:
        area, metrics = self._area(), QFontMetrics(painter.font())
        faint = QColor(self._ink)
        faint.setAlpha(50)
        band = area.width() / self._frames
        current = QRectF(self.position(self._current, 0).x() - max(band, 2.0) / 2, area.top(), max(band, 2.0), area.height())
        painter.fillRect(current, faint)
        step = nice_step(self._top_mm, 4)
        for k in range(round(self._top_mm / step) + 1):
            y = self.position(0, k * step).y()
            painter.setPen(QPen(faint, 1))
            painter.drawLine(QPointF(area.left(), y), QPointF(area.right(), y))
            painter.setPen(self._ink)
            painter.drawText(QRectF(0, y - 8, area.left() - 5, 16), f"{k * step:g}", QTextOption(_RIGHT))
        painter.setPen(QPen(self._ink, 1))
        painter.drawLine(area.bottomLeft(), area.bottomRight())
        most = max(1, int(area.width() / (metrics.horizontalAdvance("000") + 10)))
        stride = max(1, round(nice_step(self._frames - 1, most)))
        for frame in range(0, self._frames, stride):
            x = self.position(frame, 0).x()
            painter.drawLine(QPointF(x, area.bottom()), QPointF(x, area.bottom() + 3))
            painter.drawText(QRectF(x - 20, area.bottom() + 2, 40, 14), str(frame), QTextOption(_CENTRE))
        painter.drawText(QRectF(area.left(), area.bottom() + 14, area.width(), 15), "frame", QTextOption(_CENTRE))
        painter.drawText(QRectF(2, 1, area.left() - 7, 16), "mm", QTextOption(_RIGHT))

    def _draw_legend(self, painter: QPainter) -> None:
        metrics = QFontMetrics(painter.font())
        x = self._area().left() + 6
        for text, colour in (("mean before", _BEFORE), ("mean after (TRE)", _AFTER)):
            painter.setPen(QPen(colour, 2))
            painter.drawLine(QPointF(x, 9), QPointF(x + 14, 9))
            self._dot(painter, QPointF(x + 7, 9), colour)
            painter.setPen(self._ink)
            width = metrics.horizontalAdvance(text)
            painter.drawText(QRectF(x + 19, 1, width + 4, 16), text, QTextOption(_LEFT))
            x += 19 + width + 14

    def _draw_curve(self, painter: QPainter, values: Mapping[int, float], colour: QColor) -> None:
        frames = sorted(values)
        painter.setPen(QPen(colour, 1.5))
        for one, other in itertools.pairwise(frames):
            if other - one == 1 or (other - one == 2 and one + 1 == self._reference):
                painter.drawLine(self.position(one, values[one]), self.position(other, values[other]))
        for frame in frames:
            self._dot(painter, self.position(frame, values[frame]), colour, 3.5 if frame == self._current else 2.5)

    @staticmethod
    def _dot(painter: QPainter, place: QPointF, colour: QColor, radius: float = 2.5) -> None:
        painter.setBrush(colour)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.drawEllipse(place, radius, radius)
