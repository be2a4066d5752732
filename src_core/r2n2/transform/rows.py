"""Displacements and warps of volumes a few planes at a time: no field of a whole volume is ever held."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from r2n2.geometry import Grid, Space
from r2n2.transform.bspline import BSplineField, bspline_basis
from r2n2.transform.displacement import Transform
from r2n2.transform.enlarging import CoarseLattice
from r2n2.transform.gaussians import GaussianSequence
from r2n2.transform.warp import normalised_axes

__all__ = ["RowField", "lattice_rows", "row_blocks"]

_VOXELS_AT_ONCE = 2**20


@dataclass(frozen=True, eq=False)
class RowField:
    """The displacement of a transform on its grid, as many rows of the first axis at a time as are asked for.

    Parameters
    ----------
    points, values
        What ``GaussianSequence.on_points`` gives, or the like: a lattice and (ndim, *counts) NORMALISED on it.
    """

    points: CoarseLattice
    values: Tensor

    @classmethod
    def of(cls, transform: Transform) -> RowField:
        """Of Gaussians, whose sum is interpolated in volumes, of a spline, or of a field, which is kept as it is."""
        grid = transform.grid
        if isinstance(transform, GaussianSequence) and grid.ndim == 3:
            return cls(*transform.on_points())
        if isinstance(transform, BSplineField):
            control = transform.control
            bases = [
                bspline_basis(torch.linspace(0, 1, n).to(control), m) for n, m in zip(grid.shape, control.shape[1:], strict=True)
            ]
            return cls(CoarseLattice(tuple(torch.arange(m) for m in control.shape[1:]), tuple(bases)), control)
        vectors = transform.displacement_field().to_space(Space.NORMALISED).vectors
        return cls(CoarseLattice(tuple(normalised_axes(grid, vectors)), (None,) * grid.ndim), vectors)

    def rows(self, rows: slice) -> Tensor:
        """(ndim, rows, ...) NORMALISED."""
        return self.points.enlarged(self.values[None], rows)[0]


def row_blocks(grid: Grid, *, overlap: int = 0) -> Iterator[slice]:
    """Rows of the first axis of a volume in blocks of about a million voxels, each going so many rows into the next; one in 2D."""
    count = grid.shape[0]
    size = count if grid.ndim == 2 else max(1, _VOXELS_AT_ONCE // math.prod(grid.shape[1:]))
    for first in range(0, max(1, count - overlap), size):
        yield slice(first, min(first + size + overlap, count))


def lattice_rows(grid: Grid, rows: slice, like: Tensor) -> Tensor:
    """(ndim, rows, ...) of ``normalised_lattice``."""
    first, *others = normalised_axes(grid, like)
    return torch.stack(torch.meshgrid(first[rows], *others, indexing="ij"))
