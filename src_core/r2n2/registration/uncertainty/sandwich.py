"""How far noise and what the Gaussians do not explain may have moved a sum of Gaussians: its sandwich covariance, NORMALISED.

Were the residual another draw of the same kind, blocks of pixels drawn instead of single ones because neighbours are alike, the
minimum would move by H^-1 times the sum of the blocks' scores. Over all draws (Poisson bootstrap of blocks, one Newton step) that
has the covariance H^-1 G G' H^-1, G the scores of the blocks (Huber 1967; White 1982; for images Kybic 2010).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from r2n2.geometry import Grid
from r2n2.registration.fit.normal_equations import data_matrix, regulariser_equations
from r2n2.registration.fit.whitened import WhitenedGaussians
from r2n2.registration.uncertainty.eigenvalues import largest_eigenvalue
from r2n2.transform import normalised_lattice

__all__ = ["sandwich_sigma"]

_FLOOR = 1e-4  # of the diagonal, and of its mean: a Gaussian of no amplitude has no slope in its position and shape
_POOL = 2  # pixels a side whose forces are summed first: the narrowest Gaussian hardly changes over them
_POOLS_A_BLOCK = 4
_STRIDE = 2  # of the pixels from which the curvature is taken
_REGULARISER_SIDE = 24


def sandwich_sigma(
    model: WhitenedGaussians,
    residual: Tensor,
    slope: Tensor,
    weight: Tensor,
    grid: Grid,
    *,
    places: Tensor,
    regularisation: float,
) -> Tensor:
    """Standard deviation of the displacement along the direction in which it is least certain.

    Parameters
    ----------
    model
        The Gaussians of B pairs.
    residual
        (B, 1, *grid.shape) warped - fixed, z-scored.
    slope
        (B, ndim, *grid.shape) image gradient that the residual's change follows, per NORMALISED unit.
    weight
        (B, 1, *grid.shape) of each pixel in the objective; they sum to about 1.
    grid
        The working square.
    places
        (ndim, Q) NORMALISED, where it is wanted.
    regularisation
        Weight of the diffusion.

    Returns
    -------
    Tensor
        (B, Q) NORMALISED; 0 where no Gaussian reaches, which says nothing.
    """
    if not len(model):
        return residual.new_zeros(len(residual), places.shape[1])
    factor = torch.linalg.cholesky(_curvature(model, slope, weight, grid, regularisation))
    # One column a block: where its score alone would move the minimum, and with it the displacement at every place.
    moved = torch.cholesky_solve(_block_scores(model, slope * (residual * weight), grid), factor)
    return _largest_deviation(model, moved, places)


def _curvature(model: WhitenedGaussians, slope: Tensor, weight: Tensor, grid: Grid, regularisation: float) -> Tensor:
    """(B, N, N) half the Hessian of the objective in the Gauss-Newton approximation."""
    positions = _thinned(normalised_lattice(grid, slope), grid.ndim).flatten(1)
    some = _thinned(weight, grid.ndim).flatten(2) * _STRIDE**grid.ndim
    matrix = data_matrix(model, positions, _thinned(slope, grid.ndim).flatten(2), some)
    coarse = grid.resized((min(_REGULARISER_SIDE, grid.shape[0]),) * grid.ndim)
    regulariser, _ = regulariser_equations(model, normalised_lattice(coarse, slope).flatten(1), coarse)
    matrix = matrix.add_(regulariser, alpha=regularisation)
    diagonal = matrix.diagonal(dim1=1, dim2=2)
    added = _FLOOR * (diagonal + diagonal.mean(1, keepdim=True)) + torch.finfo(matrix.dtype).tiny
    return matrix + torch.diag_embed(added)


def _thinned(values: Tensor, ndim: int) -> Tensor:
    for axis in range(-ndim, 0):
        values = values.unfold(axis, 1, _STRIDE).squeeze(-1)
    return values


def _block_scores(model: WhitenedGaussians, force: Tensor, grid: Grid) -> Tensor:
    """(B, N, blocks): the derivative of half the objective, of the forces (B, ndim, *grid.shape) of each block of pixels."""
    pool = functional.avg_pool2d if grid.ndim == 2 else functional.avg_pool3d
    forces = pool(force, _POOL) * _POOL**grid.ndim
    positions = pool(normalised_lattice(grid, force), _POOL)
    shape, scores = forces.shape[2:], []
    block = tuple(min(_POOLS_A_BLOCK, n) for n in shape)  # a slab may have fewer slices
    # A pair at a time: the Jacobian of one fits into memory that is at hand.
    for k in range(len(force)):
        rows = model.part(slice(k, k + 1)).projected(positions.flatten(1), forces[k : k + 1].flatten(2))
        rows = rows.view(1, -1, *shape)
        scores.append(pool(rows, block, ceil_mode=True, divisor_override=1).flatten(2))
    return torch.cat(scores)


def _largest_deviation(model: WhitenedGaussians, moved: Tensor, places: Tensor) -> Tensor:
    """Root of the largest eigenvalue (B, Q) of the displacement's covariance under the changes (B, N, M) of the numbers."""
    ndim, count = model.ndim, len(model)
    change = moved.unflatten(1, (count, model.freedom))
    parts = model.derivatives(places)
    # A change moves the displacement by w times that of the amplitude, and along the amplitude by the weight's own change.
    along = model.amplitudes[..., None, None] * change[:, :, None, ndim:]
    both = torch.cat((change[:, :, :ndim, None], along), 3)
    displacement = parts.flatten(1, 2).mT @ both.transpose(2, 3).flatten(3).flatten(1, 2)
    vectors = displacement.unflatten(2, (ndim, -1))
    return largest_eigenvalue(vectors @ vectors.mT).clamp_min(0).sqrt()
