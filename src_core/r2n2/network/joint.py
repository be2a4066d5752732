"""The amplitudes of all Gaussians placed so far, solved again together with every new one: orthogonal matching pursuit.

Plain matching pursuit leaves an amplitude as it was when its Gaussian came, though others by now explain a part of the difference.
Orthogonal matching pursuit (Pati, Rezaiifar, Krishnaprasad 1993) solves all of them anew after each choice: for changes d of the
amplitudes the objective of ``least_squares`` is, to first order, sum m (r + g' sum_k w_k d_k)^2 plus a roughness times the mean
squared gradient of the whole displacement sum_k w_k (v_k + d_k), which is one symmetric linear system of ndim K unknowns. Its
sums are products of the Gaussians with each other through the same moments, so no image is looked at again and no number is added
to the sequence. NORMALISED, array order.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from r2n2.network.gaussian import GaussianParameters
from r2n2.network.least_squares import limit_steepness
from r2n2.transform.gaussians import gaussian_on_lattice, precision_matrix
from r2n2.transform.matrices import upper

__all__ = ["Placed", "limit_each", "solve_jointly"]

# Of the diagonal: moments hold over a pixel or two only, and what two Gaussians share is known to neither.
_DAMPING = 0.1
_ROUGHNESS = 0.01  # weight of the mean squared gradient of the whole displacement
_FLOOR = 1e-9  # on the diagonal, for Gaussians that no measured pixel sees


class Placed(NamedTuple):
    """The Gaussians of a batch so far, and what they look like on the working lattice."""

    parameters: GaussianParameters
    """Each (B, K, ...)."""
    heights: Tensor
    """(B, K, *shape), weight of every Gaussian at every point."""
    gradients: Tensor
    """(B, K, K), mean over the lattice of the product of two Gaussians' gradients, by forward differences."""

    @classmethod
    def on(cls, lattice: Tensor, parameters: GaussianParameters) -> Placed:
        """Gaussians (B, K, ...) on a lattice (ndim, *shape)."""
        batch, count = parameters.centres.shape[:2]
        centres, sigmas, orientation = (value.flatten(0, 1) for value in parameters[:3])
        heights = gaussian_on_lattice(lattice, centres, precision_matrix(sigmas, orientation)).unflatten(0, (batch, count))
        return cls(parameters, heights, _gradient_products(heights, heights))

    def followed_by(self, other: Placed) -> Placed:
        """These Gaussians and then others, on the same lattice."""
        joined = (torch.cat(both, 1) for both in zip(self.parameters, other.parameters, strict=True))
        across = _gradient_products(other.heights, self.heights)
        upper_rows, lower_rows = torch.cat((self.gradients, across.mT), 2), torch.cat((across, other.gradients), 2)
        return Placed(
            GaussianParameters(*joined), torch.cat((self.heights, other.heights), 1), torch.cat((upper_rows, lower_rows), 1)
        )

    def with_amplitudes(self, amplitudes: Tensor) -> Placed:
        """The same with amplitudes (B, K, ndim)."""
        return self._replace(parameters=self.parameters._replace(amplitudes=amplitudes))

    def displacement(self, amplitudes: Tensor) -> Tensor:
        """What the Gaussians add up to with amplitudes (B, K, ndim), on the lattice, (B, ndim, *shape)."""
        return (amplitudes.mT @ self.heights.flatten(2)).unflatten(2, self.heights.shape[2:])

    def part(self, rows: Tensor) -> Placed:
        """Those of some pairs, by their indices."""
        return Placed(GaussianParameters(*(p[rows] for p in self.parameters)), self.heights[rows], self.gradients[rows])

    def detached(self) -> Placed:
        """Cut off from what they were computed from."""
        return Placed(GaussianParameters(*(p.detach() for p in self.parameters)), self.heights.detach(), self.gradients.detach())


def solve_jointly(placed: Placed, moments: Tensor, caution: Tensor) -> Tensor:
    """New amplitudes (B, K, ndim) of all Gaussians; differentiable in all that is given.

    Parameters
    ----------
    placed
        With the amplitudes with which the moments were gathered: 0 for a Gaussian that is new.
    moments
        (B, ndim + ndim (ndim + 1) / 2, *shape) as ``least_squares.moments`` gives them.
    caution
        (B, 1) factor of the roughness, positive.
    """
    heights, amplitudes = placed.heights, placed.parameters.amplitudes
    batch, count, ndim = amplitudes.shape
    flat, gathered = heights.flatten(2), moments.flatten(2)
    force = flat @ gathered[:, :ndim].mT
    rough = _ROUGHNESS * caution[:, :, None] * placed.gradients
    rows: list[list[Tensor]] = [[rough] * ndim for _ in range(ndim)]
    for component, (i, j) in enumerate(upper(ndim), start=ndim):
        product = (flat * gathered[:, component, None]) @ flat.mT
        rows[i][j] = rows[j][i] = product + rough if i == j else product
    # (B, ndim, K, ndim, K): by component first, so that the blocks are the products as they are.
    matrix = torch.stack([torch.stack(row, 2) for row in rows], 1).flatten(3, 4).flatten(1, 2)
    damping = _DAMPING * matrix.diagonal(dim1=1, dim2=2) + _FLOOR
    factor, failed = torch.linalg.cholesky_ex(matrix + torch.diag_embed(damping))
    right = (force + rough @ amplitudes).mT.flatten(1).unsqueeze(-1)
    change = -torch.cholesky_solve(right, factor).view(batch, ndim, count).mT
    # What cannot be solved is left as it is; the pair is then seen to gain nothing.
    return amplitudes + torch.where(failed.view(-1, 1, 1) == 0, change, torch.zeros_like(change))


def _gradient_products(some: Tensor, others: Tensor) -> Tensor:
    """(B, K, L): mean over the lattice of the product of the gradients of heights (B, K, *shape) and (B, L, *shape).

    By forward differences, summed by parts: of the heights that are fewer the differences are taken twice, of the others never.
    """
    turned: Tensor | None = None
    for axis in range(2, some.ndim):
        size = some.shape[axis]
        count = math.prod(some.shape[2:]) // size * (size - 1)
        slope = some.diff(dim=axis) * ((size - 1) ** 2 / 4 / count)
        edge = torch.zeros_like(slope.narrow(axis, 0, 1))
        part = torch.cat((edge, slope), axis) - torch.cat((slope, edge), axis)
        turned = part if turned is None else turned + part
    assert turned is not None
    return turned.flatten(2) @ others.flatten(2).mT


def limit_each(amplitudes: Tensor, parameters: GaussianParameters) -> Tensor:
    """``limit_steepness`` of (B, K, ndim) amplitudes of Gaussians (B, K, ...)."""
    sides = (value.flatten(0, 1) for value in (amplitudes, parameters.sigmas, parameters.orientation))
    return limit_steepness(*sides).view_as(amplitudes)
