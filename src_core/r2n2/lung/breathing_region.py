"""Where lung is, by what breathes: a proposal from the mean image and from how each place follows the lung's signal."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from r2n2.lung.region import largest_regions, padded, propose_lung

__all__ = ["propose_breathing_lung"]

# Chosen on six simulated thoraxes (seeds 100 to 105, 128 x 128 pixels, 40 frames brought onto the reference exactly).
_FRAMES = 40
_BLUR_MM = 6.0
_SHARE = 0.25  # of the lung's own relative amplitude
_BRIGHTEST, _DARKEST = 1.15, 0.15  # of the median of tissue: above lie heart and large vessels, which pulsate, below air
_OPEN_MM, _CLOSE_MM = 8.0, 10.0
_ROUNDS = 2
_SMALLEST_SHARE = 0.01  # of the frame

Map = NDArray[np.float64]


def propose_breathing_lung(
    frame: Callable[[int], NDArray[np.floating]], count: int, spacing_mm: tuple[float, ...]
) -> NDArray[np.bool_]:
    """The two largest regions that are darker than most tissue and follow the signal of the lung.

    ``propose_lung`` of the mean image gives a first region, whose mean signal over time every pixel is regressed on. The slope, as
    a share of the smoothed mean, is high in lung and near 0 in muscle, liver and bowel, whose signal does not change with breathing
    once the frames are aligned. Heart and large vessels, which share some of it, are left out by their brightness. The region
    found takes the place of the first one, and all is done once more. A proposal: it must be looked at.

    Parameters
    ----------
    frame
        Gives aligned frame k, (H, W) finite; at most 40 of ``count`` are looked at.
    spacing_mm
        Of its rows and columns.

    Raises
    ------
    ReadError
        If the mean image shows no dark region inside the body.
    """
    chosen = np.unique(np.linspace(0, count - 1, min(_FRAMES, count)).round().astype(int))
    stack = np.stack([np.asarray(frame(int(index)), np.float64) for index in chosen])
    mean = stack.mean(axis=0)
    region = propose_lung(mean, spacing_mm)
    for _ in range(_ROUNDS):
        found = _breathing(stack, mean, region, spacing_mm)
        if found is None:
            break
        region = found
    return region


def _breathing(stack: Map, mean: Map, region: NDArray[np.bool_], spacing_mm: tuple[float, ...]) -> NDArray[np.bool_] | None:
    """What breathes as a region does; None where that is too little to be a lung."""
    from scipy.ndimage import binary_fill_holes, gaussian_filter  # type: ignore[import-untyped]
    from skimage.morphology import closing, opening

    signal = stack[:, region].mean(axis=1)
    signal = signal - signal.mean()
    if signal.std() <= 1e-6 * max(float(mean[region].mean()), 1e-300):
        return None
    amplitude = np.tensordot(signal, stack - mean, axes=(0, 0)) / (signal @ signal) * signal.std()
    width = [_BLUR_MM / step for step in spacing_mm]
    smooth = gaussian_filter(mean, width)
    relative = gaussian_filter(amplitude, width) / np.maximum(smooth, 1e-3 * smooth.max())
    usual = float(np.median(relative[region]))
    tissue = float(np.median(mean[mean > 0.5 * np.median(mean)]))
    follows = (relative > _SHARE * usual) & (smooth < _BRIGHTEST * tissue) & (smooth > _DARKEST * tissue)
    pixel = max(spacing_mm)
    kept = largest_regions(padded(opening, follows, _OPEN_MM / pixel), 2)
    whole = np.asarray(binary_fill_holes(padded(closing, kept, _CLOSE_MM / pixel)), np.bool_)
    return whole if whole.sum() >= _SMALLEST_SHARE * whole.size else None
