"""The mean landmark error of every frame before and after, over the frame number; a click goes to a frame."""

from __future__ import annotations

import math
from collections.abc import Mapping

from matplotlib.backend_bases import MouseButton, MouseEvent
from matplotlib.ticker import MaxNLocator
from qtpy.QtCore import Qt, Signal

from napari_r2n2.widgets.plots import AFTER, BEFORE, Plot

__all__ = ["ErrorPlot"]


class ErrorPlot(Plot):
    """Two curves with points; a click goes to the nearest frame."""

    frame_chosen = Signal(int)

    def __init__(self) -> None:
        super().__init__(least_width=200, height=150)
        self._frames, self._current = 1, 0
        (self.before,) = self.axes.plot([], [], color=BEFORE, linewidth=1.2, marker="o", markersize=3.5, label="mean before")
        (self.after,) = self.axes.plot([], [], color=AFTER, linewidth=1.2, marker="o", markersize=3.5, label="mean after (TRE)")
        self.here = self.axes.axvspan(-0.5, 0.5, color="#808080", alpha=0.35, linewidth=0)
        self.axes.set_xlabel("frame")
        self.axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        self.axes.yaxis.set_major_locator(MaxNLocator(4))
        self.figure.legend(handles=[self.before, self.after], loc="outside upper center", ncols=2, frameon=False, handlelength=1.2)
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        self.mpl_connect("button_press_event", self._clicked)

    def show_errors(self, before: Mapping[int, float], after: Mapping[int, float], frames: int, reference: int, unit: str) -> None:
        """Frame -> mean, NaN where there is none; lines are drawn across the reference, which has no error, and no other gap."""
        self._frames = max(frames, 1)
        for line, values in ((self.before, before), (self.after, after)):
            known = [k for k in range(self._frames) if k != reference]
            line.set_data(known, [values.get(k, math.nan) for k in known])
        largest = max((value for values in (before, after) for value in values.values() if not math.isnan(value)), default=1.0)
        self.axes.set_xlim(-0.5, self._frames - 0.5)
        self.axes.set_ylim(0, 1.06 * largest or 1.0)
        self.axes.set_ylabel(unit)
        self.draw_idle()

    def show_frame(self, frame: int) -> None:
        """Mark the frame on the screen."""
        if frame != self._current:
            self._current = frame
            self.here.set_x(frame - 0.5)
            self.draw_idle()

    def _clicked(self, event: MouseEvent) -> None:
        if event.button is MouseButton.LEFT:
            frame = round(float(self.axes.transData.inverted().transform((event.x, event.y))[0]))
            self.frame_chosen.emit(min(max(frame, 0), self._frames - 1))
