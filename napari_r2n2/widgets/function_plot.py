"""The plot of the Function widget: the spectrum of the lung's signal with the rates that were found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from napari_r2n2.widgets.plots import AFTER, Plot

if TYPE_CHECKING:
    from r2n2.lung.analysis import LungFunction

__all__ = ["SpectrumPlot"]

_HEIGHT_PX = 150
_HEART = "#e0607e"
_LEAST = 1e-3
_FASTEST_HZ = 2.5


class SpectrumPlot(Plot):
    """Amplitude over rate, logarithmic."""

    def __init__(self) -> None:
        super().__init__(least_width=300, height=_HEIGHT_PX)
        self.setMinimumHeight(_HEIGHT_PX)
        self.setToolTip("Spectrum of the lung's mean signal; the lines are the rates that were found.")
        self.axes.set_yticks([])
        self.axes.set_xlabel("rate (Hz)")

    def show_function(self, function: LungFunction, times_s: Sequence[float]) -> None:
        """Plot one slice position."""
        from r2n2.lung.spectrum import signal_spectrum

        rates, amplitude = signal_spectrum(function.signal, np.asarray(times_s, np.float64))
        self.axes.clear()
        self.axes.set_facecolor("none")
        self.axes.semilogy(rates, np.maximum(amplitude, _LEAST), color="#9aa3ad", linewidth=0.9)
        for rhythm, colour, name in ((function.breathing, AFTER, "breathing"), (function.heart, _HEART, "heart")):
            if rhythm is not None:
                self.axes.axvline(rhythm.frequency_hz, color=colour, linewidth=1.4, label=f"{name} {rhythm.frequency_hz:.2f} Hz")
        for legend in list(self.figure.legends):
            legend.remove()
        self.figure.legend(*self.axes.get_legend_handles_labels(), loc="outside upper right", ncols=2, frameon=False)
        self.axes.set_xlim(0, min(float(rates[-1]), _FASTEST_HZ))
        self.axes.set_xlabel("rate (Hz)")
        self.axes.set_ylabel("amplitude")
        self.axes.spines[["top", "right"]].set_visible(False)
