"""Registering every frame of a series to one reference frame, in batches, each frame on its own account."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any

import torch
from numpy.typing import NDArray

from r2n2.config import SMALLEST_SIDE_PX, RegistrationConfig
from r2n2.errors import ArgumentError, R2N2Error, ReadError, ResourceError
from r2n2.geometry import Grid
from r2n2.preprocessing import luminance
from r2n2.registration.base import Method, Pairs, RegistrationStep
from r2n2.registration.batch import BatchResult, LoadedFrame, judge, judge_edited, register_batch, unregistered
from r2n2.registration.methods import build_method, resolve_device
from r2n2.registration.reference import resolve_reference
from r2n2.registration.results import FrameResult, FrameStatus, SeriesProgress
from r2n2.series import ImageSeries
from r2n2.transform import Transform

__all__ = ["edited_result", "register_pair", "register_series"]


def register_pair(
    fixed: NDArray[Any], moving: NDArray[Any], grid: Grid, config: RegistrationConfig | None = None
) -> Iterator[RegistrationStep]:
    """Register one image to another, yielding after every step; the transform is ``step.transforms()[0]``.

    Parameters
    ----------
    fixed, moving
        (*grid.shape) or (C, *grid.shape), of any real type.
    grid
        Lattice of both.

    Raises
    ------
    ArgumentError
        If a shape does not fit the grid or is too small.
    """
    config = config or RegistrationConfig()
    _check_size(grid)
    frames = []
    for name, image in (("fixed", fixed), ("moving", moving)):
        if image.shape[-grid.ndim :] != grid.shape or image.ndim not in (grid.ndim, grid.ndim + 1):
            raise ArgumentError(f"{name}: has shape {image.shape}, the grid has {grid.shape}; resample it to the grid first")
        frames.append(luminance(image if image.ndim > grid.ndim else image[None]))
    device = resolve_device(config.device)
    (a, a_valid), (b, b_valid) = frames
    pairs = Pairs(a[None].to(device), b[None].to(device), a_valid[None].to(device), b_valid[None].to(device), grid)
    yield from build_method(config).register(pairs)


def register_series(series: ImageSeries, config: RegistrationConfig | None = None) -> Iterator[SeriesProgress]:
    """Align every frame to the reference, yielding after every step.

    A frame that cannot be read or registered is reported with its reason and keeps its place; the others go on. Stop at any
    yield: what was finished before stays valid.

    Parameters
    ----------
    series
        At least two frames; read a batch at a time.
    config
        How; the defaults if None.

    Raises
    ------
    ArgumentError
        If there is nothing to register, the reference does not exist or the frames are too small.
    ReadError
        If the reference itself cannot be used.
    ResourceError
        If the device or the weights are missing.
    """
    config = config or RegistrationConfig()
    if len(series) < 2:
        raise ReadError("nothing to register: the series has one frame; give a series of at least two")
    _check_size(series.grid)
    device = resolve_device(config.device)
    method = build_method(config)
    index = resolve_reference(series, config.reference)
    reference = _load(series, index)
    if isinstance(reference, FrameResult):
        raise ReadError(f"reference: {reference.message}; choose another reference")
    own = unregistered(index, series.grid, FrameStatus.REFERENCE, "", similarity=1.0)
    anchors: dict[int, Transform] = {}
    done, total = 1, len(series)
    yield SeriesProgress(index, done, total, done / total, (own,))
    for batch in _batches(total, index, config):
        loaded = [_load(series, k) for k in batch]
        refused = [frame for frame in loaded if isinstance(frame, FrameResult)]
        frames = [frame for frame in loaded if isinstance(frame, LoadedFrame)]
        results = refused
        if frames:
            work = _register(method, reference, frames, series.grid, device, _nearest(anchors, frames))
            while True:
                try:
                    share = next(work)
                except StopIteration as end:
                    results = sorted([*refused, *end.value], key=lambda result: result.frame)
                    break
                if share < 1:
                    yield SeriesProgress(index, done, total, (done + share * len(batch)) / total, ())
        done += len(batch)
        yield SeriesProgress(index, done, total, done / total, tuple(results))
        if config.warm_start:
            anchors.update({r.frame: r.transform for r in results if r.status is FrameStatus.OK})


def edited_result(series: ImageSeries, reference: int, result: FrameResult, transform: Transform, message: str) -> FrameResult:
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

    Raises
    ------
    ReadError
        If a frame cannot be read any more.
    """
    fixed, moving = _load(series, reference), _load(series, result.frame)
    for frame in (fixed, moving):
        if isinstance(frame, FrameResult):
            raise ReadError(frame.message)
    assert isinstance(fixed, LoadedFrame)
    assert isinstance(moving, LoadedFrame)
    return judge_edited(fixed, moving, transform, message, result.seconds)


def _register(
    method: Method,
    reference: LoadedFrame,
    frames: list[LoadedFrame],
    grid: Grid,
    device: torch.device,
    start: tuple[Transform, ...] | None,
) -> Generator[float, None, list[FrameResult]]:
    """Register a batch, yielding the share done; where the batch fails, each frame alone, so that one cannot stop the others."""
    outcome = BatchResult()
    try:
        yield from register_batch(method, reference, frames, grid, device, start, outcome)
        share = outcome.seconds / len(frames)
        triples = zip(frames, outcome.transforms, outcome.loss, strict=True)
        return [judge(reference, frame, transform, loss, share) for frame, transform, loss in triples]
    except torch.OutOfMemoryError as error:
        raise ResourceError(
            f"memory: {len(frames)} frames at once do not fit; choose a smaller --batch-size or --device cpu"
        ) from error
    except R2N2Error:
        raise
    except (RuntimeError, ValueError) as error:
        if len(frames) == 1:
            message = f"frame {frames[0].index}: the registration failed ({error}); it is left as it is"
            return [unregistered(frames[0].index, grid, FrameStatus.FAILED, message)]
    results: list[FrameResult] = []
    for k, frame in enumerate(frames):
        results += yield from _register(method, reference, [frame], grid, device, None if start is None else (start[k],))
    return results


def _load(series: ImageSeries, index: int) -> LoadedFrame | FrameResult:
    """A frame ready to be registered, or the result that says why it is not."""
    try:
        image, valid = luminance(series.frame(index))
    except (OSError, ValueError, RuntimeError, R2N2Error) as error:
        return unregistered(index, series.grid, FrameStatus.FAILED, f"frame {index}: {error}")
    values = image[valid]
    if float(values.max() - values.min()) == 0:
        return unregistered(
            index, series.grid, FrameStatus.CONSTANT, f"frame {index}: every pixel has the same value; it is left as it is"
        )
    return LoadedFrame(index, image, valid)


def _batches(total: int, reference: int, config: RegistrationConfig) -> list[list[int]]:
    """Frames in batches: in order, or outward from the reference where a batch starts from its neighbours."""
    frames = [k for k in range(total) if k != reference]
    if config.warm_start:
        frames.sort(key=lambda k: (abs(k - reference), k))
    size = config.batch_size
    return [frames[k : k + size] for k in range(0, len(frames), size)]


def _nearest(anchors: dict[int, Transform], frames: list[LoadedFrame]) -> tuple[Transform, ...] | None:
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
