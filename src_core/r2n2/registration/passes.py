"""One pass over a series: frames are loaded, registered in batches that fit into memory, and assessed, each on its own account."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from r2n2.errors import R2N2Error, ReadError, ResourceError
from r2n2.geometry import Grid
from r2n2.guides import GuidingPairs
from r2n2.mask import Mask, Masks
from r2n2.preprocessing import luminance
from r2n2.registration.base import Method
from r2n2.registration.batch import BatchResult, Estimator, LoadedFrame, assess, register_batch, unregistered
from r2n2.registration.measures import Measure
from r2n2.registration.results import FrameResult, FrameStatus
from r2n2.series import ImageSeries
from r2n2.transform import Transform

__all__ = ["Frames", "Work", "load_frame", "needed_frame", "run_pass", "weight_of"]


@dataclass(frozen=True, eq=False)
class Frames:
    """Where frames come from, and in which order they are taken."""

    series: ImageSeries
    outward: bool
    """From the reference on."""
    reference: int
    size: int
    """Of a batch."""
    masks: Masks
    from_neighbours: bool = False
    """Whether each starts from the results of frames nearer the reference."""
    settled: Mapping[int, FrameResult] = field(default_factory=dict)
    """Frames whose result is known: it is given as it is, with the others of its batch."""

    def load(self, number: int) -> LoadedFrame | FrameResult:
        """A frame ready to be registered, or the result that says why it is not."""
        return self.settled.get(number) or load_frame(self.series, number, self.masks.moving)


@dataclass(eq=False)
class Work:
    """What is the same for every batch of a series."""

    method: Method
    measure: Measure
    targets: Mapping[int, LoadedFrame]
    """Frame -> what it is registered to."""
    grid: Grid
    device: torch.device
    most: int
    """Frames that are tried at once; falls where memory did not suffice, so that no later batch fails in vain."""
    estimator: Estimator | None
    guides: Mapping[int, GuidingPairs] = field(default_factory=dict)
    """Frame -> what a person vouches for."""
    judge: Callable[..., FrameResult] = assess
    """Makes the result of a frame, called as ``assess``."""


def run_pass(
    work: Work, frames: Frames, done: Mapping[int, FrameResult | None], start: Mapping[int, Transform]
) -> Iterator[tuple[float, tuple[FrameResult, ...]]]:
    """Register all frames but the reference and those done, yielding how many frames' worth is ready, and results as they come.

    Each frame starts from the transform in ``start`` that is nearest in time, or, from neighbours, from those found here.
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
        if frames.from_neighbours:
            known = [*results, *(result for k in batch if (result := done.get(k)) is not None)]
            found = {result.frame: result.transform for result in known if result.status.sound}
            # Of two neighbours equally near the first counts, so their order must not depend on what was done before.
            anchors.update({k: found[k] for k in sorted(found)})


def _load_and_register(
    work: Work, frames: Frames, batch: list[int], anchors: Mapping[int, Transform], results: list[FrameResult]
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


def _register(
    work: Work, frames: list[LoadedFrame], start: tuple[Transform, ...] | None, before: int = 0
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
            guides = tuple(work.guides.get(frame.index) for frame in frames)
            given = (work.method, targets, frames, work.grid, work.device, start, outcome, work.estimator)
            for share in register_batch(*given, guides=guides if any(guides) else ()):
                yield before + share * len(frames)
            seconds = outcome.seconds / len(frames)
            found = zip(targets, frames, outcome.transforms, outcome.loss, outcome.notes, outcome.uncertainties, strict=True)
            return [
                work.judge(target, frame, at, loss, seconds, note, uncertainty=radius, measure=work.measure, guides=pairs)
                for (target, frame, at, loss, note, radius), pairs in zip(found, guides, strict=True)
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


def _no_memory(frame: LoadedFrame, work: Work) -> ResourceError:
    other = " or choose --device cpu" if work.device.type == "cuda" else ""
    return ResourceError(
        f"memory: frame {frame.index} of {' x '.join(map(str, work.grid.shape))} does not fit even alone; free some memory{other}"
    )


def load_frame(series: ImageSeries, index: int, mask: Mask | None) -> LoadedFrame | FrameResult:
    """A frame ready to be registered, or the result that says why it is not."""
    try:
        image, valid = luminance(series.frame(index))
    except (OSError, ValueError, RuntimeError, R2N2Error) as error:
        return unregistered(index, series.grid, FrameStatus.FAILED, f"frame {index}: {error}")
    frame = LoadedFrame(index, image, valid, None if mask is None else weight_of(mask, index))
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


def needed_frame(series: ImageSeries, index: int, mask: Mask | None) -> LoadedFrame:
    """A frame without which nothing can be done; a ReadError where it cannot be used."""
    loaded = load_frame(series, index, mask)
    if isinstance(loaded, FrameResult):
        raise ReadError(loaded.message)
    return loaded


def weight_of(mask: Mask, index: int) -> Tensor:
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
