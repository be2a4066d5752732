"""What an analysis reads: the aligned frames of a series or of a finished result, and which of them count."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from r2n2.errors import ReadError
from r2n2.geometry import Space
from r2n2.registration.results import FrameStatus
from r2n2.results.reader import RegisteredSeries
from r2n2.series import ImageSeries
from r2n2.transform import Transform, jacobian_determinant

__all__ = ["AlignedSeries", "counts"]

_COUNTS = (FrameStatus.OK, FrameStatus.LIMITED, FrameStatus.REFERENCE, FrameStatus.EDITED)


def counts(status: FrameStatus) -> bool:
    """Whether a frame of this status was aligned well enough to be analysed; one that a person edited was looked at."""
    return status in _COUNTS


@dataclass(frozen=True, eq=False)
class AlignedSeries:
    """One slice position whose frames all show the same place.

    Parameters
    ----------
    name
        What to call it, and its folder where there are several.
    series
        Its frames, aligned.
    transforms
        Frame -> transform from the reference into it; None where somebody else aligned it.
    left_out
        Frames that were not aligned well, or whose result is doubtful.
    aligned_by
        How they were aligned, for the record.

    Raises
    ------
    ReadError
        If frames are no 2D images of one channel, or have no times.
    """

    name: str
    series: ImageSeries
    transforms: Mapping[int, Transform] | None = None
    left_out: tuple[int, ...] = ()
    aligned_by: str = "as given"

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

    @classmethod
    def of_result(cls, name: str, series: ImageSeries, registered: RegisteredSeries) -> AlignedSeries:
        """The aligned frames of a finished result.

        Parameters
        ----------
        series
            As it was written.
        """
        doubtful = tuple(row.frame for row in registered.metrics if not counts(row.status))
        return cls(name, series, registered.transforms, doubtful, f"r2n2 register, {registered.manifest.settings.method}")

    def frame(self, index: int) -> NDArray[np.float64]:
        """(H, W)."""
        frame = self.series.frame(index)[0]
        values = np.abs(frame) if np.iscomplexobj(frame) else frame
        return np.nan_to_num(np.asarray(values, np.float64))

    @property
    def jacobian(self) -> Callable[[int], NDArray[np.floating]] | None:
        """Gives the Jacobian determinant (H, W) of a frame's displacement; None where displacements are not known."""
        transforms = self.transforms
        if transforms is None:
            return None

        def determinant(index: int) -> NDArray[np.floating]:
            field = transforms[index].displacement_field().to_space(Space.NORMALISED)
            cells = jacobian_determinant(field.vectors.double()[None], field.grid)[0].mean(dim=0).numpy()
            # From the cells between pixels onto the pixels: the mean of those around.
            around = np.pad(cells, 1, mode="edge")
            return np.asarray((around[1:, 1:] + around[1:, :-1] + around[:-1, 1:] + around[:-1, :-1]) / 4)

        return determinant
