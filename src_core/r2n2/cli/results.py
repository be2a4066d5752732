"""``r2n2 evaluate`` and ``r2n2 apply``: what is done with a finished result folder."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from r2n2.errors import ArgumentError, ReadError

if TYPE_CHECKING:
    from r2n2.evaluation import TRETable
    from r2n2.results.reader import RegisteredSeries

__all__ = ["apply", "evaluate"]

_LANDMARK_SUFFIXES = (".csv", ".json")


def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder that r2n2 register wrote.")],
    landmarks: Annotated[
        Path | None,
        typer.Option(metavar="CSV", help="Landmarks; a folder with slice_00.csv ... for several slices. Default: as registered."),
    ] = None,
    observer: Annotated[Path | None, typer.Option(metavar="CSV", help="A second observer's landmarks.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="CSV", help="Table to write; default tre_summary.csv in DIR.")
    ] = None,
    include_outside: Annotated[bool, typer.Option("--include-outside", help="Count landmarks outside the image.")] = False,
) -> None:
    """Landmark errors (TRE) of a registered series, or of every slice of an acquisition."""
    from r2n2.cli.tables import print_errors, print_slices
    from r2n2.results.reader import read_result, slice_folders
    from r2n2.results.tre_table import slice_table_csv, tre_summary_csv

    folders = slice_folders(folder)
    if folders == (folder,):
        registered = read_result(folder)
        table = _errors(registered, landmarks, include_outside)
        print_errors(table)
        _write(output or folder / "tre_summary.csv", tre_summary_csv(table))
        if observer is not None:
            _compare_observers(registered, landmarks, observer)
        return
    if observer is not None:
        raise ArgumentError(f"--observer: {folder} holds several slice positions; give one of its sub-folders")
    if landmarks is not None and not landmarks.is_dir():
        raise ArgumentError(f"--landmarks {landmarks}: {folder} holds several slices; give a folder with {folders[0].name}.csv ...")
    tables, method = {}, ""
    for part in folders:
        own = None if landmarks is None else landmarks / f"{part.name}.csv"
        if not (part / "tre.csv" if own is None else own).exists():
            print(f"r2n2: {part.name}: no landmarks", file=sys.stderr)
            continue
        registered = read_result(part)
        method = registered.manifest.settings.method
        tables[part.name] = _errors(registered, own, include_outside)
    if not tables:
        raise ReadError(f"{folder}: no landmarks for any slice; give a folder with {folders[0].name}.csv ... as --landmarks")
    print_slices(tables, method)
    _write(output or folder / "tre_summary.csv", slice_table_csv(tables))


def _errors(registered: RegisteredSeries, landmarks: Path | None, include_outside: bool) -> TRETable:
    from r2n2.evaluation import target_registration_error
    from r2n2.io import read_landmarks
    from r2n2.results.tre_table import read_tre_table, tre_table_csv

    if landmarks is None:
        return replace(read_tre_table(registered.folder / "tre.csv", registered.reference), include_outside=include_outside)
    marks = read_landmarks(landmarks, registered.landmark_grid)
    options = {"include_outside": include_outside}
    table = target_registration_error(registered.transforms, marks, registered.reference, registered.grid, **options)
    _write(registered.folder / "tre.csv", tre_table_csv(table))
    return table


def _compare_observers(registered: RegisteredSeries, first: Path | None, second: Path) -> None:
    from r2n2.cli.tables import print_observer
    from r2n2.evaluation import inter_observer_error
    from r2n2.io import read_landmarks

    if first is None:
        raise ArgumentError("--observer: needs the first observer's landmarks too; give them as --landmarks")
    one, other = (read_landmarks(path, registered.landmark_grid) for path in (first, second))
    print_observer(inter_observer_error(one, other, registered.grid))


def _write(path: Path, text: str) -> None:
    from r2n2.io import atomic_write

    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def apply(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder that r2n2 register wrote.")],
    to: Annotated[Path, typer.Option("--to", metavar="FILE", help="Image, series, label map or landmarks.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="File to write.")],
    frame: Annotated[
        str | None, typer.Option(metavar="N|all", help="Whose transform: the frame a single image or point set belongs to.")
    ] = None,
    labels: Annotated[bool, typer.Option("--labels", help="A label map: nearest neighbour.")] = False,
    inverse: Annotated[bool, typer.Option("--inverse", help="The other way round: landmarks of frames to the reference.")] = False,
    axes: Annotated[str | None, typer.Option(metavar="TYX", help="Meaning of the axes of FILE.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output file.")] = False,
) -> None:
    """Use a registration on images, label maps or landmarks of the same geometry."""
    from r2n2.results.reader import read_result

    if not to.exists():
        raise ReadError(f"--to {to}: no such file; check the path")
    if output.exists() and not overwrite:
        raise ArgumentError(f"--output {output}: exists already; give --overwrite or another name")
    registered = read_result(folder)
    frames = _frames(registered, frame)
    if to.suffix.lower() in _LANDMARK_SUFFIXES:
        _apply_to_points(registered, to, output, frames, inverse)
    else:
        _apply_to_images(registered, to, output, frames, labels, inverse, axes)
    print(output)


def _frames(registered: RegisteredSeries, text: str | None) -> list[int] | None:
    """The chosen frames, or None where nothing was chosen."""
    if text is None:
        return None
    if text == "all":
        return sorted(registered.transforms)
    if not text.isdecimal() or int(text) not in registered.transforms:
        last = max(registered.transforms)
        raise ArgumentError(f"--frame: expected all or a frame from 0 to {last}, got {text!r}")
    return [int(text)]


def _apply_to_points(registered: RegisteredSeries, to: Path, output: Path, frames: list[int] | None, inverse: bool) -> None:
    from r2n2.io import read_landmarks, write_landmarks
    from r2n2.results.apply import apply_to_landmarks

    if not output.name.lower().endswith((".csv", ".mrk.json")):
        raise ArgumentError(f"--output {output}: landmarks are written as .csv or .mrk.json; end the name in one of them")
    marks = read_landmarks(to, registered.landmark_grid)
    mapped = apply_to_landmarks(registered, marks, frames=frames, inverted=inverse, report=_say_residual)
    write_landmarks(output, mapped, registered.landmark_grid)


def _apply_to_images(
    registered: RegisteredSeries, to: Path, output: Path, frames: list[int] | None, labels: bool, inverse: bool, axes: str | None
) -> None:
    from r2n2.io import read_series, write_series
    from r2n2.io.writing import output_name
    from r2n2.results.apply import apply_to_series, check_output, warped_frames

    kind = check_output(output)
    found = read_series(to, axes=axes)
    if len(found) != 1:
        raise ArgumentError(f"{to}: holds {len(found)} slice positions, the registration one; give a file of one slice")
    series = found[0]
    if len(series) == 1 and frames is None and len(registered.transforms) > 1:
        raise ArgumentError(f"{to}: holds one image; say with --frame N which frame it belongs to, or --frame all")
    chosen = frames if frames is not None else sorted(registered.transforms)
    target = warped_frames(series, len(chosen))
    target = replace(target, source={"format": kind, "path": str(output)})
    stem = output.name[: -len(_suffix(output))]
    if output_name(stem, target) != output.name:
        raise ArgumentError(
            f"--output {output}: cannot hold {series.dtype} with {series.channels} channels; use {output_name(stem, target)}"
        )
    images = apply_to_series(registered, series, frames=chosen, labels=labels, inverted=inverse, report=_say_residual)
    write_series(output.parent, stem, target, images)


def _suffix(path: Path) -> str:
    from r2n2.results.apply import OUTPUT_FORMATS

    return next(suffix for suffix in OUTPUT_FORMATS if path.name.lower().endswith(suffix))


def _say_residual(frame: int, residual_mm: float) -> None:
    print(f"frame {frame}: the inverse is exact to {residual_mm:.2g} mm", file=sys.stderr)
