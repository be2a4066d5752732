"""Where to put the next Gaussians: the places and widths at which one alone would lower the objective most.

What one is worth at each place is the least-squares problem of ``r2n2.network.least_squares``; its sums over all places at once are
blurred images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from r2n2.geometry import Grid
from r2n2.network.least_squares import moments, roughness, solve
from r2n2.preprocessing import blur
from r2n2.registration.fit.whitened import WhitenedGaussians
from r2n2.transform import normalised_lattice

__all__ = ["propose", "propose_with_gains"]


def propose(
    grid: Grid,
    residual: Tensor,
    slope: Tensor,
    weight: Tensor,
    *,
    count: int,
    sigmas: tuple[float, ...],
    regularisation: float,
    least: tuple[float, ...] = (),
    flatness: float = 1.0,
) -> WhitenedGaussians:
    """New Gaussians for every pair, of no amplitude yet.

    Parameters
    ----------
    grid
        The working square.
    residual, weight
        (B, C, P) and (B, 1, P).
    slope
        (B, C, ndim, P) derivative of each channel's residual by the displacement.
    count
        How many for each pair; after each choice, places within its reach lose their score.
    sigmas
        Standard deviations to choose from, NORMALISED.
    least
        Smallest one along each axis, such as the distance of slices.
    flatness
        Above 1: each is also tried so many times thinner along any one axis, as Gaussians lie along a surface where tissue slides.
    """
    widths = _widths(sigmas, least, grid, flatness)
    scores = _scores(grid, residual, slope, weight, widths, regularisation, blur)
    return _choose_places(scores, grid, count, widths)[0]


def propose_with_gains(
    grid: Grid,
    residual: Tensor,
    slope: Tensor,
    weight: Tensor,
    *,
    count: int,
    sigmas: tuple[float, ...],
    regularisation: float,
    least: tuple[float, ...] = (),
) -> tuple[WhitenedGaussians, Tensor]:
    """The same with no pixel counted beyond the square, and by how much each would lower the objective alone, (B, count).

    ``propose`` repeats the pixels at the edge, which favours places there: good to choose from, but no promise that is kept.
    """
    widths = _widths(sigmas, least, grid)
    scores = _scores(grid, residual, slope, weight, widths, regularisation, _blur_with_nothing_outside)
    return _choose_places(scores, grid, count, widths)


def _widths(sigmas: tuple[float, ...], least: tuple[float, ...], grid: Grid, flatness: float = 1.0) -> list[tuple[float, ...]]:
    """Standard deviations along each axis of the Gaussians to choose from."""
    thin = range(grid.ndim) if flatness > 1 else ()
    shapes = [[1.0] * grid.ndim, *([1 / flatness if axis == k else 1.0 for axis in range(grid.ndim)] for k in thin)]
    lows = least or (0.0,) * grid.ndim
    return [tuple(max(sigma * part, low) for part, low in zip(shape, lows, strict=True)) for sigma in sigmas for shape in shapes]


def _scores(
    grid: Grid,
    residual: Tensor,
    slope: Tensor,
    weight: Tensor,
    sigmas: Sequence[tuple[float, ...]],
    regularisation: float,
    smooth: Callable[[Tensor, tuple[float, ...]], Tensor],
) -> Tensor:
    """What one Gaussian is worth, (B, widths, P)."""
    ndim = grid.ndim
    pixels = [2 * extent / grid.unit_mm / (n - 1) for extent, n in zip(grid.half_extent_mm, grid.shape, strict=True)]
    gathered = moments(residual[:, :1], slope[:, 0], weight)
    for channel in range(1, residual.shape[1]):
        gathered.add_(moments(residual[:, channel : channel + 1], slope[:, channel], weight))
    gathered = gathered.unflatten(2, grid.shape)
    force, stiffness = gathered[:, :ndim], gathered[:, ndim:]
    scores = []
    for sigma in sigmas:
        width = tuple(along / pixel for along, pixel in zip(sigma, pixels, strict=True))
        volume = (2 * math.pi) ** (ndim / 2) * math.prod(width)
        # ``blur`` averages and the sums are wanted: a Gaussian's volume is their ratio; w^2 is a Gaussian of 1 / sqrt(2) the width.
        numerator = smooth(force, width).flatten(2) * volume
        squared = smooth(stiffness, tuple(along / math.sqrt(2) for along in width)).flatten(2) * (volume / 2 ** (ndim / 2))
        rough = regularisation * roughness(force.new_tensor(sigma))
        scores.append(solve(numerator, squared, rough, dim=1).gains)
    return torch.stack(scores, 1)


def _blur_with_nothing_outside(images: Tensor, width: tuple[float, ...]) -> Tensor:
    ndim = images.ndim - 2
    # The edge that ``blur`` repeats is one of zeros.
    smooth = blur(functional.pad(images, (1, 1) * ndim), width)
    for axis in range(2, 2 + ndim):
        smooth = smooth.narrow(axis, 1, images.shape[axis])
    return smooth


def _choose_places(scores: Tensor, grid: Grid, count: int, sigmas: Sequence[tuple[float, ...]]) -> tuple[WhitenedGaussians, Tensor]:
    batch, ndim = len(scores), grid.ndim
    along = scores.new_tensor(sigmas)
    widths, round_ = along.amin(1), bool((along == along[:, :1]).all())
    positions = normalised_lattice(grid, scores).flatten(1)
    centres, chosen, gains = [], [], []
    for _ in range(count):
        highest, best = scores.flatten(1).max(1)
        # A solved problem gives half of what it lowers the objective by.
        gains.append(2 * highest)
        number, place = best // scores.shape[2], positions[:, best % scores.shape[2]].mT
        width = widths[number]
        # A place nearby would explain the same difference once more.
        offset = (positions[None] - place[:, :, None]).square()
        if round_:
            reach = torch.maximum(widths[None], width[:, None])
            distance = offset.sum(1)[:, None] / reach.square().unsqueeze(-1)
        else:
            reaches = torch.maximum(along[None], along[number][:, None])
            distance = reaches.square().reciprocal() @ offset
        scores = scores * (1 - torch.exp(-0.5 * distance))
        centres.append(place)
        chosen.append(along[number])
    sigma = torch.stack(chosen, 1)
    factors = torch.eye(ndim, dtype=scores.dtype, device=scores.device) / sigma.unsqueeze(-1)
    return WhitenedGaussians(torch.stack(centres, 1), factors, scores.new_zeros(batch, count, ndim)), torch.stack(gains, 1)
