"""``r2n2 lung``: maps of ventilation and perfusion from an aligned series, or from one that is aligned first."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from r2n2.errors import ArgumentError, ReadError
from r2n2.runtime.signals import StopRequest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from r2n2.lung.analysis import LungFunction
    from r2n2.lung.settings import LungConfig
    from r2n2.results.aligned_series import AlignedSeries
    from r2n2.series import ImageSeries

__all__ = ["lung"]

_BAD_INPUT = 3


def lung(
    context: typer.Context,
    source: Annotated[Path, typer.Argument(metavar="RESULT|SERIES", help="Folder that r2n2 register wrote, or a series.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the maps.")],
    mask: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where lung is, drawn on the reference frame; default: proposed.")
    ] = None,
    aligned: Annotated[bool, typer.Option("--aligned", help="The series is aligned already: do not register it.")] = False,
    breathing: Annotated[str | None, typer.Option(metavar="LOW,HIGH", help="Band of breathing in Hz; default 0.05,0.5.")] = None,
    heart: Annotated[str | None, typer.Option(metavar="LOW,HIGH", help="Band of the heart in Hz; default 0.6,2.")] = None,
    skip: Annotated[int | None, typer.Option(metavar="N", help="Frames left out at the beginning.")] = None,
    defect_share: Annotated[
        float | None, typer.Option(metavar="SHARE", help="A defect lies below this share of the reference value; default 0.6.")
    ] = None,
    defect_of: Annotated[
        str | None, typer.Option(metavar="median|pNN", help="The reference value inside the mask; default p75.")
    ] = None,
    rician: Annotated[
        bool | None, typer.Option("--rician/--no-rician", help="Take the bias of magnitude images away (the default).")
    ] = None,
    frame_time: Annotated[
        float | None, typer.Option(metavar="S", help="Time between frames in s, where the file does not say or is wrong.")
    ] = None,
    axes: Annotated[str | None, typer.Option(metavar="TYX", help="Meaning of the axes of an array without names.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier analysis.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No notes and no bar.")] = False,
) -> None:
    """Fractional ventilation, perfusion, V/Q, delays and defects, with a page to look at."""
    from r2n2.lung.settings import LungConfig

    given: dict[str, Any] = {
        "breathing_hz": None if breathing is None else _band("--breathing", breathing),
        "heart_hz": None if heart is None else _band("--heart", heart),
        "skip": skip,
        "defect_share": defect_share,
        "defect_of": defect_of,
        "rician": rician,
    }
    config = LungConfig.parse({name: value for name, value in given.items() if value is not None})
    if frame_time is not None and not 0 < frame_time < float("inf"):
        raise ArgumentError(f"--frame-time: expected a positive number of s, got {frame_time:g}")
    if not source.exists():
        raise ReadError(f"{source}: no such file or folder; check the path")
    if (output / "lung.csv").exists() and not overwrite:
        raise ArgumentError(f"--output {output}: holds an analysis already; give --overwrite or another folder")
    stop = context.ensure_object(StopRequest)
    parts = _parts(source, output, aligned, axes, frame_time, stop, quiet)
    functions: dict[str, LungFunction] = {}
    failed: dict[str, str] = {}
    for number, part in enumerate(parts):
        try:
            place = output if len(parts) == 1 else output / part.name
            functions[part.name] = _analyse(part, place, config, mask, (number, len(parts)), stop, quiet)
        except ReadError as error:
            if len(parts) == 1:
                raise
            failed[part.name] = str(error)
            print(f"r2n2: {part.name}: {error}", file=sys.stderr)
    if not functions:
        raise ReadError(f"{source}: no slice position could be analysed; see the lines above")
    if len(parts) > 1:
        _write_table(output, functions)
    _print(functions)
    print(output)
    if failed:
        raise typer.Exit(_BAD_INPUT)


def _band(option: str, text: str) -> list[float]:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) != 2:
        raise ArgumentError(f"{option}: expected LOW,HIGH in Hz such as 0.1,0.6, got {text!r}")
    return values


def _parts(
    source: Path, output: Path, aligned: bool, axes: str | None, frame_time: float | None, stop: StopRequest, quiet: bool
) -> list[AlignedSeries]:
    """The slice positions, aligned: of a result, of a series that is, or of one that is registered now."""
    from r2n2.cli.running import show_registration
    from r2n2.io import read_series
    from r2n2.results.acquisition import slice_names
    from r2n2.results.aligned_series import AlignedSeries
    from r2n2.results.manifest import MANIFEST_NAME

    if (source / MANIFEST_NAME).is_file():
        return _of_result(source, frame_time)
    found = [_timed(series, frame_time) for series in read_series(source, axes=axes)]
    if not aligned:
        show_registration(found, output / "registration", stop=stop, quiet=quiet)
        return _of_result(output / "registration", frame_time)
    names = slice_names(len(found)) if len(found) > 1 else (found[0].name or source.name,)
    return [AlignedSeries(name, series) for name, series in zip(names, found, strict=True)]


def _of_result(folder: Path, frame_time: float | None) -> list[AlignedSeries]:
    from r2n2.io import read_series
    from r2n2.results.aligned_series import AlignedSeries
    from r2n2.results.reader import own_path, read_result, slice_folders

    parts = []
    for part in slice_folders(folder):
        registered = read_result(part)
        name = registered.manifest.registered_file
        if name is None:
            raise ReadError(f"{part}: holds no aligned series; run r2n2 register again with --overwrite")
        series = read_series(own_path(part, part / name))[0]
        # Formats that hold no times leave them to run.json; where the slice lies, too.
        times = series.times_s or registered.manifest.input.times_s
        placed = registered.lattice.patient_grid
        series = replace(series, times_s=None if times is None else tuple(times), patient_grid=placed or series.patient_grid)
        parts.append(AlignedSeries.of_result(part.name, _timed(series, frame_time), registered))
    return parts


def _timed(series: ImageSeries, frame_time: float | None) -> ImageSeries:
    if frame_time is None:
        return series
    return replace(series, times_s=tuple(frame_time * index for index in range(len(series))))


def _analyse(
    part: AlignedSeries,
    place: Path,
    config: LungConfig,
    mask: Path | None,
    which: tuple[int, int],
    stop: StopRequest,
    quiet: bool,
) -> LungFunction:
    from rich.console import Console
    from rich.progress import Progress

    from r2n2.report.lung import render_lung
    from r2n2.results.lung_run import read_function, write_function

    inside, mask_text = _mask(part, mask, which)
    running = read_function(part, inside, config)
    with Progress(console=Console(stderr=True), disable=quiet, transient=True) as bar:
        task = bar.add_task(f"{part.name}: reading rhythms", total=1.0)
        while True:
            stop.check()
            try:
                bar.update(task, completed=next(running).fraction)
            except StopIteration as end:
                function: LungFunction = end.value
                break
    if not quiet:
        for note in (mask_text, *function.notes):
            print(f"note: {part.name}: {note}", file=sys.stderr)
    spacing = part.series.grid.spacing
    page = render_lung(function, part.times_s, (spacing[0], spacing[1]), title=part.name, mask_text=mask_text)
    write_function(place, part, function, page, mask_text)
    return function


def _mask(part: AlignedSeries, path: Path | None, which: tuple[int, int]) -> tuple[NDArray[np.bool_], str]:
    """Where lung is, and a sentence on where that is from."""
    from r2n2.results.lung_run import PROPOSED, proposed_mask
    from r2n2.results.mask_files import mask_of_slice, read_mask

    own = None if path is None else mask_of_slice(path, *which)
    if own is not None:
        return read_mask(part.series, own, option="--mask").inside(), f"The mask is {own.name}."
    return proposed_mask(part), PROPOSED


def _write_table(output: Path, functions: dict[str, LungFunction]) -> None:
    from r2n2.io import atomic_write
    from r2n2.results.lung_files import lung_table

    with atomic_write(output / "lung.csv") as temporary:
        temporary.write_text(lung_table(functions), encoding="utf-8", newline="")


def _print(functions: dict[str, LungFunction]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("slice", "lung", "ventilation", "perfusion", "VDP %", "QDP %", "VQM %", "breaths /min", "heart /min"):
        table.add_column(column, justify="left" if column in ("slice", "lung") else "right")
    for name, function in functions.items():
        heart = "-" if function.heart is None else f"{60 * function.heart.frequency_hz:.0f}"
        for region in function.regions:
            shares = region.defects
            numbers = (
                f"{region.ventilation:.3f}",
                f"{region.perfusion:.3f}",
                f"{shares.vdp:.1f}",
                f"{shares.qdp:.1f}",
                f"{shares.vqm:.1f}",
            )
            table.add_row(name, region.name, *numbers, f"{60 * function.breathing.frequency_hz:.1f}", heart)
    Console(width=120).print(table)
