"""Local means on a working square: over a Gaussian window, of the pixels that count."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from r2n2.geometry import Grid

__all__ = ["Window"]

_POINTS_A_WIDTH = 1.5  # of the lattice on which means are taken: a Gaussian this wide is interpolated to 2 %
_LEAST_PX = 1.5


@dataclass(frozen=True, eq=False)
class Window:
    """Gaussian means about every pixel, taken on a lattice as coarse as the window allows and interpolated linearly.

    Parameters
    ----------
    gathering
        An axis: (side, points), shares of its pixels in the mean about each point; columns sum to 1.
    spreading
        An axis: (points, side), that interpolates.
    """

    gathering: tuple[Tensor, ...]
    spreading: tuple[Tensor, ...]

    @classmethod
    def build(cls, grid: Grid, sigma: float, like: Tensor) -> Window:
        """Of standard deviation ``sigma``, NORMALISED, on ``grid``; at least 1.5 pixels of each axis."""
        axes = [
            _axis(n, max(sigma * grid.unit_mm / step, _LEAST_PX), like) for n, step in zip(grid.shape, grid.spacing, strict=True)
        ]
        gathering, spreading = zip(*axes, strict=True)
        return cls(gathering, spreading)

    def means(self, values: Tensor) -> Tensor:
        """(B, C, *shape) of values (B, C, *shape), each the mean about its pixel."""
        for matrices in (self.gathering, self.spreading):
            values = _along_axes([matrix.mT for matrix in matrices], values)
        return values

    def transposed(self, values: Tensor) -> Tensor:
        """The transpose of ``means``, (B, C, *shape) of (B, C, *shape): a derivative by means as one by what they are of."""
        for matrices in (self.spreading, self.gathering):
            values = _along_axes(matrices, values)
        return values


def _along_axes(matrices: Sequence[Tensor], values: Tensor) -> Tensor:
    """Values (B, C, *shape) with a matrix (m, n) applied along each axis of space, of n points."""
    for axis, matrix in enumerate(matrices, start=2):
        if axis == values.ndim - 1:
            values = values @ matrix.mT
            continue
        # The axes before are the batch of a product and those behind its columns: none is copied to the front.
        shape = (*values.shape[:axis], len(matrix), *values.shape[axis + 1 :])
        values = (matrix @ values.flatten(axis + 1).flatten(0, axis - 1)).view(shape)
    return values


def _axis(side: int, sigma_px: float, like: Tensor) -> tuple[Tensor, Tensor]:
    points = min(side, math.ceil(_POINTS_A_WIDTH * (side - 1) / sigma_px) + 1)
    pixels, places = (torch.linspace(0, side - 1, n, dtype=like.dtype, device=like.device) for n in (side, points))
    distance = pixels[:, None] - places[None]
    gathering = torch.exp(-0.5 * (distance / sigma_px).square())
    spreading = (1 - distance.abs() * (points - 1) / (side - 1)).clamp_min(0)
    return gathering / gathering.sum(0, keepdim=True), (spreading / spreading.sum(1, keepdim=True)).mT
