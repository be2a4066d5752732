"""``r2n2 apply``: a registration used on another image, label map or set of landmarks."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from r2n2.errors import ArgumentError, ReadError

if TYPE_CHECKING:
    from r2n2.results.apply import InverseReport
    from r2n2.results.reader import RegisteredSeries

__all__ = ["apply", "chosen_frames"]


def apply(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder that r2n2 register wrote.")],
    to: Annotated[Path, typer.Option("--to", metavar="FILE", help="Image, series, label map or landmarks.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="File to write.")],
    frame: Annotated[
        str | None, typer.Option(metavar="N|all", help="Whose transform: the frame a single image or point set belongs to.")
    ] = None,
    labels: Annotated[
        bool | None,
        typer.Option(
            "--labels/--image", help="A label map: nearest neighbour; default: by its values, and told.", show_default=False
        ),
    ] = None,
    inverse: Annotated[bool, typer.Option("--inverse", help="The other way round: landmarks of frames to the reference.")] = False,
    axes: Annotated[str | None, typer.Option(metavar="TYX", help="Meaning of the axes of FILE.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output file.")] = False,
) -> None:
    """Use a registration on images, label maps or landmarks of the same place."""
    from r2n2.results.reader import read_result

    if not to.exists():
        raise ReadError(f"--to {to}: no such file; check the path")
    if output.exists() and not overwrite:
        raise ArgumentError(f"--output {output}: exists already; give --overwrite or another name")
    registered = read_result(folder)
    frames = None if frame is None else chosen_frames(registered, frame)
    if _holds_points(to):
        _apply_to_points(registered, to, output, frames, inverse)
    else:
        _apply_to_images(registered, to, output, frames, labels, inverse, axes)
    print(output)


def _holds_points(path: Path) -> bool:
    from r2n2.io.landmarks import LANDMARK_SUFFIXES

    if not path.is_dir():
        return path.suffix.lower() in LANDMARK_SUFFIXES
    names = [entry for entry in path.iterdir() if not entry.name.startswith(".") and entry.is_file()]
    return bool(names) and all(entry.suffix.lower() in LANDMARK_SUFFIXES for entry in names)


def chosen_frames(registered: RegisteredSeries, text: str) -> list[int]:
    """The frames that ``--frame`` names.

    Raises
    ------
    ArgumentError
        If there is no such frame.
    """
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
    _say(marks.notes)
    mapped = apply_to_landmarks(registered, marks, frames=frames, inverted=inverse, report=_residual_of(registered))
    write_landmarks(output, mapped, registered.landmark_grid)


def _apply_to_images(
    registered: RegisteredSeries,
    to: Path,
    output: Path,
    frames: list[int] | None,
    labels: bool | None,
    inverse: bool,
    axes: str | None,
) -> None:
    from r2n2.io import write_series
    from r2n2.io.writing import output_name
    from r2n2.results.apply import apply_to_series, check_output, warped_frames
    from r2n2.results.placing import read_placed

    kind = check_output(output)
    placed = read_placed(registered.lattice, to, axes=axes, frames=len(frames or registered.transforms), labels=labels)
    series = placed.series
    if len(series) == 1 and frames is None and len(registered.transforms) > 1:
        raise ArgumentError(f"{to}: holds one image; say with --frame N which frame it belongs to, or --frame all")
    chosen = frames if frames is not None else sorted(registered.transforms)
    target = replace(warped_frames(series, len(chosen)), source={"format": kind, "path": str(output)})
    stem = output.name[: -len(_suffix(output))]
    if output_name(stem, target) != output.name:
        raise ArgumentError(
            f"--output {output}: cannot hold {series.dtype} with {series.channels} channels; use {output_name(stem, target)}"
        )
    _say(f"{to.name}: {note}" for note in placed.notes)
    options = {"labels": placed.labels, "inverted": inverse}
    images = apply_to_series(registered, series, frames=chosen, report=_residual_of(registered), **options)
    write_series(output.parent, stem, target, images)


def _suffix(path: Path) -> str:
    from r2n2.results.apply import OUTPUT_FORMATS

    return next(suffix for suffix in OUTPUT_FORMATS if path.name.lower().endswith(suffix))


def _residual_of(registered: RegisteredSeries) -> InverseReport:
    from r2n2.quantities import length_text

    def say(frame: int, residual_mm: float) -> None:
        print(f"frame {frame}: the inverse is exact to {length_text(residual_mm, registered.length_unit)}", file=sys.stderr)

    return say


def _say(notes: Iterable[str]) -> None:
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
