"""A penalty that keeps sums of Gaussians from folding: its value, and its part in the normal equations.

It is the mean over a lattice of max(0, m - det)^2, with det the determinant of the Jacobian of x -> x + f(x) by forward
differences. Few places are ever near folding, so only the worst of each pair enter the equations.
"""

from __future__ import annotations

import torch
from torch import Tensor

from r2n2.geometry import Grid
from r2n2.registration.fit.whitened import WhitenedGaussians
from r2n2.transform.matrices import cofactors, determinant, rows_of

__all__ = ["folding_equations", "folding_penalty"]

_PLACES = 96  # a pair


def folding_penalty(displacement: Tensor, grid: Grid, margin: float) -> Tensor:
    """Mean squared shortfall of the determinant below ``margin``, (B,), of a displacement (B, ndim, *grid.shape), NORMALISED."""
    return _shortfall(displacement, grid, margin).square().flatten(1).mean(1)


def folding_equations(
    model: WhitenedGaussians,
    displacement: Tensor,
    positions: Tensor,
    grid: Grid,
    margin: float,
    linear: Tensor | None = None,
) -> tuple[Tensor, Tensor] | None:
    """Matrix (B, N, N) and right side (B, N) of the penalty, N = K q; None where nothing is near folding.

    Parameters
    ----------
    displacement
        (B, ndim, *grid.shape) of the model and the linear part, NORMALISED.
    positions
        (ndim, P) of the lattice ``grid``, NORMALISED.
    linear
        (B, ndim, ndim + 1) beside the model, which does not change.
    """
    ndim = grid.ndim
    shortfall = _shortfall(displacement, grid, margin)
    cells = shortfall[0].numel()
    worst, place = shortfall.flatten(1).topk(min(_PLACES, cells), dim=1)
    if not bool((worst > 0).any()):
        return None
    corner = positions.unflatten(1, grid.shape)
    for axis in range(ndim):
        corner = corner.narrow(axis + 1, 0, corner.shape[axis + 1] - 1)
    chosen = corner.flatten(1)[:, place].movedim(0, 1)
    rises, jacobian = _rises(model, chosen, grid)
    if linear is not None:
        jacobian = jacobian + linear[:, None, :, :-1].mT  # its rows are axes of the derivative
    cofactor = torch.stack([torch.stack(list(row), -1) for row in cofactors(rows_of(jacobian))], -2)
    # d det = sum over i, j of cofactor_ij d(df_j / dx_i)
    weighted = torch.stack(rises, 1)[:, :, None] * cofactor.permute(0, 2, 3, 1)[:, :, :, None, None]
    along = weighted.sum(1)
    amplitude = along[:, :, :, 0].movedim(1, 2)
    shape = (along[:, :, :, 1:] * model.amplitudes.movedim(2, 1)[..., None, None]).sum(1)
    # The residual is margin - det, so its slope is the negative; places in order count nothing.
    slope = -torch.cat((amplitude, shape), 2).flatten(1, 2) * ((worst > 0) / cells**0.5)[:, None]
    return slope @ slope.mT, (slope @ (worst / cells**0.5).unsqueeze(-1)).squeeze(-1)


def _shortfall(displacement: Tensor, grid: Grid, margin: float) -> Tensor:
    """max(0, margin - det) in every cell, (B, n-1, m-1(, k-1))."""
    columns = []
    for axis in range(grid.ndim):
        slope = displacement.diff(dim=axis + 2) * (grid.unit_mm / grid.spacing[axis])
        for other in range(grid.ndim):
            if other != axis:
                slope = slope.narrow(other + 2, 0, slope.shape[other + 2] - 1)
        columns.append(slope)
    jacobian = torch.stack(columns, 1).movedim((1, 2), (-2, -1))
    return (margin - determinant(rows_of(jacobian + torch.eye(grid.ndim).to(jacobian)))).clamp_min(0)


def _rises(model: WhitenedGaussians, places: Tensor, grid: Grid) -> tuple[list[Tensor], Tensor]:
    """Forward differences at places (B, ndim, M): of ``derivatives`` along every axis, and the Jacobian (B, M, ndim, ndim)."""
    ndim, count = grid.ndim, places.shape[2]
    steps = [s / grid.unit_mm for s in grid.spacing]
    moved = [places]
    for axis in range(ndim):
        offset = places.new_zeros(ndim, 1)
        offset[axis] = steps[axis]
        moved.append(places + offset)
    parts = model.derivatives(torch.cat(moved, 2)).split(count, dim=3)
    rises = [(parts[1 + axis] - parts[0]) / steps[axis] for axis in range(ndim)]
    jacobian = torch.stack([model.amplitudes.mT @ rise[:, :, 0] for rise in rises], 1).permute(0, 3, 1, 2)
    return rises, jacobian + torch.eye(ndim).to(jacobian)
