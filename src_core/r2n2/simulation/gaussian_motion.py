"""Random non-folding Gaussian motion, and image pairs made with it whose exact displacement is known."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from r2n2.geometry import Grid
from r2n2.transform import DisplacementField, GaussianSequence, folding_percent, jacobian_determinant, warp

__all__ = ["SyntheticPair", "random_gaussian_motion", "synthetic_pair"]


class SyntheticPair(NamedTuple):
    """A pair of images and its exact displacement."""

    fixed: Tensor
    """(1, *shape): F(x) = B(x + f(x))."""
    moving: Tensor
    """(1, *shape): the image B itself."""
    field: DisplacementField
    """f, the exact pull-back from fixed to moving."""


def random_gaussian_motion(
    grid: Grid,
    generator: torch.Generator,
    *,
    count: int = 4,
    amplitude_mm: float = 8.0,
    sigma: tuple[float, float] = (0.15, 0.4),
    min_jacobian: float = 0.3,
) -> GaussianSequence:
    """A sum of ``count`` random Gaussians that does not fold on the grid.

    Parameters
    ----------
    amplitude_mm
        Standard deviation of each component of each Gaussian's displacement, before it is reduced so as not to fold.
    sigma
        Range of the standard deviations, NORMALISED.
    min_jacobian
        Smallest Jacobian determinant allowed, in (0, 1).

    Raises
    ------
    ValueError
        If a number is out of range.
    """
    if count < 0 or amplitude_mm < 0 or not 0 < sigma[0] <= sigma[1] or not 0 < min_jacobian < 1:
        raise ValueError(
            f"random_gaussian_motion: expected count and amplitude_mm of at least 0, a rising positive sigma and min_jacobian "
            f"in (0, 1), got {count}, {amplitude_mm}, {sigma} and {min_jacobian}"
        )
    ndim = grid.ndim
    extent = torch.tensor(grid.half_extent_mm) / grid.unit_mm
    centres = (2 * torch.rand(count, ndim, generator=generator) - 1) * extent
    # Even in the logarithm: halving and doubling are equally likely.
    low, high = math.log(sigma[0]), math.log(sigma[1])
    sigmas = torch.exp(low + (high - low) * torch.rand(count, ndim, generator=generator))
    orientation = math.pi * torch.rand(count, 1 if ndim == 2 else 3, generator=generator)
    amplitudes = torch.randn(count, ndim, generator=generator) * amplitude_mm / grid.unit_mm
    while True:
        sequence = GaussianSequence(centres, sigmas, orientation, amplitudes, grid)
        determinants = jacobian_determinant(sequence.displacement_field().vectors[None], grid)
        if count == 0 or (float(determinants.min()) >= min_jacobian and not float(folding_percent(determinants)[0])):
            return sequence
        amplitudes = amplitudes * 0.8


def synthetic_pair(image: Tensor, sequence: GaussianSequence) -> SyntheticPair:
    """Image B (1, *shape) as the moving and B(x + f(x)) as the fixed image: then f is the exact pull-back.

    Raises
    ------
    ValueError
        If the image's shape is not that of the sequence's grid.
    """
    field = sequence.displacement_field()
    fixed = warp(image[None], field.vectors[None].to(image.dtype), sequence.grid).image[0]
    return SyntheticPair(fixed, image, field)
