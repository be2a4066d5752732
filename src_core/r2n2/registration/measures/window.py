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
        (side, points) shares of the pixels of an axis in the mean about each point; columns sum to 1.
    spreading
        (points, side) that interpolates.
    """

    gathering: Tensor
    spreading: Tensor

    @classmethod
    def build(cls, grid: Grid, sigma: float, like: Tensor) -> Window:
        """Of standard deviation ``sigma``, NORMALISED, on the working square ``grid``; at least 1.5 pixels."""
        size = grid.shape[0]
        sigma = max(sigma, _LEAST_PX * 2 / (size - 1))
        points = min(size, math.ceil(2 * _POINTS_A_WIDTH / sigma) + 1)
        pixels, places = (torch.linspace(-1, 1, n, dtype=like.dtype, device=like.device) for n in (size, points))
        distance = pixels[:, None] - places[None]
        gathering = torch.exp(-0.5 * (distance / sigma).square())
        spreading = (1 - distance.abs() * (points - 1) / 2).clamp_min(0)
        return cls(gathering / gathering.sum(0, keepdim=True), spreading.mT / spreading.sum(1))

    def means(self, values: Tensor) -> Tensor:
        """(B, C, *shape) of values (B, C, *shape), each the mean about its pixel."""
        for matrix in (self.gathering, self.spreading):
            for _ in range(values.ndim - 2):
                # Takes the first axis of space away and puts the new one last: in turn for all axes, their order is what it was.
                values = torch.tensordot(values, matrix, dims=([2], [0]))
        return values
