"""The command that does headless what the widget is set to."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from r2n2.config import RegistrationConfig
    from r2n2.series import ImageSeries

__all__ = ["register_command"]


def register_command(
    series: Sequence[ImageSeries], config: RegistrationConfig, *, spacing_in_file: tuple[float, ...] | None
) -> str:
    """The ``r2n2 register`` command line; for the input of a layer that came from no file, ``SERIES`` stands.

    Parameters
    ----------
    series
        One item a slice position.
    spacing_in_file
        Pixel size in mm as it was read; where the layer's is another, the command says so.
    """
    first = series[0]
    words = ["r2n2", "register", str(first.source.get("path") or "SERIES"), "-o", "RESULT", "--method", config.method]
    if config.method == "r2n2":
        words += ["--refine" if config.refine else "--no-refine", "--weights", str(config.weights)]
    words += ["--reference", str(config.reference)]
    defaults = type(config)()
    if config.steps != defaults.steps:
        words += ["--steps", str(config.steps)]
    if config.warm_start != defaults.warm_start:
        words.append("--warm-start" if config.warm_start else "--no-warm-start")
    if config.batch_size != defaults.batch_size:
        words += ["--batch-size", str(config.batch_size)]
    if config.device != defaults.device:
        words += ["--device", config.device]
    if first.source.get("format") == "dicom":
        words += ["--series", str(first.source["series"]).partition("/")[0]]
    if spacing_in_file is not None and spacing_in_file != first.grid.spacing:
        words += ["--spacing", ",".join(f"{step:.9g}" for step in first.grid.spacing)]
    return shlex.join(words)
