"""``r2n2 simulate``: series with known motion, in one plane or in volumes, with their landmarks, labels and true fields."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from r2n2.errors import ArgumentError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from r2n2.series import ImageSeries
    from r2n2.simulation import SimulatedSeries, SimulatedVolume

__all__ = ["simulate"]

_PLANE_PX = "256,256"
_VOLUME = {"--size": "80,112,144", "--spacing": "4,2.5,2.5", "--centre": "0,0,0"}


def simulate(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for series, landmarks and true fields.")],
    volume: Annotated[bool, typer.Option("--volume", help="Volumes of a whole chest (3D+t) instead of one coronal plane.")] = False,
    frames: Annotated[int, typer.Option(min=2, max=2000, help="Number of frames.")] = 20,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="[Z,]Y,X", help=f"Pixels; default {_PLANE_PX}, of a volume {_VOLUME['--size']}; a slab of 1 is possible."
        ),
    ] = None,
    spacing: Annotated[
        str | None,
        typer.Option(
            metavar="[Z,]Y,X",
            help=f"Pixel size in mm; default: the longer side is 384 mm, of a volume {_VOLUME['--spacing']}.",
        ),
    ] = None,
    contrast: Annotated[str | None, typer.Option(metavar="mr|ct", help="With --volume: what it looks like; default mr.")] = None,
    centre: Annotated[
        str | None,
        typer.Option(
            metavar="Z,Y,X",
            help="With --volume: where its middle lies, in mm to head, back and patient's left of the middle of the chest.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same series.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier simulation.")] = False,
) -> None:
    """Make a breathing thorax with known motion: the series, landmarks.csv and the true fields; of volumes the labels, too."""
    if volume:
        _simulate_volume(output, frames, (size, spacing, centre), contrast, seed, overwrite)
        return
    for option, value in (("--contrast", contrast), ("--centre", centre)):
        if value is not None:
            raise ArgumentError(f"{option}: is an option of volumes; add --volume or leave it out")
    _simulate_plane(output, frames, size or _PLANE_PX, spacing, seed, overwrite)


def _simulate_plane(output: Path, frames: int, size: str, spacing: str | None, seed: int, overwrite: bool) -> None:
    from r2n2.cli.options import parse_spacing

    shape = _numbers("--size", size, "Y,X", whole=True)
    pixel = None if spacing is None else parse_spacing(spacing)
    if pixel is not None and len(pixel) != 2:
        raise ArgumentError(f"--spacing: the simulated plane is 2D, expected Y,X, got {spacing!r}; add --volume for volumes")
    from r2n2.simulation import ThoraxConfig, thorax_series

    settings = ThoraxConfig.parse({"frames": frames, "shape": shape, "spacing_mm": pixel, "seed": seed})
    _check_free(output, "series.mha", overwrite)
    from r2n2.io import write_series

    simulated = thorax_series(settings)
    series = simulated.series
    write_series(output, "series", _to_be_written(series, "mha", output / "series.mha"), _each(series))
    _write_truth(output, simulated)
    print(f"{output}: {len(series)} frames of {shape[0]} x {shape[1]} pixels; the true fields map frame 0 into each frame")


def _simulate_volume(
    output: Path, frames: int, grid: tuple[str | None, ...], contrast: str | None, seed: int, overwrite: bool
) -> None:
    shape, spacing, centre = (
        _numbers(option, value or default, "Z,Y,X", whole=option == "--size")
        for value, (option, default) in zip(grid, _VOLUME.items(), strict=True)
    )
    if contrast not in (None, "mr", "ct"):
        raise ArgumentError(f"--contrast: expected mr or ct, got {contrast!r}")
    from r2n2.simulation import PersonConfig, person_series

    values = {
        "seed": seed,
        "frames": frames,
        "shape": shape,
        "spacing_mm": spacing,
        "centre_mm": centre,
        "contrast": contrast or "mr",
    }
    settings = PersonConfig.parse(values)
    _check_free(output, "series.nii.gz", overwrite)
    from r2n2.io import write_series

    simulated = person_series(settings)
    for name, series in (("series", simulated.series), ("labels", simulated.labels())):
        write_series(output, name, _to_be_written(series, "nifti", output / f"{name}.nii.gz"), _each(series))
    _write_truth(output, simulated)
    for note in simulated.series.notes:
        print(f"note: {note}")
    size = " x ".join(map(str, simulated.series.grid.shape))
    print(f"{output}: {frames} frames of {size} voxels; the true fields map frame 0 into each frame")


def _check_free(output: Path, name: str, overwrite: bool) -> None:
    from r2n2.results.writer import check_folder

    if (output / name).exists() and not overwrite:
        raise ArgumentError(f"--output {output}: holds a {name}; give --overwrite or another folder")
    check_folder(output)


def _write_truth(output: Path, simulated: SimulatedSeries | SimulatedVolume) -> None:
    from r2n2.io import write_landmarks
    from r2n2.io.fields import write_field

    write_landmarks(output / "landmarks.csv", simulated.landmarks, simulated.series.grid)
    (output / "true_fields").mkdir(exist_ok=True)
    for frame in range(len(simulated.series)):
        write_field(output / "true_fields" / f"frame_{frame:04d}.mha", simulated.displacement(0, frame))


def _to_be_written(series: ImageSeries, kind: str, path: Path) -> ImageSeries:
    from dataclasses import replace

    return replace(series, source={"format": kind, "path": str(path)})


def _each(series: ImageSeries) -> Iterator[NDArray[Any]]:
    for index in range(len(series)):
        yield series.frame(index)


def _numbers(option: str, text: str, names: str, *, whole: bool) -> tuple[Any, ...]:
    """As many numbers as ``names`` has."""
    parts = [part.strip() for part in text.split(",")]
    count = len(names.split(","))
    try:
        found = tuple(int(part) if whole else float(part) for part in parts)
    except ValueError:
        found = ()
    if len(parts) != count or len(found) != count or (whole and not all(part.isdecimal() for part in parts)):
        expected = f"{('two', 'three')[count - 2]} {'whole numbers of pixels' if whole else 'numbers of mm'}"
        example = ("128,96", "64,96,128")[count - 2] if whole else "4,2.5,2.5"
        raise ArgumentError(f"{option}: expected {names} as {expected} such as {example}, got {text!r}")
    return found
