"""``r2n2 info``, ``r2n2 simulate`` and ``r2n2 doctor``: looking at inputs, making test data, examining the installation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from r2n2.cli.options import parse_spacing
from r2n2.errors import ArgumentError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from r2n2.series import ImageSeries

__all__ = ["doctor", "info", "simulate"]

_BAD_INPUT, _RESOURCE = 3, 4


def info(
    path: Annotated[Path, typer.Argument(metavar="INPUT|DIR", help="An image series, or a folder that r2n2 register wrote.")],
    axes: Annotated[str | None, typer.Option(metavar="TYX", help="Meaning of the axes.")] = None,
    series: Annotated[
        str | None, typer.Option(metavar="UID|NAME", help="DICOM series, or which of several images in a file.")
    ] = None,
    contrast_series: Annotated[
        bool, typer.Option("--contrast-series", help="One series of DICOM frames that differ in inversion time, echo, b-value ...")
    ] = False,
    volumes: Annotated[
        bool | None, typer.Option("--volumes/--slices", help="Read slices as volumes, or slice by slice (the default).")
    ] = None,
    spacing: Annotated[str | None, typer.Option(metavar="[Z,]Y,X", help="Pixel size in mm.")] = None,
) -> None:
    """What an input or a result holds."""
    from r2n2.results.manifest import MANIFEST_NAME

    if path.is_dir() and (path / MANIFEST_NAME).exists():
        _print_result(path)
        return
    from r2n2.cli.scanning import scan_progress
    from r2n2.cli.tables import print_descriptions
    from r2n2.io import describe

    with scan_progress() as progress:
        descriptions = describe(
            path,
            axes=axes,
            spacing=None if spacing is None else parse_spacing(spacing),
            series=series,
            contrast_series=contrast_series,
            volumes=volumes,
            progress=progress,
        )
    print_descriptions(descriptions)
    if any(item.problems for item in descriptions):
        raise typer.Exit(_BAD_INPUT)


def _print_result(folder: Path) -> None:
    from r2n2.quantities import spacing_text
    from r2n2.report.page import verdict
    from r2n2.results.reader import read_result, slice_folders

    for part in slice_folders(folder):
        registered = read_result(part)
        manifest = registered.manifest
        print(f"{part}: {verdict(registered.metrics).sentence}")
        spacing = spacing_text(registered.grid.spacing)
        size = " x ".join(map(str, registered.grid.shape))
        if not manifest.input.spacing_known:
            spacing = "unknown, 1 pixel counted as 1 mm"
        print(f"  input {manifest.input.path}: {manifest.input.frames} frames of {size} pixels, spacing {spacing}")
        tag = manifest.input.source.get("time_tag")
        times = manifest.input.times_s
        if times is not None:
            print(f"  times {times[0]:g} to {times[-1]:g} s" + (f", from {tag}" if tag else ""))
        print(f"  method {manifest.settings.method}, reference {manifest.reference}, device {manifest.device}")
        for note in manifest.input.notes:
            print(f"  note: {note}")


def simulate(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for series, landmarks and true fields.")],
    frames: Annotated[int, typer.Option(min=2, max=2000, help="Number of frames.")] = 20,
    size: Annotated[str, typer.Option(metavar="Y,X", help="Pixels.")] = "256,256",
    spacing: Annotated[
        str | None, typer.Option(metavar="Y,X", help="Pixel size in mm; default: the longer side is 384 mm.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same series.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier simulation.")] = False,
) -> None:
    """Make a breathing thorax with known motion: series.mha, landmarks.csv and the true fields."""
    from r2n2.cli.options import parse_spacing
    from r2n2.results.writer import check_folder

    shape = _parse_size(size)
    pixel = None if spacing is None else parse_spacing(spacing)
    if pixel is not None and len(pixel) != 2:
        raise ArgumentError(f"--spacing: the simulated thorax is 2D, expected Y,X, got {spacing!r}")
    from r2n2.simulation import ThoraxConfig, thorax_series

    settings = ThoraxConfig.parse({"frames": frames, "shape": shape, "spacing_mm": pixel, "seed": seed})
    if (output / "series.mha").exists() and not overwrite:
        raise ArgumentError(f"--output {output}: holds a series.mha; give --overwrite or another folder")
    check_folder(output)
    from r2n2.io import write_landmarks, write_series
    from r2n2.io.fields import write_field

    simulated = thorax_series(settings)
    series = simulated.series
    write_series(output, "series", _as_mha(series, output), _each(series))
    write_landmarks(output / "landmarks.csv", simulated.landmarks, series.grid)
    (output / "true_fields").mkdir(exist_ok=True)
    for frame in range(len(series)):
        write_field(output / "true_fields" / f"frame_{frame:04d}.mha", simulated.displacement(0, frame))
    print(f"{output}: {len(series)} frames of {shape[0]} x {shape[1]} pixels; the true fields map frame 0 into each frame")


def _as_mha(series: ImageSeries, output: Path) -> ImageSeries:
    from dataclasses import replace

    return replace(series, source={"format": "mha", "path": str(output / "series.mha")})


def _each(series: ImageSeries) -> Iterator[NDArray[Any]]:
    for index in range(len(series)):
        yield series.frame(index)


def _parse_size(text: str) -> tuple[int, int]:
    parts = text.split(",")
    if len(parts) != 2 or not all(part.strip().isdecimal() for part in parts):
        raise ArgumentError(f"--size: expected Y,X as two whole numbers of pixels such as 128,96, got {text!r}")
    rows, columns = int(parts[0]), int(parts[1])
    return rows, columns


def doctor() -> None:
    """Examine this installation and run a short self-test."""
    from r2n2.cli.tables import print_checks
    from r2n2.doctor import examine

    checks = examine()
    print_checks(checks)
    if not all(check.fine for check in checks):
        raise typer.Exit(_RESOURCE)
