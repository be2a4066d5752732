"""Which frame the others are aligned to."""

from __future__ import annotations

import numpy as np

from r2n2.errors import ArgumentError
from r2n2.preprocessing import one_channel
from r2n2.registration.contrast import examine_series
from r2n2.series import ImageSeries

__all__ = ["automatic_reference", "resolve_reference"]


def automatic_reference(series: ImageSeries) -> int:
    """The frame whose mean intensity is nearest the mean of the series: a proxy for the mean state of breathing.

    Where the contrast of the series changes, a mean intensity says nothing of breathing, and a frame in which tissues look alike is
    of no use: the one whose structures agree best with those of the others is taken.

    The intensity is that of the one channel that is registered. Frames without contrast, frames with too many invalid pixels and
    frames that cannot be read are not chosen. Frames are read one at a time.

    Raises
    ------
    ArgumentError
        If no frame can serve.
    """
    finding = examine_series(series)
    if finding.changes and finding.most_alike is not None:
        return finding.most_alike
    means = np.full(len(series), np.nan)
    reason = "no frame has any contrast"
    for index in range(len(series)):
        try:
            values = one_channel(series.frame(index))
        except (OSError, ValueError, RuntimeError) as error:
            reason = f"no frame can be used (frame {index}: {error})"
            continue
        values = values[np.isfinite(values)]
        if values.min() < values.max():
            # Halved, so that the largest numbers there are do not add up to infinity.
            means[index] = (values / 2).mean()
    if np.isnan(means).all():
        raise ArgumentError(f"reference: {reason}, so there is nothing to align; check the series")
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
