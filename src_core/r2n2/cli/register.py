"""``r2n2 register``: settings, checks in order of their cost, then every slice position into its folder."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from r2n2.errors import ArgumentError, R2N2Error, ReadError
from r2n2.runtime.signals import StopRequest

if TYPE_CHECKING:
    from r2n2.config import RegistrationConfig
    from r2n2.results.manifest import RunFacts
    from r2n2.results.reader import RegisteredSeries
    from r2n2.series import ImageSeries, LandmarkSet

__all__ = ["parse_batch_size", "parse_reference", "parse_spacing", "register"]

_INPUT = "Input"
_METHOD = "Method"
_BAD_INPUT = 3


@dataclass(frozen=True)
class _Job:
    """What is the same for every slice position of a run."""

    config: RegistrationConfig
    facts: RunFacts
    selection: dict[str, Any]
    landmarks: Path | None
    overwrite: bool
    quiet: bool
    stop: StopRequest


def register(
    context: typer.Context,
    source: Annotated[
        Path, typer.Argument(metavar="INPUT", help="DICOM folder or file, NIfTI, MHA, TIFF, OME-Zarr, npy/npz, GIF or PNG stack.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the result.")],
    method: Annotated[str | None, typer.Option(help="r2n2 (the default), fit or bspline.", rich_help_panel=_METHOD)] = None,
    refine: Annotated[
        bool | None,
        typer.Option("--refine/--no-refine", help="Refine the network's Gaussians by fit (the default).", rich_help_panel=_METHOD),
    ] = None,
    reference: Annotated[str | None, typer.Option(metavar="auto|N", help="Frame to align to.", rich_help_panel=_METHOD)] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE", help="Weights of the network: general (the default), or a file.", rich_help_panel=_METHOD
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Length of the sequence of Gaussians.", rich_help_panel=_METHOD)] = None,
    warm_start: Annotated[
        bool | None,
        typer.Option("--warm-start/--no-warm-start", help="Start from the neighbour in time.", rich_help_panel=_METHOD),
    ] = None,
    batch_size: Annotated[
        str | None,
        typer.Option(metavar="auto|N", help="Frames registered at once; auto: as many as fit.", rich_help_panel=_METHOD),
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.", rich_help_panel=_METHOD)] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="TOML", help="Settings; options given here come first.", rich_help_panel=_METHOD)
    ] = None,
    spacing: Annotated[str | None, typer.Option(metavar="Y,X", help="Pixel size in mm.", rich_help_panel=_INPUT)] = None,
    axes: Annotated[str | None, typer.Option(metavar="TYX", help="Meaning of the axes.", rich_help_panel=_INPUT)] = None,
    series: Annotated[str | None, typer.Option(metavar="UID", help="DICOM series.", rich_help_panel=_INPUT)] = None,
    slice_index: Annotated[
        int | None, typer.Option("--slice", metavar="N", help="One slice position.", rich_help_panel=_INPUT)
    ] = None,
    landmarks: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Landmarks; a folder with slice_00.csv ... for several slices.", rich_help_panel=_INPUT),
    ] = None,
    max_bytes: Annotated[int | None, typer.Option(help="Most bytes to hold in memory.", rich_help_panel=_INPUT)] = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Accept missing Zarr chunks.", rich_help_panel=_INPUT)
    ] = False,
    drop_damaged: Annotated[
        bool, typer.Option("--drop-damaged", help="Leave out damaged DICOM frames.", rich_help_panel=_INPUT)
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier result.")] = False,
    keep_headers: Annotated[
        bool, typer.Option("--keep-headers", help="Copy all DICOM headers, patient data included, to the aligned series.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no notes.")] = False,
) -> None:
    """Align every frame of a series to one reference frame."""
    given = {
        "method": method,
        "refine": refine,
        "reference": None if reference is None else parse_reference(reference),
        "weights": weights,
        "steps": steps,
        "warm_start": warm_start,
        "batch_size": None if batch_size is None else parse_batch_size(batch_size),
        "device": device,
    }
    settings = _settings(config, {name: value for name, value in given.items() if value is not None})
    pixel_size = None if spacing is None else parse_spacing(spacing)
    from r2n2.io import read_series
    from r2n2.results.manifest import RunFacts
    from r2n2.results.writer import check_folder

    facts = RunFacts.of(settings)
    _check_paths(source, output, landmarks)
    check_folder(output)
    reading: dict[str, Any] = {"axes": axes, "spacing": pixel_size, "series": series, "slice_index": slice_index}
    limits = {} if max_bytes is None else {"max_bytes": max_bytes}
    found = read_series(source, **reading, **limits, allow_missing=allow_missing, drop_damaged=drop_damaged)
    reading["keep_headers"] = keep_headers or None
    selection = {name: value for name, value in reading.items() if value is not None}
    stop = context.ensure_object(StopRequest)
    job = _Job(settings, facts, selection, landmarks, overwrite, quiet, stop)
    marks = _all_landmarks(found, job)
    failed = _register_one(found[0], output, job, marks[0]) if len(found) == 1 else _register_all(found, output, job, marks)
    if failed:
        raise typer.Exit(_BAD_INPUT)


def parse_spacing(text: str) -> tuple[float, ...]:
    """Pixel size in mm from ``Y,X`` (or ``Z,Y,X``).

    Raises
    ------
    ArgumentError
        If it is not two or three positive finite numbers.
    """
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) not in (2, 3) or any(not 0 < value < float("inf") for value in values):
        raise ArgumentError(f"--spacing: expected Y,X as two positive numbers of mm such as 1.5,1.2, got {text!r}")
    return values


def parse_reference(text: str) -> int | str:
    """Frame number from ``auto`` or ``N``.

    Raises
    ------
    ArgumentError
        If it is neither.
    """
    if text == "auto":
        return text
    try:
        number = int(text)
    except ValueError:
        number = -1
    if number < 0:
        raise ArgumentError(f"--reference: expected auto or a frame number from 0, got {text!r}")
    return number


def parse_batch_size(text: str) -> int | str:
    """Frames at once from ``auto`` or ``N``.

    Raises
    ------
    ArgumentError
        If it is neither.
    """
    if text == "auto":
        return text
    if not text.isdecimal() or not 1 <= int(text) <= 1024:
        raise ArgumentError(f"--batch-size: expected auto or a number from 1 to 1024, got {text!r}")
    return int(text)


def _settings(path: Path | None, given: dict[str, Any]) -> RegistrationConfig:
    from r2n2.config import RegistrationConfig

    if path is None:
        return RegistrationConfig.parse(given)
    if not path.is_file():
        raise ArgumentError(f"--config {path}: no such file; give a TOML file of settings")
    return RegistrationConfig.parse({**RegistrationConfig.from_toml(path).model_dump(exclude_unset=True), **given})


def _check_paths(source: Path, output: Path, landmarks: Path | None) -> None:
    if not any(sign in str(source) for sign in "*?[") and not source.exists():
        raise ReadError(f"{source}: no such file or folder; check the path")
    inside = source.resolve() in (output.resolve(), *output.resolve().parents)
    if inside and (source.is_dir() or source.resolve() == output.resolve()):
        raise ArgumentError(f"--output {output}: lies inside the input {source}, which must stay as it is; choose another folder")
    if landmarks is not None and not landmarks.exists():
        raise ReadError(f"--landmarks {landmarks}: no such file; check the path")


def _register_all(found: Sequence[ImageSeries], output: Path, job: _Job, marks: Sequence[LandmarkSet | None]) -> bool:
    """Every slice position into its sub-folder; one that fails does not stop the others."""
    from r2n2.results.acquisition import finish_acquisition, is_finished, slice_names
    from r2n2.results.reader import read_result

    failed: dict[str, str] = {}
    flagged = False
    names = slice_names(len(found))
    for name, series, own in zip(names, found, marks, strict=True):
        _note(job, f"{name}: {series.name}, {len(series)} frames")
        try:
            flagged |= _register_one(series, output / name, job, own)
        except R2N2Error as error:
            failed[name] = " ".join(str(error).split())
            print(f"r2n2: {name}: {failed[name]}", file=sys.stderr)
    done = tuple(name for name in names if name not in failed)
    if not is_finished(output, done, failed):
        # Not the time of this go alone: a slice position may have been registered before, or in several goes.
        wall_time_s = sum(read_result(output / name).manifest.wall_time_s for name in done)
        finish_acquisition(output, done, failed, wall_time_s)
    for name, reason in failed.items():
        print(f"failed: {name}: {reason}")
    return bool(failed) or flagged


def _register_one(series: ImageSeries, folder: Path, job: _Job, marks: LandmarkSet | None) -> bool:
    """Register one series; true if a frame failed."""
    from r2n2.registration import resolve_batch_size, resolve_device
    from r2n2.report.page import render_report
    from r2n2.results.manifest import input_sha256, run_sha256
    from r2n2.results.writer import ResultWriter, check_folder, check_space, is_same_run, landmarks_sha256

    if len(series) < 2:
        raise ReadError(
            f"{series.name or 'the series'}: holds one frame, so there is nothing to register; give at least two frames"
        )
    check_folder(folder)
    check_space(folder, series)
    for note in series.notes:
        _note(job, f"note: {note}")
    input_hash = input_sha256(series)
    hashes = {
        "weights_sha256": job.facts.weights_sha256,
        "landmarks_sha256": None if marks is None else landmarks_sha256(marks),
    }
    run_hash = run_sha256(job.config, input_hash, job.selection, precision=job.facts.precision, **hashes)
    if not job.overwrite and is_same_run(folder, run_hash):
        print(f"{folder}: holds this very result already; nothing to do (--overwrite repeats it)")
        return False
    writer = ResultWriter(
        folder,
        series,
        job.config,
        input_hash=input_hash,
        selection=job.selection,
        facts=job.facts,
        landmarks=marks,
        overwrite=job.overwrite,
        keep_headers="keep_headers" in job.selection,
        batch_size=resolve_batch_size(job.config, series.grid, resolve_device(job.facts.device)),
    )
    with writer:
        if writer.note:
            _note(job, f"{folder}: {writer.note}")
        _run(series, writer, job)
        _note(job, f"writing {folder}")
        registered = writer.finish(render_report)
    return _print_result(registered)


def _run(series: ImageSeries, writer: Any, job: _Job) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from r2n2.registration import register_series

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("frames"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=job.quiet) as bar, job.stop.patiently():
        task = bar.add_task("registering", total=len(series))
        settings = job.facts.held_to(job.config).model_copy(update={"batch_size": writer.batch_size})
        for progress in register_series(series, settings, done=writer.done):
            writer.add(*progress.finished)
            bar.update(task, completed=min(progress.fraction, 1) * len(series))
            job.stop.check()


def _all_landmarks(found: Sequence[ImageSeries], job: _Job) -> list[LandmarkSet | None]:
    """Of every slice position, read and checked before anything is registered."""
    from r2n2.io import landmarks_of_slice
    from r2n2.results.acquisition import slice_names

    if job.landmarks is None:
        return [None] * len(found)
    if len(found) == 1:
        return [_landmarks(job.landmarks, found[0], job)]
    if not job.landmarks.is_dir():
        raise ArgumentError(
            f"--landmarks {job.landmarks}: the input holds {len(found)} slice positions; give a folder with slice_00.csv ..., "
            f"or pick one slice with --slice"
        )
    paths = [landmarks_of_slice(job.landmarks, name) for name in slice_names(len(found))]
    if not any(paths):
        raise ReadError(f"--landmarks {job.landmarks}: holds no slice_00.csv ... of the {len(found)} slice positions; rename them")
    return [None if path is None else _landmarks(path, series, job) for path, series in zip(paths, found, strict=True)]


def _landmarks(path: Path, series: ImageSeries, job: _Job) -> LandmarkSet:
    from r2n2.io import check_plausible, check_usable, read_landmarks
    from r2n2.registration.reference import resolve_reference

    marks = read_landmarks(path, series.patient_grid or series.grid)
    reference = resolve_reference(series, job.config.reference)
    check_usable(marks, series, reference)
    for note in marks.notes:
        _note(job, f"landmarks: {note}")
    for warning in check_plausible(marks, series, reference):
        print(f"r2n2: landmarks: {warning}", file=sys.stderr)
    return marks


def _print_result(registered: RegisteredSeries) -> bool:
    from r2n2.cli.tables import print_registration
    from r2n2.registration.results import FrameStatus

    print_registration(registered)
    return any(row.status is FrameStatus.FAILED for row in registered.metrics)


def _note(job: _Job, text: str) -> None:
    if not job.quiet:
        print(text, file=sys.stderr)
