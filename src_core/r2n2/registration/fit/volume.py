"""What fit needs beside to work on volumes: displacements summed on few points, limits of slabs, and a sampled regulariser."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from r2n2.geometry import Grid
from r2n2.registration.fit.local import local_diffusion_matrix
from r2n2.registration.fit.whitened import WhitenedGaussians
from r2n2.transform import CoarseLattice
from r2n2.working import working_grid

__all__ = ["VolumeLattice", "sampled_diffusion_equations", "slice_widths", "within_slab"]

_RATIO = 1.2207440846057596
_REACH = 0.1  # by which a centre may lie outside, if its Gaussian is as wide


@dataclass(frozen=True, eq=False)
class VolumeLattice:
    """Where a sum of Gaussians is evaluated for a working lattice: on fewer points, through which cubic splines are drawn."""

    points: CoarseLattice
    positions: Tensor
    """(3, P) NORMALISED of the points."""

    @classmethod
    def build(cls, grid: Grid, most: int, like: Tensor) -> VolumeLattice:
        """For a working lattice and at most so many points along its longest side, in the dtype and on the device of ``like``."""
        counts = working_grid(grid, most).shape if most < max(grid.shape) else grid.shape
        points = CoarseLattice.build(grid, counts, like)
        return cls(points, points.lattice().flatten(1))

    def displacement(self, model: WhitenedGaussians) -> Tensor:
        """On the voxels of the working lattice, (B, 3, *shape), NORMALISED."""
        return self.points.enlarged(model.displacement(self.positions).unflatten(2, self.points.counts))

    def gathered(self, values: Tensor) -> Tensor:
        """Values (B, 3, voxels) summed on the points, (B, 3, P): the transpose of the interpolation."""
        return self.points.gathered(values.unflatten(2, self.points.shape)).flatten(2)


def slice_widths(grid: Grid) -> tuple[float, ...]:
    """Distance of neighbouring voxels of a volume along each axis, NORMALISED: no Gaussian is to be narrower along it."""
    return tuple(spacing / grid.unit_mm for spacing in grid.spacing)


def within_slab(model: WhitenedGaussians, grid: Grid) -> WhitenedGaussians:
    """The Gaussians widened to a slice along every axis of the volume, and none farther outside of it than it is wide.

    What no slice shows nothing would hold: between two slices, or beyond the last one, a Gaussian is free to do anything.
    """
    covariance = torch.linalg.inv(model.factors.mT @ model.factors)
    variance = covariance.diagonal(dim1=-2, dim2=-1)
    short = (variance.new_tensor(slice_widths(grid)).square() - variance).clamp_min(0)
    wide = (variance + short).sqrt()
    limit = wide.clamp_max(_REACH) + variance.new_tensor(grid.half_extent_mm) / grid.unit_mm
    centres = torch.minimum(torch.maximum(model.centres, -limit), limit)
    narrow = (short > 0).any(-1)
    if not bool(narrow.any()):
        return WhitenedGaussians(centres, model.factors, model.amplitudes)
    factors = model.factors.clone()
    widened = torch.linalg.inv(covariance[narrow] + torch.diag_embed(short[narrow]))
    # Only A'A matters, so the Cholesky factor will do.
    factors[narrow] = torch.linalg.cholesky(widened).mT
    return WhitenedGaussians(centres, factors, model.amplitudes)


def sampled_diffusion_equations(
    model: WhitenedGaussians, positions: Tensor, grid: Grid, *, count: int, step: int
) -> tuple[Tensor, Tensor]:
    """Matrix (B, N, N) and right side (B, N) of ``similarity.diffusion``, N = K q: the latter exact, the former from samples.

    The slope decides where a minimum lies and needs no more than the field on the lattice; the curvature decides how fast it is
    reached, and that of 100 Gaussians in 3D would cost 10^11 operations on all of a lattice.

    Parameters
    ----------
    positions
        (3, P) NORMALISED of the lattice ``grid``.
    count
        Cells from which the curvature is taken.
    step
        Number of the step: each looks at other places.
    """
    field = model.displacement(positions).unflatten(2, grid.shape)
    vector = model.pulled_back(positions, _diffusion_force(field, grid).flatten(2)).flatten(1)
    half = positions.new_tensor(grid.half_extent_mm)[:, None] / grid.unit_mm
    cell = positions.new_tensor(grid.spacing)[:, None] / grid.unit_mm
    # The cells' first corners, each standing for as much around it.
    places = -half - cell / 2 + 2 * half * _spread(count, step * count, positions)
    return local_diffusion_matrix(model, places, cell), vector


def _spread(count: int, start: int, like: Tensor) -> Tensor:
    """(3, count) in [0, 1), evenly spread: each coordinate grows by its own irrational step (Kronecker), from ``start`` on."""
    # With the powers of the root of x^4 = x + 1 gaps are as equal as can be (Roberts 2018).
    steps = torch.tensor([[_RATIO**-1], [_RATIO**-2], [_RATIO**-3]], dtype=torch.float64)
    places = (0.5 + steps * torch.arange(start + 1, start + count + 1, dtype=torch.float64)) % 1
    return places.to(like)


def _diffusion_force(field: Tensor, grid: Grid) -> Tensor:
    """Half the derivative of ``similarity.diffusion`` by a displacement (B, ndim, *shape)."""
    force = torch.zeros_like(field)
    cells = 1
    for n in grid.shape:
        cells *= n - 1
    for axis in range(grid.ndim):
        length = grid.spacing[axis] / grid.unit_mm
        inner = [slice(None), slice(None), *(slice(None) if k == axis else slice(0, -1) for k in range(grid.ndim))]
        rise = field[tuple(inner)].diff(dim=axis + 2) / (length * length * cells)
        low, high = list(inner), list(inner)
        low[axis + 2], high[axis + 2] = slice(0, -1), slice(1, None)
        force[tuple(high)] += rise
        force[tuple(low)] -= rise
    return force
