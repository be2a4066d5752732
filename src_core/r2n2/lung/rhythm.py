"""Breathing and heart beat as curves: the measured oscillation about a rate, however the rate drifts, and its quadrature."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from r2n2.errors import ReadError
from r2n2.lung.pencil import matrix_pencil

__all__ = ["Rhythm", "explained_by", "find_rhythm", "harmonic", "uniform_step"]

_CYCLES = 1.0  # standard deviation of the window in which a rate counts as steady
_ROUNDS = 10
_UNEVEN = 0.02
_FEWEST_CYCLES = 2.0


@dataclass(frozen=True, eq=False)
class Rhythm:
    """One oscillation of a series.

    Parameters
    ----------
    curve
        (T,) complex: the real part is the oscillation, the imaginary part its quadrature, a quarter of a cycle later; its length
        is 1 in the root mean square over time.
    frequency_hz
        Mean rate over the series.
    spread_hz
        Standard deviation of the rate over time.
    cycles
        Number of cycles seen.
    """

    curve: NDArray[np.complex128]
    frequency_hz: float
    spread_hz: float
    cycles: float


def uniform_step(times_s: NDArray[np.float64]) -> float:
    """Time between frames.

    Raises
    ------
    ReadError
        If it varies by more than 2 %, or is not positive.
    """
    steps = np.diff(times_s)
    step = float(np.median(steps)) if len(steps) else 0.0
    if step <= 0 or not np.isfinite(steps).all():
        raise ReadError("times: expected frames in the order of time; sort the series or give --frame-time")
    if float(np.abs(steps - step).max()) > _UNEVEN * step + 1e-9:
        at = int(np.abs(steps - step).argmax())
        raise ReadError(
            f"times: frames {at} and {at + 1} are {steps[at]:.4g} s apart where others are {step:.4g} s; rates need equal steps: "
            "give the frames before the gap, or those after it, or say the time between frames (--frame-time)"
        )
    return step


def find_rhythm(
    signal: NDArray[np.float64], step_s: float, band_hz: tuple[float, float], *, without: tuple[Rhythm, ...] = ()
) -> Rhythm | None:
    """The strongest lasting oscillation of a signal whose rate lies in a band; None where there is none.

    The matrix pencil gives the rate to begin with. About it the signal is demodulated: in a window that slides along, one
    oscillation, an offset and a slope are fitted by weighted least squares, which, unlike a filter, needs no samples beyond the
    ends. The phase found tells how the rate drifts, and the next round demodulates about the rate as it drifts.

    Parameters
    ----------
    signal
        (T,) at equal steps.
    band_hz
        Lowest and highest rate.
    without
        Rhythms, with a harmonic each, that are taken out of the signal first.
    """
    cleaned = signal - explained_by(signal, without) if without else signal
    found = [
        part
        for part in matrix_pencil(cleaned, step_s)
        if band_hz[0] <= part.frequency_hz <= band_hz[1] and abs(part.damping_per_s) < part.frequency_hz
    ]
    if not found:
        return None
    times: NDArray[np.float64] = np.arange(len(signal), dtype=np.float64) * step_s
    phase: NDArray[np.float64] = 2 * math.pi * found[0].frequency_hz * times
    for _ in range(_ROUNDS):
        rate = (phase[-1] - phase[0]) / (times[-1] * 2 * math.pi)
        amplitude = _demodulated(cleaned, times, phase, _CYCLES / rate)
        drift = np.unwrap(np.angle(amplitude))
        phase = phase + drift
        if not np.all(np.diff(phase) > 0):
            return None
    amplitude = _demodulated(cleaned, times, phase, _CYCLES / rate)
    curve = amplitude * np.exp(1j * phase)
    length = math.sqrt(float((np.abs(curve) ** 2).mean()))
    rates = np.gradient(phase, times) / (2 * math.pi)
    cycles = float((phase[-1] - phase[0]) / (2 * math.pi))
    mean = cycles / float(times[-1])
    if length == 0 or cycles < _FEWEST_CYCLES or not band_hz[0] <= mean <= band_hz[1]:
        return None
    return Rhythm(curve / length, mean, float(rates.std()), cycles)


def _demodulated(
    signal: NDArray[np.float64], times: NDArray[np.float64], phase: NDArray[np.float64], width_s: float
) -> NDArray[np.complex128]:
    """(T,) complex a with signal near Re(a exp(i phase)) + offset + slope about every time."""
    columns = np.stack([np.cos(phase), -np.sin(phase), np.ones_like(times), times - times.mean()], axis=1)
    windows = np.exp(-0.5 * ((times[:, None] - times[None]) / width_s) ** 2)
    normal = np.einsum("kt,ti,tj->kij", windows, columns, columns, optimize=True)
    solved = np.linalg.solve(normal, (windows @ (columns * signal[:, None]))[..., None])[..., 0]
    return np.asarray(solved[:, 0] + 1j * solved[:, 1])


def explained_by(signal: NDArray[np.float64], rhythms: tuple[Rhythm, ...]) -> NDArray[np.float64]:
    """What the rhythms and their second harmonics explain of a signal."""
    columns = [np.ones(len(signal)), np.linspace(-1, 1, len(signal))]
    for rhythm in rhythms:
        second = harmonic(rhythm.curve)
        columns += [rhythm.curve.real, rhythm.curve.imag, second.real, second.imag]
    design = np.stack(columns, axis=1)
    solved = np.linalg.lstsq(design, signal, rcond=None)[0]
    return np.asarray(design[:, 2:] @ solved[2:])


def harmonic(curve: NDArray[np.complex128]) -> NDArray[np.complex128]:
    """The oscillation of twice the rate that goes with a curve: twice the phase, the same length."""
    return curve * curve / np.maximum(np.abs(curve), 1e-12)
