"""The lattice on which displacements are written: every pixel, or fewer points over the same place."""

from __future__ import annotations

import math
from typing import Literal

from r2n2.errors import ArgumentError
from r2n2.geometry import Grid

__all__ = ["VOLUME_SPACING_MM", "coarse_lattice", "lattice_of"]

VOLUME_SPACING_MM = 4.0
"""Distance of the points in volumes where nothing else is asked for: a field of every voxel takes hundreds of MiB a frame."""


def lattice_of(grid: Grid, fields: float | Literal["auto", "full", "none"]) -> Grid | None:
    """What the setting ``fields`` means for frames on a grid; None for no fields.

    auto is every pixel of 2D frames, and points 4 mm apart in volumes.
    """
    if fields == "none":
        return None
    if fields == "full" or (fields == "auto" and grid.ndim == 2):
        return grid
    return coarse_lattice(grid, VOLUME_SPACING_MM if fields == "auto" else fields)


def coarse_lattice(grid: Grid, spacing_mm: float) -> Grid:
    """A lattice over the same place whose points are at most ``spacing_mm`` apart, and never closer than the pixels are.

    Raises
    ------
    ArgumentError
        If the spacing is not a positive number.
    """
    if not 0 < spacing_mm < math.inf:
        raise ArgumentError(f"spacing: expected a positive number of mm, got {spacing_mm:g}; give for example 4")
    # A thousandth is rounding: 40 mm in steps of 4 are 11 points.
    steps = [max(1, math.ceil(2 * half / spacing_mm - 1e-3)) for half in grid.half_extent_mm]
    if all(n < 2 for n in grid.shape):
        return grid
    shape = tuple(n if n < 2 else min(n, step + 1) for n, step in zip(grid.shape, steps, strict=True))
    return grid if shape == grid.shape or min(shape) < 2 else grid.resized(shape)
