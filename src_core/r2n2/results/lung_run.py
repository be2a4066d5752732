"""Lung function of one aligned slice position, read and written: what the command and the window do alike."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from r2n2.io.atomic import resource_errors
from r2n2.lung.analysis import LungFunction, LungProgress, analyse
from r2n2.lung.breathing_region import propose_breathing_lung
from r2n2.lung.region import sides
from r2n2.lung.settings import LungConfig
from r2n2.results.aligned_series import AlignedSeries
from r2n2.results.lung_files import write_lung

__all__ = ["PROPOSED", "proposed_mask", "read_function", "write_function"]

PROPOSED = "The mask is a proposal, from the mean image and from what breathes: look at it."
"""Where a mask that nobody drew comes from."""


def proposed_mask(part: AlignedSeries) -> NDArray[np.bool_]:
    """Where lung may be, (H, W).

    Raises
    ------
    ReadError
        If nothing looks like lung.
    """
    used = [index for index in range(len(part.series)) if index not in set(part.left_out)]
    return propose_breathing_lung(lambda k: part.frame(used[k]), len(used), part.series.grid.spacing)


def read_function(
    part: AlignedSeries, inside: NDArray[np.bool_], config: LungConfig
) -> Generator[LungProgress, None, LungFunction]:
    """Maps and figures of the lung inside a mask (H, W), for the right and the left lung and for both.

    Raises
    ------
    ReadError
        As ``analyse``.
    """
    regions, how = sides(inside, part.series.patient_grid)
    spacing = part.series.grid.spacing
    function = yield from analyse(
        part.frame,
        part.times_s,
        inside,
        config,
        spacing_mm=(spacing[0], spacing[1]),
        sides=regions,
        left_out=part.left_out,
        jacobian=None if config.jacobian == "off" else part.jacobian,
    )
    return replace(function, notes=(*function.notes, f"right and left: {how}"))


def write_function(folder: Path, part: AlignedSeries, function: LungFunction, page: str, mask_text: str) -> list[Path]:
    """Write maps, table, record and page into a folder; their paths.

    Raises
    ------
    ResourceError
        If a file cannot be written.
    """
    with resource_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    facts = {"mask": mask_text, "aligned_by": part.aligned_by}
    return write_lung(folder, part.series, function, page, name=part.name, facts=facts)
