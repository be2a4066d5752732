"""Registering one batch of frames to the reference, and judging what came out at the frames' own resolution."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from r2n2.geometry import Grid, Space
from r2n2.registration.base import Method, Pairs
from r2n2.registration.results import FrameResult, FrameStatus
from r2n2.similarity import correlation
from r2n2.transform import DisplacementField, GaussianSequence, Transform, folding_percent, jacobian_determinant, sample_normalised
from r2n2.transform.warp import normalised_lattice

__all__ = ["BatchResult", "LoadedFrame", "judge", "register_batch", "unregistered"]

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


def judge(reference: LoadedFrame, frame: LoadedFrame, transform: Transform, loss: float, seconds: float) -> FrameResult:
    """What a transform does to a frame: similarity before and after, folding, largest displacement, and whether to trust it."""
    grid = transform.grid
    displacement = transform.displacement_field().to_space(Space.NORMALISED)
    vectors = displacement.vectors[None]
    both = torch.stack((frame.image, frame.valid.to(frame.image.dtype)), 1)
    warped, inside = sample_normalised(both, normalised_lattice(grid, vectors) + vectors, grid)
    valid = inside & (warped[:, 1:] > 0.99) & reference.valid
    before = float(correlation(reference.image[None], frame.image[None], (frame.valid & reference.valid)[None]))
    after = float(correlation(reference.image[None], warped[:, :1], valid))
    determinants = jacobian_determinant(vectors, grid)
    folding = float(folding_percent(determinants))
    if not math.isfinite(loss) or not math.isfinite(after):
        return unregistered(
            frame.index,
            grid,
            FrameStatus.FAILED,
            f"frame {frame.index}: the registration gave no finite result; it is left as it is",
            similarity=before,
            seconds=seconds,
        )
    overlap = float(valid.sum() / (frame.valid & reference.valid).sum().clamp_min(1))
    if overlap < _SMALLEST_OVERLAP:
        message = f"frame {frame.index}: only {100 * overlap:.0f} % of it would stay in view; it is left as it is"
        return unregistered(frame.index, grid, FrameStatus.FAILED, message, similarity=before, seconds=seconds)
    if after < before - _SIMILARITY_TOLERANCE:
        message = f"frame {frame.index}: the similarity fell from {before:.4f} to {after:.4f}; it is left as it is"
        return unregistered(frame.index, grid, FrameStatus.WORSE, message, similarity=before, seconds=seconds)
    status, message = FrameStatus.OK, ""
    if folding > _FOLDED_PERCENT:
        status = FrameStatus.FOLDED
        message = f"frame {frame.index}: the displacement folds in {folding:.2f} % of the cells; look at it before using it"
    return FrameResult(
        frame.index,
        transform,
        status,
        message,
        before,
        after,
        folding,
        float(determinants.min()),
        float(displacement.magnitude_mm().max()),
        seconds,
    )


def unregistered(
    frame: int, grid: Grid, status: FrameStatus, message: str, *, similarity: float = math.nan, seconds: float = 0.0
) -> FrameResult:
    """The result of a frame that keeps its place."""
    identity = GaussianSequence.identity(grid) if grid.ndim == 2 else DisplacementField.identity(grid)
    return FrameResult(frame, identity, status, message, similarity, similarity, 0.0, 1.0, 0.0, seconds)
