"""Smooth steps with their derivatives: what the person's shape and motion are put together from."""

from __future__ import annotations

import numpy as np

from r2n2.simulation.texture import FloatArray

__all__ = ["between", "rise", "rise_slope"]


def rise(values: FloatArray) -> FloatArray:
    """0 below 0, 1 above 1, with two continuous derivatives."""
    s = np.clip(values, 0, 1)
    return np.asarray(s * s * s * (10 - s * (15 - 6 * s)))


def rise_slope(values: FloatArray) -> FloatArray:
    """Derivative of ``rise``; 1.875 at most."""
    s = np.clip(values, 0, 1)
    return np.asarray(30 * (s * (1 - s)) ** 2)


def between(values: FloatArray, places: tuple[float, ...], heights: tuple[float, ...]) -> FloatArray:
    """Smooth steps through ``heights`` at increasing ``places``, constant outside."""
    total = np.full_like(np.asarray(values), heights[0])
    for start, end, low, high in zip(places, places[1:], heights, heights[1:], strict=False):
        total = total + (high - low) * rise((values - start) / (end - start))
    return np.asarray(total)
