"""Registration of all slice positions of a layer as one generator with progress, without Qt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from r2n2.config import RegistrationConfig
    from r2n2.registration import FrameResult
    from r2n2.series import ImageSeries

__all__ = ["AlignmentProgress", "align"]


@dataclass(frozen=True, eq=False)
class AlignmentProgress:
    """One step of the work.

    Parameters
    ----------
    slice_index, reference
        The slice position at work, and its reference frame.
    finished
        Its frames that became ready with this step.
    frames_done, frames_total
        Over all slice positions.
    fraction
        Share of the whole work done, in [0, 1].
    """

    slice_index: int
    reference: int
    finished: tuple[FrameResult, ...]
    frames_done: int
    frames_total: int
    fraction: float


def align(series: Sequence[ImageSeries], config: RegistrationConfig) -> Iterator[AlignmentProgress]:
    """Register every slice position, one after the other; stopping at a yield keeps the frames given so far.

    Raises
    ------
    R2N2Error
        As ``r2n2.registration.register_series``.
    """
    # Imported here, in the worker's thread: loading torch takes seconds.
    from r2n2.registration import register_series

    total = sum(len(item) for item in series)
    before = 0
    for index, item in enumerate(series):
        for progress in register_series(item, config):
            done = before + progress.frames_done
            fraction = (before + progress.fraction * len(item)) / total
            yield AlignmentProgress(index, progress.reference, progress.finished, done, total, fraction)
        before += len(item)
