"""What a worker does with a task: list an acquisition, or register one of its slice positions; what comes back is an outcome.

Results go to disk. Importing this is light, as the process that only hands tasks out needs no torch.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r2n2 import __version__
from r2n2.cohort.derivative import export_derivative
from r2n2.cohort.entry import Entry, Listing, Outcome, Selector, Task
from r2n2.cohort.lease import await_lock, held_lock
from r2n2.cohort.log import LOG_NAME, SeriesLog
from r2n2.cohort.stamps import done_before, keep_slices, kept_slices, stamp_result
from r2n2.errors import ArgumentError, R2N2Error, ReadError, ResourceError
from r2n2.io.atomic import check_writable, resource_errors
from r2n2.runtime.memory import give_back_freed_memory

if TYPE_CHECKING:
    from r2n2.config import RegistrationConfig
    from r2n2.mask import Masks
    from r2n2.results.manifest import RunFacts, RunManifest
    from r2n2.series import ImageSeries, LandmarkSet

__all__ = ["MOST_ATTEMPTS", "perform"]

MOST_ATTEMPTS = 3
"""A task is tried again at most twice."""
_RESOURCE, _INTERNAL = 4, 5
_FAILED_FRAMES = "{} of {} frames failed; see report.html"
_SOUND = ("ok", "limited", "reference")


def perform(job: Listing, run: str, tick: Callable[[], None] = lambda: None) -> Outcome:
    """Do a task and say what became of it; an error is an outcome, too.

    Parameters
    ----------
    run
        Of which run of the command it is a part.
    tick
        Called between steps; what it raises ends the task, whose batches that are done are kept.
    """
    started = time.monotonic()
    attempt = 1
    try:
        if job.version != __version__:
            raise ArgumentError(f"this worker has r2n2 {__version__}, the command has {job.version}; install the same on both")
        check_writable(job.place)
        with resource_errors(job.place):
            job.place.mkdir(parents=True, exist_ok=True)
        if not isinstance(job, Task):
            return Outcome(slices=_slices(job), seconds=time.monotonic() - started)
        manifest = None if job.entry.overwrite else done_before(job)
        if manifest is not None:
            export_derivative(job, manifest, again=False)
            return _of(manifest, was_there=True)
        log = SeriesLog(job.place, run)
        attempt = log.begin()
        if attempt > MOST_ATTEMPTS:
            raise ResourceError(
                f"{job.place}: its worker was lost {MOST_ATTEMPTS} times: killed, or out of memory; see {LOG_NAME} there"
            )
        outcome = _logged(job, log, tick)
    except R2N2Error as error:
        outcome = Outcome(exit_code=error.exit_code, message=_one_line(error))
    except MemoryError:
        outcome = Outcome(exit_code=_RESOURCE, message="not enough memory; give workers more, or a smaller --batch-size")
    except Exception as error:
        outcome = Outcome(exit_code=_INTERNAL, message=f"internal error, {type(error).__name__}: {_one_line(error)}")
    finally:
        give_back_freed_memory()
    return outcome.model_copy(update={"attempts": min(attempt, MOST_ATTEMPTS), "seconds": time.monotonic() - started})


def _of(manifest: RunManifest, *, was_there: bool) -> Outcome:
    counts = manifest.status_counts
    failed, frames = counts.get("failed", 0), manifest.input.frames
    return Outcome(
        exit_code=ReadError.exit_code if failed else 0,
        message=_FAILED_FRAMES.format(failed, frames) if failed else "",
        frames=frames,
        flagged=sum(count for status, count in counts.items() if status not in _SOUND),
        seconds=manifest.wall_time_s,
        was_there=was_there,
    )


def _slices(job: Listing) -> tuple[Selector, ...]:
    kept = kept_slices(job.place, job.entry)
    if kept is None:
        kept = _find_slices(job.entry)
        keep_slices(job.place, job.entry, kept)
    return kept


def _find_slices(entry: Entry) -> tuple[Selector, ...]:
    """The slice positions of an acquisition that hold more than one frame; of DICOM files no pixel is read."""
    from r2n2.io import describe, read_series
    from r2n2.io.dispatch import detect_format

    chosen = {"axes": entry.axes, "spacing": entry.spacing, "series": entry.series, "contrast_series": entry.contrast_series}
    path = Path(entry.path)
    if path.exists() and detect_format(path) == "dicom" and entry.slice is None:
        found = describe(path, **chosen)
        if len(found) == 1:
            return (Selector(),)
        moving = [k for k, item in enumerate(found) if item.frames > 1]
        return tuple(Selector(index=k, count=len(found), series=found[k].name) for k in moving or range(len(found)))
    series = read_series(entry.path, **entry.reading, **entry.limits)
    if len(series) == 1:
        return (Selector(),)
    moving = [k for k, item in enumerate(series) if len(item) > 1]
    if not moving:
        raise ReadError(f"{entry.path}: holds {len(series)} single images and no series in time, so there is nothing to register")
    return tuple(Selector(index=k, count=len(series), slice=k) for k in moving)


def _logged(task: Task, log: SeriesLog, tick: Callable[[], None]) -> Outcome:
    try:
        outcome = _register(task, log, tick)
    except Exception as error:
        with contextlib.suppress(ResourceError):
            log.say(f"failed: {type(error).__name__}: {_one_line(error)}")
        raise
    except BaseException as error:
        with contextlib.suppress(ResourceError):
            log.say(f"stopped: {_one_line(error) or type(error).__name__}")
        raise
    log.say(f"done: {outcome.frames} frames, {outcome.flagged} to look at")
    return outcome


def _register(task: Task, log: SeriesLog, tick: Callable[[], None]) -> Outcome:
    from r2n2.workflow import register_to_folder

    entry, folder = task.entry, task.place
    if found := await_lock(folder, folder / LOG_NAME, tick):
        log.say(found)
    series = _read(task)
    facts = _facts(entry.settings)
    marks = _landmarks(task, series, log)
    masks = _masks(task, series)
    selection = entry.reading | ({"keep_headers": True} if entry.keep_headers else {})
    running = register_to_folder(
        series,
        folder,
        entry.settings,
        landmarks=marks,
        masks=masks,
        selection=selection,
        facts=facts,
        overwrite=entry.overwrite,
        keep_headers=entry.keep_headers,
    )
    manifest: RunManifest | None = None
    was_there = False
    with held_lock(folder), contextlib.closing(running):
        for progress in running:
            for note in (*progress.notes, *progress.warnings):
                log.say(f"note: {note}")
            if progress.result is not None:
                manifest, was_there = progress.result.manifest, progress.was_there
            tick()
    assert manifest is not None
    export_derivative(task, manifest, again=True)
    stamp_result(task)
    return _of(manifest, was_there=was_there)


def _read(task: Task) -> ImageSeries:
    from r2n2.io import read_series

    chosen: dict[str, Any] = dict(task.entry.reading)
    if task.selector.series is not None:
        chosen["series"] = task.selector.series
    if task.selector.slice is not None:
        chosen["slice_index"] = task.selector.slice
    found = read_series(task.entry.path, **chosen, **task.entry.limits)
    if len(found) != 1:
        raise ReadError(f"{task.entry.path}: holds {len(found)} slice positions where one was listed; it changed, try again")
    return found[0]


@functools.lru_cache(maxsize=4)
def _facts(settings: RegistrationConfig) -> RunFacts:
    """Once a process, as it may have to measure its precision."""
    from r2n2.results.manifest import RunFacts

    return RunFacts.of(settings)


def _masks(task: Task, series: ImageSeries) -> Masks:
    from r2n2.mask import Mask, Masks
    from r2n2.results.mask_files import mask_of_slice, read_mask

    def read(path: str | None, option: str, frames: int) -> Mask | None:
        place = None if path is None else mask_of_slice(Path(path), task.selector.index, task.selector.count)
        return None if place is None else read_mask(series, place, frames=frames, option=option)

    return Masks(read(task.entry.mask, "mask", 1), read(task.entry.moving_mask, "moving_mask", len(series)))


def _landmarks(task: Task, series: ImageSeries, log: SeriesLog) -> LandmarkSet | None:
    from r2n2.io import check_plausible, check_usable, landmarks_of_slice, read_landmarks
    from r2n2.registration.reference import resolve_reference

    if task.entry.landmarks is None:
        return None
    path: Path | None = Path(task.entry.landmarks)
    assert path is not None
    if not path.exists():
        raise ReadError(f"landmarks {path}: no such file; check the path")
    if task.slice_name:
        if not path.is_dir():
            raise ArgumentError(
                f"landmarks {path}: {task.entry.path} holds {task.selector.count} slice positions; give a folder with "
                f"slice_00.csv ..., or pick one slice"
            )
        path = landmarks_of_slice(path, task.slice_name)
    if path is None:
        return None
    marks = read_landmarks(path, series.patient_grid or series.grid)
    reference = resolve_reference(series, task.entry.settings.reference)
    check_usable(marks, series, reference)
    for note in (*marks.notes, *check_plausible(marks, series, reference)):
        log.say(f"landmarks: {note}")
    return marks


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
