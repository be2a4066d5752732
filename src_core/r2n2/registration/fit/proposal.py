"""Where to put the next Gaussians: the places and widths at which one alone would lower the objective most.

For a round Gaussian of standard deviation s at c the linearised objective is lowered by (1/2) N' D^-1 N, with N = sum w r g and
D = sum w^2 g g' + regularisation * pi / 2^ndim s^(ndim-2): both sums over all c at once are blurred images.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from r2n2.geometry import Grid
from r2n2.preprocessing import blur
from r2n2.registration.fit.whitened import WhitenedGaussians

__all__ = ["propose"]


def propose(
    grid: Grid,
    residual: Tensor,
    slope: Tensor,
    weight: Tensor,
    *,
    count: int,
    sigmas: tuple[float, ...],
    regularisation: float,
) -> WhitenedGaussians:
    """New Gaussians for every pair, of no amplitude yet.

    Parameters
    ----------
    grid
        The working square.
    residual, weight
        (B, 1, P).
    slope
        (B, ndim, P) image gradient.
    count
        How many for each pair; after each choice, places within its reach lose their score.
    sigmas
        Standard deviations to choose from, NORMALISED.
    """
    ndim, size = grid.ndim, grid.shape[0]
    pixel = 2 / (size - 1)
    force = (slope * residual * weight).unflatten(2, grid.shape)
    pairs = [(i, j) for i in range(ndim) for j in range(i, ndim)]
    stiffness = torch.stack([(slope[:, i] * slope[:, j] * weight[:, 0]) for i, j in pairs], 1).unflatten(2, grid.shape)
    scores = []
    for sigma in sigmas:
        width = sigma / pixel
        volume = (2 * math.pi) ** (ndim / 2) * width**ndim
        numerator = blur(force, (width,) * ndim).flatten(2) * volume
        squared = blur(stiffness, (width / math.sqrt(2),) * ndim).flatten(2) * (volume / 2 ** (ndim / 2))
        # Mean over the square of |grad w|^2, whose integral is pi^(ndim/2) (ndim/2) sigma^(ndim-2).
        rough = regularisation * math.pi ** (ndim / 2) * ndim / 2 * sigma ** (ndim - 2) / 2**ndim
        scores.append(_gain(numerator, squared, pairs, rough))
    return _choose_places(torch.stack(scores, 1), grid, count, sigmas)


def _gain(numerator: Tensor, squared: Tensor, pairs: list[tuple[int, int]], rough: float) -> Tensor:
    """(1/2) N' D^-1 N at every place, (B, P)."""
    ndim = numerator.shape[1]
    matrix = numerator.new_empty(numerator.shape[0], numerator.shape[2], ndim, ndim)
    for k, (i, j) in enumerate(pairs):
        matrix[..., i, j] = matrix[..., j, i] = squared[:, k]
    matrix.diagonal(dim1=-2, dim2=-1).add_(rough + torch.finfo(matrix.dtype).tiny)
    if ndim == 2:
        a, b, d = matrix[..., 0, 0], matrix[..., 0, 1], matrix[..., 1, 1]
        y, x = numerator[:, 0], numerator[:, 1]
        determinant = (a * d - b * b).clamp_min(torch.finfo(matrix.dtype).tiny)
        return 0.5 * (d * y * y - 2 * b * x * y + a * x * x) / determinant
    solved = torch.linalg.solve(matrix, numerator.mT.unsqueeze(-1)).squeeze(-1)
    return 0.5 * (solved * numerator.mT).sum(-1)


def _choose_places(scores: Tensor, grid: Grid, count: int, sigmas: tuple[float, ...]) -> WhitenedGaussians:
    batch, ndim = len(scores), grid.ndim
    widths = scores.new_tensor(sigmas)
    axes = [torch.linspace(-1, 1, n, dtype=scores.dtype, device=scores.device) for n in grid.shape]
    positions = torch.stack(torch.meshgrid(*axes, indexing="ij")).flatten(1)
    centres, chosen = [], []
    for _ in range(count):
        best = scores.flatten(1).argmax(1)
        width, place = widths[best // scores.shape[2]], positions[:, best % scores.shape[2]].mT
        distance = (positions[None] - place[:, :, None]).square().sum(1)
        reach = torch.maximum(widths[None], width[:, None])
        scores = scores * (1 - torch.exp(-0.5 * distance[:, None] / reach.square().unsqueeze(-1)))
        centres.append(place)
        chosen.append(width)
    sigma = torch.stack(chosen, 1)
    factors = torch.eye(ndim, dtype=scores.dtype, device=scores.device) / sigma[..., None, None]
    return WhitenedGaussians(torch.stack(centres, 1), factors, scores.new_zeros(batch, count, ndim))
