"""How alike two images are under every translation at once: the masked, normalised correlation, by Fourier transforms."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from r2n2.geometry import Grid

__all__ = ["Correlations", "correlate_translations"]

_FARTHEST = 0.8  # of the side: moves no other frame of ten kinds of development than 0.6 did
_LEAST_OVERLAP = 0.15
# Pixels along an axis over which what images show hangs together: one independent measurement.
_PATCH_PX = 8
_CAUTION = 2.0
# Motion within the frame lowers the correlation of what belongs together: from here on the larger overlap is to decide.
_AS_GOOD_AS_ANY, _BETTER_STILL = 0.9, 0.1
_FLAT = 1e-4


class Correlations(NamedTuple):
    """Of every translation in whole pixels of the square, one of none first."""

    score: Tensor
    """(B, P) lower bound of the correlation coefficient, by how much of the images overlaps; -1 where too little does.

    Coefficients above 0.9 count hardly more than that."""
    shifts: Tensor
    """(P, ndim) NORMALISED: where pixels of the fixed image lie in the moving one."""


def correlate_translations(fixed: Tensor, fixed_weight: Tensor, moving: Tensor, moving_weight: Tensor, grid: Grid) -> Correlations:
    """The correlation coefficient of the fixed image with the moving one under every translation up to 80 % of the side.

    Only pixels that count in both have a part, however the images overlap (Padfield, "Masked object registration in the Fourier
    domain", IEEE TIP 2012). The score is its lower bound tanh(artanh(r) - 2 / sqrt(n)), with n the overlap in patches of 8 pixels a
    side (Fisher's transform): few pixels always find something to agree with.

    Parameters
    ----------
    fixed, moving
        (B or 1, 1, *grid.shape) and (B, 1, *grid.shape), z-scored.
    fixed_weight, moving_weight
        The same shapes, in [0, 1].
    grid
        A square, or the lattice of a volume.
    """
    ndim = grid.ndim
    axes = tuple(range(-ndim, 0))
    padded = tuple(2 * n for n in grid.shape)
    a, b = fixed[:, 0] * fixed_weight[:, 0], moving[:, 0] * moving_weight[:, 0]
    held = [
        torch.stack((w[:, 0], image, image * z[:, 0])) for w, image, z in ((fixed_weight, a, fixed), (moving_weight, b, moving))
    ]
    (one, first, square_a), (other, second, square_b) = (torch.fft.rfftn(part, padded, axes) for part in held)

    def together(f: Tensor, m: Tensor) -> Tensor:
        return torch.fft.irfftn(f.conj() * m, padded, axes)

    count = together(one, other).clamp_min(0)
    known = count.clamp_min(1.0)
    mean_a, mean_b = together(first, other) / known, together(one, second) / known
    covariance = together(first, second) / known - mean_a * mean_b
    variance_a = (together(square_a, other) / known - mean_a.square()).clamp_min(0)
    variance_b = (together(one, square_b) / known - mean_b.square()).clamp_min(0)
    coefficient = covariance / (variance_a * variance_b + _FLAT**2).sqrt()
    enough = count >= _LEAST_OVERLAP * count.flatten(1).amax(1).view(-1, *[1] * ndim)
    patches = (count / _PATCH_PX**ndim).clamp_min(1)
    bound = torch.atanh(coefficient.clamp(-0.999, _AS_GOOD_AS_ANY)) - _CAUTION / patches.sqrt()
    score = torch.tanh(bound) + _BETTER_STILL * (coefficient - _AS_GOOD_AS_ANY).clamp_min(0)
    score = torch.where(enough, score, -1)
    reached = []
    for axis, size in zip(axes, grid.shape, strict=True):
        most = math.floor(_FARTHEST * (size - 1))
        pixels = torch.arange(-most, most + 1, device=fixed.device)
        score = score.index_select(axis, pixels % (2 * size))
        reached.append(pixels.to(fixed.dtype) * (grid.spacing[axis] / grid.unit_mm))
    shifts = torch.stack(torch.meshgrid(*reached, indexing="ij"), -1).flatten(0, -2)
    return Correlations(score.flatten(1), shifts)
