"""Images whose pixels are those of another lattice, stored in another order or only in part, brought into its order exactly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from r2n2.series import Frames, ImageSeries

__all__ = ["rearranged"]

_SAME_PIXEL = 0.05
"""Pixels that lie this close, in pixels, are the same."""


@dataclass(frozen=True, eq=False)
class _RearrangedFrames:
    """Frames whose rows and columns are exchanged or run the other way, or that are a part of a lattice, brought onto all of it.

    Parameters
    ----------
    order, flipped
        Axis of the frames for each axis of the lattice, and axes of the lattice that run the other way.
    start, space
        Where on the lattice the frames begin, and its shape; beyond them lies 0.
    """

    frames: Any
    order: tuple[int, ...]
    flipped: tuple[int, ...]
    start: tuple[int, ...]
    space: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return *self.frames.shape[:2], *self.space

    @property
    def dtype(self) -> Any:
        return self.frames.dtype

    def __getitem__(self, index: int) -> NDArray[Any]:
        frame = np.asarray(self.frames[index]).transpose(0, *(1 + k for k in self.order))
        frame = np.flip(frame, tuple(1 + k for k in self.flipped))
        if frame.shape[1:] == self.space and not any(self.start):
            return np.ascontiguousarray(frame)
        whole = np.zeros((len(frame), *self.space), frame.dtype)
        spans = list(zip(self.start, frame.shape[1:], self.space, strict=True))
        target = tuple(slice(max(s, 0), max(min(s + n, m), 0)) for s, n, m in spans)
        source = tuple(slice(max(-s, 0), max(min(n, m - s), 0)) for s, n, m in spans)
        whole[(slice(None), *target)] = frame[(slice(None), *source)]
        return whole


def rearranged(
    affine: NDArray[np.float64], series: ImageSeries, target: tuple[int, ...], *, part: bool
) -> tuple[Frames, tuple[str, ...]] | None:
    """Frames in the pixel order of another lattice and what was done, if they lie on its pixels; None if they do not.

    Parameters
    ----------
    affine
        (ndim, ndim + 1) from INDEX coordinates of ``series`` to those of the other lattice.
    target
        Shape of the other lattice.
    part
        Lying on some of its pixels is enough.
    """
    ndim = len(target)
    whole = np.rint(affine[:, :ndim])
    if (np.abs(whole).sum(axis=0) != 1).any() or (np.abs(whole).sum(axis=1) != 1).any():
        return None
    last = np.array(series.grid.shape, dtype=float) - 1
    corners = np.array([affine @ np.append(np.where(corner, last, 0), 1) for corner in np.ndindex(*(2,) * ndim)])
    if np.abs(corners - np.rint(corners)).max() > _SAME_PIXEL:
        return None
    order = tuple(int(np.flatnonzero(row)[0]) for row in whole)
    flipped = tuple(k for k, row in enumerate(whole) if row.sum() < 0)
    start = tuple(int(value) for value in np.rint(corners.min(axis=0)))
    covers = not any(start) and tuple(series.grid.shape[k] for k in order) == tuple(target)
    if not covers and not part:
        return None
    notes = []
    if order != tuple(range(ndim)) or flipped:
        notes.append("its rows or columns run another way than those of the series: placed by geometry, in the series' order")
    if not covers:
        notes.append("it covers another part of the lattice of the series: what lies beyond it gets the label 0")
    frames = _RearrangedFrames(series.frames, order, flipped, start, target) if notes else series.frames
    return frames, tuple(notes)
