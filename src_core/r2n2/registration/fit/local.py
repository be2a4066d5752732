"""Curvature of a fit of many Gaussians to a volume, from those Gaussians alone that reach each part of its sample.

Most of a few hundred Gaussians are narrow beside a volume, so most products of two of their derivatives are 0 at most places. The
places are therefore parted into cells of equally many, and in each only the Gaussians that are felt there are multiplied.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from r2n2.registration.fit.normal_equations import matrix_of_products
from r2n2.registration.fit.whitened import WhitenedGaussians

__all__ = ["local_data_matrix", "local_diffusion_matrix"]

_PLACES = 128  # a cell: fewer, and products of such small matrices no longer pay
_FELT = 3e-3  # weight of a Gaussian at 3.4 standard deviations, where also its change with its shape has faded


def local_data_matrix(model: WhitenedGaussians, positions: Tensor, slope: Tensor, weight: Tensor) -> Tensor:
    """``normal_equations.data_matrix`` without what Gaussians add beyond 3.4 standard deviations.

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
    projection = slope * weight.sqrt()

    def rows(some: WhitenedGaussians, pair: int, cell: Tensor) -> Tensor:
        return some.projected(positions[:, cell], projection[pair : pair + 1, :, cell])[0].flatten(0, 1)

    return _summed(model, positions, model.freedom, rows)


def local_diffusion_matrix(model: WhitenedGaussians, places: Tensor, cell_size: Tensor) -> Tensor:
    """Matrix (B, K q, K q) of the diffusion from forward differences over cells of ``cell_size`` (ndim, 1).

    Parameters
    ----------
    places
        (ndim, P) NORMALISED of the cells' first corners.
    """
    ndim, count = model.ndim, places.shape[1]
    shifts = torch.cat((torch.zeros_like(cell_size), torch.diag(cell_size[:, 0])), 1)

    def rows(some: WhitenedGaussians, _pair: int, cell: Tensor) -> Tensor:
        corners = (places[:, None, cell] + shifts[:, :, None]).flatten(1)
        parts = some.derivatives(corners)[0].unflatten(2, (1 + ndim, len(cell)))
        return ((parts[:, :, 1:] - parts[:, :, :1]) / cell_size).flatten(0, 1).flatten(1) / count**0.5

    return matrix_of_products(model, _summed(model, places, 1 + ndim + ndim * (ndim + 1) // 2, rows))


def _summed(
    model: WhitenedGaussians, positions: Tensor, width: int, rows: Callable[[WhitenedGaussians, int, Tensor], Tensor]
) -> Tensor:
    """Sum over cells of rows times their transpose, (B, K width, K width); ``rows`` gives (A width, M) of some Gaussians."""
    batch, count = model.centres.shape[:2]
    total = positions.new_zeros(batch, count * width, count * width)
    numbers = torch.arange(width, device=positions.device)
    for pair in range(batch):
        own = model.part(slice(pair, pair + 1))
        for cell in _cells(positions):
            felt = own.reaching(positions[:, cell], _FELT).nonzero()[:, 0]
            if not len(felt):
                continue
            values = rows(own.selected(felt), pair, cell)
            place = (felt[:, None] * width + numbers).flatten()
            total[pair].index_put_((place[:, None], place[None]), values @ values.mT, accumulate=True)
    return total


def _cells(positions: Tensor) -> list[Tensor]:
    """Indices of positions (ndim, P) in parts of at most so many: the longer axis of each is cut at its median (Bentley 1975)."""
    whole, parted = [torch.arange(positions.shape[1], device=positions.device)], list[Tensor]()
    while whole:
        cell = whole.pop()
        if len(cell) <= _PLACES:
            parted.append(cell)
            continue
        inside = positions[:, cell]
        axis = int((inside.amax(1) - inside.amin(1)).argmax())
        whole.extend(cell[inside[axis].argsort()].tensor_split(2))
    return parted
