"""Which frame the others are aligned to."""

from __future__ import annotations

import numpy as np

from r2n2.errors import ArgumentError
from r2n2.preprocessing import MAXIMUM_INVALID_SHARE
from r2n2.series import ImageSeries

__all__ = ["automatic_reference", "resolve_reference"]


def automatic_reference(series: ImageSeries) -> int:
    """The frame whose mean intensity is nearest the mean of the series: a proxy for the mean state of breathing.

    Frames without contrast, frames with too many invalid pixels and frames that cannot be read are not chosen.
    Frames are read one at a time.

    Raises
    ------
    ArgumentError
        If no frame can serve.
    """
    means = np.full(len(series), np.nan)
    for index in range(len(series)):
        try:
            frame = series.frame(index).astype(np.float64)
        except (OSError, ValueError, RuntimeError):
            continue
        finite = np.isfinite(frame)
        values = frame[finite]
        if finite.mean() >= 1 - MAXIMUM_INVALID_SHARE and values.min() < values.max():
            means[index] = values.mean()
    if np.isnan(means).all():
        raise ArgumentError("reference: no frame has any contrast, so there is nothing to align; check the series")
    return int(np.nanargmin(np.abs(means - np.nanmean(means))))


def resolve_reference(series: ImageSeries, reference: int | str) -> int:
    """The reference's index: as given, or chosen for "auto".

    Raises
    ------
    ArgumentError
        If the series has no such frame.
    """
    if isinstance(reference, str):
        return automatic_reference(series)
    if not 0 <= reference < len(series):
        raise ArgumentError(f"reference: frame {reference} does not exist; the series has frames 0 to {len(series) - 1}")
    return reference
