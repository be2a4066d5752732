"""A phantom that does not move: lung, vessels and muscle whose signal oscillates by known amounts, at rates that drift."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from r2n2.geometry import Grid
from r2n2.series import ImageSeries

__all__ = ["TissuePhantom", "simulate_tissue"]

_LUNG, _VESSEL, _MUSCLE = 60.0, 120.0, 200.0


@dataclass(frozen=True, eq=False)
class TissuePhantom:
    """The series and its truth, all maps (H, W).

    Parameters
    ----------
    series
        (T, 1, H, W) float32 magnitudes with Rician noise.
    lung
        Where lung is, vessels included.
    ventilation
        Fractional ventilation; 0 outside the lung.
    perfusion
        Amplitude of the heart beat in units of signal.
    breathing_hz, heart_hz
        Mean rates.
    """

    series: ImageSeries
    lung: NDArray[np.bool_]
    ventilation: NDArray[np.float64]
    perfusion: NDArray[np.float64]
    breathing_hz: float
    heart_hz: float


def simulate_tissue(
    seed: int = 0,
    *,
    frames: int = 480,
    step_s: float = 0.25,
    snr: float = 50.0,
    drift: float = 0.1,
    shape: tuple[int, int] = (96, 120),
) -> TissuePhantom:
    """Two lungs with smooth ventilation and perfusion, a defect of each, vessels without ventilation, and muscle around.

    Parameters
    ----------
    snr
        Signal of lung over the standard deviation of the noise before the magnitude is taken.
    drift
        Share by which both rates rise over the series.
    """
    rng = np.random.default_rng(seed)
    height, width = shape
    y, x = np.mgrid[:height, :width]
    v, u = (y - (height - 1) / 2) / (height / 2), (x - (width - 1) / 2) / (width / 2)
    sides = [((u - side * 0.42) / 0.31) ** 2 + (v / 0.7) ** 2 < 1 for side in (-1, 1)]
    lung = sides[0] | sides[1]
    body = (u / 0.95) ** 2 + (v / 0.97) ** 2 < 1
    vessel = lung & (np.hypot(np.abs(u) - 0.36, 2.2 * (v - 0.05)) < 0.14)
    ventilation = np.where(lung & ~vessel, 0.16 + 0.05 * v + 0.02 * np.sin(5 * u), 0.0)
    beat = np.where(lung, 4.0 + 1.5 * v, 0.0) + np.where(vessel, 14.0, 0.0)
    for side, hole in enumerate(rng.permutation(2)):
        where = np.hypot(u - (2 * side - 1) * 0.45, v - rng.uniform(-0.4, 0.3)) < 0.17
        if hole:
            ventilation = np.where(where & ~vessel, 0.02 * lung, ventilation)
        else:
            beat = np.where(where & lung & ~vessel, 0.4, beat)
    mean = np.where(lung, _LUNG, np.where(body, _MUSCLE, 0.0)) + np.where(vessel, _VESSEL, 0.0)
    # Fractional ventilation v is 2 A / (mean + A), so A = mean v / (2 - v).
    breath = mean * ventilation / (2 - ventilation)
    times: NDArray[np.float64] = np.arange(frames, dtype=np.float64) * step_s
    breathing_hz, heart_hz = rng.uniform(0.2, 0.3), rng.uniform(0.9, 1.3)
    phases = [_drifting(times, rate, drift) + rng.uniform(0, 2 * math.pi) for rate in (breathing_hz, heart_hz)]
    sigma = _LUNG / snr
    stack = np.empty((frames, 1, *shape), np.float32)
    for index in range(frames):
        signal = mean + breath * math.cos(phases[0][index]) + beat * math.cos(phases[1][index])
        noise = rng.normal(0, sigma, (2, *shape))
        stack[index, 0] = np.hypot(signal + noise[0], noise[1])
    grid = Grid(shape, (3.0, 3.0))
    series = ImageSeries(stack, grid, tuple(times.tolist()), name="tissue phantom", modality="MR")
    return TissuePhantom(series, lung, ventilation, beat, breathing_hz, heart_hz)


def _drifting(times: NDArray[np.float64], rate_hz: float, drift: float) -> NDArray[np.float64]:
    """Phase of an oscillation whose rate rises evenly by a share about its mean."""
    middle = times[-1] / 2
    slope = drift * rate_hz / times[-1]
    return 2 * math.pi * (rate_hz * times + slope * (times - middle) ** 2 / 2)
