"""Registering one batch of frames to the reference, and judging what came out at the frames' own resolution."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from r2n2.geometry import Grid, Space
from r2n2.guides import GuidingPairs, misfit_mm
from r2n2.registration.base import Method, Pairs
from r2n2.registration.doubt import reasons_for_doubt
from r2n2.registration.measures import Measure, SquaredDifference, agreement
from r2n2.registration.results import FrameResult, FrameStatus
from r2n2.registration.uncertainty import FrameUncertainty, backward_pairs
from r2n2.registration.volumes import measure_rows, small_volumes
from r2n2.similarity import correlation
from r2n2.transform import (
    GaussianSequence,
    Transform,
    folding_percent,
    jacobian_bound,
    jacobian_determinant,
    warp,
)

__all__ = [
    "BatchResult",
    "Estimator",
    "LoadedFrame",
    "assess",
    "assess_composed",
    "assess_edited",
    "assess_later",
    "masked_note",
    "register_batch",
    "unregistered",
]

_FOLDED_PERCENT = 1.0
# Rounding may lower a correlation that is as good as it can be.
_SIMILARITY_TOLERANCE = 1e-4
# A few pixels that stay in view always find something to agree with.
_SMALLEST_OVERLAP = 0.25
# Standard deviations beyond which a guiding pair is not met.
_FARTHEST_GUIDE = 3.0


@dataclass(frozen=True, eq=False)
class LoadedFrame:
    """A frame ready to be registered: (1, *shape) float32 and bool; with a mask the weight of every pixel, float32 in [0, 1]."""

    index: int
    image: Tensor
    valid: Tensor
    weight: Tensor | None = None

    @property
    def counted(self) -> Tensor:
        """(1, *shape) bool, pixels that are valid and not masked out."""
        return self.valid if self.weight is None else self.valid & (self.weight > 0)


class Estimator(Protocol):
    """Looks at a batch once it is registered."""

    @property
    def both_ways(self) -> bool:
        """Whether each pair is to be registered back as well."""
        ...

    def estimate(
        self, pairs: Pairs, transforms: Sequence[Transform], backward: Sequence[Transform] = ()
    ) -> tuple[FrameUncertainty | None, ...]:
        """One a pair, from its transform and, if asked for, that of the way back."""
        ...


@dataclass(eq=False)
class BatchResult:
    """Filled while ``register_batch`` runs: the transforms of the last step that was finished."""

    transforms: tuple[Transform, ...] = ()
    loss: list[float] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    uncertainties: tuple[FrameUncertainty | None, ...] = ()
    seconds: float = 0.0


def register_batch(
    method: Method,
    targets: Sequence[LoadedFrame],
    frames: Sequence[LoadedFrame],
    grid: Grid,
    device: torch.device,
    start: Sequence[Transform] | None,
    result: BatchResult,
    estimator: Estimator | None = None,
    *,
    guides: tuple[GuidingPairs | None, ...] = (),
) -> Iterator[float]:
    """Register each frame to its target, yielding the share done after every step; the outcome goes into ``result``."""
    began = time.perf_counter()
    fixed, fixed_valid, fixed_weight = _together(targets, device)
    moving, moving_valid, moving_weight = _together(frames, device)
    pairs = Pairs(fixed, moving, fixed_valid, moving_valid, grid, fixed_weight, moving_weight, guides)
    both_ways = estimator is not None and estimator.both_ways
    last = None
    for last in method.register(pairs, start=start):
        yield last.index / last.total * (0.5 if both_ways else 1.0)
    if last is not None:
        result.transforms = last.transforms()
        result.loss = last.loss.tolist()
        result.notes = list(last.notes) or [""] * len(frames)
        result.uncertainties = (None,) * len(pairs)
        if estimator is not None:
            backward = None
            for backward in method.register(backward_pairs(pairs)) if both_ways else ():
                yield 0.5 + 0.5 * backward.index / backward.total
            ways_back = () if backward is None else backward.transforms()
            result.uncertainties = estimator.estimate(pairs, result.transforms, ways_back)
    result.seconds = time.perf_counter() - began


def _together(frames: Sequence[LoadedFrame], device: torch.device) -> tuple[Tensor, Tensor, Tensor | None]:
    """Images, validity and weights (B, 1, *shape); of one frame for all without a copy, which methods see and prepare once."""
    first = frames[0]
    some = frames[:1] if all(frame is first for frame in frames) else frames

    def stacked(parts: list[Tensor]) -> Tensor:
        whole = torch.stack(parts).to(device)
        return whole.expand(len(frames), *whole.shape[1:]) if len(parts) < len(frames) else whole

    weights = [frame.weight for frame in some if frame.weight is not None]
    return (
        stacked([frame.image for frame in some]),
        stacked([frame.valid for frame in some]),
        stacked(weights) if weights else None,
    )


@dataclass(frozen=True)
class _Measures:
    """What a transform does to a frame, in numbers."""

    before: float
    after: float
    overlap: float
    folding: float
    min_jacobian: float
    longest_mm: float
    min_jacobian_proven: float


def _measure(reference: LoadedFrame, frame: LoadedFrame, transform: Transform, measure: Measure) -> _Measures:
    grid = transform.grid
    if grid.ndim == 3:
        return _measure_volume(reference, frame, transform, measure)
    displacement = transform.displacement_field().to_space(Space.NORMALISED)
    vectors = displacement.vectors[None]
    held = frame.image if frame.weight is None else torch.cat((frame.image, frame.weight))
    warped, measured = warp(held[None], vectors, grid, mask=frame.counted[None])
    valid = measured & reference.counted
    both = (frame.counted & reference.counted)[None]
    determinants = _inside(jacobian_determinant(vectors, grid), reference)
    if measure.name == "ssd":
        before = float(correlation(reference.image[None], frame.image[None], _weighted(both, reference.weight, frame.weight)))
        weight = _weighted(valid, reference.weight, *warped[0, 1:].split(1))
        after = float(correlation(reference.image[None], warped[:, :1], weight))
    else:
        before, after = agreement(measure, reference.image, frame.image, reference.counted, frame.counted, vectors, grid)
    return _Measures(
        before=before,
        after=after,
        overlap=float(valid.sum() / both.sum().clamp_min(1)),
        folding=float(folding_percent(determinants)),
        min_jacobian=float(determinants.min()),
        longest_mm=float(displacement.magnitude_mm()[_counting(reference)].max()),
        min_jacobian_proven=jacobian_bound(transform).proven,
    )


def _measure_volume(reference: LoadedFrame, frame: LoadedFrame, transform: Transform, measure: Measure) -> _Measures:
    a, b = ((one.image, one.counted, one.weight) for one in (reference, frame))
    found = measure_rows(a, b, transform)
    before, after = found.before, found.after
    if measure.name != "ssd":
        small = small_volumes(a[0], b[0], a[1], b[1], transform)
        before, after = agreement(measure, *small.images, small.displacement, small.grid)
    proven = jacobian_bound(transform).proven
    return _Measures(before, after, found.overlap, found.folding, found.min_jacobian, found.longest_mm, proven)


def _weighted(valid: Tensor, *weights: Tensor | None) -> Tensor:
    """(1, 1, *shape) validity times weights (1, *shape), of those that are there."""
    for weight in weights:
        if weight is not None and len(weight):
            valid = valid * weight
    return valid


def _counting(reference: LoadedFrame) -> Tensor:
    """(*shape) bool, where the reference's mask says that a displacement matters; everywhere without one."""
    return torch.ones_like(reference.valid[0]) if reference.weight is None else reference.weight[0] > 0


def _inside(determinants: Tensor, reference: LoadedFrame) -> Tensor:
    """Determinants (1, N, *cells) of the cells alone that touch the reference's mask, (1, N, cells); all of them without one."""
    if reference.weight is None:
        return determinants
    touched = _counting(reference)
    for axis in range(touched.ndim):
        low, high = (touched.narrow(axis, start, touched.shape[axis] - 1) for start in (0, 1))
        touched = low | high
    return determinants[:, :, touched]


def assess(
    reference: LoadedFrame,
    frame: LoadedFrame,
    transform: Transform,
    loss: float,
    seconds: float,
    note: str = "",
    *,
    uncertainty: FrameUncertainty | None = None,
    measure: Measure | None = None,
    guides: GuidingPairs | None = None,
) -> FrameResult:
    """What a transform does to a frame: similarity before and after, folding, largest displacement, and whether to trust it.

    Parameters
    ----------
    note
        What was done to the transform after it was found, if anything.
    uncertainty
        How far its positions may be off, if that is known.
    measure
        What the frames were compared by; squared differences if None.
    guides
        What a person vouched for: such a frame is not kept back where the images say otherwise, but doubtful.
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
    fell = found.after < found.before - _SIMILARITY_TOLERANCE
    if fell and guides is None:
        return kept_back(FrameStatus.WORSE, f"the similarity fell from {found.before:.4f} to {found.after:.4f}")
    guided, held_off = ("", ()) if guides is None else _guided(transform, guides)
    reasons = [
        *([f"the similarity fell from {found.before:.4f} to {found.after:.4f}"] if fell else ()),
        *held_off,
        *_doubts(reference, frame, transform, measure, found.after, beside_radius=uncertainty is not None and uncertainty.judged),
        *(() if uncertainty is None else uncertainty.reasons),
    ]
    status, message = FrameStatus.DOUBTFUL if reasons else FrameStatus.OK, masked_note(frame)
    if guided and not message:
        message = f"frame {frame.index}: {guided}"
    if note:
        status = FrameStatus.DOUBTFUL if reasons else FrameStatus.LIMITED
        message = f"frame {frame.index}: {note}"
    if found.folding > _FOLDED_PERCENT:
        status = FrameStatus.FOLDED
        reasons.insert(0, f"the displacement folds in {found.folding:.2f} % of the cells")
    if reasons:
        message = f"frame {frame.index}: {'; '.join([*reasons, *filter(None, [note, guided])])}; look at it before using it"
    return replace(_result(frame.index, transform, status, message, found, seconds, measure), uncertainty=uncertainty)


def assess_later(
    reference: LoadedFrame,
    frame: LoadedFrame,
    transform: Transform,
    loss: float,
    seconds: float,
    note: str = "",
    *,
    uncertainty: FrameUncertainty | None = None,
    measure: Measure | None = None,
    guides: GuidingPairs | None = None,
) -> FrameResult:
    """A transform that is gone on from, without numbers that nobody is going to see; what is not finite fails as in ``assess``."""
    if not math.isfinite(loss):
        return assess(reference, frame, transform, loss, seconds, note, uncertainty=uncertainty, measure=measure, guides=guides)
    return FrameResult(frame.index, transform, FrameStatus.OK, "", math.nan, math.nan, math.nan, math.nan, math.nan, seconds)


def _guided(transform: Transform, guides: GuidingPairs) -> tuple[str, tuple[str, ...]]:
    """How the pairs of a frame are met, in words, and a reason for doubt where they are not."""
    misfits = misfit_mm(transform, guides)
    worst, strength = max(misfits), guides.strength * transform.grid.unit_mm
    many = "1 pair" if len(guides) == 1 else f"{len(guides)} pairs"
    guided = f"guided by {many}, met to within {worst:.2g} mm"
    if worst <= _FARTHEST_GUIDE * strength:
        return guided, ()
    name = guides.ids[misfits.index(worst)]
    why = f"guiding pair {name!r} stays {worst:.2g} mm from where it was put, though it is right to within {strength:.2g} mm"
    return f"guided by {many}", (why,)


def assess_composed(
    reference: LoadedFrame,
    frame: LoadedFrame,
    transform: Transform,
    link: FrameResult,
    reasons: Sequence[str],
    measure: Measure,
) -> FrameResult:
    """The same numbers of a transform that was composed on the way from neighbour to neighbour, whose last step is ``link``.

    It is taken as it is, doubtful for the ``reasons`` given or where it folds, leads out of view, or makes the frame less like the
    reference. How alike the two are is no reason: what the reference shows may long be gone.
    """
    found, reasons = _measure(reference, frame, transform, measure), list(reasons)
    if found.after < found.before - _SIMILARITY_TOLERANCE:
        reasons.append(f"its similarity to the reference fell from {found.before:.4f} to {found.after:.4f}")
    if found.overlap < _SMALLEST_OVERLAP:
        reasons.append(f"only {100 * found.overlap:.0f} % of it stays in view")
    status, message = (FrameStatus.DOUBTFUL if reasons else link.status), link.message
    if found.folding > _FOLDED_PERCENT:
        status = FrameStatus.FOLDED
        reasons.insert(0, f"the displacement folds in {found.folding:.2f} % of the cells")
    if reasons:
        message = f"frame {frame.index}: {'; '.join(reasons)}; look at it before using it"
    return _result(frame.index, transform, status, message, found, link.seconds, measure)


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


def _doubts(
    reference: LoadedFrame, frame: LoadedFrame, transform: Transform, measure: Measure, after: float, *, beside_radius: bool
) -> tuple[str, ...]:
    if transform.grid.ndim == 3:
        small = small_volumes(reference.image, frame.image, reference.counted, frame.counted, transform)
        seen = (*small.images, small.displacement, small.grid, small.initial)
        return reasons_for_doubt(*seen, measure=measure.name, agreement=after, beside_radius=beside_radius)
    vectors = transform.displacement_field().to_space(Space.NORMALISED).vectors[None]
    initial = None
    if isinstance(transform, GaussianSequence) and transform.linear is not None:
        initial = transform.linear_field().vectors[None]
    images = (reference.image, frame.image, reference.counted, frame.counted)
    return reasons_for_doubt(
        *images, vectors, transform.grid, initial, measure=measure.name, agreement=after, beside_radius=beside_radius
    )


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
        found.min_jacobian_proven,
        len(transform) if isinstance(transform, GaussianSequence) else None,
        similarity_measure=measure.name,
    )


def unregistered(
    frame: int, grid: Grid, status: FrameStatus, message: str, *, similarity: float = math.nan, seconds: float = 0.0
) -> FrameResult:
    """The result of a frame that keeps its place."""
    identity = GaussianSequence.identity(grid)
    return FrameResult(frame, identity, status, message, similarity, similarity, 0.0, 1.0, 0.0, seconds, 1.0)
