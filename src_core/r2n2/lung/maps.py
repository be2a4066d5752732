"""Ventilation, perfusion and their delays from the amplitudes of breathing and heart beat."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from r2n2.lung.amplitudes import Amplitudes

__all__ = [
    "Noise",
    "delay_s",
    "fractional_ventilation",
    "magnitude",
    "noise_level",
    "normalised_perfusion",
    "unbiased",
    "ventilation_perfusion_ratio",
]

Map = NDArray[np.float64]

_RAYLEIGH_MEAN = math.sqrt(math.pi / 2)  # of noise of standard deviation 1 in a magnitude image without signal
_RAYLEIGH_RATIO = math.sqrt(4 / math.pi - 1)  # its standard deviation as a share of its mean
_RATIO_TOLERANCE = 0.12
_DARKEST = 0.02
_FEWEST_AIR = 50
_SEEN = 3.0


def magnitude(found: Amplitudes, rhythm: int) -> Map:
    """Amplitude of a rhythm with what noise alone would give taken away: sqrt(|a|^2 - 2 var), 0 where nothing is left."""
    squared = np.abs(found.oscillations[rhythm]) ** 2 - 2 * found.variances[rhythm]
    return np.sqrt(np.maximum(squared, 0))


@dataclass(frozen=True)
class Noise:
    """Standard deviation of the noise of one frame before the magnitude was taken, and where it was seen."""

    sigma: float
    source: str


def noise_level(found: Amplitudes, mask: NDArray[np.bool_]) -> Noise:
    """From air, where it is Rayleigh distributed, else from what the fit leaves inside the mask.

    In air without signal a magnitude image has the mean 1.25 sigma and the standard deviation 0.66 sigma; where their ratio is
    another one, as after subtraction of a background, air says nothing.
    """
    outside = ~mask & np.isfinite(found.offset) & (found.offset > 0)
    if int(outside.sum()) * _DARKEST >= _FEWEST_AIR:
        level = float(np.quantile(found.offset[outside], _DARKEST))
        air = outside & (found.offset <= level)
        ratio = float(np.median(found.residual[air] / found.offset[air]))
        if abs(ratio - _RAYLEIGH_RATIO) < _RATIO_TOLERANCE:
            return Noise(float(np.median(found.offset[air])) / _RAYLEIGH_MEAN, "air")
    return Noise(float(np.median(found.residual[mask])), "lung")


def unbiased(signal: Map, sigma: float) -> Map:
    """The signal behind the mean of a magnitude image: E[M]^2 is near S^2 + sigma^2 for a Rician M."""
    return np.sqrt(np.maximum(signal**2 - sigma**2, 0))


def fractional_ventilation(offset: Map, amplitude: Map, sigma: float = 0.0) -> Map:
    """(S_exp - S_insp) / S_exp with S = offset +- amplitude, share of the expired signal that air takes the place of.

    Zapke et al. 2006; Klimes et al. 2019. NaN where there is no signal at expiration.

    Parameters
    ----------
    sigma
        Of the noise, whose bias is taken from both signals; 0 for images that are no magnitudes.
    """
    expired, inspired = unbiased(offset + amplitude, sigma), unbiased(np.maximum(offset - amplitude, 0), sigma)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(expired > 0, (expired - inspired) / expired, np.nan)


def normalised_perfusion(amplitude: Map, mask: NDArray[np.bool_], percentile: float) -> Map:
    """The heart's amplitude as a share of that of large vessels, the percentile inside the mask; above it 1."""
    vessels = float(np.percentile(amplitude[mask], percentile))
    if vessels <= 0:
        return np.full_like(amplitude, np.nan)
    return np.minimum(amplitude / vessels, 1.0)


def ventilation_perfusion_ratio(ventilation: Map, perfusion: Map, mask: NDArray[np.bool_]) -> Map:
    """V/Q, each divided by its median inside the mask: 1 where a place has as much of the one as of the other.

    NaN where perfusion is 0, and everywhere where half of the mask has none of the one or the other.
    """
    medians = [float(np.nanmedian(values[mask])) for values in (ventilation, perfusion)]
    if not all(median > 0 for median in medians):
        return np.full_like(ventilation, np.nan)
    v, q = ventilation / medians[0], perfusion / medians[1]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(q > 0, v / q, np.nan)


def delay_s(found: Amplitudes, rhythm: int, mask: NDArray[np.bool_], frequency_hz: float) -> Map:
    """How much later than the mean of the mask a place oscillates, in s, between minus and plus half a cycle.

    NaN where the oscillation is too small for its noise to have a phase: below three standard deviations.
    """
    oscillation = found.oscillations[rhythm]
    mean = oscillation[mask].sum()
    delay = np.angle(oscillation * np.conj(mean)) / (2 * math.pi * frequency_hz)
    return np.where(np.abs(oscillation) > _SEEN * np.sqrt(found.variances[rhythm]), delay, np.nan)
