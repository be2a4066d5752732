"""Textured images and known smooth motion from which registration tests build their pairs and series."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from r2n2.config import BSplineConfig, FitConfig, RegistrationConfig
from r2n2.geometry import Grid
from r2n2.preprocessing import blur
from r2n2.registration import Pairs
from r2n2.series import ImageSeries
from r2n2.transform import GaussianSequence, Transform, warp_image

GRID = Grid((61, 83), (1.7, 0.9), (3.0, -8.0), ((0.0, -1.0), (1.0, 0.0)))
FAST_FIT = FitConfig(sizes=(16, 32, 48), rounds=2, steps_a_round=3, final_steps=3, regulariser_size=12)
FAST = RegistrationConfig(
    method="fit",
    steps=8,
    fit=FAST_FIT,
    bspline=BSplineConfig(control_points=12, iterations=16, learning_rate=1e-2),
    device="cpu",
)


def texture(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """Sum of random noise blurred to three widths, (1, *shape) float32, between 0 and 200."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.zeros(1, 1, *shape, dtype=torch.float64)
    for width in (1.5, 3.0, 6.0):
        noise = torch.randn(1, 1, *shape, generator=generator, dtype=torch.float64)
        image = image + blur(noise, (width,) * len(shape)) * width ** (len(shape) / 2)
    image = image - image.min()
    return (200 * image / image.max()).float()[0]


def motion(grid: Grid, size: float = 0.06, seed: int = 0, width: float = 0.3) -> GaussianSequence:
    """Two Gaussians near the middle of the frame of about ``size`` each, NORMALISED."""
    generator = torch.Generator().manual_seed(seed)
    ndim = grid.ndim
    extent = torch.tensor(grid.half_extent_mm) / grid.unit_mm
    centres = (torch.rand(2, ndim, generator=generator) - 0.5) * extent
    sigmas = width * (0.83 + 0.33 * torch.rand(2, ndim, generator=generator)) * float(extent.min())
    amplitudes = size * torch.nn.functional.normalize(torch.randn(2, ndim, generator=generator), dim=1)
    angles = torch.rand(2, 1 if ndim == 2 else 3, generator=generator) * math.pi / 2
    return GaussianSequence(centres, sigmas, angles, amplitudes, grid)


def moved_pair(grid: Grid = GRID, size: float = 0.06, seed: int = 0, width: float = 0.3) -> tuple[Tensor, Tensor, GaussianSequence]:
    """Fixed and moving (1, *shape), and the exact pull-back between them: fixed(x) = moving(x + f(x))."""
    moving = texture(grid.shape, seed)
    exact = motion(grid, size, seed, width)
    return warp_image(moving, exact), moving, exact


def pairs_of(*images: tuple[Tensor, Tensor], grid: Grid = GRID) -> Pairs:
    """A batch of (fixed, moving), every pixel of which is measured."""
    fixed, moving = (torch.stack(part) for part in zip(*images, strict=True))
    valid = torch.ones_like(fixed, dtype=torch.bool)
    return Pairs(fixed, moving, valid, valid, grid)


def error_px(found: Transform, exact: Transform, margin: int = 5) -> Tensor:
    """End-point error at every pixel away from the frame's edge, in pixels of the finest spacing."""
    grid = exact.grid
    difference = found.displacement_field().to_space(exact.displacement_field().space).vectors - exact.displacement_field().vectors
    inside = (slice(margin, -margin),) * grid.ndim
    return difference.norm(dim=0)[inside] * grid.unit_mm / min(grid.spacing)


def moving_series(
    frames: int = 5, grid: Grid = GRID, *, dtype: Any = np.float32, size: float = 0.05, reference: int = 0
) -> tuple[ImageSeries, tuple[GaussianSequence, ...]]:
    """A series in which frame k shows the reference moved by its own Gaussians, and the exact pull-backs."""
    fixed = texture(grid.shape, 3)
    stack, exact = [], []
    for k in range(frames):
        f = motion(grid, 0.0 if k == reference else size, seed=k)
        # To first order the inverse of a small smooth motion is its negative; only who needs it exact uses moved_pair.
        opposite = GaussianSequence(f.centres, f.sigmas, f.orientation, -f.amplitudes, grid)
        stack.append(warp_image(fixed, opposite).numpy())
        exact.append(f)
    values: NDArray[Any] = np.stack(stack)
    return ImageSeries(np.rint(values).astype(dtype) if np.dtype(dtype).kind in "iu" else values.astype(dtype), grid), tuple(exact)
