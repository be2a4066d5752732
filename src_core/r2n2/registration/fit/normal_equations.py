"""The normal equations of a Gauss-Newton step for sums of Gaussians: of the image difference and of the diffusion regulariser.

Unknowns are ordered by Gaussian, then amplitude, centre and shape, as in ``WhitenedGaussians.changed``. Both objectives are written
as (1/2) d(objective) so that matrix @ change = -vector minimises the linearised objective.
"""

from __future__ import annotations

import torch
from torch import Tensor

from r2n2.geometry import Grid
from r2n2.registration.fit.whitened import WhitenedGaussians

__all__ = ["data_matrix", "matrix_of_products", "regulariser_equations", "solve_damped"]

_PAIRS_AT_ONCE = 4  # beyond, the Jacobians no longer stay in memory that is at hand: half as fast
_FLOOR = 1e-6  # of the largest diagonal entry: a Gaussian of no amplitude has no slope in its position and shape


def data_matrix(model: WhitenedGaussians, positions: Tensor, slope: Tensor, weight: Tensor) -> Tensor:
    """Matrix of sum over pixels of weight (residual + slope . change of the displacement)^2.

    Its right side, sum of weight * residual * slope . derivative, is ``WhitenedGaussians.pulled_back``: that one is cheap for all
    pixels, while a sample of them does for the matrix, which decides how fast a minimum is reached and not where it lies.

    Parameters
    ----------
    positions
        (ndim, P) NORMALISED.
    slope
        (B, ndim, P) image gradient.
    weight
        (B, 1, P).

    Returns
    -------
    Tensor
        (B, K q, K q), q = ``model.freedom``.
    """
    projection, products = slope * weight.sqrt(), []
    for first in range(0, len(slope), _PAIRS_AT_ONCE):
        some = slice(first, first + _PAIRS_AT_ONCE)
        products.append(_times_own_transpose(model.part(some).projected(positions, projection[some]).flatten(1, 2)))
    return torch.cat(products)


def _times_own_transpose(rows: Tensor) -> Tensor:
    """Product (B, N, N) of rows (B, N, P) with their transpose; it is symmetric, so a quarter of the work is left out."""
    half = rows.shape[1] // 2
    upper = rows[:, :half] @ rows.mT
    lower = rows[:, half:] @ rows[:, half:].mT
    return torch.cat((upper, torch.cat((upper[:, :, half:].mT, lower), 2)), 1)


def regulariser_equations(model: WhitenedGaussians, positions: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Matrix and right side of ``similarity.diffusion`` on the lattice ``grid`` whose positions (ndim, P) are given.

    All of it follows from the inner products of the gradients of the Gaussians' weights and of their derivatives.
    """
    ndim, (batch, count) = model.ndim, model.centres.shape[:2]
    parts = model.derivatives(positions).unflatten(3, grid.shape)
    width = parts.shape[2]
    inner: Tensor | None = None
    for axis in range(ndim):
        rise = parts.diff(dim=3 + axis) * (grid.unit_mm / grid.spacing[axis])
        for other in range(ndim):
            if other != axis:
                rise = rise.narrow(3 + other, 0, rise.shape[3 + other] - 1)
        flat = rise.flatten(3).flatten(1, 2)
        product = flat @ flat.mT
        inner = product / flat.shape[2] if inner is None else inner.add_(product, alpha=1 / flat.shape[2])
    assert inner is not None
    gram, v = inner.view(batch, count, width, count, width), model.amplitudes
    vector = gram.new_empty(batch, count, model.freedom)
    vector[..., :ndim] = gram[:, :, 0, :, 0] @ v
    vector[..., ndim:] = (gram[:, :, 1:, :, 0] * (v @ v.mT)[:, :, None, :]).sum(-1)
    return matrix_of_products(model, inner), vector.flatten(1)


def matrix_of_products(model: WhitenedGaussians, inner: Tensor) -> Tensor:
    """Matrix (B, K q, K q) of a quadratic form that sums over components of the field, from that of one component.

    The field of a Gaussian is its amplitude times a scalar, so the products of all unknowns are those of the scalars times those of
    the amplitudes: places are passed once, for 6 scalars a Gaussian in 2D instead of 7 vectors.

    Parameters
    ----------
    inner
        (B, K s, K s) products of the ``derivatives``, s of each Gaussian.
    """
    ndim, (batch, count) = model.ndim, model.centres.shape[:2]
    gram = inner.view(batch, count, -1, count, inner.shape[2] // max(count, 1))
    v = model.amplitudes
    shared = v @ v.mT
    matrix = gram.new_zeros(batch, count, model.freedom, count, model.freedom)
    for j in range(ndim):
        matrix[:, :, j, :, j] = gram[:, :, 0, :, 0]
        matrix[:, :, j, :, ndim:] = gram[:, :, 0, :, 1:] * v[:, None, :, j, None]
        matrix[:, :, ndim:, :, j] = gram[:, :, 1:, :, 0] * v[:, :, None, j, None]
    matrix[:, :, ndim:, :, ndim:] = gram[:, :, 1:, :, 1:] * shared[:, :, None, :, None]
    return matrix.flatten(3, 4).flatten(1, 2)


def solve_damped(matrix: Tensor, vector: Tensor, damping: Tensor) -> Tensor:
    """Change (B, N) of (matrix + damping * its diagonal) @ change = -vector; 0 for a pair whose matrix is not usable."""
    diagonal = matrix.diagonal(dim1=1, dim2=2)
    added = damping[:, None] * diagonal + _FLOOR * diagonal.amax(1, keepdim=True) + torch.finfo(matrix.dtype).tiny
    factor, failed = torch.linalg.cholesky_ex(matrix + torch.diag_embed(added))
    change = -torch.cholesky_solve(vector.unsqueeze(-1), factor).squeeze(-1)
    usable = (failed == 0)[:, None] & change.isfinite().all(1, keepdim=True)
    return torch.where(usable, change, torch.zeros_like(change))
