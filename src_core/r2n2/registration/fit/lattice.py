"""Where a sum of Gaussians is evaluated on a working square: on its pixels, or on fewer points that are interpolated."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from r2n2.geometry import Grid
from r2n2.registration.fit.whitened import WhitenedGaussians
from r2n2.transform import normalised_lattice

__all__ = ["SummingLattice"]


@dataclass(frozen=True, eq=False)
class SummingLattice:
    """The points at which displacements are summed, and how they reach the pixels of a square.

    On a large square displacements are interpolated from a smaller lattice, to 1 % of an amplitude: the narrowest Gaussian allowed
    spans two of its points. Results never hold an interpolated displacement.
    """

    shape: tuple[int, ...]
    """Of the working square."""
    positions: Tensor
    """(ndim, P) NORMALISED of the points."""
    enlarging: Tensor | None
    """(side of the square, side of the lattice) that interpolates an axis, or None where they are the same."""

    @classmethod
    def build(cls, grid: Grid, most: int, like: Tensor) -> SummingLattice:
        """For a working square and at most so many points a side, in the dtype and on the device of ``like``."""
        summed = grid.resized((min(grid.shape[0], most),) * grid.ndim)
        if summed.shape == grid.shape:
            return cls(grid.shape, normalised_lattice(grid, like).flatten(1), None)
        enlarging = _interpolation(summed.shape[0], grid.shape[0], like, cubic=grid.ndim == 2)
        return cls(grid.shape, normalised_lattice(summed, like).flatten(1), enlarging)

    def displacement(self, model: WhitenedGaussians) -> Tensor:
        """On the pixels of the square, (B, ndim, *shape), NORMALISED."""
        field = model.displacement(self.positions)
        if self.enlarging is None:
            return field.unflatten(2, self.shape)
        field = field.unflatten(2, (self.enlarging.shape[1],) * len(self.shape))
        for _ in self.shape:
            # Takes the first axis of space away and puts the new one last: in turn for all axes, their order is what it was.
            field = torch.tensordot(field, self.enlarging, dims=([2], [1]))
        return field

    def gathered(self, values: Tensor) -> Tensor:
        """Values (B, ndim, pixels) of the square summed on the points, (B, ndim, P): the transpose of the interpolation."""
        if self.enlarging is None:
            return values
        values = values.unflatten(2, self.shape)
        for _ in self.shape:
            values = torch.tensordot(values, self.enlarging, dims=([2], [0]))
        return values.flatten(2)


def _interpolation(count: int, size: int, like: Tensor, *, cubic: bool) -> Tensor:
    """(size, count) that interpolates ``count`` points at ``size`` places, both from end to end: torch's bicubic, or linear."""
    unit = torch.eye(count, dtype=like.dtype, device=like.device)[None, None]
    mode = "bicubic" if cubic else "bilinear"
    return functional.interpolate(unit, (size, count), mode=mode, align_corners=True)[0, 0]
