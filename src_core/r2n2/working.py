"""The lattices that methods work on: in 2D the square around a frame, in 3D one over the extent of the volume and no more."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from r2n2.geometry import Grid
from r2n2.preprocessing import Square, reducing_matrix, to_square

__all__ = ["counting_share", "to_working", "working_grid"]

_FEWEST = 4  # along an axis that has so many: with fewer, nothing could be said to change along it
# A voxel of a coarser lattice counts where so much of what it averages does, of the most that is covered anywhere.
_COVERED = 0.9
_LEAST_SHARE = 0.01


def working_grid(grid: Grid, size: int) -> Grid:
    """The lattice of ``size`` points along the longest side that stands for a frame; shares NORMALISED space with its grid.

    In 3D it has the extent of the volume, spacings as alike as can be, and along no axis more points than there are voxels: a slab
    of a few slices keeps its slices.
    """
    if grid.ndim == 2:
        return grid.enclosing_cube(size)
    return grid.resized(_counts(grid, size))


def _counts(grid: Grid, size: int) -> tuple[int, ...]:
    sides = [round((size - 1) * extent / grid.unit_mm) + 1 for extent in grid.half_extent_mm]
    return tuple(min(n, max(_FEWEST, side)) for n, side in zip(grid.shape, sides, strict=True))


def to_working(images: Tensor, valid: Tensor, grid: Grid, size: int, *, weight: Tensor | None = None) -> Square:
    """Resample frames to the ``working_grid`` of ``size``, low-pass filtered where that is coarser.

    Parameters
    ----------
    images, valid
        (B, 1, *grid.shape) float and bool.
    weight
        (B, 1, *grid.shape) in [0, 1] of a mask; pixels of weight 0 then have no part in any other.
    """
    if grid.ndim == 2:
        return to_square(images, valid, grid, size, weight=weight)
    return _reduced(images, valid, grid, working_grid(grid, size), weight)


def counting_share(fixed: Square, moving: Square, frame: Grid) -> Tensor:
    """Share (B or 1, 1, 1) of a frame that masks let count, of the most that any pixel counts; 1 without masks.

    A regulariser is a mean over the whole frame, a data term one over what counts. Where the data term is not multiplied by this
    share, a mask makes the motion inside rougher, by as much as the mask is small.

    Parameters
    ----------
    fixed, moving
        On a working lattice of the frame.
    frame
        Lattice of the frame.
    """
    share = fixed.images.new_ones(1, 1, 1)
    for square in (fixed, moving):
        if square.weight is not None:
            weight = square.weight.flatten(1)
            sides = zip(frame.half_extent_mm, square.grid.half_extent_mm, strict=True)
            shown = weight.shape[1] * math.prod(inner / outer for inner, outer in sides if outer)
            counting = weight.sum(1) / weight.amax(1).clamp_min(torch.finfo(weight.dtype).tiny) / shown
            share = torch.minimum(share, counting.clamp(_LEAST_SHARE, 1).view(-1, 1, 1))
    return share


def _reduced(images: Tensor, valid: Tensor, grid: Grid, target: Grid, weight: Tensor | None) -> Square:
    """Volumes on a coarser lattice: averages of the voxels that count alone, as in ``preprocessing.reduce_masked``."""
    ratios = [t / s for t, s in zip(target.spacing, grid.spacing, strict=True)]
    sigmas = [0.5 * math.sqrt(r * r - 1) if r > 1 else 0.0 for r in ratios]
    matrices = [reducing_matrix(grid, target, axis, sigma, images)[0] for axis, sigma in enumerate(sigmas)]

    def reduced(values: Tensor) -> Tensor:
        for matrix in matrices:
            # Takes the first axis of space away and puts the new one last: in turn for all axes, their order is what it was.
            values = torch.tensordot(values, matrix, dims=([2], [0]))
        return values

    if weight is None and bool(valid.all()):
        small = reduced(images)
        return Square(small, torch.ones_like(small, dtype=torch.bool), target)
    # One map after the other: of a volume, each is large.
    part = valid if weight is None else valid & (weight > 0)
    total = reduced(torch.where(part, images, 0))
    covered = reduced(part.to(images.dtype))
    enough = covered > _COVERED * covered.flatten(1).amax(1).view(-1, *[1] * (covered.ndim - 1))
    share = None if weight is None else reduced(weight * part) * enough
    return Square(total / covered.clamp_min(1e-6), enough, target, share)
