"""``r2n2 apply``: a registration used on other images, label maps, points and tracks of the same place."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from r2n2.cli.frame_lists import listed_frames, listed_numbers
from r2n2.errors import ArgumentError, ReadError

if TYPE_CHECKING:
    from r2n2.results.carrier import InverseReport
    from r2n2.results.reader import RegisteredSeries
    from r2n2.series import ImageSeries

__all__ = ["apply", "chosen_frames"]


@dataclass(frozen=True)
class _Wanted:
    """What is the same for every file."""

    frames: str | None
    source: int | None
    labels: bool | None
    inverse: bool
    tracks: bool
    channels: str | None
    axes: str | None
    overwrite: bool


def apply(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder that r2n2 register wrote.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE|DIR", help="File to write; for several files or slices a folder.")
    ],
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="[FILE]...", help="Images, series, label maps or landmarks.", show_default=False)
    ] = None,
    to: Annotated[Path | None, typer.Option("--to", metavar="FILE", help="One file, named by an option.")] = None,
    frames: Annotated[
        str | None,
        typer.Option(
            "--frames",
            "--frame",
            metavar="N|A-B,C|all",
            help="Which frames: those a single image or point set belongs to, or those wanted of a series.",
        ),
    ] = None,
    source: Annotated[
        int | None,
        typer.Option("--from", metavar="N", help="FILE belongs to frame N: bring it to every frame, or to those of --frames."),
    ] = None,
    labels: Annotated[
        bool | None,
        typer.Option(
            "--labels/--image", help="A label map: nearest neighbour; default: by its values, and told.", show_default=False
        ),
    ] = None,
    inverse: Annotated[
        bool, typer.Option("--inverse", help="The other way round: images of the reference to frames, landmarks of frames to it.")
    ] = False,
    tracks: Annotated[
        bool, typer.Option("--tracks", help="Points of all frames to the reference, each with its frame: tracks without motion.")
    ] = False,
    channels: Annotated[str | None, typer.Option(metavar="N,M", help="Which channels of the images, from 0; default: all.")] = None,
    axes: Annotated[str | None, typer.Option(metavar="TYX", help="Meaning of the axes of FILE.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output file.")] = False,
) -> None:
    """Use a registration on images, label maps, points and tracks of the same place."""
    from r2n2.results.reader import read_result, slice_folders

    given = [*([] if to is None else [to]), *(files or [])]
    if not given:
        raise ArgumentError("FILE: name at least one image, label map or landmark file to apply the registration to")
    if source is not None and (inverse or tracks):
        raise ArgumentError(f"--from {source}: leads from that frame to others by itself; leave out --inverse and --tracks")
    for path in given:
        if not path.exists():
            raise ReadError(f"{'--to ' if path is to else ''}{path}: no such file; check the path")
    wanted = _Wanted(frames, source, labels, inverse or tracks, tracks, channels, axes, overwrite)
    parts = slice_folders(folder)
    several = len(given) > 1 or len(parts) > 1
    if several:
        _check_names(given, output)
    for part in parts:
        place = output / part.name if len(parts) > 1 else output
        registered = read_result(part)
        for path in given:
            own = _of_slice(path, part.name) if len(parts) > 1 else path
            _apply_to_file(registered, own, place / _own_name(path) if several else place, wanted)


def _check_names(given: Sequence[Path], output: Path) -> None:
    """Several files go into a folder, each under its own name."""
    if output.is_file():
        raise ArgumentError(f"--output {output}: is a file; several files or slices go into a folder, name one")
    names = [_own_name(path) for path in given]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ArgumentError(f"--output {output}: two of the files would be written as {twice}; apply them one by one")


def _own_name(path: Path) -> str:
    """What the result of a file is called in a folder: as the file, in a format that can be written."""
    from r2n2.io.landmarks import LANDMARK_SUFFIXES
    from r2n2.results.apply import OUTPUT_FORMATS

    name = path.name
    if _holds_points(path):
        return name if name.lower().endswith((".csv", ".mrk.json")) else f"{path.stem}.csv"
    for suffix in (*OUTPUT_FORMATS, *LANDMARK_SUFFIXES, ".nrrd", ".dcm"):
        if name.lower().endswith(suffix):
            stem, written = name[: -len(suffix)].removesuffix(".seg"), suffix if suffix in OUTPUT_FORMATS else ".nii.gz"
            return stem + written
    return (name if path.is_dir() else path.stem) + ".nii.gz"


def _of_slice(path: Path, name: str) -> Path:
    """The file of one slice position, where a folder holds one for each."""
    if not path.is_dir():
        return path
    found = sorted(path.glob(f"{name}.*"))
    return found[0] if found else path


def _apply_to_file(registered: RegisteredSeries, path: Path, output: Path, wanted: _Wanted) -> None:
    if output.exists() and not wanted.overwrite:
        raise ArgumentError(f"--output {output}: exists already; give --overwrite or another name")
    output.parent.mkdir(parents=True, exist_ok=True)
    if _holds_points(path):
        _apply_to_points(registered, path, output, wanted)
    else:
        _apply_to_images(registered, path, output, wanted)
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
    return listed_frames("--frame", text, sorted(registered.transforms))


def _apply_to_points(registered: RegisteredSeries, path: Path, output: Path, wanted: _Wanted) -> None:
    from r2n2.io import read_landmarks, write_landmarks
    from r2n2.results.apply import apply_to_landmarks

    if not output.name.lower().endswith((".csv", ".mrk.json")):
        raise ArgumentError(f"--output {output}: landmarks are written as .csv or .mrk.json; end the name in one of them")
    frames = None if wanted.frames is None else chosen_frames(registered, wanted.frames)
    marks = read_landmarks(path, registered.landmark_grid)
    _say(marks.notes)
    mapped = apply_to_landmarks(
        registered,
        marks,
        frames=frames,
        inverted=wanted.inverse,
        source=wanted.source,
        tracks=wanted.tracks,
        report=_residual_of(registered),
    )
    write_landmarks(output, mapped, registered.landmark_grid)


def _apply_to_images(registered: RegisteredSeries, path: Path, output: Path, wanted: _Wanted) -> None:
    from r2n2.io import write_series
    from r2n2.io.writing import output_name
    from r2n2.results.apply import apply_to_series, check_output, warped_frames
    from r2n2.results.placing import read_placed

    if wanted.tracks:
        raise ArgumentError(f"--tracks: {path} holds no points; leave it out")
    kind = check_output(output)
    every = sorted(registered.transforms)
    frames = None if wanted.frames is None else chosen_frames(registered, wanted.frames)
    count = len(every) if frames is None else len(frames)
    placed = read_placed(registered.lattice, path, axes=wanted.axes, frames=count, labels=wanted.labels)
    series = _channels_of(placed.series, wanted.channels)
    if len(series) == 1 and frames is None and wanted.source is None and len(every) > 1:
        raise ArgumentError(
            f"{path}: holds one image; say with --frame N which frame it belongs to, or --frame all; --from N brings it from frame "
            "N to all others"
        )
    chosen = every if frames is None else frames
    target = replace(warped_frames(registered, series, chosen), source={"format": kind, "path": str(output)})
    stem = output.name[: -len(_suffix(output))]
    if output_name(stem, target) != output.name:
        raise ArgumentError(
            f"--output {output}: cannot hold {series.dtype} with {series.channels} channels; use {output_name(stem, target)}"
        )
    _say(f"{path.name}: {note}" for note in placed.notes)
    images = apply_to_series(
        registered,
        series,
        frames=chosen,
        labels=placed.labels,
        inverted=wanted.inverse,
        source=wanted.source,
        report=_residual_of(registered),
    )
    write_series(output.parent, stem, target, images)


def _channels_of(series: ImageSeries, text: str | None) -> ImageSeries:
    from r2n2.results.chosen_images import chosen_channels

    return series if text is None else chosen_channels(series, listed_numbers("--channels", text))


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
