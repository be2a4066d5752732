"""The square lattice that samples are made on, and smooth random fields over it: splines on a few random control values."""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["log_uniform", "random_field", "soften", "spline_matrix", "square_lattice"]


@functools.lru_cache(maxsize=16)
def square_lattice(size: int, extent: float = 1.0) -> tuple[Tensor, Tensor]:
    """Y and x, each (size, size) float32, of pixel centres that run over [-extent, extent]; shared, never to be changed."""
    axis = torch.linspace(-extent, extent, size)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return y.contiguous(), x.contiguous()


@functools.lru_cache(maxsize=256)
def spline_matrix(size: int, controls: int) -> Tensor:
    """(size, controls) weights of the uniform cubic B-spline whose control values span a line of ``size`` points."""
    # Three controls lie outside the line's ends in all, so that every point has its four.
    place = torch.linspace(0, controls - 3, size, dtype=torch.float64).clamp_max(controls - 3 - 1e-9)
    distance = (place[:, None] + 1 - torch.arange(controls, dtype=torch.float64)).abs()
    near = 2 / 3 - distance.square() + distance**3 / 2
    far = (2 - distance).clamp_min(0) ** 3 / 6
    return torch.where(distance < 1, near, far).float()


def random_field(rng: np.random.Generator, size: int, controls: int, channels: int = 1) -> Tensor:
    """Smooth noise (channels, size, size) of about unit standard deviation, with ``controls`` random values along a side."""
    values = torch.from_numpy(rng.standard_normal((channels, controls, controls), dtype=np.float32))
    matrix = spline_matrix(size, controls)
    # A cubic B-spline averages its controls: along each axis the variance falls to about 0.479.
    return matrix @ values @ matrix.T / 0.479


def soften(image: Tensor, sigma_px: float) -> Tensor:
    """An image (n, n) slightly smoothed by three weights along each axis, edges repeated; ``sigma_px`` of at most 0.8."""
    side = sigma_px**2 / 2
    padded = functional.pad(image[None, None], (1, 1, 1, 1), mode="replicate")[0, 0]
    rows = side * (padded[:-2] + padded[2:]) + (1 - 2 * side) * padded[1:-1]
    return side * (rows[:, :-2] + rows[:, 2:]) + (1 - 2 * side) * rows[:, 1:-1]


def log_uniform(rng: np.random.Generator, limits: tuple[float, float]) -> float:
    """A positive number drawn evenly in its logarithm: halving and doubling are equally likely."""
    return math.exp(rng.uniform(math.log(limits[0]), math.log(limits[1])))
