"""The spectrum of the lung's signal, to look at: rates are found by other means."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["signal_spectrum"]

_FINER = 4


def signal_spectrum(signal: NDArray[np.float64], times_s: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rates in Hz and amplitudes as shares of the largest, the line through the signal taken away and its ends tapered (Hann).

    Parameters
    ----------
    signal, times_s
        (T,), at equal steps.
    """
    flat = signal - np.polyval(np.polyfit(times_s, signal, 1), times_s)
    count = _FINER * len(flat)
    amplitude = np.abs(np.fft.rfft(flat * np.hanning(len(flat)), count))
    rates = np.fft.rfftfreq(count, float(np.median(np.diff(times_s))))
    return np.asarray(rates, np.float64), np.asarray(amplitude / max(float(amplitude.max()), 1e-300))
