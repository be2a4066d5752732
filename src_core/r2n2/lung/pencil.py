"""Rates in a short signal by the matrix pencil: a sum of damped oscillations without the grid of a Fourier transform."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Oscillation", "matrix_pencil"]

_SHARE = 0.4  # pencil parameter L as a share of the samples: between a third and a half it is least sensitive to noise
_SMALLEST = 1e-3  # singular values below this share of the largest are noise


@dataclass(frozen=True)
class Oscillation:
    """One part a exp((2 pi i f - d) t) of a signal.

    Parameters
    ----------
    frequency_hz
        Positive; a real signal holds each part together with its conjugate, which is counted in.
    damping_per_s
        Negative where it grows.
    amplitude
        Of the real oscillation at the beginning, in the unit of the signal.
    phase
        In radians at time 0: amplitude cos(2 pi f t + phase).
    energy
        Mean of its square over the signal, which ranks the parts.
    """

    frequency_hz: float
    damping_per_s: float
    amplitude: float
    phase: float
    energy: float


def matrix_pencil(signal: NDArray[np.float64], step_s: float, order: int = 15) -> tuple[Oscillation, ...]:
    """The oscillations of a real signal, strongest first.

    The singular vectors of the Hankel matrix of the signal span its oscillations; shifted by one sample each is multiplied by
    z = exp((2 pi i f - d) step), so the z are eigenvalues (Hua and Sarkar 1990; for lung MR Bauman and Bieri 2017).

    Parameters
    ----------
    signal
        (T,) at equal steps, at least 8 samples; its mean is taken away.
    step_s
        Time between samples.
    order
        Number of exponentials at most, two to an oscillation.

    Raises
    ------
    ValueError
        If the signal is too short, has another shape, or holds a number that is not finite.
    """
    if signal.ndim != 1 or len(signal) < 8 or not np.isfinite(signal).all():
        raise ValueError(f"matrix_pencil: expected at least 8 finite samples in one row, got shape {signal.shape}")
    centred = signal - signal.mean()
    if not centred.any():
        return ()
    count = len(centred)
    length = round(_SHARE * count)
    hankel = np.lib.stride_tricks.sliding_window_view(centred, length + 1)
    _, values, rows = np.linalg.svd(hankel, full_matrices=False)
    kept = min(order, int((values > _SMALLEST * values[0]).sum()), length)
    basis = rows[:kept].T
    poles = np.linalg.eigvals(np.linalg.lstsq(basis[:-1], basis[1:], rcond=None)[0])
    poles = poles[np.abs(poles) > 1e-6]
    times = np.arange(count)
    # A pole that decays or grows fast would swamp the others; it is no oscillation that lasts.
    steady = np.abs(np.log(np.abs(poles))) * count < 50
    powers = poles[steady][None] ** times[:, None]
    weights = np.linalg.lstsq(powers, centred.astype(complex), rcond=None)[0]
    found = []
    for pole, weight, part in zip(poles[steady], weights, (powers * weights).T, strict=True):
        frequency = float(np.angle(pole)) / (2 * math.pi * step_s)
        if frequency > 0:
            real = 2 * part.real
            found.append(
                Oscillation(
                    frequency,
                    -float(np.log(np.abs(pole))) / step_s,
                    2 * float(np.abs(weight)),
                    float(np.angle(weight)),
                    float((real**2).mean()),
                )
            )
    return tuple(sorted(found, key=lambda part: -part.energy))
