"""A proof that splines do not fold: a lower bound of det D(x + f(x)) over the whole frame, those points between pixels too.

In each cell of a tensor product spline of degree p the determinant is a polynomial, of degree ndim p - 1 along every axis.
The coefficients of a polynomial in Bernstein's form enclose it, exactly so at the corners, and the error falls with the square of
the cell's side (Cargo and Shisha 1966): cells whose coefficients do not decide are halved (de Casteljau).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from r2n2.geometry import Space
from r2n2.transform.bspline import BSplineField, bspline_basis, bspline_slope
from r2n2.transform.displacement import DisplacementField
from r2n2.transform.jacobian_bound import JacobianBound, decided
from r2n2.transform.matrices import determinant

__all__ = ["bspline_jacobian_bound", "field_jacobian_bound"]

_MOST_COEFFICIENTS = 2**23
_NODES_AT_ONCE = 2**19


def bspline_jacobian_bound(
    field: BSplineField, *, tolerance: float = 0.01, enough: float = math.inf, most_coefficients: int = _MOST_COEFFICIENTS
) -> JacobianBound:
    """Lower bound of the determinant over the frame; ``tolerance`` and ``enough`` as in ``gaussian_jacobian_bound``."""
    control, ndim = field.control.detach().to("cpu", torch.float64), field.grid.ndim
    nodes = _nodes(3 * ndim - 1)
    cells = [m - 3 for m in control.shape[1:]]
    half = [extent / field.grid.unit_mm for extent in field.grid.half_extent_mm]
    values, slopes = [], []
    for count, extent in zip(cells, half, strict=True):
        places = ((torch.arange(count)[:, None] + nodes) / count).flatten()
        values.append(bspline_basis(places, count + 3))
        slopes.append(bspline_slope(places, count + 3) / (2 * extent))
    return _smallest(control, values, slopes, nodes, half, tolerance, enough, most_coefficients)


def field_jacobian_bound(
    field: DisplacementField, *, tolerance: float = 0.01, enough: float = math.inf, most_coefficients: int = _MOST_COEFFICIENTS
) -> JacobianBound:
    """The same of a dense field, linear between its pixels as it is used: in 2D its smallest value is at a corner of a cell."""
    vectors = field.to_space(Space.NORMALISED).vectors.detach().to("cpu", torch.float64)
    nodes = _nodes(field.grid.ndim - 1)
    half = [extent / field.grid.unit_mm for extent in field.grid.half_extent_mm]
    values, slopes = [], []
    for count, extent in zip(field.grid.shape, half, strict=True):
        unit = torch.eye(count, dtype=torch.float64)
        rise = (unit[1:] - unit[:-1])[:, None]
        values.append((unit[:-1, None] + nodes[:, None] * rise).flatten(0, 1))
        slopes.append((rise * (count - 1) / (2 * extent)).expand(-1, len(nodes), -1).flatten(0, 1))
    return _smallest(vectors, values, slopes, nodes, half, tolerance, enough, most_coefficients)


def _nodes(degree: int) -> Tensor:
    """Where a polynomial of this degree is sampled in a cell [0, 1]: the ends and, between them, Chebyshev's extremes."""
    return 0.5 - 0.5 * torch.cos(math.pi * torch.arange(degree + 1, dtype=torch.float64) / degree)


def _bernstein(nodes: Tensor) -> Tensor:
    """Matrix that makes coefficients of values at the nodes."""
    degree = len(nodes) - 1
    basis = [math.comb(degree, k) * nodes**k * (1 - nodes) ** (degree - k) for k in range(degree + 1)]
    return torch.linalg.inv(torch.stack(basis, 1))


def _halving(degree: int) -> Tensor:
    """(2, degree + 1, degree + 1): the coefficients on either half of a cell from those on the whole."""
    first = torch.tensor([[math.comb(j, k) / 2**j for k in range(degree + 1)] for j in range(degree + 1)], dtype=torch.float64)
    return torch.stack((first, first.flip(0, 1)))


def _along_axes(values: Tensor, matrices: Sequence[Tensor], first: int) -> Tensor:
    """Multiply axis ``first`` + k by matrix k."""
    for k, matrix in enumerate(matrices):
        values = torch.tensordot(values, matrix, dims=([first + k], [1])).movedim(-1, first + k)
    return values


def _pieces(control: Tensor, values: Sequence[Tensor], slopes: Sequence[Tensor], nodes: int) -> Iterator[tuple[int, Tensor]]:
    """The determinant at the nodes of some layers of cells along the first axis, and which layer is the first."""
    ndim = len(values)
    layer = nodes * math.prod(len(matrix) for matrix in values[1:])
    step = max(1, _NODES_AT_ONCE // layer)
    for begin in range(0, len(values[0]) // nodes, step):
        part = slice(begin * nodes, (begin + step) * nodes)
        columns = []
        for axis in range(ndim):
            used = [slopes[k] if k == axis else values[k] for k in range(ndim)]
            column = _along_axes(control, [used[0][part], *used[1:]], 1)
            column[axis] += 1
            columns.append(column.unbind(0))
        yield begin, determinant(columns)


def _smallest(
    control: Tensor,
    values: Sequence[Tensor],
    slopes: Sequence[Tensor],
    nodes: Tensor,
    half: Sequence[float],
    tolerance: float,
    enough: float,
    most_coefficients: int,
) -> JacobianBound:
    ndim, count = len(values), len(nodes)
    transfer = _bernstein(nodes)
    sides = torch.tensor([2 * h * count / len(matrix) for h, matrix in zip(half, values, strict=True)], dtype=torch.float64)
    low = -torch.tensor(half, dtype=torch.float64)
    search = _Search(tolerance, enough)
    size = 1.0
    for begin, sampled in _pieces(control, values, slopes, count):
        size = max(size, float(sampled.abs().max()))
        cells = sampled.reshape([n for length in sampled.shape for n in (length // count, count)])
        cells = cells.permute(*range(0, 2 * ndim, 2), *range(1, 2 * ndim, 2))
        index = torch.cartesian_prod(*[torch.arange(n) for n in cells.shape[:ndim]]).view(-1, ndim).to(torch.float64)
        index[:, 0] += begin
        search.look(_along_axes(cells.flatten(0, ndim - 1), [transfer] * ndim, 1), low + index * sides, sides)
    halving = _halving(count - 1)
    looked_at = 0
    while (open_cells := search.undecided()) is not None:
        coefficients, corners, sides = open_cells
        looked_at += coefficients.numel() * 2**ndim
        if looked_at > most_coefficients:
            search.close(coefficients)
            break
        for bits in itertools.product((0, 1), repeat=ndim):
            part = _along_axes(coefficients, [halving[bit] for bit in bits], 1)
            search.look(part, corners + torch.tensor(bits, dtype=torch.float64) * sides / 2, sides / 2)
    condition = float(transfer.abs().sum(1).max()) ** ndim
    rounding = 1e3 * torch.finfo(torch.float64).eps * condition * (size + float(control.abs().sum(0).max()))
    return JacobianBound(search.proven - rounding, search.found, tuple(search.place.tolist()))


class _Search:
    """Cells whose coefficients (N, *counts) do not yet decide, and what all others prove."""

    def __init__(self, tolerance: float, enough: float) -> None:
        self.proven, self.found = math.inf, math.inf
        self.place = torch.zeros(0)
        self._tolerance, self._enough = tolerance, enough
        self._open: list[tuple[Tensor, Tensor, Tensor]] = []

    def look(self, coefficients: Tensor, corners: Tensor, sides: Tensor) -> None:
        """Take in cells by their coefficients, first corners (N, ndim) and sides (ndim,); those that decide are let go at once."""
        ndim = coefficients.ndim - 1
        for bits in itertools.product((0, -1), repeat=ndim):
            at_corner = coefficients
            for bit in bits:
                at_corner = at_corner.select(1, bit)
            best = int(at_corner.argmin())
            if float(at_corner[best]) < self.found:
                self.found = float(at_corner[best])
                self.place = corners[best] + torch.tensor([float(bit != 0) for bit in bits], dtype=torch.float64) * sides
        self._keep(coefficients, corners, sides)

    def undecided(self) -> tuple[Tensor, Tensor, Tensor] | None:
        """The cells of one size that are to be halved, none of them given twice."""
        cells, self._open = self._open, []
        for coefficients, corners, sides in cells:
            self._keep(coefficients, corners, sides)
        kept, self._open = self._open, []
        if not kept:
            return None
        return torch.cat([one for one, _, _ in kept]), torch.cat([one for _, one, _ in kept]), kept[0][2]

    def close(self, coefficients: Tensor) -> None:
        """Take cells as they are: their coefficients bound them."""
        self.proven = min(self.proven, float(coefficients.min()))

    def _keep(self, coefficients: Tensor, corners: Tensor, sides: Tensor) -> None:
        divided = coefficients.flatten(1).amin(1) < decided(self.found, self._tolerance, self._enough)
        if not bool(divided.all()):
            self.close(coefficients[~divided])
        if bool(divided.any()):
            self._open.append((coefficients[divided], corners[divided], sides))
