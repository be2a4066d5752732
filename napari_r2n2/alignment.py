"""Registration of all slice positions of a layer as one generator with progress, without Qt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from r2n2.config import RegistrationConfig
    from r2n2.series import ImageSeries

__all__ = ["AlignedFrame", "AlignmentProgress", "align"]


@dataclass(frozen=True, eq=False)
class AlignedFrame:
    """One frame that became ready.

    Parameters
    ----------
    slice_index, frame
        Where it belongs.
    image
        (y, x), or (y, x, C) for several channels, in the dtype of the series.
    warning
        Why not to trust it, "" if there is no reason.
    """

    slice_index: int
    frame: int
    image: NDArray[Any]
    warning: str


@dataclass(frozen=True, eq=False)
class AlignmentProgress:
    """Share of the whole work done in [0, 1], the reference in use, and the frames ready with this step."""

    fraction: float
    reference: int
    finished: tuple[AlignedFrame, ...]


def align(series: Sequence[ImageSeries], config: RegistrationConfig) -> Iterator[AlignmentProgress]:
    """Register every slice position, one after the other; stopping at a yield keeps the frames given so far."""
    # Imported here, in the worker's thread: loading torch takes seconds.
    from r2n2.registration import register_series, warp_frame

    for index, item in enumerate(series):
        for progress in register_series(item, config):
            frames = tuple(
                AlignedFrame(index, result.frame, _image(warp_frame(item, result)), result.message) for result in progress.finished
            )
            yield AlignmentProgress((index + progress.fraction) / len(series), progress.reference, frames)


def _image(frame: NDArray[Any]) -> NDArray[Any]:
    """(C, *shape) as napari shows it."""
    return frame[0] if frame.shape[0] == 1 else np.moveaxis(frame, 0, -1)
