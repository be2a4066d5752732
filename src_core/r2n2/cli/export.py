"""``r2n2 export``: the transforms of a result as files that other programs open."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["export"]


def export(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder that r2n2 register wrote.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the transform files.")],
    frame: Annotated[str, typer.Option(metavar="N|all", help="Whose transform.")] = "all",
    spacing: Annotated[
        float | None,
        typer.Option(metavar="MM", help="Distance of the field's points; default: the pixels, for volumes at least 4 mm."),
    ] = None,
    inverse: Annotated[bool, typer.Option("--inverse", help="The other way round: points of the frame to the reference.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files of the same name.")] = False,
) -> None:
    """Write one composite transform a frame (.h5, LPS mm) for ITK, SimpleITK, 3D Slicer and ANTs."""
    from r2n2.cli.apply import chosen_frames
    from r2n2.quantities import length_text
    from r2n2.results.export import export_transforms
    from r2n2.results.reader import read_result

    registered = read_result(folder)
    frames = chosen_frames(registered, frame)
    for written in export_transforms(registered, output, frames=frames, spacing_mm=spacing, inverted=inverse, overwrite=overwrite):
        if written.residual_mm is not None:
            residual = length_text(written.residual_mm, registered.length_unit)
            print(f"frame {written.frame}: the inverse is exact to {residual}", file=sys.stderr)
        print(written.path)
