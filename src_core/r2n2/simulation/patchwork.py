"""Drawn pictures of no anatomy at all: regions, ellipses and texture, so that a network cannot learn what bodies look like."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from r2n2.geometry import Grid
from r2n2.simulation.lattice import random_field, soften, square_lattice
from r2n2.simulation.slices import Pyramid

__all__ = ["draw_patchwork"]


def draw_patchwork(rng: np.random.Generator, size: int) -> Pyramid:
    """A picture (1, 1, size, size) of intensities of about 0 to 1."""
    y, x = square_lattice(size)
    # Bent lattice: no border between regions is straight.
    bend = 0.12 * random_field(rng, size, int(rng.integers(5, 10)), 2)
    y, x = y + bend[0], x + bend[1]
    draw = (_regions, _blobs)[int(rng.integers(0, 2))]
    image = draw(rng, y, x)
    for _ in range(int(rng.integers(0, 7))):
        cover = _ellipse(rng, y, x, size)
        image = image + (rng.uniform(0, 1) - image) * cover
    if rng.uniform() < 0.5:
        outline = _ellipse(rng, y, x, size, large=True)
        image = image * outline + rng.uniform(0, 0.2) * (1 - outline)
    image = image * (1 + rng.uniform(0, 0.15) * random_field(rng, size, int(rng.integers(8, 40)))[0])
    image = soften(image, rng.uniform(0.4, 0.8))
    return Pyramid((image[None, None],), (Grid((size, size)),), masked=False)


def _regions(rng: np.random.Generator, y: Tensor, x: Tensor) -> Tensor:
    """Each place has the grey value of the nearest of a few random points."""
    count = int(rng.integers(5, 25))
    seeds = torch.from_numpy(rng.uniform(-1.1, 1.1, (2, count))).float()
    # |p - s|^2 without the part that all seeds share.
    places = torch.stack((y.flatten(), x.flatten()), dim=1)
    nearest = (seeds.square().sum(0) - 2 * places @ seeds).argmin(dim=1)
    greys = torch.from_numpy(rng.uniform(0, 1, count)).float()
    return greys[nearest].view(y.shape)


def _blobs(rng: np.random.Generator, y: Tensor, x: Tensor) -> Tensor:
    """Smooth clouds cut at a few levels."""
    field = random_field(rng, y.shape[-1], int(rng.integers(6, 16)))[0]
    sharp = rng.uniform(3, 30)
    levels = rng.normal(0, 1, int(rng.integers(1, 4)))
    return torch.stack([torch.sigmoid(sharp * (field - level)) for level in levels]).mean(dim=0)


def _ellipse(rng: np.random.Generator, y: Tensor, x: Tensor, size: int, *, large: bool = False) -> Tensor:
    middle, limits = (0.15, (0.6, 0.95)) if large else (0.8, (0.05, 0.4))
    cy, cx = rng.uniform(-middle, middle, 2)
    a, b = rng.uniform(*limits, 2)
    turn = rng.uniform(0, math.pi)
    cos, sin = math.cos(turn), math.sin(turn)
    dy, dx = y - cy, x - cx
    far = (((cos * dy + sin * dx) / a).square() + ((cos * dx - sin * dy) / b).square()).sqrt()
    return ((1 - far) * min(a, b) * size / 2 + 0.5).clamp(0, 1)
