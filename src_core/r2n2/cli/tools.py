"""``r2n2 info`` and ``r2n2 doctor``: looking at inputs, examining the installation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from r2n2.cli.options import parse_spacing

__all__ = ["doctor", "info"]

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


def doctor() -> None:
    """Examine this installation and run a short self-test."""
    from r2n2.cli.tables import print_checks
    from r2n2.doctor import examine

    checks = examine()
    print_checks(checks)
    if not all(check.fine for check in checks):
        raise typer.Exit(_RESOURCE)
