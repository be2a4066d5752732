"""Registering one batch of frames to the reference, and judging what came out at the frames' own resolution."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from r2n2.geometry import Grid, Space
from r2n2.registration.base import Method, Pairs
from r2n2.registration.doubt import reasons_for_doubt
from r2n2.registration.measures import Measure, SquaredDifference, agreement
from r2n2.registration.results import FrameResult, FrameStatus
from r2n2.similarity import correlation
from r2n2.transform import DisplacementField, GaussianSequence, Transform, folding_percent, jacobian_determinant, warp

__all__ = ["BatchResult", "LoadedFrame", "assess", "assess_edited", "masked_note", "register_batch", "unregistered"]

_FOLDED_PERCENT = 1.0
# Rounding may lower a correlation that is as good as it can be.
_SIMILARITY_TOLERANCE = 1e-4
# A few pixels that stay in view always find something to agree with.
_SMALLEST_OVERLAP = 0.25


@dataclass(frozen=True, eq=False)
class LoadedFrame:
    """A frame ready to be registered: (1, *shape) float32 and bool."""

    index: int
    image: Tensor
    valid: Tensor


@dataclass(eq=False)
class BatchResult:
    """Filled while ``register_batch`` runs: the transforms of the last step that was finished."""

    transforms: tuple[Transform, ...] = ()
    loss: list[float] = field(default_factory=list)
    seconds: float = 0.0


def register_batch(
    method: Method,
    reference: LoadedFrame,
    frames: Sequence[LoadedFrame],
    grid: Grid,
    device: torch.device,
    start: Sequence[Transform] | None,
    result: BatchResult,
) -> Iterator[float]:
    """Register frames to the reference, yielding the share done after every step; the outcome goes into ``result``."""
    began = time.perf_counter()
    moving = torch.stack([f.image for f in frames]).to(device)
    pairs = Pairs(
        reference.image.to(device).expand_as(moving),
        moving,
        reference.valid.to(device).expand_as(moving),
        torch.stack([f.valid for f in frames]).to(device),
        grid,
    )
    last = None
    for last in method.register(pairs, start=start):
        yield last.index / last.total
    if last is not None:
        result.transforms = last.transforms()
        result.loss = last.loss.tolist()
    result.seconds = time.perf_counter() - began


@dataclass(frozen=True)
class _Measures:
    """What a transform does to a frame, in numbers."""

    before: float
    after: float
    overlap: float
    folding: float
    min_jacobian: float
    longest_mm: float


def _measure(reference: LoadedFrame, frame: LoadedFrame, transform: Transform, measure: Measure) -> _Measures:
    grid = transform.grid
    displacement = transform.displacement_field().to_space(Space.NORMALISED)
    vectors = displacement.vectors[None]
    warped, measured = warp(frame.image[None], vectors, grid, mask=frame.valid[None])
    valid = measured & reference.valid
    determinants = jacobian_determinant(vectors, grid)
    if measure.name == "ssd":
        before = float(correlation(reference.image[None], frame.image[None], (frame.valid & reference.valid)[None]))
        after = float(correlation(reference.image[None], warped, valid))
    else:
        before, after = agreement(measure, reference.image, frame.image, reference.valid, frame.valid, vectors, grid)
    return _Measures(
        before=before,
        after=after,
        overlap=float(valid.sum() / (frame.valid & reference.valid).sum().clamp_min(1)),
        folding=float(folding_percent(determinants)),
        min_jacobian=float(determinants.min()),
        longest_mm=float(displacement.magnitude_mm().max()),
    )


def assess(
    reference: LoadedFrame, frame: LoadedFrame, transform: Transform, loss: float, seconds: float, measure: Measure | None = None
) -> FrameResult:
    """What a transform does to a frame: similarity before and after, folding, largest displacement, and whether to trust it.

    Parameters
    ----------
    measure
        What the frames were compared by; squared differences if None.
    """
    measure = measure or SquaredDifference()
    found = _measure(reference, frame, transform, measure)

    def kept_back(status: FrameStatus, why: str) -> FrameResult:
        message = f"frame {frame.index}: {why}; it is left as it is"
        own = unregistered(frame.index, transform.grid, status, message, similarity=found.before, seconds=seconds)
        return replace(own, similarity_measure=measure.name)

    if not math.isfinite(loss) or not math.isfinite(found.after):
        return kept_back(FrameStatus.FAILED, "the registration gave no finite result")
    if found.overlap < _SMALLEST_OVERLAP:
        return kept_back(FrameStatus.FAILED, f"only {100 * found.overlap:.0f} % of it would stay in view")
    if found.after < found.before - _SIMILARITY_TOLERANCE:
        return kept_back(FrameStatus.WORSE, f"the similarity fell from {found.before:.4f} to {found.after:.4f}")
    reasons = list(_doubts(reference, frame, transform, measure, found.after))
    status, message = FrameStatus.DOUBTFUL if reasons else FrameStatus.OK, masked_note(frame)
    if found.folding > _FOLDED_PERCENT:
        status = FrameStatus.FOLDED
        reasons.insert(0, f"the displacement folds in {found.folding:.2f} % of the cells")
    if reasons:
        message = f"frame {frame.index}: {'; '.join(reasons)}; look at it before using it"
    return _result(frame.index, transform, status, message, found, seconds, measure)


def masked_note(frame: LoadedFrame) -> str:
    """A sentence on pixels that hold no number, or "" where all do."""
    count = int((~frame.valid).sum())
    if not count:
        return ""
    share = 100 * count / frame.valid.numel()
    what = (
        "1 pixel ({} %) is NaN or infinite and does not count"
        if count == 1
        else "{1} pixels ({0} %) are NaN or infinite and do not count"
    )
    return f"frame {frame.index}: " + what.format(f"{share:.2g}", count)


def _doubts(reference: LoadedFrame, frame: LoadedFrame, transform: Transform, measure: Measure, after: float) -> tuple[str, ...]:
    vectors = transform.displacement_field().to_space(Space.NORMALISED).vectors[None]
    images = (reference.image, frame.image, reference.valid, frame.valid)
    return reasons_for_doubt(*images, vectors, transform.grid, measure=measure.name, agreement=after)


def assess_edited(
    reference: LoadedFrame,
    frame: LoadedFrame,
    transform: Transform,
    message: str,
    seconds: float = 0.0,
    measure: Measure | None = None,
) -> FrameResult:
    """The same numbers of a transform that a person chose: it is taken as it is, with status EDITED."""
    measure = measure or SquaredDifference()
    found = _measure(reference, frame, transform, measure)
    return _result(frame.index, transform, FrameStatus.EDITED, message, found, seconds, measure)


def _result(
    frame: int,
    transform: Transform,
    status: FrameStatus,
    message: str,
    found: _Measures,
    seconds: float,
    measure: Measure,
) -> FrameResult:
    return FrameResult(
        frame,
        transform,
        status,
        message,
        found.before,
        found.after,
        found.folding,
        found.min_jacobian,
        found.longest_mm,
        seconds,
        measure.name,
    )


def unregistered(
    frame: int, grid: Grid, status: FrameStatus, message: str, *, similarity: float = math.nan, seconds: float = 0.0
) -> FrameResult:
    """The result of a frame that keeps its place."""
    identity = GaussianSequence.identity(grid) if grid.ndim == 2 else DisplacementField.identity(grid)
    return FrameResult(frame, identity, status, message, similarity, similarity, 0.0, 1.0, 0.0, seconds)
