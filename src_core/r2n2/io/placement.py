"""Where the slices of a volume lie: from a file's x-first geometry in LPS mm to the grids of its slices in array order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from r2n2.errors import ReadError
from r2n2.geometry import Grid

__all__ = ["Placement", "plane_grid", "slice_grids"]

_PARALLEL = 1e-3
_ROUNDING = 1e-5
_LARGEST_SHEAR = 1e-3


@dataclass(frozen=True)
class Placement:
    """Position of a volume in the patient.

    Parameters
    ----------
    spacing
        (z, y, x) mm.
    origin
        LPS position in mm of the first voxel's centre, (z, y, x).
    direction
        Array order; column k is the LPS direction of axis k.
    """

    spacing: tuple[float, float, float]
    origin: tuple[float, float, float]
    direction: tuple[tuple[float, ...], ...]

    @classmethod
    def from_x_first(
        cls, spacing: Sequence[float], origin: Sequence[float], direction: NDArray[np.float64], *, path: object
    ) -> Placement:
        """From ITK's order: the only flip on the reading side.

        Raises
        ------
        ReadError
            If the axes are singular or sheared.
        """
        flipped = np.asarray(direction, dtype=np.float64)[::-1, ::-1]
        z, y, x = (float(s) for s in reversed(spacing))
        oz, oy, ox = (float(o) for o in reversed(origin))
        return cls((z, y, x), (oz, oy, ox), orthonormal(flipped, path=path))

    def x_first(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Spacing, origin and direction in ITK's order."""
        return np.array(self.spacing[::-1]), np.array(self.origin[::-1]), np.array(self.direction)[::-1, ::-1]


def orthonormal(direction: NDArray[np.float64], *, path: object) -> tuple[tuple[float, ...], ...]:
    """Remove rounding from a direction matrix.

    Raises
    ------
    ReadError
        If it is singular, not finite or sheared.
    """
    if not np.isfinite(direction).all() or abs(np.linalg.det(direction)) < 0.5:
        raise ReadError(f"{path}: the orientation matrix is singular or not finite: {direction.tolist()}; correct the header")
    left, _, right = np.linalg.svd(direction)
    nearest = left @ right
    deviation = float(np.abs(nearest - direction).max())
    if deviation > _LARGEST_SHEAR:
        raise ReadError(f"{path}: the axes are sheared by {deviation:.3g}; resample the image to perpendicular axes first")
    exact = direction if deviation < 1e-12 else np.where(np.abs(nearest) < _ROUNDING, 0.0, nearest)
    if deviation >= 1e-12:  # rounding small entries to zero must not leave the columns unnormalised
        exact = exact / np.linalg.norm(exact, axis=0)
    return tuple(tuple(float(v) for v in row) for row in exact)


def slice_grids(placement: Placement, shape_yx: tuple[int, int], index: int) -> tuple[Grid, Grid]:
    """The 2D grid and the one-pixel-thick patient grid of slice ``index`` of a volume.

    The 2D grid has the patient's origin and direction where the slice is parallel to the axial plane, else it is in-plane:
    origin 0, axes along rows and columns.
    """
    direction = np.array(placement.direction)
    start = np.array(placement.origin) + index * placement.spacing[0] * direction[:, 0]
    origin = tuple(float(o) for o in start)
    patient = Grid((1, *shape_yx), placement.spacing, origin, placement.direction)
    spacing = placement.spacing[1:]
    if math.isclose(abs(direction[0, 0]), 1.0, abs_tol=_PARALLEL) and np.abs(direction[0, 1:]).max() < _PARALLEL:
        in_plane = orthonormal(direction[1:, 1:], path="slice")
        return Grid(shape_yx, spacing, origin[1:], in_plane), patient
    return Grid(shape_yx, spacing), patient


def plane_grid(grid: Grid, spacing: Sequence[float]) -> Grid:
    """A grid with another in-plane spacing (y, x), or with (z, y, x); the first pixel stays where it is."""
    wanted = tuple(spacing)
    if len(wanted) < grid.ndim:
        wanted = (grid.spacing[0], *wanted)
    return replace(grid, spacing=wanted[-grid.ndim :])
