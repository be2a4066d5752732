"""The way between any two frames of a registered series, through the reference: for images, labels and points alike."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from r2n2.errors import ArgumentError
from r2n2.geometry import Grid, Space
from r2n2.transform import DisplacementField, Transform, compose, inverse, map_points

__all__ = ["Carrier", "InverseReport"]

InverseReport = Callable[[int, float], None]
"""Told the frame and the largest error in mm of each inverse that was computed."""

_KEPT_INVERSES = 4


def _ignore(frame: int, residual_mm: float) -> None:
    """Nobody asked for the residuals."""


class Carrier:
    """Brings what belongs to one frame onto another; None stands for the reference.

    Between two frames the way leads from the one to the reference and on to the other, as one transform: an image is resampled
    once. What belongs to a frame and stays there is not moved at all.

    Parameters
    ----------
    transforms
        Frame -> transform that maps points of the reference into the frame.
    grid
        Of every frame.
    report
        Called with frame and residual in mm of every inverse.
    """

    def __init__(self, transforms: Mapping[int, Transform], grid: Grid, report: InverseReport = _ignore) -> None:
        self._transforms, self._grid, self._report = transforms, grid, report
        self._inverses: OrderedDict[int, Transform] = OrderedDict()

    @property
    def frames(self) -> tuple[int, ...]:
        """All that have a transform."""
        return tuple(sorted(self._transforms))

    def transform(self, source: int | None, target: int | None) -> Transform:
        """Maps points of ``target`` into ``source``, so it brings the image of ``source`` onto ``target``.

        Raises
        ------
        ArgumentError
            If there is no such frame.
        """
        if source == target:
            self._check(source)
            return DisplacementField.identity(self._grid)
        if target is None:
            return self._forward(source)
        back = self._back(target)
        return back if source is None else compose(back, self._forward(source))

    def points(self, index: NDArray[np.float64], source: int | None, target: int | None) -> NDArray[np.float64]:
        """Points (N, ndim) of ``source`` in INDEX space as they lie in ``target``.

        Raises
        ------
        ArgumentError
            If there is no such frame.
        """
        moved = map_points(self.transform(target, source), torch.from_numpy(np.ascontiguousarray(index, np.float64)), Space.INDEX)
        return np.asarray(moved.numpy())

    def _check(self, frame: int | None) -> None:
        if frame is not None and frame not in self._transforms:
            known = self.frames
            raise ArgumentError(f"frame {frame} does not exist in the result: it holds frames {known[0]} to {known[-1]}")

    def _forward(self, frame: int | None) -> Transform:
        self._check(frame)
        assert frame is not None
        return self._transforms[frame]

    def _back(self, frame: int) -> Transform:
        if frame not in self._inverses:
            found = inverse(self._forward(frame))
            self._report(frame, found.residual_mm)
            self._inverses[frame] = found.field
            if len(self._inverses) > _KEPT_INVERSES:
                self._inverses.popitem(last=False)
        return self._inverses[frame]
