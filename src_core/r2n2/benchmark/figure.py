"""The picture of a comparison: how accurate every method is against its time a frame, both on logarithmic axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from r2n2.report.style import AFTER_COLOUR, BEFORE_COLOUR, INK, STYLE, figure_uri, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.transforms import Bbox

__all__ = ["Point", "accuracy_figure", "best_compromises"]

_SOFT = "#8a929c"
_HEIGHT_IN = 4.6
_SMALLEST_ERROR = 1e-4
_CLEARLY_NEARER_PX = 6
# Where a name may stand: x and y of its anchor in points from the method's own, and the side of the text that is there.
_NAME_PLACES: tuple[tuple[int, int, Literal["left", "center", "right"]], ...] = (
    (9, -3, "left"),
    (9, 7, "left"),
    (9, -13, "left"),
    (-9, -3, "right"),
    (-9, 8, "right"),
    (-9, -14, "right"),
    (0, 10, "center"),
    (0, -17, "center"),
    (12, 17, "left"),
    (12, -23, "left"),
    (-12, 18, "right"),
    (-12, -24, "right"),
)


@dataclass(frozen=True)
class Point:
    """A method in the picture.

    Parameters
    ----------
    seconds, fastest, slowest
        A frame.
    error, high
        What is drawn as the point, and where the line above it ends; NaN for no line. Smaller is better.
    """

    name: str
    ours: bool
    seconds: float
    fastest: float
    slowest: float
    error: float
    high: float


def best_compromises(points: Sequence[Point]) -> list[Point]:
    """The points of which no other is both faster and more accurate, from fast to slow."""
    best: list[Point] = []
    for point in sorted(points, key=lambda point: (point.seconds, point.error)):
        if not best or point.error < best[-1].error:
            best.append(point)
    return best


def accuracy_figure(points: Sequence[Point], before: float, label: str) -> str:
    """The data URI of the picture.

    Parameters
    ----------
    points
        Of the methods that registered anything.
    before
        The same error without registration.
    label
        Of the vertical axis.
    """
    from matplotlib import rc_context

    # A logarithm has no place for 0, which equal images give.
    points = [replace(point, error=max(point.error, _SMALLEST_ERROR)) for point in points]
    before = max(before, _SMALLEST_ERROR)
    with rc_context(STYLE):
        figure = new_figure(_HEIGHT_IN)
        axes = figure.subplots()
        axes.set_xscale("log")
        axes.set_yscale("log")
        best = best_compromises(points)
        axes.plot([p.seconds for p in best], [p.error for p in best], color=_SOFT, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        for point in points:
            colour = AFTER_COLOUR if point.ours else BEFORE_COLOUR
            axes.plot([point.fastest, point.slowest], [point.error] * 2, color=colour, linewidth=1.6, alpha=0.5, zorder=2)
            if math.isfinite(point.high):
                axes.plot([point.seconds] * 2, [point.error, point.high], color=colour, linewidth=1, alpha=0.45, zorder=2)
                axes.plot([point.seconds], [point.high], marker="_", color=colour, markersize=7, alpha=0.6, zorder=2)
            marker, size = ("o", 8) if point.ours else ("D", 7)
            axes.plot(
                [point.seconds], [point.error], color=colour, markeredgecolor="white", zorder=3, marker=marker, markersize=size
            )
        axes.axhline(before, color=_SOFT, linewidth=0.9, linestyle=(0, (1, 2)))
        axes.annotate(
            "not registered",
            (1, before),
            xycoords=axes.get_yaxis_transform(),
            xytext=(-4, 3),
            textcoords="offset points",
            ha="right",
            color=_SOFT,
            fontsize=8,
        )
        axes.set_xlabel("seconds a frame")
        axes.set_ylabel(label)
        axes.grid(which="major", color="#e4e7eb", linewidth=0.7)
        axes.set_axisbelow(True)
        _widen(axes, points, before)
        for axis in (axes.xaxis, axes.yaxis):
            _plain_ticks(axis)
        figure.draw_without_rendering()
        _name(axes, points)
        return figure_uri(figure)


def _widen(axes: Axes, points: Sequence[Point], before: float) -> None:
    """Room for names beside the outermost points."""
    times = [value for point in points for value in (point.fastest, point.slowest)]
    errors = [value for point in points for value in (point.error, point.high) if math.isfinite(value)]
    axes.set_xlim(min(times) / 1.6, max(times) * 2.2)
    axes.set_ylim(min(errors) / 1.25, max([*errors, before]) * 1.2)


def _plain_ticks(axis: Axis) -> None:
    """Numbers as people write them, at 1, 2 and 5 of every decade."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _name(axes: Axes, points: Sequence[Point]) -> None:
    """Write each name nearest to its own point, where it hides no other point, no other name and, if it can be, no line."""
    from matplotlib.transforms import Bbox

    drawn = axes.transData.transform
    places = [drawn((point.seconds, point.error)) for point in points]
    marks = [Bbox.from_bounds(x - 8, y - 8, 16, 16) for x, y in places]
    lines = [Bbox([drawn((p.fastest, p.error)), drawn((p.slowest, p.error))]).padded(2) for p in points]
    lines += [Bbox([drawn((p.seconds, p.error)), drawn((p.seconds, p.high))]).padded(2) for p in points if math.isfinite(p.high)]
    taken = [*marks, *lines]
    for point, own in sorted(zip(points, marks, strict=True), key=lambda pair: -pair[0].error):
        text = axes.annotate(
            point.name,
            (point.seconds, point.error),
            textcoords="offset points",
            fontsize=8.5,
            color=INK,
            fontweight="bold" if point.ours else "normal",
            xytext=_NAME_PLACES[0][:2],
        )
        others = [box for box in taken if box is not own]
        rated = []
        for rank, (x, y, side) in enumerate(_NAME_PLACES):
            text.set_position((x, y))
            text.set_horizontalalignment(side)
            box = text.get_window_extent()
            strange = min((_distance(box, mark) for mark in marks if mark is not own), default=math.inf)
            mistaken = strange <= _distance(box, own) + _CLEARLY_NEARER_PX
            rated.append((mistaken, _hidden(box, others) + _outside(box, axes.bbox), rank, (x, y, side), box))
        *_, (x, y, side), box = min(rated, key=lambda item: item[:3])
        text.set_position((x, y))
        text.set_horizontalalignment(side)
        taken.append(box)


def _hidden(box: Bbox, others: Sequence[Bbox]) -> float:
    """Area in square pixels that a box shares with others."""
    return math.fsum(
        max(0, min(box.x1, other.x1) - max(box.x0, other.x0)) * max(0, min(box.y1, other.y1) - max(box.y0, other.y0))
        for other in others
    )


def _distance(box: Bbox, other: Bbox) -> float:
    """Pixels between two boxes; 0 where they touch."""
    return math.hypot(
        max(0, box.x0 - other.x1, other.x0 - box.x1),
        max(0, box.y0 - other.y1, other.y0 - box.y1),
    )


def _outside(box: Bbox, frame: Bbox) -> float:
    """Area in square pixels of a box that lies outside a frame."""
    return box.width * box.height - _hidden(box, [frame])
