"""Options that say how series are read and registered, shared by the commands that do so, and what the settings are then."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from r2n2.cli.options import parse_batch_size, parse_fields, parse_reference, parse_spacing, parse_steps
from r2n2.errors import ArgumentError

if TYPE_CHECKING:
    from r2n2.config import RegistrationConfig

__all__ = [
    "INPUT_PANEL",
    "METHOD_PANEL",
    "AllowMissing",
    "Axes",
    "BatchSize",
    "ConfigFile",
    "ContrastSeries",
    "Device",
    "DropDamaged",
    "Fields",
    "GuideStrength",
    "Initial",
    "KeepHeaders",
    "MaxBytes",
    "Method",
    "NoFolding",
    "Overwrite",
    "Quiet",
    "Reference",
    "Refine",
    "SeriesName",
    "Similarity",
    "Spacing",
    "Steps",
    "Target",
    "Uncertainty",
    "Volumes",
    "WarmStart",
    "WeightsName",
    "reading_of",
    "settings_of",
]

INPUT_PANEL = "Input"
METHOD_PANEL = "Method"

Fields = Annotated[
    str | None,
    typer.Option(
        metavar="full|MM|none",
        help="Displacement fields to write: of every pixel (default in 2D), of points MM apart (default in volumes, 4), or none.",
        rich_help_panel=METHOD_PANEL,
    ),
]
Volumes = Annotated[
    bool | None,
    typer.Option(
        "--volumes/--slices", help="Read slices as volumes, or slice by slice (the default).", rich_help_panel=INPUT_PANEL
    ),
]
Method = Annotated[str | None, typer.Option(help="r2n2 (the default), fit or bspline.", rich_help_panel=METHOD_PANEL)]
Refine = Annotated[
    bool | None,
    typer.Option("--refine/--no-refine", help="Refine the network's Gaussians by fit (the default).", rich_help_panel=METHOD_PANEL),
]
Similarity = Annotated[
    str | None,
    typer.Option(
        metavar="auto|ssd|lncc|mind|ngf|curve",
        help="What frames are compared by; auto: intensities (ssd, of volumes lncc), or edges (ngf) where the contrast changes.",
        rich_help_panel=METHOD_PANEL,
    ),
]
Reference = Annotated[
    str | None,
    typer.Option(
        metavar="auto|N|mean|previous",
        help="Frame to align to; mean: to the mean image, in the place of the automatic frame; previous: each frame to the one "
        "before it, composed back to frame 0.",
        rich_help_panel=METHOD_PANEL,
    ),
]
Target = Annotated[
    str | None,
    typer.Option(
        metavar="reference|mean|median|previous|pca:L",
        help="What frames are registered to: the reference frame, an image in its place made of the aligned series, or their "
        "neighbour.",
        rich_help_panel=METHOD_PANEL,
    ),
]
Initial = Annotated[
    str | None,
    typer.Option(
        metavar="auto|none|...",
        help="Motion of the frame as a whole, found first: auto (a translation, where it lies far away), none, translation, "
        "rigid or affine.",
        rich_help_panel=METHOD_PANEL,
    ),
]
WeightsName = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|FILE", help="Weights of the network: general (the default), or a file.", rich_help_panel=METHOD_PANEL
    ),
]
Steps = Annotated[
    str | None,
    typer.Option(metavar="N|auto", help="Number of Gaussians; auto: as many as each frame needs.", rich_help_panel=METHOD_PANEL),
]
WarmStart = Annotated[
    bool | None,
    typer.Option("--warm-start/--no-warm-start", help="Start from the neighbour in time.", rich_help_panel=METHOD_PANEL),
]
NoFolding = Annotated[
    bool | None,
    typer.Option("--no-folding", help="Change what folds until it provably does not.", rich_help_panel=METHOD_PANEL),
]
BatchSize = Annotated[
    str | None,
    typer.Option(metavar="auto|N", help="Frames registered at once; auto: as many as fit.", rich_help_panel=METHOD_PANEL),
]
Uncertainty = Annotated[
    str | None,
    typer.Option(
        metavar="on|off|full",
        help="Map of how far each position may be off; full: from both ways, twice the time.",
        rich_help_panel=METHOD_PANEL,
    ),
]
GuideStrength = Annotated[
    float | None,
    typer.Option(
        metavar="MM",
        help="To within which distance guiding pairs are right (standard deviation; default: a pixel).",
        rich_help_panel=METHOD_PANEL,
    ),
]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.", rich_help_panel=METHOD_PANEL)]
ConfigFile = Annotated[
    Path | None, typer.Option(metavar="TOML", help="Settings; options given here come first.", rich_help_panel=METHOD_PANEL)
]
Spacing = Annotated[str | None, typer.Option(metavar="Y,X", help="Pixel size in mm.", rich_help_panel=INPUT_PANEL)]
Axes = Annotated[str | None, typer.Option(metavar="TYX", help="Meaning of the axes.", rich_help_panel=INPUT_PANEL)]
SeriesName = Annotated[
    str | None,
    typer.Option(metavar="UID|NAME", help="DICOM series, or which of several images in a file.", rich_help_panel=INPUT_PANEL),
]
MaxBytes = Annotated[int | None, typer.Option(help="Most bytes to hold in memory.", rich_help_panel=INPUT_PANEL)]
AllowMissing = Annotated[bool, typer.Option("--allow-missing", help="Accept missing Zarr chunks.", rich_help_panel=INPUT_PANEL)]
DropDamaged = Annotated[bool, typer.Option("--drop-damaged", help="Leave out damaged DICOM frames.", rich_help_panel=INPUT_PANEL)]
ContrastSeries = Annotated[
    bool,
    typer.Option(
        "--contrast-series",
        help="One series of DICOM frames that differ in inversion time, echo, b-value ...",
        rich_help_panel=INPUT_PANEL,
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an earlier result.")]
KeepHeaders = Annotated[
    bool, typer.Option("--keep-headers", help="Copy all DICOM headers, patient data included, to the aligned series.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no notes.")]

_PARSERS: dict[str, Callable[[str], float | str]] = {
    "reference": partial(parse_reference, words=("auto", "mean", "previous")),
    "steps": parse_steps,
    "batch_size": parse_batch_size,
    "fields": parse_fields,
}
_SETTINGS = (
    "method",
    "refine",
    "similarity",
    "reference",
    "target",
    "initial",
    "weights",
    "steps",
    "warm_start",
    "no_folding",
    "uncertainty",
    "fields",
    "batch_size",
    "device",
)
_READING = ("axes", "spacing", "series", "slice_index", "contrast_series")


def settings_of(options: Mapping[str, Any], **fixed: Any) -> RegistrationConfig:
    """The settings that a command's options give: those of the file that ``config`` names, then the options, then ``fixed``.

    Parameters
    ----------
    options
        Of the command by the names of its parameters; those that are None were not given, and others than settings are ignored.

    Raises
    ------
    ArgumentError
        If the file is not there, or a setting is wrong.
    """
    from r2n2.config import RegistrationConfig

    given = {name: options[name] for name in _SETTINGS if options[name] is not None}
    if options.get("guide_strength") is not None:
        given["guide_strength_mm"] = options["guide_strength"]
    given |= {name: parse(given[name]) for name, parse in _PARSERS.items() if name in given} | fixed
    path: Path | None = options["config"]
    if path is None:
        return RegistrationConfig.parse(given)
    if not path.is_file():
        raise ArgumentError(f"--config {path}: no such file; give a TOML file of settings")
    return RegistrationConfig.parse({**RegistrationConfig.from_toml(path).model_dump(exclude_unset=True), **given})


def reading_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """Which series a command's options choose, and how it is read: those that were given, as ``read_series`` takes them.

    Raises
    ------
    ArgumentError
        If the spacing is none.
    """
    # 0 is a slice position, and must not be taken for False.
    given = {name: options[name] for name in _READING if options.get(name) is not None and options[name] is not False}
    if options.get("volumes") is not None:
        given["volumes"] = options["volumes"]
    if "spacing" in given:
        given["spacing"] = parse_spacing(given["spacing"])
    return given
