"""From a series to the folder of its result: the one public way, which command line, plugin and scripts call.

Everything here is a generator that yields progress. Closing one stops the run after the batch in progress; what is done by then
is kept, and the same call goes on from there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from r2n2.config import RegistrationConfig
from r2n2.errors import ArgumentError, R2N2Error, ReadError
from r2n2.guides import Guides
from r2n2.mask import NO_MASKS, Masks
from r2n2.network.shipped_weights import domain_of
from r2n2.registration import (
    FrameResult,
    FrameStatus,
    SeriesProgress,
    Survey,
    register_series,
    resolve_batch_size,
    resolve_device,
    unregistered,
)
from r2n2.report.page import render_report
from r2n2.results.acquisition import finish_acquisition, is_finished, slice_names
from r2n2.results.manifest import RunFacts, input_sha256, landmarks_sha256, run_sha256
from r2n2.results.reader import RegisteredSeries, read_result
from r2n2.results.writer import ResultWriter, check_folder, check_space, is_same_run
from r2n2.series import ImageSeries, LandmarkSet

__all__ = [
    "FolderProgress",
    "SliceProgress",
    "Stage",
    "register_slices_to_folder",
    "register_to_folder",
    "save_slices_to_folder",
    "save_to_folder",
]

_FEWEST_FRAMES = 2
_Item = TypeVar("_Item")


class Stage(StrEnum):
    """What is at work."""

    REGISTERING = "registering"
    WRITING = "writing"
    DONE = "done"


@dataclass(frozen=True)
class FolderProgress:
    """How far one series is.

    Parameters
    ----------
    stage
        What is at work.
    fraction
        Share of the frames done, in [0, 1]; rises within a stage.
    finished
        Frames that became ready with this step.
    notes
        Sentences a person should read: what was found in the folder, what was decided when the series was read.
    warnings
        Sentences a person must read: what looks wrong with the landmarks, once it can be seen.
    result
        The result, with stage ``DONE`` only.
    was_there
        The folder held this very result before, and nothing was done.
    """

    stage: Stage
    fraction: float
    finished: tuple[FrameResult, ...] = ()
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    result: RegisteredSeries | None = None
    was_there: bool = False


@dataclass(frozen=True)
class SliceProgress:
    """How far a series of several slice positions is.

    Parameters
    ----------
    index, name
        Of the slice position at work, and of its sub-folder.
    progress
        How far it is; None where it failed.
    failure
        Why it failed, else empty; the others go on.
    """

    index: int
    name: str
    progress: FolderProgress | None
    failure: str = ""


def register_to_folder(
    series: ImageSeries,
    folder: Path,
    config: RegistrationConfig | None = None,
    *,
    landmarks: LandmarkSet | None = None,
    masks: Masks = NO_MASKS,
    survey: Survey | None = None,
    guides: Guides | None = None,
    selection: Mapping[str, Any] | None = None,
    facts: RunFacts | None = None,
    overwrite: bool = False,
    keep_headers: bool = False,
) -> Generator[FolderProgress, None, None]:
    """Register every frame of a series to its reference and write the result to a folder.

    A folder that holds this very result is left alone; one in which the same run stopped is continued.

    Parameters
    ----------
    series
        At least two frames.
    folder
        Made where it is missing.
    config
        How; the defaults if None.
    landmarks
        If given, their errors are written too.
    masks
        What counts, in the reference and in the other frames; they are kept in the folder.
    survey
        What ``survey_series`` found with these masks, if it was asked before.
    guides
        Pairs of points that guide the registration of some frames; they are kept in the folder and never count as landmarks.
    selection
        Options that chose the series when it was read, for the record.
    facts
        What the run uses, where it was taken down before; else taken down now.
    overwrite
        Replace an earlier result.
    keep_headers
        Copy all headers of a DICOM input, patient data included.

    Yields
    ------
    FolderProgress
        After every step; the last one holds the result.

    Raises
    ------
    ReadError
        If the series holds fewer than two frames or cannot be read, or a mask does not fit.
    ArgumentError
        If the settings do not fit, or the folder holds another result and ``overwrite`` is false.
    ResourceError
        If the device is not there, or the folder cannot be written.
    """
    config = config or RegistrationConfig()
    if len(series) < _FEWEST_FRAMES:
        raise ReadError(
            f"{series.name or 'the series'}: holds one frame, so there is nothing to register; give at least two frames"
        )
    masks.check(series)
    facts = facts or RunFacts.of(config)
    check_folder(folder)
    check_space(folder, series)
    yield FolderProgress(Stage.REGISTERING, 0.0, notes=(*_made_for(config), *series.notes))
    input_hash = input_sha256(series)
    hashes = {
        "weights_sha256": facts.weights_sha256,
        "landmarks_sha256": None if landmarks is None else landmarks_sha256(landmarks),
    }
    run_hash = run_sha256(config, input_hash, selection or {}, precision=facts.precision, masks=masks, guides=guides, **hashes)
    if not overwrite and is_same_run(folder, run_hash):
        yield FolderProgress(Stage.DONE, 1.0, result=read_result(folder), was_there=True)
        return
    writer = ResultWriter(
        folder,
        series,
        config,
        input_hash=input_hash,
        selection=selection,
        facts=facts,
        landmarks=landmarks,
        masks=masks,
        guides=guides,
        overwrite=overwrite,
        keep_headers=keep_headers,
        batch_size=resolve_batch_size(config, series.grid, resolve_device(facts.device)),
    )
    running = partial(register_series, series, masks=masks, survey=survey, guides=guides)
    yield from _run(writer, running, facts.held_to(config), folder)


def _made_for(config: RegistrationConfig) -> tuple[str, ...]:
    """A sentence on what weights are for that are not for every image."""
    if config.method != "r2n2" or config.weights == RegistrationConfig().weights:
        return ()
    domain = domain_of(config.weights)
    return (f"weights {config.weights}: for {domain}",) if domain else ()


def _run(
    writer: ResultWriter, running: Callable[..., Iterator[SeriesProgress]], config: RegistrationConfig, folder: Path
) -> Generator[FolderProgress, None, None]:
    """Register what the writer does not have yet, and write it."""
    with writer:
        if writer.note:
            yield FolderProgress(Stage.REGISTERING, 0.0, notes=(f"{folder}: {writer.note}",))
        settings = config.model_copy(update={"batch_size": writer.batch_size})
        for progress in running(config=settings, done=writer.done):
            writer.run_notes += progress.notes
            writer.trust = progress.trust or writer.trust
            writer.add(*progress.finished)
            yield FolderProgress(Stage.REGISTERING, min(progress.fraction, 1.0), progress.finished, notes=progress.notes)
        yield FolderProgress(Stage.WRITING, 0.0)
        result = writer.finish(render_report)
    yield _done(writer, result)


def _done(writer: ResultWriter, result: RegisteredSeries) -> FolderProgress:
    return FolderProgress(Stage.DONE, 1.0, warnings=tuple(f"landmarks: {doubt}" for doubt in writer.doubts), result=result)


def save_to_folder(
    series: ImageSeries,
    results: Mapping[int, FrameResult],
    folder: Path,
    config: RegistrationConfig,
    *,
    facts: RunFacts,
    landmarks: LandmarkSet | None = None,
    masks: Masks = NO_MASKS,
    guides: Guides | None = None,
    selection: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Generator[FolderProgress, None, None]:
    """Write what was registered in memory, perhaps edited since, to a folder as ``register_to_folder`` writes it.

    Parameters
    ----------
    results
        Frame -> its result; frames that are missing are written as they came, with the status "failed" and a message.
    facts
        What the run used, taken down when it ran.
    masks
        What counted.
    guides
        What guided frames.

    Yields
    ------
    FolderProgress
        After every frame; the last one holds the result. Closed before, the folder holds no finished result.

    Raises
    ------
    ArgumentError, ResourceError
        As ``register_to_folder``.
    """
    options: dict[str, Any] = {"landmarks": landmarks, "masks": masks, "guides": guides}
    options |= {"selection": selection, "overwrite": overwrite}
    with ResultWriter(folder, series, config, facts=facts, **options) as writer:
        for frame in range(len(series)):
            writer.add(results[frame] if frame in results else _not_reached(series, frame))
            yield FolderProgress(Stage.WRITING, (frame + 1) / len(series))
        result = writer.finish(render_report)
    yield _done(writer, result)


def register_slices_to_folder(
    slices: Sequence[ImageSeries],
    folder: Path,
    config: RegistrationConfig | None = None,
    *,
    landmarks: Sequence[LandmarkSet | None] = (),
    masks: Sequence[Masks] = (),
    surveys: Sequence[Survey | None] = (),
    guides: Sequence[Guides | None] = (),
    selection: Mapping[str, Any] | None = None,
    facts: RunFacts | None = None,
    overwrite: bool = False,
    keep_headers: bool = False,
) -> Generator[SliceProgress, None, None]:
    """``register_to_folder`` for every slice position, each in a sub-folder; one that fails does not stop the others.

    Parameters
    ----------
    slices
        At least one.
    landmarks, masks, surveys, guides
        One item a slice position, or none at all.

    Yields
    ------
    SliceProgress
        Of one slice position after the other.

    Raises
    ------
    ArgumentError
        If ``landmarks``, ``masks``, ``surveys`` or ``guides`` has another length than ``slices``.
    """
    config = config or RegistrationConfig()
    facts = facts or RunFacts.of(config)
    marks, counted = _one_each("landmarks", landmarks, slices), _one_each("masks", masks, slices)
    seen, guiding = _one_each("surveys", surveys, slices), _one_each("guides", guides, slices)

    def run(index: int, place: Path) -> Generator[FolderProgress, None, None]:
        options: dict[str, Any] = {"selection": selection, "facts": facts, "overwrite": overwrite, "keep_headers": keep_headers}
        options |= {"landmarks": marks[index], "masks": counted[index] or NO_MASKS, "survey": seen[index]}
        options["guides"] = guiding[index]
        return register_to_folder(slices[index], place, config, **options)

    yield from _every_slice(folder, len(slices), run)


def save_slices_to_folder(
    slices: Sequence[ImageSeries],
    results: Sequence[Mapping[int, FrameResult]],
    folder: Path,
    config: RegistrationConfig,
    *,
    facts: RunFacts,
    landmarks: Sequence[LandmarkSet | None] = (),
    masks: Sequence[Masks] = (),
    selection: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Generator[SliceProgress, None, None]:
    """``save_to_folder`` for every slice position, each in a sub-folder.

    Parameters
    ----------
    results
        One item a slice position; empty where it was not reached, which is then told in run.json.
    """
    marks, counted = _one_each("landmarks", landmarks, slices), _one_each("masks", masks, slices)

    def run(index: int, place: Path) -> Generator[FolderProgress, None, None]:
        if not results[index]:
            raise ArgumentError("cancelled before this slice position was reached")
        options: dict[str, Any] = {"facts": facts, "selection": selection, "overwrite": overwrite}
        options |= {"landmarks": marks[index], "masks": counted[index] or NO_MASKS}
        return save_to_folder(slices[index], results[index], place, config, **options)

    yield from _every_slice(folder, len(slices), run)


def _every_slice(
    folder: Path, count: int, run: Callable[[int, Path], Generator[FolderProgress, None, None]]
) -> Generator[SliceProgress, None, None]:
    names, failed = slice_names(count), dict[str, str]()
    for index, name in enumerate(names):
        try:
            with contextlib.closing(run(index, folder / name)) as running:
                for progress in running:
                    yield SliceProgress(index, name, progress)
        except R2N2Error as error:
            failed[name] = " ".join(str(error).split())
            yield SliceProgress(index, name, None, failed[name])
    done = tuple(name for name in names if name not in failed)
    if not is_finished(folder, done, failed):
        # Not the time of this go alone: a slice position may have been registered before, or in several goes.
        wall_time_s = sum(read_result(folder / name).manifest.wall_time_s for name in done)
        finish_acquisition(folder, done, failed, wall_time_s)


def _not_reached(series: ImageSeries, frame: int) -> FrameResult:
    message = f"frame {frame}: cancelled before it was reached; it is left as it is"
    return unregistered(frame, series.grid, FrameStatus.FAILED, message)


def _one_each(name: str, items: Sequence[_Item | None], slices: Sequence[ImageSeries]) -> Sequence[_Item | None]:
    if len(items) not in (0, len(slices)):
        raise ArgumentError(
            f"{name}: expected one item a slice position, {len(slices)}, got {len(items)}; give None where there are none"
        )
    return items or (None,) * len(slices)
