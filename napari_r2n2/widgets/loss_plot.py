"""The curves of an adapting: the loss of every update and the similarity of held-out frames, each with its own axis."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.ticker import MaxNLocator

from napari_r2n2.widgets.plots import AFTER, BEFORE, Plot

__all__ = ["Curve", "LossPlot", "smoothed"]

Curve = Sequence[tuple[float, float]]

_LEAST_LOSS, _LEAST_SIMILARITY, _FEWEST_UPDATES = 0.01, 0.001, 10
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


class LossPlot(Plot):
    """Two curves over the number of updates."""

    def __init__(self) -> None:
        super().__init__(least_width=220, height=190)
        self.similarity_axes = self.axes.twinx()
        self.similarity_axes.spines["top"].set_visible(False)
        (self.losses,) = self.axes.plot([], [], color=BEFORE, linewidth=0.8, alpha=0.4)
        (self.means,) = self.axes.plot([], [], color=BEFORE, linewidth=1.6, label="loss (left)")
        # The best holds until better weights are found: a line with steps.
        (self.similarities,) = self.similarity_axes.plot(
            [],
            [],
            color=AFTER,
            linewidth=1.6,
            marker="o",
            markersize=3.5,
            drawstyle="steps-post",
            label="held-out correlation (right)",
        )
        self.axes.set_xlabel("update")
        for axes in (self.axes, self.similarity_axes):
            axes.yaxis.set_major_locator(MaxNLocator(4))
        self.axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        self.figure.legend(
            handles=[self.means, self.similarities], loc="outside upper center", ncols=2, frameon=False, handlelength=1.2
        )
        self.show_curves([], [])

    def show_curves(self, losses: Curve, checks: Curve) -> None:
        """(update, loss) and (update, similarity), both in the order of updates."""
        # The few largest and smallest may lie outside, or one bad batch would flatten all others and bend the mean.
        ordered = sorted(loss for _update, loss in losses)
        cut = math.ceil(_OUTLIERS * len(ordered)) if len(ordered) > _FEWEST_CUT else 0
        usual = ordered[cut : len(ordered) - cut] or [0.0]
        means = smoothed([(update, min(max(loss, usual[0]), usual[-1])) for update, loss in losses])
        for line, curve in ((self.losses, losses), (self.means, means), (self.similarities, checks)):
            line.set_data([x for x, _y in curve], [y for _x, y in curve])
        last = max((curve[-1][0] for curve in (losses, checks) if curve), default=0)
        self.axes.set_xlim(0, max(last, _FEWEST_UPDATES))
        self.axes.set_ylim(*_span(usual, _LEAST_LOSS))
        self.similarity_axes.set_ylim(*_span([similarity for _update, similarity in checks] or [0.0], _LEAST_SIMILARITY))
        self.axes.tick_params(labelleft=bool(losses))
        self.similarity_axes.tick_params(labelright=bool(checks))
        self.draw_idle()


def _span(values: Sequence[float], least: float) -> tuple[float, float]:
    """Ends of an axis that shows the values with some air, at least ``least`` apart."""
    low, high = min(values), max(values)
    air = max(0.06 * (high - low), (least - (high - low)) / 2)
    return low - air, high + air
