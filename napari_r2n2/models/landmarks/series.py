"""Which series landmarks belong to: whether a position lies in it, and whether a session registered it."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_r2n2.models.session import FrameKey

if TYPE_CHECKING:
    from napari_r2n2.models.session import Session
    from r2n2.series import ImageSeries

__all__ = ["belongs_to", "contains"]


def contains(series: tuple[ImageSeries, ...], key: FrameKey, position: Any = None) -> bool:
    """Whether a frame exists and, where asked, a position ((z,) y, x) in pixels lies on one of its pixels."""
    if not (0 <= key.slice_index < len(series) and 0 <= key.frame < len(series[key.slice_index])):
        return False
    shape = np.array(series[key.slice_index].grid.shape)
    return position is None or bool(np.all((np.asarray(position) >= -0.5) & (np.asarray(position) <= shape - 0.5)))


def belongs_to(session: Session, series: tuple[ImageSeries, ...], names: Collection[str]) -> bool:
    """Whether a session registered this series; ``names`` are those of all series in the viewer.

    A layer may have been renamed since, so the name only decides where another series bears it.
    """
    if len(session.series) != len(series):
        return False
    for mine, theirs in zip(session.series, series, strict=True):
        same = mine.grid.shape == theirs.grid.shape and np.allclose(mine.grid.spacing, theirs.grid.spacing)
        if not same or len(mine) != len(theirs):
            return False
    registered = session.series[0].name
    return registered == series[0].name or registered not in names
