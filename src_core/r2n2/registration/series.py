"""Registering every frame of a series to one reference frame, in batches, each frame on its own account."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from r2n2.config import SMALLEST_SIDE_PX, RegistrationConfig
from r2n2.errors import ArgumentError, R2N2Error, ReadError, ResourceError
from r2n2.geometry import Grid
from r2n2.mask import NO_MASKS, Mask, Masks
from r2n2.preprocessing import luminance
from r2n2.registration.base import Method, Pairs, RegistrationStep
from r2n2.registration.batch import BatchResult, LoadedFrame, assess, assess_edited, masked_note, register_batch, unregistered
from r2n2.registration.batch_size import resolve_batch_size
from r2n2.registration.contrast import examine_frames, examine_series, suitable_measure
from r2n2.registration.measures import Measure, measure_of
from r2n2.registration.methods import build_method, resolve_device
from r2n2.registration.reference import resolve_reference
from r2n2.registration.results import FrameResult, FrameStatus, SeriesProgress
from r2n2.registration.target import AlignedSeries, make_targets
from r2n2.registration.uncertainty import UncertaintyEstimator, certain, uncertainty_estimator
from r2n2.series import ImageSeries
from r2n2.transform import Transform

__all__ = ["edited_result", "register_pair", "register_series", "resolve_similarity"]


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
    config = config or RegistrationConfig()
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
    weights = [None if m is None else _weight(m, 0)[None].to(device) for m in (masks.fixed, masks.moving)]
    pairs = Pairs(*images, grid, *weights)
    if config.similarity == "auto":
        finding = examine_frames([(a, a_valid), (b, b_valid)], grid, (0, 1))
        config = config.model_copy(update={"similarity": suitable_measure(finding)})
    yield from build_method(config).register(pairs)


def register_series(
    series: ImageSeries,
    config: RegistrationConfig | None = None,
    *,
    done: Mapping[int, Transform | None] | None = None,
    masks: Masks = NO_MASKS,
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
        Frames that are not registered again, each with its transform if that was ok, from which a warm start may begin. With
        those of whole batches of the same size, the others come out as they would have, to the bit.
    masks
        What counts, in the reference and in the other frames.

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
    config, note = resolve_similarity(series, config, masks)
    notes = (note,) if note else ()
    method = build_method(config)
    index = resolve_reference(series, config.reference)
    reference = _load(series, index, masks.fixed)
    if isinstance(reference, FrameResult):
        raise ReadError(f"reference: {reference.message}; choose another reference")
    measure = measure_of(config.similarity)
    own = unregistered(index, series.grid, FrameStatus.REFERENCE, masked_note(reference), similarity=1.0)
    own = replace(own, similarity_measure=measure.name)
    estimator = uncertainty_estimator(config)
    if estimator is not None:
        own = replace(own, uncertainty=certain(series.grid))
    done = done or {}
    size = resolve_batch_size(config, series.grid, device)
    frames = _Frames(series, config.warm_start, index, size, masks)
    work = _Work(method, measure, dict.fromkeys(range(len(series)), reference), series.grid, device, size, estimator)
    rounds = config.target_rounds if config.target != "reference" else 0
    results = {index: own}
    yield SeriesProgress(index, *_share(len(series), index, done, 0, rounds), () if index in done else (own,), notes)
    for number in range(rounds):
        for ready, finished in _pass(work, frames, {}, _transforms(results) if number else {}):
            results.update({result.frame: result for result in finished})
            yield SeriesProgress(index, *_share(len(series), index, done, number, rounds, ready), ())
        work.targets = make_targets(_aligned(frames, results), config.target, reference)
    for ready, finished in _pass(work, frames, done, _transforms(results) if rounds else {}):
        yield SeriesProgress(index, *_share(len(series), index, done, rounds, rounds, ready), finished)


def _share(
    total: int, reference: int, done: Mapping[int, Transform | None], number: int, rounds: int, ready: float = 0.0
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


def _aligned(frames: _Frames, results: Mapping[int, FrameResult]) -> AlignedSeries:
    """All frames in the reference's place, read once more, one at a time."""
    aligned = AlignedSeries.empty(len(frames.series), frames.series.grid)
    for number, result in results.items():
        loaded = frames.load(number)
        if isinstance(loaded, LoadedFrame):
            aligned.put(loaded, result)
    return aligned


def _pass(
    work: _Work, frames: _Frames, done: Mapping[int, Transform | None], start: Mapping[int, Transform]
) -> Iterator[tuple[float, tuple[FrameResult, ...]]]:
    """Register all frames but the reference and those done, yielding how many frames' worth is ready, and results as they come.

    Each frame starts from the transform in ``start`` that is nearest in time, and with a warm start from those found here.
    """
    anchors, ready = dict(start), 0
    for batch in _batches(len(frames.series), frames.reference, frames.size, outward=frames.outward):
        results: list[FrameResult] = []
        left = [k for k in batch if k not in done]
        if left:
            for furthest in _load_and_register(work, frames, left, anchors, results):
                yield ready + furthest, ()
            ready += len(left)
            yield ready, tuple(results)
        if frames.outward:
            found = {r.frame: r.transform for r in results if r.status.sound}
            found.update({k: transform for k in batch if (transform := done.get(k)) is not None})
            # Of two neighbours equally near the first counts, so their order must not depend on what was done before.
            anchors.update({k: found[k] for k in sorted(found)})


@dataclass(frozen=True, eq=False)
class _Frames:
    """Where frames come from, and in which order they are taken."""

    series: ImageSeries
    outward: bool
    """From the reference on, so that each may start from its neighbour."""
    reference: int
    size: int
    """Of a batch."""
    masks: Masks

    def load(self, number: int) -> LoadedFrame | FrameResult:
        """A frame ready to be registered, or the result that says why it is not."""
        return _load(self.series, number, self.masks.moving)


def resolve_similarity(series: ImageSeries, config: RegistrationConfig, masks: Masks = NO_MASKS) -> tuple[RegistrationConfig, str]:
    """Settings with a measure in place of "auto", and a sentence on what was chosen and what follows; "" where nothing changes.

    The measure is chosen once for a whole series (``suitable_measure``).
    """
    if config.similarity != "auto":
        note = "" if config.similarity == "ssd" else f"similarity: {config.similarity}, as asked for"
    else:
        finding = examine_series(series, masks)
        config = config.model_copy(update={"similarity": suitable_measure(finding)})
        note = f"similarity: {config.similarity}, as contrast changes along the series: {finding.reason}" if finding.changes else ""
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
    fixed, moving = _load(series, reference, masks.fixed), _load(series, result.frame, masks.moving)
    for frame in (fixed, moving):
        if isinstance(frame, FrameResult):
            raise ReadError(frame.message)
    assert isinstance(fixed, LoadedFrame)
    assert isinstance(moving, LoadedFrame)
    return assess_edited(fixed, moving, transform, message, result.seconds, measure_of(result.similarity_measure))


def _load_and_register(
    work: _Work, frames: _Frames, batch: list[int], anchors: Mapping[int, Transform], results: list[FrameResult]
) -> Iterator[float]:
    """Fill ``results``, in order of frames, yielding how many frames' worth is done; the frames are let go at the end."""
    loaded = [frames.load(k) for k in batch]
    results += [frame for frame in loaded if isinstance(frame, FrameResult)]
    usable = [frame for frame in loaded if isinstance(frame, LoadedFrame)]
    running = _register(work, usable, _nearest(anchors, usable))
    furthest = 0.0
    while True:
        try:
            # What is done again in parts begins anew; progress that was shown stays.
            furthest = max(furthest, next(running))
        except StopIteration as end:
            results += end.value
            results.sort(key=lambda result: result.frame)
            return
        if furthest < len(usable):
            yield furthest


@dataclass(eq=False)
class _Work:
    """What is the same for every batch of a series."""

    method: Method
    measure: Measure
    targets: Mapping[int, LoadedFrame]
    """Frame -> what it is registered to."""
    grid: Grid
    device: torch.device
    most: int
    """Frames that are tried at once; falls where memory did not suffice, so that no later batch fails in vain."""
    estimator: UncertaintyEstimator | None


def _register(
    work: _Work, frames: list[LoadedFrame], start: tuple[Transform, ...] | None, before: int = 0
) -> Generator[float, None, list[FrameResult]]:
    """Register a batch, yielding how many frames' worth is done, the ``before`` frames before it counted in.

    Where memory does not suffice the batch is split in two; where it fails otherwise, each frame is registered alone, so that one
    cannot stop the others.
    """
    piece = work.most
    if 0 < len(frames) <= work.most:
        outcome = BatchResult()
        try:
            targets = [work.targets[frame.index] for frame in frames]
            for share in register_batch(work.method, targets, frames, work.grid, work.device, start, outcome, work.estimator):
                yield before + share * len(frames)
            seconds = outcome.seconds / len(frames)
            found = zip(targets, frames, outcome.transforms, outcome.loss, outcome.notes, outcome.uncertainties, strict=True)
            return [
                assess(target, frame, at, loss, seconds, note, uncertainty=radius, measure=work.measure)
                for target, frame, at, loss, note, radius in found
            ]
        except R2N2Error:
            raise
        except (RuntimeError, ValueError, MemoryError) as error:
            if _lacks_memory(error):
                if len(frames) == 1:
                    raise _no_memory(frames[0], work) from error
                piece = work.most = (len(frames) + 1) // 2
            elif len(frames) == 1:
                message = f"frame {frames[0].index}: the registration failed ({error}); it is left as it is"
                return [unregistered(frames[0].index, work.grid, FrameStatus.FAILED, message)]
            else:
                piece = 1
        # The error is forgotten here, and with it the tensors that its traceback held.
        del outcome
        if work.device.type == "cuda":
            torch.cuda.empty_cache()
    results: list[FrameResult] = []
    for k in range(0, len(frames), piece):
        part = None if start is None else start[k : k + piece]
        results += yield from _register(work, frames[k : k + piece], part, before + k)
    return results


def _lacks_memory(error: Exception) -> bool:
    # On the processor torch raises a plain RuntimeError.
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error)


def _no_memory(frame: LoadedFrame, work: _Work) -> ResourceError:
    other = " or choose --device cpu" if work.device.type == "cuda" else ""
    return ResourceError(
        f"memory: frame {frame.index} of {' x '.join(map(str, work.grid.shape))} does not fit even alone; free some memory{other}"
    )


def _load(series: ImageSeries, index: int, mask: Mask | None) -> LoadedFrame | FrameResult:
    """A frame ready to be registered, or the result that says why it is not."""
    try:
        image, valid = luminance(series.frame(index))
    except (OSError, ValueError, RuntimeError, R2N2Error) as error:
        return unregistered(index, series.grid, FrameStatus.FAILED, f"frame {index}: {error}")
    frame = LoadedFrame(index, image, valid, None if mask is None else _weight(mask, index))
    values = image[frame.counted]
    if not len(values):
        why = f"frame {index}: {mask.name if mask else 'the frame'} leaves no pixel that counts; it is left as it is"
        return unregistered(index, series.grid, FrameStatus.FAILED, why)
    if float(values.max() - values.min()) == 0:
        where = "" if mask is None else f" that counts by {mask.name}"
        return unregistered(
            index, series.grid, FrameStatus.CONSTANT, f"frame {index}: every pixel{where} has the same value; it is left as it is"
        )
    return frame


def _weight(mask: Mask, index: int) -> Tensor:
    """(1, *shape) float32 of a frame."""
    return torch.from_numpy(mask.frame(index).copy())[None]


def _batches(total: int, reference: int, size: int, *, outward: bool) -> list[list[int]]:
    """Frames in batches: in order, or outward from the reference where a batch starts from its neighbours."""
    frames = [k for k in range(total) if k != reference]
    if outward:
        frames.sort(key=lambda k: (abs(k - reference), k))
    return [frames[k : k + size] for k in range(0, len(frames), size)]


def _nearest(anchors: Mapping[int, Transform], frames: list[LoadedFrame]) -> tuple[Transform, ...] | None:
    """For every frame the transform of the nearest frame that is registered; None while there is none."""
    if not anchors:
        return None
    return tuple(anchors[min(anchors, key=lambda k: abs(k - frame.index))] for frame in frames)


def _check_size(grid: Grid) -> None:
    if min(grid.shape) < SMALLEST_SIDE_PX:
        raise ArgumentError(
            f"frames: a side of at least {SMALLEST_SIDE_PX} pixels is needed, got {' x '.join(map(str, grid.shape))}; "
            f"give larger frames or check the axes"
        )
