"""The curves of an adapting: the loss of every update and the similarity of held-out frames, each with its own axis."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from qtpy.QtCore import QPointF, QRectF, Qt
from qtpy.QtGui import QColor, QFontMetrics, QPainter, QPaintEvent, QPen, QPolygonF
from qtpy.QtWidgets import QWidget

from napari_r2n2.widgets.plots import Plot, nice_step

__all__ = ["Curve", "LossPlot", "smoothed", "span"]

Curve = Sequence[tuple[float, float]]

# Told apart by people with any colour vision, on dark and on light.
_LOSS, _SIMILARITY = QColor("#e69f00"), QColor("#3fa0dc")
_RIGHT = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
_LEFT = Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter
_CENTRE = Qt.AlignmentFlag.AlignCenter
_LEFT_PX, _TOP_PX, _RIGHT_PX, _BOTTOM_PX = 44.0, 24.0, 54.0, 34.0
_TICK_PX = 4.0
_POINTS_DRAWN = 400
_OUTLIERS = 0.02
_FEWEST_CUT = 10


def smoothed(curve: Curve) -> list[tuple[float, float]]:
    """Running mean with a memory of about 20 updates, free of a bias to the first value."""
    total = weight = 0.0
    found = []
    for x, y in curve:
        total, weight = 0.95 * total + y, 0.95 * weight + 1
        found.append((x, total / weight))
    return found


def span(values: Sequence[float], least: float) -> tuple[float, float, float]:
    """Lower end, upper end and step of an axis that shows the values, at least ``least`` long; the ends are whole steps."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if high - low < least:
        middle = (low + high) / 2
        low, high = middle - least / 2, middle + least / 2
    step = nice_step(high - low, 4)
    return step * math.floor(low / step + 1e-9), step * math.ceil(high / step - 1e-9), step


class LossPlot(Plot):
    """Two curves over the number of updates."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent, width=320, least_width=240, height=190)
        self._losses: list[tuple[float, float]] = []
        self._checks: list[tuple[float, float]] = []
        self._means: list[tuple[float, float]] = []
        self._loss_axis = self._similarity_axis = (0.0, 1.0, 0.5)

    def show_curves(self, losses: Curve, checks: Curve) -> None:
        """(update, loss) and (update, similarity), both in the order of updates."""
        self._losses, self._checks = list(losses), list(checks)
        # The few largest and smallest may lie outside, or one bad batch would flatten all others and bend the mean.
        ordered = sorted(loss for _update, loss in self._losses)
        cut = math.ceil(_OUTLIERS * len(ordered)) if len(ordered) > _FEWEST_CUT else 0
        usual = ordered[cut : len(ordered) - cut] or [0.0]
        self._means = smoothed([(update, min(max(loss, usual[0]), usual[-1])) for update, loss in self._losses])
        self._loss_axis = span(usual, 0.01)
        self._similarity_axis = span([similarity for _update, similarity in self._checks], 0.001)
        self.update()

    # Where things are

    def loss_position(self, update: float, loss: float) -> QPointF:
        """Of a loss, in pixels of the widget."""
        return self._place(update, loss, *self._loss_axis[:2])

    def similarity_position(self, update: float, similarity: float) -> QPointF:
        """Of a similarity, in pixels of the widget."""
        return self._place(update, similarity, *self._similarity_axis[:2])

    def _place(self, update: float, value: float, low: float, high: float) -> QPointF:
        area = self._area()
        x = area.left() + area.width() * update / self._last_update
        return QPointF(x, area.bottom() - area.height() * (value - low) / (high - low))

    @property
    def _last_update(self) -> float:
        last = max((curve[-1][0] for curve in (self._losses, self._checks) if curve), default=0.0)
        return max(last, 10.0)

    def _area(self) -> QRectF:
        width, height = self.width() - _LEFT_PX - _RIGHT_PX, self.height() - _TOP_PX - _BOTTOM_PX
        return QRectF(_LEFT_PX, _TOP_PX, max(1.0, width), max(1.0, height))

    # Drawing

    def paintEvent(self, _event: QPaintEvent | None) -> None:  # noqa: N802
        """Qt: draw."""
        painter = self.painter()
        self._draw_legend(painter)
        self._draw_axes(painter)
        painter.setClipRect(self._area().adjusted(-3, -3, 3, 3))
        faint = QColor(_LOSS)
        faint.setAlpha(90)
        self._draw_line(painter, self._losses, QPen(faint, 1), self.loss_position)
        self._draw_line(painter, self._means, QPen(_LOSS, 2), self.loss_position)
        self._draw_checks(painter)
        painter.end()

    def _draw_legend(self, painter: QPainter) -> None:
        metrics, x = QFontMetrics(painter.font()), 6.0
        for text, colour in (("loss (left)", _LOSS), ("held-out similarity (right)", _SIMILARITY)):
            painter.setPen(QPen(colour, 2))
            painter.drawLine(QPointF(x, 10), QPointF(x + 14, 10))
            painter.setPen(self._ink)
            width = metrics.horizontalAdvance(text) + 4.0
            painter.drawText(QRectF(x + 18, 0, width, 20), _LEFT, text)
            x += 18 + width + 12

    def _draw_axes(self, painter: QPainter) -> None:
        area, height = self._area(), QFontMetrics(painter.font()).height()
        faint = QColor(self._ink)
        faint.setAlpha(50)
        for axis, colour, left in ((self._loss_axis, _LOSS, True), (self._similarity_axis, _SIMILARITY, False)):
            if not (self._losses if left else self._checks):
                continue
            low, high, step = axis
            for k in range(round((high - low) / step) + 1):
                y = area.bottom() - area.height() * k * step / (high - low)
                if left:
                    painter.setPen(QPen(faint, 1))
                    painter.drawLine(QPointF(area.left(), y), QPointF(area.right(), y))
                start = 0.0 if left else area.right() + _TICK_PX
                box = QRectF(start, y - height / 2, (_LEFT_PX if left else _RIGHT_PX) - _TICK_PX - 2, height)
                painter.setPen(colour)
                painter.drawText(box, _RIGHT if left else _LEFT, _number(low + k * step, step))
        painter.setPen(QPen(self._ink, 1))
        painter.drawLine(area.bottomLeft(), area.bottomRight())
        step = max(1.0, nice_step(self._last_update, 5))
        for k in range(int(self._last_update / step) + 1):
            x = area.left() + area.width() * k * step / self._last_update
            painter.drawLine(QPointF(x, area.bottom()), QPointF(x, area.bottom() + _TICK_PX))
            painter.drawText(QRectF(x - 30, area.bottom() + _TICK_PX, 60, height), _CENTRE, f"{k * step:.0f}")
        painter.drawText(QRectF(area.left(), self.height() - height, area.width(), height), _CENTRE, "update")

    def _draw_line(self, painter: QPainter, curve: Curve, pen: QPen, place: Callable[[float, float], QPointF]) -> None:
        painter.setPen(pen)
        painter.drawPolyline(QPolygonF([place(*point) for point in _thinned(curve)]))

    def _draw_checks(self, painter: QPainter) -> None:
        # The best holds until better weights are found: a line with steps.
        corners: list[QPointF] = []
        for update, similarity in self._checks:
            point = self.similarity_position(update, similarity)
            if corners:
                corners.append(QPointF(point.x(), corners[-1].y()))
            corners.append(point)
        painter.setPen(QPen(_SIMILARITY, 2))
        painter.drawPolyline(QPolygonF(corners))
        painter.setBrush(_SIMILARITY)
        for update, similarity in self._checks:
            painter.drawEllipse(self.similarity_position(update, similarity), 2.5, 2.5)


def _thinned(curve: Curve) -> list[tuple[float, float]]:
    """At most as many points as can be seen: means of neighbours."""
    size = max(1, math.ceil(len(curve) / _POINTS_DRAWN))
    parts = [curve[k : k + size] for k in range(0, len(curve), size)]
    return [(part[-1][0], sum(y for _x, y in part) / len(part)) for part in parts]


def _number(value: float, step: float) -> str:
    """With the decimals that the steps of the axis need."""
    return f"{value:.{max(0, -math.floor(math.log10(step) + 1e-9))}f}"
