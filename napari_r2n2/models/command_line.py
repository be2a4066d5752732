"""The command that does headless what the widget is set to."""

from __future__ import annotations

import hashlib
import os
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from r2n2.errors import ArgumentError
from r2n2.io.atomic import resource_errors
from r2n2.results.kept_source import has_file

if TYPE_CHECKING:
    from napari_r2n2.models.alignment import Choice
    from r2n2.config import RegistrationConfig
    from r2n2.mask import Masks
    from r2n2.series import ImageSeries

__all__ = ["command_problem", "register_command", "saved_masks"]


def command_problem(series: Sequence[ImageSeries]) -> str:
    """Why no command can do the same, or "" if one can."""
    first = series[0]
    if has_file(first):
        return ""
    path = first.source.get("path")
    if path:
        return f"{path} is not there any more, so no command can read it; save the layer to a file and open that"
    return f"{first.name!r} lies in memory only, so no command can read it; save the layer to a file and open that"


def register_command(
    series: Sequence[ImageSeries],
    config: RegistrationConfig,
    choice: Choice | None = None,
    *,
    spacing_in_file: tuple[float, ...] | None,
    mask: Path | None = None,
) -> str:
    """The ``r2n2 register`` command line, quoted for the shell of this system.

    Parameters
    ----------
    series
        One item a slice position.
    choice
        Which of them; all if None.
    spacing_in_file
        Pixel size in mm as it was read; where the layer's is another, the command says so.
    mask
        File or folder of the mask of the reference, as ``saved_masks`` writes it.

    Raises
    ------
    ArgumentError
        If the series lies in no file, or the chosen slice positions are neither one nor all.
    """
    first, problem = series[0], command_problem(series)
    if problem:
        raise ArgumentError(f"no command: {problem}")
    source = Path(str(first.source["path"])).absolute()
    result = source.with_name(f"{source.name.partition('.')[0] or source.name} aligned")
    words = ["r2n2", "register", str(source), "-o", str(result), "--method", config.method]
    if config.method == "r2n2":
        words += ["--refine" if config.refine else "--no-refine", "--weights", str(config.weights)]
    words += ["--reference", str(config.reference)]
    words += _differing(config)
    words += _reading(first)
    if spacing_in_file is not None and spacing_in_file != first.grid.spacing:
        words += ["--spacing", ",".join(f"{step:.9g}" for step in first.grid.spacing)]
    if mask is not None:
        words += ["--mask", str(mask)]
    words += _slices(series, choice)
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


def _differing(config: RegistrationConfig) -> list[str]:
    """Options whose settings are others than the defaults."""
    defaults, words = type(config)(), list[str]()
    for name in ("target", "steps", "initial", "similarity", "uncertainty", "batch_size", "device"):
        value = getattr(config, name, None)
        if value != getattr(defaults, name, None):
            words += [f"--{name.replace('_', '-')}", str(value)]
    if config.warm_start != defaults.warm_start:
        words.append("--warm-start" if config.warm_start else "--no-warm-start")
    if config.no_folding:
        words.append("--no-folding")
    return words


def saved_masks(series: Sequence[ImageSeries], masks: Sequence[Masks]) -> Path:
    """The file of a mask that was drawn, or the folder of those of several slice positions, written beside the images.

    Written once: where the same mask was written before, that file is named.

    Raises
    ------
    ResourceError
        If it cannot be written.
    """
    from r2n2.io import write_series

    source = Path(str(series[0].source["path"])).absolute()
    stem = f"{source.name.partition('.')[0] or source.name} mask"
    digest = "".join(mask.fixed.sha256 if mask.fixed is not None else "-" for mask in masks)
    stem = f"{stem} {hashlib.sha256(digest.encode()).hexdigest()[:8]}"
    several = len(series) > 1
    target = source.with_name(stem if several else f"{stem}.mha")
    if target.exists():
        return target
    if several:
        with resource_errors(target):
            target.mkdir()
    for index, (item, mask) in enumerate(zip(series, masks, strict=True)):
        if mask.fixed is None:
            continue
        frames = mask.fixed.weights[:, None]
        kept = replace(item, frames=frames, times_s=None, source={"format": "mha"})
        write_series(target if several else target.parent, f"slice_{index:02d}" if several else stem, kept, iter(frames))
    return target


def _reading(first: ImageSeries) -> list[str]:
    """Options with which the file has to be read to give this series."""
    asked = dict(first.source.get("asked", {}))
    words = ["--axes", str(asked["axes"])] if "axes" in asked else []
    if "volumes" in asked:
        words.append("--volumes" if asked["volumes"] else "--slices")
    if "slice_index" in asked:
        words += ["--slice", str(asked["slice_index"])]
    if first.source.get("format") == "dicom":
        words += ["--series", str(first.source["series"]).partition("/")[0]]
    if first.source.get("frames_dropped"):
        words.append("--drop-damaged")
    return words


def _slices(series: Sequence[ImageSeries], choice: Choice | None) -> list[str]:
    if choice is None or len(choice.slices) == len(series):
        return []
    if len(choice.slices) == 1:
        return ["--slice", str(series[choice.slices[0]].source.get("slice_index", choice.slices[0]))]
    raise ArgumentError("no command: r2n2 register aligns one slice position or all of them; choose one, or all")
