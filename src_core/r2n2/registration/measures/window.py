"""Local means on a working square: over a Gaussian window, of the pixels that count."""

from __future__ import annotations

import math
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
            for matrix in matrices:
                # Takes the first axis of space away and puts the new one last: in turn for all axes, their order is what it was.
                values = torch.tensordot(values, matrix, dims=([2], [0]))
        return values


def _axis(side: int, sigma_px: float, like: Tensor) -> tuple[Tensor, Tensor]:
    points = min(side, math.ceil(_POINTS_A_WIDTH * (side - 1) / sigma_px) + 1)
    pixels, places = (torch.linspace(0, side - 1, n, dtype=like.dtype, device=like.device) for n in (side, points))
    distance = pixels[:, None] - places[None]
    gathering = torch.exp(-0.5 * (distance / sigma_px).square())
    spreading = (1 - distance.abs() * (points - 1) / (side - 1)).clamp_min(0)
    return gathering / gathering.sum(0, keepdim=True), (spreading / spreading.sum(1, keepdim=True)).mT
