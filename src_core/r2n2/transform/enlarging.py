"""Smooth fields on few points, enlarged to all pixels of a grid an axis at a time by interpolating cubic splines.

Two axes out of three are matrix products with small matrices, so a sum of K Gaussians costs K values a point and not K a pixel. A
Gaussian of standard deviation s on points h apart comes out to about 0.02 (h / s)^4 of its amplitude.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from r2n2.geometry import Grid
from r2n2.transform.bspline import bspline_basis
from r2n2.transform.warp import normalised_axes

__all__ = ["CoarseLattice"]

# Points beyond either end: what the spline does not know there fades by 0.27 a point (the pole of cubic interpolation).
_BEYOND = 4


@dataclass(frozen=True, eq=False)
class CoarseLattice:
    """Points on which a smooth field is evaluated, and how it gets from there to the pixels of a grid.

    Along an axis on which that would save nothing the points are the pixels themselves.

    Parameters
    ----------
    axes
        (m,) NORMALISED positions of the points along each axis; the first and last few lie beyond the grid.
    matrices
        (n, m) an axis: from its points to its n pixels; None where the points are the pixels.
    """

    axes: tuple[Tensor, ...]
    matrices: tuple[Tensor | None, ...]

    @classmethod
    def build(cls, grid: Grid, counts: Sequence[int], like: Tensor) -> CoarseLattice:
        """With so many points along each axis of the grid, in the dtype and on the device of ``like``."""
        axes: list[Tensor] = []
        matrices: list[Tensor | None] = []
        for pixels, count in zip(normalised_axes(grid, like), counts, strict=True):
            size, total = len(pixels), count + 2 * _BEYOND
            if count < 2 or total >= size:
                axes.append(pixels)
                matrices.append(None)
                continue
            step = (pixels[-1] - pixels[0]) / (count - 1)
            axes.append(pixels[0] + step * (torch.arange(total, dtype=like.dtype, device=like.device) - _BEYOND))
            matrices.append(_interpolating(count, size).to(like))
        return cls(tuple(axes), tuple(matrices))

    @property
    def counts(self) -> tuple[int, ...]:
        """Points along each axis, those beyond the grid included."""
        return tuple(len(axis) for axis in self.axes)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the grid."""
        return tuple(len(a) if m is None else len(m) for a, m in zip(self.axes, self.matrices, strict=True))

    def lattice(self) -> Tensor:
        """(ndim, *counts) NORMALISED positions of the points."""
        return torch.stack(torch.meshgrid(*self.axes, indexing="ij"))

    def enlarged(self, values: Tensor, rows: slice = slice(None)) -> Tensor:
        """Values (B, C, *counts) of the points on the pixels, (B, C, *shape), or on some rows of the first axis of space."""
        matrices = list(self.matrices)
        if matrices[0] is None:
            values = values[:, :, rows]
        else:
            matrices[0] = matrices[0][rows]
        return _along_axes(values, [None if matrix is None else matrix.mT for matrix in matrices])

    def gathered(self, values: Tensor) -> Tensor:
        """Values (B, C, *shape) of the pixels summed on the points, (B, C, *counts): the transpose of ``enlarged``."""
        return _along_axes(values, self.matrices)


def _along_axes(values: Tensor, matrices: Sequence[Tensor | None]) -> Tensor:
    """Values (B, C, *shape) times a matrix along each axis of space that has one."""
    for matrix in matrices:
        # Takes the first axis of space away and puts the new one last: in turn for all axes, their order is what it was.
        values = values.movedim(2, -1) if matrix is None else torch.tensordot(values, matrix, dims=([2], [0]))
    return values


def _interpolating(count: int, size: int) -> Tensor:
    """(size, count + 2 beyond) float64 from the points to the pixels: the cubic spline through the points, straight at its ends."""
    total = count + 2 * _BEYOND
    through = torch.eye(total, dtype=torch.float64) * (2 / 3)
    inner = torch.arange(total - 1)
    through[inner, inner + 1] = through[inner + 1, inner] = 1 / 6
    through[[0, -1]] = torch.eye(total, dtype=torch.float64)[[0, -1]]
    place = _BEYOND - 1 + torch.linspace(0, count - 1, size, dtype=torch.float64)
    return torch.linalg.solve(through, bspline_basis(place / (total - 3), total), left=False)
