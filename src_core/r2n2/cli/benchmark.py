"""``r2n2 benchmark``: settings, the series with what is known of them, the comparison, its table and files."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from r2n2.cli.options import parse_reference, parse_spacing
from r2n2.errors import ArgumentError, ReadError
from r2n2.runtime.signals import StopRequest

if TYPE_CHECKING:
    from r2n2.benchmark.case import Case
    from r2n2.benchmark.contestant import Contestant, Settings
    from r2n2.benchmark.results import Benchmark, CaseResult
    from r2n2.series import ImageSeries, LandmarkSet

__all__ = ["benchmark"]

_INPUT = "Input"
_METHODS = "Methods"


def benchmark(
    context: typer.Context,
    sources: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[INPUT]...", help="Series to compare on; none: a simulated breathing thorax, exactly known."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="Folder for benchmark.html, .csv and .json.")
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,NAME", help="elastix, demons, ants, tvl1, or none; default: all of them.", rich_help_panel=_METHODS
        ),
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(metavar="NAME,NAME", help="Ours: network, refined, fit, bspline; default: all.", rich_help_panel=_METHODS),
    ] = None,
    weights: Annotated[
        str, typer.Option(metavar="NAME|FILE", help="Weights of the network.", rich_help_panel=_METHODS)
    ] = "general",
    device: Annotated[
        str,
        typer.Option(
            help="What ours compute on: cpu, auto, cuda or cuda:N; the others know the processor only.", rich_help_panel=_METHODS
        ),
    ] = "cpu",
    frames: Annotated[int, typer.Option(min=1, help="Moving frames a series, spread evenly over it.")] = 8,
    rounds: Annotated[int, typer.Option(min=1, help="How often every method registers all frames.")] = 3,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of every method; default: all cores.")] = None,
    landmarks: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="CSV",
            help="Landmarks, once for every INPUT; a folder with slice_00.csv ... for several slices.",
            rich_help_panel=_INPUT,
        ),
    ] = None,
    labels: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="A label map a frame, once for every INPUT.", rich_help_panel=_INPUT),
    ] = None,
    reference: Annotated[str, typer.Option(metavar="auto|N", help="Frame to align to.", rich_help_panel=_INPUT)] = "auto",
    spacing: Annotated[str | None, typer.Option(metavar="Y,X", help="Pixel size in mm.", rich_help_panel=_INPUT)] = None,
    axes: Annotated[str | None, typer.Option(metavar="TYX", help="Meaning of the axes.", rich_help_panel=_INPUT)] = None,
    series: Annotated[
        str | None,
        typer.Option(metavar="UID|NAME", help="DICOM series, or which of several images in a file.", rich_help_panel=_INPUT),
    ] = None,
    slice_index: Annotated[
        int | None, typer.Option("--slice", metavar="N", help="One slice position.", rich_help_panel=_INPUT)
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier comparison.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no notes.")] = False,
) -> None:
    """Compare all methods, ours and other people's, on your own series: accuracy, time and memory in one run."""
    from r2n2.benchmark.contestant import Settings
    from r2n2.benchmark.machine import available_cores

    contestants, absent = _contestants(methods, against)
    settings = Settings(threads or available_cores(), device, weights)
    _check(settings, contestants)
    if output is not None:
        from r2n2.benchmark.files import check_free
        from r2n2.results.writer import check_folder

        check_free(output, overwrite=overwrite)
        check_folder(output)
    reading = {
        "axes": axes,
        "spacing": None if spacing is None else parse_spacing(spacing),
        "series": series,
        "slice_index": slice_index,
    }
    truth = [_once_each(option, given, sources or []) for option, given in (("--landmarks", landmarks), ("--labels", labels))]
    cases = _cases(sources or [], truth[0], truth[1], frames, parse_reference(reference), reading)
    if not quiet:
        for contestant, reason in absent:
            print(f"{contestant.name} takes no part: {reason}", file=sys.stderr)
        for case in cases:
            print("\n".join([f"{case.name}: {len(case.frames)} of {case.total} frames", *case.notes]), file=sys.stderr)
    outcomes = _run(cases, contestants, settings, rounds, quiet, context.ensure_object(StopRequest))
    from r2n2.benchmark.results import Benchmark
    from r2n2.cli.tables import print_benchmark

    finished = Benchmark(settings, rounds, tuple(absent), tuple(outcomes))
    print_benchmark(finished)
    if output is not None:
        _write(finished, output)


def _contestants(methods: str | None, against: str | None) -> tuple[list[Contestant], list[tuple[Contestant, str]]]:
    from r2n2.benchmark.contestants import OTHERS, OURS, absence, chosen

    found = [
        *chosen(_names(methods, OURS), OURS, "--methods"),
        *chosen(_names(against, OTHERS), OTHERS, "--against"),
    ]
    reasons = [(contestant, absence(contestant)) for contestant in found]
    there = [contestant for contestant, reason in reasons if reason is None]
    if not there:
        raise ArgumentError("--methods, --against: nothing is left to compare; " + "; ".join(str(reason) for _, reason in reasons))
    return there, [(contestant, reason) for contestant, reason in reasons if reason is not None]


def _names(text: str | None, every: Sequence[str]) -> list[str]:
    if text is None:
        return list(every)
    return [] if text.strip() == "none" else [part.strip() for part in text.split(",")]


def _check(settings: Settings, contestants: Sequence[Contestant]) -> None:
    """Device and weights, before anything is read."""
    from r2n2.registration import resolve_device

    resolve_device(settings.device)
    if any(contestant.choice in ("network", "refined") for contestant in contestants):
        from r2n2.network.checkpoint import read_manifest

        read_manifest(settings.weights)


def _once_each(option: str, given: Sequence[Path] | None, sources: Sequence[Path]) -> list[Path | None]:
    if not given:
        return [None] * len(sources)
    if len(given) != len(sources):
        raise ArgumentError(
            f"{option}: given {len(given)} times for {len(sources)} INPUTs; give it once for every INPUT, in their order"
        )
    for path in given:
        if not path.exists():
            raise ReadError(f"{option} {path}: no such file or folder; check the path")
    return [*given]


def _cases(
    sources: Sequence[Path],
    landmarks: Sequence[Path | None],
    labels: Sequence[Path | None],
    frames: int,
    reference: int | str,
    reading: dict[str, Any],
) -> list[Case]:
    from r2n2.benchmark.case import make_case, sample_case
    from r2n2.io import read_series

    if not sources:
        return [sample_case(frames)]
    cases = []
    for source, marks, maps in zip(sources, landmarks, labels, strict=True):
        found = read_series(source, volumes=False, **reading)
        drawn: Sequence[ImageSeries | None] = [None] * len(found)
        if maps is not None:
            drawn = read_series(maps, volumes=False, **{**reading, "series": None})
        if len(drawn) != len(found):
            raise ArgumentError(f"--labels {maps}: holds {len(drawn)} slice positions, {source} holds {len(found)}")
        points = _landmarks(marks, found)
        cases += [
            make_case(each, frames=frames, reference=reference, landmarks=own, labels=map_)
            for each, own, map_ in zip(found, points, drawn, strict=True)
        ]
    return cases


def _landmarks(path: Path | None, found: Sequence[ImageSeries]) -> list[LandmarkSet | None]:
    from r2n2.io import check_usable, landmarks_of_slice, read_landmarks
    from r2n2.results.acquisition import slice_names

    if path is None:
        return [None] * len(found)
    if len(found) > 1 and not path.is_dir():
        raise ArgumentError(
            f"--landmarks {path}: the input holds {len(found)} slice positions; give a folder with slice_00.csv ..., or --slice"
        )
    files = [path] if len(found) == 1 else [landmarks_of_slice(path, name) for name in slice_names(len(found))]
    sets = [
        None if file is None else read_landmarks(file, series.patient_grid or series.grid)
        for file, series in zip(files, found, strict=True)
    ]
    for marks, series in zip(sets, found, strict=True):
        if marks is not None:
            check_usable(marks, series, None)
    return sets


def _run(
    cases: Sequence[Case], contestants: Sequence[Contestant], settings: Settings, rounds: int, quiet: bool, stop: StopRequest
) -> list[CaseResult]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from r2n2.benchmark.run import run_benchmark

    outcomes = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=quiet) as bar, stop.patiently():
        task = bar.add_task("starting", total=None)
        for progress in run_benchmark(cases, contestants, settings, rounds=rounds):
            bar.update(task, completed=progress.done, total=progress.total, description=progress.doing)
            if progress.finished is not None:
                outcomes.append(progress.finished)
            stop.check()
    return outcomes


def _write(finished: Benchmark, folder: Path) -> None:
    from datetime import UTC, datetime

    from r2n2.benchmark.files import CSV_NAME, HTML_NAME, JSON_NAME, record, table_csv, write_text
    from r2n2.benchmark.machine import machine
    from r2n2.benchmark.page import render_page

    facts, created = machine(), datetime.now(UTC).isoformat(timespec="seconds")
    write_text(folder / CSV_NAME, table_csv(finished))
    write_text(folder / HTML_NAME, render_page(finished, facts, created))
    # Last: a folder that holds it is complete.
    write_text(folder / JSON_NAME, record(finished, facts, created))
    print(f"{folder}: {HTML_NAME}, {CSV_NAME}, {JSON_NAME}")
