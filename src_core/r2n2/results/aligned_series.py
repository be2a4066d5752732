"""What an analysis reads: the aligned frames of a series or of a finished result, and which of them count."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from r2n2.errors import ReadError
from r2n2.geometry import Space
from r2n2.registration.results import FrameStatus
from r2n2.results.reader import RegisteredSeries
from r2n2.series import ImageSeries
from r2n2.transform import jacobian_determinant

__all__ = ["AlignedSeries"]

_COUNTS = (FrameStatus.OK, FrameStatus.LIMITED, FrameStatus.REFERENCE)


@dataclass(frozen=True, eq=False)
class AlignedSeries:
    """One slice position whose frames all show the same place.

    Parameters
    ----------
    name
        What to call it, and its folder where there are several.
    series
        Its frames, aligned.
    registered
        How they were aligned; None where somebody else did it.

    Raises
    ------
    ReadError
        If frames are no 2D images of one channel, or have no times.
    """

    name: str
    series: ImageSeries
    registered: RegisteredSeries | None = None

    def __post_init__(self) -> None:
        series = self.series
        if series.grid.ndim != 2:
            raise ReadError(f"{self.name}: lung function is read from 2D slices, got volumes; pick slices with --slices")
        if series.channels != 1:
            raise ReadError(f"{self.name}: expected one channel, got {series.channels}; give a grey series")
        if series.times_s is None:
            raise ReadError(
                f"{self.name}: the file holds no times, and rates need them; give the time between frames, --frame-time S"
            )

    @property
    def times_s(self) -> tuple[float, ...]:
        """Of all frames."""
        assert self.series.times_s is not None
        return self.series.times_s

    @property
    def left_out(self) -> tuple[int, ...]:
        """Frames that were not aligned well, or whose result is doubtful."""
        if self.registered is None:
            return ()
        return tuple(row.frame for row in self.registered.metrics if row.status not in _COUNTS)

    def frame(self, index: int) -> NDArray[np.float64]:
        """(H, W)."""
        frame = self.series.frame(index)[0]
        values = np.abs(frame) if np.iscomplexobj(frame) else frame
        return np.nan_to_num(np.asarray(values, np.float64))

    @property
    def jacobian(self) -> Callable[[int], NDArray[np.floating]] | None:
        """Gives the Jacobian determinant (H, W) of a frame's displacement; None where displacements are not known."""
        registered = self.registered
        if registered is None:
            return None

        def determinant(index: int) -> NDArray[np.floating]:
            field = registered.transforms[index].displacement_field().to_space(Space.NORMALISED)
            cells = jacobian_determinant(field.vectors.double()[None], registered.grid)[0].mean(dim=0).numpy()
            # From the cells between pixels onto the pixels: the mean of those around.
            around = np.pad(cells, 1, mode="edge")
            return np.asarray((around[1:, 1:] + around[1:, :-1] + around[:-1, 1:] + around[:-1, :-1]) / 4)

        return determinant
