"""Registering every frame of a series to one reference frame, in batches, each frame on its own account."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from r2n2.config import SMALLEST_SIDE_PX, RegistrationConfig
from r2n2.errors import ArgumentError, ReadError
from r2n2.geometry import Grid
from r2n2.guides import Guides
from r2n2.mask import NO_MASKS, Masks
from r2n2.preprocessing import luminance
from r2n2.registration.base import Pairs, RegistrationStep
from r2n2.registration.batch import LoadedFrame, assess, assess_edited, assess_later, masked_note, unregistered
from r2n2.registration.batch_size import bytes_a_frame, resolve_batch_size
from r2n2.registration.chain import Chain, Predecessors
from r2n2.registration.contrast import ContrastFinding, examine_frames, suitable_measure
from r2n2.registration.fit.trust import Leftover
from r2n2.registration.measures import measure_of
from r2n2.registration.methods import build_method, resolve_device
from r2n2.registration.passes import Frames, Work, load_frame, needed_frame, run_pass, weight_of
from r2n2.registration.reference import chosen_reference
from r2n2.registration.results import FrameResult, FrameStatus, SeriesProgress
from r2n2.registration.survey import Survey, survey_for
from r2n2.registration.target import AlignedSeries, make_targets
from r2n2.registration.trusting import Trusting
from r2n2.registration.uncertainty import certain, uncertainty_estimator
from r2n2.series import ImageSeries
from r2n2.transform import Transform

__all__ = ["edited_result", "register_pair", "register_series", "resolve_similarity"]

_CHAINED = (
    "target: each frame is registered to its neighbour; errors add up from frame to frame, and nothing tells how far off they are"
)


def register_pair(
    fixed: NDArray[Any], moving: NDArray[Any], grid: Grid, config: RegistrationConfig | None = None, *, masks: Masks = NO_MASKS
) -> Iterator[RegistrationStep]:
    """Register one image to another, yielding after every step; the transform is ``step.transforms()[0]``.

    Parameters
    ----------
    fixed, moving
        (*grid.shape) or (C, *grid.shape), of any real type.
    grid
        Lattice of both.
    masks
        What of the two counts.

    Raises
    ------
    ArgumentError
        If a shape does not fit the grid or is too small.
    ReadError
        If a mask does not fit.
    """
    config = (config or RegistrationConfig()).of_grid(grid.ndim)
    _check_size(grid)
    masks.check(ImageSeries(np.broadcast_to(np.zeros((), np.uint8), (1, 1, *grid.shape)), grid))
    frames = []
    for name, image in (("fixed", fixed), ("moving", moving)):
        if image.shape[-grid.ndim :] != grid.shape or image.ndim not in (grid.ndim, grid.ndim + 1):
            raise ArgumentError(f"{name}: has shape {image.shape}, the grid has {grid.shape}; resample it to the grid first")
        frames.append(luminance(image if image.ndim > grid.ndim else image[None]))
    device = resolve_device(config.device)
    (a, a_valid), (b, b_valid) = frames
    images = (a[None].to(device), b[None].to(device), a_valid[None].to(device), b_valid[None].to(device))
    fixed_weight, moving_weight = (None if m is None else weight_of(m, 0)[None].to(device) for m in (masks.fixed, masks.moving))
    pairs = Pairs(*images, grid, fixed_weight, moving_weight)
    if config.similarity == "auto":
        finding = examine_frames([(a, a_valid), (b, b_valid)], grid, (0, 1), masks)
        config = config.model_copy(update={"similarity": suitable_measure(finding, grid.ndim)})
    yield from build_method(config).register(pairs)


def register_series(
    series: ImageSeries,
    config: RegistrationConfig | None = None,
    *,
    done: Mapping[int, FrameResult | None] | None = None,
    masks: Masks = NO_MASKS,
    survey: Survey | None = None,
    guides: Guides | None = None,
) -> Iterator[SeriesProgress]:
    """Align every frame to the reference, yielding after every step.

    A frame that cannot be read or registered is reported with its reason and keeps its place; the others go on. Stop at any
    yield: what was finished before stays valid.

    Parameters
    ----------
    series
        At least two frames; read a batch at a time.
    config
        How; the defaults if None.
    done
        Frames that are not registered again, each with its result, which others may go on from; None where it is not known. With
        the results of whole batches of the same size, the others come out as they would have, to the bit.
    masks
        What counts, in the reference and in the other frames.
    survey
        What ``survey_series`` found with these masks, if it was asked before; else it is asked where settings are left open.
    guides
        Pairs of points that hold in some frames, which are fitted again to meet them; all others come out as without them.

    Raises
    ------
    ArgumentError
        If there is nothing to register, the reference does not exist or the frames are too small.
    ReadError
        If the reference itself or a mask cannot be used.
    ResourceError
        If the device or the weights are missing.
    """
    config = config or RegistrationConfig()
    if len(series) < 2:
        raise ReadError("nothing to register: the series has one frame; give a series of at least two")
    _check_size(series.grid)
    masks.check(series)
    device = resolve_device(config.device)
    size = resolve_batch_size(config, series.grid, device)
    of_volumes = _notes_on_volumes(series.grid, config, min(size, len(series) - 1))
    config = config.of_grid(series.grid.ndim)
    survey = survey or survey_for(series, config, masks)
    index = chosen_reference(config.reference, survey, len(series))
    config, note = resolve_similarity(config, None if survey is None else survey.contrast, series.grid.ndim)
    chained = config.target == "previous"
    notes = (*of_volumes, *filter(None, (note, _CHAINED if chained else "")))
    if guides is not None and chained:
        raise ArgumentError("guide: with target previous frames are aligned to their neighbours, not to where pairs are marked")
    guiding = {} if guides is None else guides.pairs(index, series.grid)
    _check_frames(guiding, len(series))
    method = build_method(config, guided=bool(guiding))
    trusting = method if isinstance(method, Trusting) else None
    twice = trusting is not None and config.target == "reference" and len(series) > config.fit.trust_frames
    reference = load_frame(series, index, masks.fixed)
    if isinstance(reference, FrameResult):
        raise ReadError(f"reference: {reference.message}; choose another reference")
    measure = measure_of(config.similarity)
    own = unregistered(index, series.grid, FrameStatus.REFERENCE, masked_note(reference), similarity=1.0)
    own = replace(own, similarity_measure=measure.name)
    estimator = uncertainty_estimator(config) if config.estimates_uncertainty else None
    if estimator is not None:
        own = replace(own, uncertainty=certain(series.grid))
    done = done or {}
    frames = Frames(series, config.warm_start or chained, index, size, masks, config.warm_start)
    targets = Predecessors(frames, reference) if chained else dict.fromkeys(range(len(series)), reference)
    work = Work(method if trusting is None else trusting.whole, measure, targets, series.grid, device, size, estimator, guiding)
    rounds = 0 if config.target in ("reference", "previous") else config.target_rounds
    yield SeriesProgress(
        index, *_share(len(series), index, done, 0, 1 if twice else rounds), () if index in done else (own,), notes
    )
    if chained:
        yield from _between_neighbours(work, frames, reference, done, proven=config.no_folding)
    elif trusting is not None and twice:
        yield from _in_two_goes(work, frames, reference.index, trusting, done)
    else:
        yield from _to_targets(work, frames, reference, own, done, config.target, rounds)


def _between_neighbours(
    work: Work, frames: Frames, reference: LoadedFrame, done: Mapping[int, FrameResult | None], *, proven: bool
) -> Iterator[SeriesProgress]:
    """One pass from frame to frame, its results composed as they come."""
    chain = Chain(frames, reference, work.measure, done, proven=proven)
    for ready, finished in run_pass(work, frames, done, {}):
        share = _share(len(frames.series), reference.index, done, 0, 0, ready)
        yield SeriesProgress(reference.index, *share, chain.add(finished))


def _in_two_goes(
    work: Work, frames: Frames, reference: int, trusting: Trusting, done: Mapping[int, FrameResult | None]
) -> Iterator[SeriesProgress]:
    """All frames without their last steps, then these, by what all frames say of the pixels of the reference.

    The first go takes all frames, those that are done as well: the second is then what it would have been.
    """
    total, estimator, leftover = len(frames.series), work.estimator, Leftover(trusting.fit, trusting.measure)
    # Frames with guiding pairs are fitted again at the very end: what can be trusted follows from all frames as they are without.
    guides, work.guides = work.guides, {}
    work.method, work.estimator, work.judge = trusting.first, leftover, assess_later
    found: dict[int, FrameResult] = {}
    for ready, finished in run_pass(work, frames, {}, {}):
        found.update({result.frame: result for result in finished})
        yield SeriesProgress(reference, *_share(total, reference, done, 0, 1, ready), ())
    trust = leftover.map()
    work.method, work.estimator, work.judge, work.guides = trusting.second(trust), estimator, assess, guides
    # Whose reason is known by now is not tried again.
    failed = {k: result for k, result in found.items() if not result.status.sound}
    yield SeriesProgress(reference, *_share(total, reference, done, 1, 1), (), trust=trust)
    for ready, finished in run_pass(work, replace(frames, settled=failed), done, _transforms(found)):
        results = (one if one.frame in failed else replace(one, seconds=one.seconds + found[one.frame].seconds) for one in finished)
        yield SeriesProgress(reference, *_share(total, reference, done, 1, 1, ready), tuple(results))


def _to_targets(
    work: Work,
    frames: Frames,
    reference: LoadedFrame,
    own: FrameResult,
    done: Mapping[int, FrameResult | None],
    target: str,
    rounds: int,
) -> Iterator[SeriesProgress]:
    """One pass to the reference, and one more to each of so many targets made of the frames as they are aligned by then."""
    index, total = reference.index, len(frames.series)
    results = {index: own}
    for number in range(rounds):
        for ready, finished in run_pass(work, frames, {}, _transforms(results) if number else {}):
            results.update({result.frame: result for result in finished})
            yield SeriesProgress(index, *_share(total, index, done, number, rounds, ready), ())
        work.targets = make_targets(_aligned(frames, results), target, reference)
    for ready, finished in run_pass(work, frames, done, _transforms(results) if rounds else {}):
        yield SeriesProgress(index, *_share(total, index, done, rounds, rounds, ready), finished)


def _share(
    total: int, reference: int, done: Mapping[int, FrameResult | None], number: int, rounds: int, ready: float = 0.0
) -> tuple[int, int, float]:
    """Frames that are ready, all, and share of the work done: ``ready`` frames of pass ``number``, the first being 0."""
    before = len({reference, *done})
    last = number == rounds
    # The passes before the last one register all frames, the last one those that are not done.
    passes = number + (before + ready if last else 1 + ready) / total
    return before + (int(ready) if last else 0), total, passes / (rounds + 1)


def _transforms(results: Mapping[int, FrameResult]) -> dict[int, Transform]:
    """Of the frames that were aligned, from which to go on."""
    return {frame: result.transform for frame, result in results.items() if result.status.sound}


def _aligned(frames: Frames, results: Mapping[int, FrameResult]) -> AlignedSeries:
    """All frames in the reference's place, read once more, one at a time."""
    aligned = AlignedSeries.empty(len(frames.series), frames.series.grid)
    for number, result in results.items():
        loaded = frames.load(number)
        if isinstance(loaded, LoadedFrame):
            aligned.put(loaded, result)
    return aligned


def resolve_similarity(
    config: RegistrationConfig, contrast: ContrastFinding | None, ndim: int = 2
) -> tuple[RegistrationConfig, str]:
    """Settings with a measure in place of "auto", and a sentence on what was chosen and what follows; "" where nothing changes.

    The measure is chosen once for a whole series (``suitable_measure``), by what was found of its contrast.
    """
    if config.similarity != "auto":
        note = "" if config.similarity == "ssd" else f"similarity: {config.similarity}, as asked for"
    else:
        assert contrast is not None
        config = config.model_copy(update={"similarity": suitable_measure(contrast, ndim)})
        why = f"contrast changes along the series: {contrast.reason}" if contrast.changes else "volumes are compared locally"
        note = "" if config.similarity == "ssd" else f"similarity: {config.similarity}, as {why}"
    if note and config.method == "r2n2":
        note += "; the network compares intensities and is left out, the Gaussians are fitted from none"
    return config, note


def edited_result(
    series: ImageSeries,
    reference: int,
    result: FrameResult,
    transform: Transform,
    message: str,
    *,
    masks: Masks = NO_MASKS,
) -> FrameResult:
    """A frame's result with a transform that a person chose in place of the one found, measured anew.

    Parameters
    ----------
    series
        The registered series.
    reference
        Its reference frame.
    result
        Of the frame, as registered.
    transform
        What to use now, such as the sequence without some of its steps.
    message
        What was changed.
    masks
        What counted when it was registered.

    Raises
    ------
    ReadError
        If a frame cannot be read any more.
    """
    fixed, moving = needed_frame(series, reference, masks.fixed), needed_frame(series, result.frame, masks.moving)
    return assess_edited(fixed, moving, transform, message, result.seconds, measure_of(result.similarity_measure))


def _check_frames(guiding: Mapping[int, object], count: int) -> None:
    beyond = [frame for frame in guiding if frame >= count]
    if beyond:
        raise ArgumentError(f"guide: frame {beyond[0]} does not exist, the series has frames 0 to {count - 1}; frames count from 0")


def _notes_on_volumes(grid: Grid, config: RegistrationConfig, size: int) -> tuple[str, ...]:
    """What a person should know before volumes are registered, ``size`` at once; nothing of 2D frames."""
    if grid.ndim == 2:
        return ()
    notes = ("method: fit, as the network knows 2D frames alone",) if config.method == "r2n2" else ()
    needed = size * bytes_a_frame(config, grid) / 2**30
    many = f"{size} volumes" if size > 1 else "one volume"
    shape = " x ".join(map(str, grid.shape))
    return (*notes, f"memory: about {needed:.1f} GiB beside the frames themselves, for {many} of {shape} voxels at once")


def _check_size(grid: Grid) -> None:
    sides = sorted(grid.shape)
    # A volume may be a slab of a few slices.
    shortest = sides[0] if grid.ndim == 2 else sides[1]
    if shortest < SMALLEST_SIDE_PX:
        raise ArgumentError(
            f"frames: a side of at least {SMALLEST_SIDE_PX} pixels is needed, got {' x '.join(map(str, grid.shape))}; "
            f"give larger frames or check the axes"
        )
    if sides[0] < 2:
        raise ArgumentError(
            f"frames: a volume needs at least 2 slices, got {' x '.join(map(str, grid.shape))}; give its frames as 2D"
        )
