"""What registering a series gives: one result a frame, yielded as soon as it is known."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from r2n2.transform import Transform

__all__ = ["FrameResult", "FrameStatus", "SeriesProgress"]


class FrameStatus(StrEnum):
    """Whether a frame's result can be trusted."""

    OK = "ok"
    REFERENCE = "reference"
    """The frame the others are aligned to: identity."""
    WORSE = "worse"
    """The similarity fell: the transform found is kept back and the identity given."""
    FOLDED = "folded"
    """The displacement folds in more than 1 % of the cells."""
    DOUBTFUL = "doubtful"
    """Aligned, but there are signs that the result is wrong; the message says which. The transform found is applied."""
    EDITED = "edited"
    """A person switched off a part of the sequence; what is left is applied."""
    CONSTANT = "constant"
    """A frame without contrast: identity."""
    FAILED = "failed"
    """The frame could not be read or registered: identity; the reason is in the message."""


@dataclass(frozen=True, eq=False)
class FrameResult:
    """The registration of one frame to the reference.

    Parameters
    ----------
    frame
        Index in the series.
    transform
        Maps points of the reference into this frame; identity where the frame was not registered.
    status, message
        Whether to trust it, and a sentence why not ("" if ok).
    similarity_before, similarity_after
        How alike the frame and the reference are, at most 1: under ssd their correlation coefficient over the valid pixels, else
        the agreement of the measure; NaN where undefined.
    folding_percent, min_jacobian
        Share of cells that fold in percent, and the smallest Jacobian determinant.
    max_displacement_mm
        Length of the longest displacement vector.
    seconds
        Wall time of this frame's share of its batch.
    similarity_measure
        What it was compared by.
    """

    frame: int
    transform: Transform
    status: FrameStatus
    message: str
    similarity_before: float
    similarity_after: float
    folding_percent: float
    min_jacobian: float
    max_displacement_mm: float
    seconds: float
    similarity_measure: str = "ssd"


@dataclass(frozen=True, eq=False)
class SeriesProgress:
    """Yielded after every step of every batch; ``finished`` holds the frames that became ready with this step.

    Parameters
    ----------
    reference
        Index of the reference frame.
    frames_done, frames_total
        Frames ready so far, and all (the reference counts).
    fraction
        Share of the whole work done, in [0, 1].
    finished
        Results new with this step, in order of frames.
    notes
        Sentences a person should read, with the first step: what frames are compared by where that was chosen, and why.
    """

    reference: int
    frames_done: int
    frames_total: int
    fraction: float
    finished: tuple[FrameResult, ...]
    notes: tuple[str, ...] = ()
