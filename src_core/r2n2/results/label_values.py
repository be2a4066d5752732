"""Whether the values of an image are labels: whole numbers, whatever type they are stored in."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from r2n2.series import ImageSeries

__all__ = ["all_whole", "looks_like_labels"]

_LARGEST_WHOLE = 2.0**53
_MOST_LABELS = 64
_IN_PATCHES = 0.8


def all_whole(image: NDArray[Any]) -> bool:
    """Whether every value is a whole number that a 64-bit integer holds exactly."""
    if image.dtype.kind in "bui":
        return True
    return bool((np.isfinite(image) & (image == np.rint(image)) & (np.abs(image) < _LARGEST_WHOLE)).all())


def looks_like_labels(series: ImageSeries) -> bool:
    """Whether an image holds labels: few values, all whole and none negative, in patches of one value."""
    if series.channels != 1:
        return False
    first = series.frame(0)
    if not all_whole(first) or first.min() < 0 or len(np.unique(first)) > _MOST_LABELS:
        return False
    equal = [np.diff(first.astype(np.float64), axis=axis) == 0 for axis in range(1, first.ndim) if first.shape[axis] > 1]
    return bool(equal) and min(float(part.mean()) for part in equal) > _IN_PATCHES
