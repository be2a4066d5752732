"""What registering a series gives: one result a frame, yielded as soon as it is known."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from torch import Tensor

from r2n2.geometry import Grid
from r2n2.transform import Transform

__all__ = ["FrameResult", "FrameStatus", "SeriesProgress", "Trust", "Uncertainty"]


class FrameStatus(StrEnum):
    """Whether a frame's result can be trusted."""

    OK = "ok"
    REFERENCE = "reference"
    """The frame the others are aligned to: identity."""
    WORSE = "worse"
    """The similarity fell: the transform found is kept back and the identity given."""
    LIMITED = "limited"
    """The displacement found folded and no folding was asked for: it was changed until that is proven, the message says how."""
    FOLDED = "folded"
    """The displacement folds in more than 1 % of the cells."""
    DOUBTFUL = "doubtful"
    """Aligned, but there are signs that the result is wrong; the message says which. The transform found is applied."""
    EDITED = "edited"
    """A person switched Gaussians of the sequence off or changed them; what they made of it is applied."""
    CONSTANT = "constant"
    """A frame without contrast: identity."""
    FAILED = "failed"
    """The frame could not be read or registered: identity; the reason is in the message."""

    @property
    def sound(self) -> bool:
        """Whether the transform found may be built on, as it was found or limited."""
        return self in (FrameStatus.OK, FrameStatus.LIMITED)


class Uncertainty(Protocol):
    """How far the positions that a transform gives may be off, estimated or read back."""

    @property
    def median_mm(self) -> float:
        """The radius of 90 % probability that half of what the reference shows does not exceed."""
        ...

    @property
    def q95_mm(self) -> float:
        """The radius of 90 % probability that 95 % of what the reference shows do not exceed."""
        ...

    @property
    def uncalibrated(self) -> str:
        """Why the probability is not known to hold; "" where it is."""
        ...

    def on(self, grid: Grid) -> Tensor:
        """The radius in mm at every pixel, (*grid.shape)."""
        ...


class Trust(Protocol):
    """How far the pixels of the reference can be trusted, by what is left of the frames aligned to it."""

    @property
    def frames(self) -> int:
        """Of how many frames it is known."""
        ...

    @property
    def noise(self) -> float:
        """Up to which a pixel is fully trusted: root mean square over the frames of what is left, z-scored."""
        ...

    def on(self, grid: Grid) -> Tensor:
        """How much each pixel counts, (*grid.shape) in (0, 1]."""
        ...


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
        Share of cells that fold in percent, and the smallest Jacobian determinant, both of the pixel lattice.
    max_displacement_mm
        Length of the longest displacement vector.
    seconds
        Wall time of this frame's share of its batch.
    min_jacobian_proven
        The Jacobian determinant is smaller nowhere in the frame, between pixels too; NaN where it was not computed.
    gaussians
        How many Gaussians describe the displacement; None where it is none of them.
    uncertainty
        How far its positions may be off; None where that is not known.
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
    min_jacobian_proven: float = math.nan
    gaussians: int | None = None
    uncertainty: Uncertainty | None = None
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
    trust
        How far each pixel of the reference is trusted, with the step at which that is known; None before, after, and where all
        count alike.
    """

    reference: int
    frames_done: int
    frames_total: int
    fraction: float
    finished: tuple[FrameResult, ...]
    notes: tuple[str, ...] = ()
    trust: Trust | None = None
