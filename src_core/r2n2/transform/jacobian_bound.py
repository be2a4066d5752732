"""A proof that sums of Gaussians do not fold: a lower bound of det D(x + f(x)) over all points, those between pixels too.

Branch and bound (Land and Doig 1960) over boxes. In a box of centre c and half sides h the matrix M = I + L + Df is a Taylor
expansion M(c) + X, X = DM(c) d + E, whose rest E the third derivatives of the Gaussians bound, and

    det M >= det M(c) - sum_b |d det / dx_b| h_b - |C : E| - (all terms of second and higher order in X),

C the cofactors of M(c), L an affine part. So the bound errs by O(h^2), also where Gaussians overlap and cancel, and only boxes near
the minimum are ever divided far. All is computed in float64, and what rounding may have done is taken off at the end.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from r2n2.transform.gaussians import GaussianSequence, principal_axes
from r2n2.transform.matrices import Rows, cofactors, determinant, rows_of, upper

__all__ = ["JacobianBound", "decided", "gaussian_jacobian_bound"]

_FIRST_BOXES = 16  # along the longest axis
_MOST_BOXES = 200_000
_BOXES_AT_ONCE = 4096  # what a pass needs then stays in the cache
# So many standard deviations away a Gaussian's gradient is below what rounding is allowed for.
_FAR = 9.0
_SMALLEST_HALF_SIDE = 1e-12


@dataclass(frozen=True)
class JacobianBound:
    """How small the determinant of the Jacobian of x -> x + f(x) gets.

    Parameters
    ----------
    proven
        The determinant is nowhere smaller.
    found
        The smallest value met, at ``place``: the minimum lies between the two.
    place
        NORMALISED, array order.
    """

    proven: float
    found: float
    place: tuple[float, ...]


def decided(found: float, tolerance: float, enough: float) -> float:
    """From which bound on a box need not be divided, given the smallest value found anywhere."""
    return min(found - tolerance * max(1.0, abs(found)), enough)


@dataclass(frozen=True, eq=False)
class _Terms:
    """K Gaussians as the coefficients of every sum over them, float64; n axes, p = n (n + 1) / 2 pairs of them."""

    centres: Tensor
    """(K, n)"""
    factors: Tensor
    """(K, n, n): A with A'A = S^-1"""
    sizes: Tensor
    """(n, K) |v_a|"""
    widths: Tensor
    """(n, K) |A e_b|, one over the standard deviation along axis b"""
    precision: Tensor
    """(K, n, n) S^-1"""
    first: Tensor
    """(n n, K n): v_a A_kb"""
    second: Tensor
    """(n p, K p): v_a (A_kb A_lc + A_lb A_kc), halved where k = l"""
    constant: Tensor
    """(n n, 1): I + L"""
    rounding: float
    """More than rounding changes a bound by."""

    @classmethod
    def of(cls, sequence: GaussianSequence, linear: Tensor | None) -> _Terms:
        centres, sigmas, orientation, amplitudes = (
            values.detach().to("cpu", torch.float64)
            for values in (sequence.centres, sequence.sigmas, sequence.orientation, sequence.amplitudes)
        )
        count, n = centres.shape
        factors = principal_axes(orientation) / sigmas.unsqueeze(-1)
        pairs = upper(n)
        first = torch.einsum("ia,ikb->abik", amplitudes, factors).reshape(n * n, count * n)
        products = torch.einsum("ikb,ilc->iklbc", factors, factors)
        rows = []
        for b, c in pairs:
            row = [products[:, k, m, b, c] + (products[:, m, k, b, c] if k != m else 0) for k, m in pairs]
            rows.append(torch.stack(row, 1))
        second = torch.einsum("ia,jiq->ajiq", amplitudes, torch.stack(rows)).reshape(n * len(pairs), count * len(pairs))
        constant = torch.eye(n, dtype=torch.float64)
        if linear is not None:
            constant = constant + linear.detach().to("cpu", torch.float64)
        # A bound sums K products of a few factors, each of which rounding moves by some parts in 2^52, those of the exponent by
        # as many parts of the distance in standard deviations.
        steepest = float((1 / sigmas).amax()) if count else 0.0
        size = 1 + float(constant.abs().max()) + float((amplitudes.norm(dim=1) / sigmas.amin(1)).sum())
        rounding = 64 * (count + 8) * torch.finfo(torch.float64).eps * (1 + steepest) * size**n
        return cls(
            centres,
            factors,
            amplitudes.abs().mT,
            factors.norm(dim=1).mT,
            factors.mT @ factors,
            first,
            second,
            constant.reshape(n * n, 1),
            rounding,
        )


def gaussian_jacobian_bound(
    sequence: GaussianSequence,
    *,
    tolerance: float = 0.01,
    enough: float = math.inf,
    everywhere: bool = False,
    linear: Tensor | None = None,
    most_boxes: int = _MOST_BOXES,
) -> JacobianBound:
    """Lower bound of the determinant of the Jacobian of x -> x + L x + f(x), f the sum of Gaussians, exact numbers taken as stored.

    If it is positive everywhere, the map is one-to-one on the whole space, as f vanishes at infinity (Hadamard).

    Parameters
    ----------
    sequence
        In 2D or 3D.
    tolerance
        ``proven`` and ``found`` differ by no more, where ``found`` is beyond -1 or 1 by no more than this share of it, unless
        ``most_boxes`` are used up: ``proven`` is then lower but holds.
    enough
        Boxes in which the determinant is at least this large are not looked at more closely.
    everywhere
        Over the whole space instead of the frame alone.
    linear
        (ndim, ndim) L, a linear part beside the Gaussians.
    most_boxes
        How many boxes may be looked at.
    """
    terms = _Terms.of(sequence, linear)
    n = sequence.grid.ndim
    half = torch.tensor(sequence.grid.half_extent_mm, dtype=torch.float64) / sequence.grid.unit_mm
    low, high = -half, half
    constant = determinant(rows_of(terms.constant.view(n, n)))
    proven, found, place = math.inf, math.inf, torch.zeros(n, dtype=torch.float64)
    if everywhere:
        # Beyond the reach of all Gaussians the determinant is that of the linear part.
        proven = found = float(constant)
        reach = _FAR * torch.linalg.inv(terms.precision).diagonal(dim1=1, dim2=2).sqrt()
        low = torch.cat((low[None], terms.centres - reach)).amin(0)
        high = torch.cat((high[None], terms.centres + reach)).amax(0)
        place = high
    centres, half_side = _first_boxes(low, high)
    looked_at = 0
    while len(centres):
        bounds, values = _bound(terms, centres, half_side)
        looked_at += len(centres)
        best = int(values.argmin())
        if float(values[best]) < found:
            found, place = float(values[best]), centres[best]
        divided = bounds < decided(found, tolerance, enough)
        if looked_at + int(divided.sum()) * 2**n > most_boxes or float(half_side.max()) < _SMALLEST_HALF_SIDE:
            divided = torch.zeros_like(divided)
        if not bool(divided.all()):
            proven = min(proven, float(bounds[~divided].min()))
        half_side = half_side / 2
        corners = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=n)), dtype=torch.float64)
        centres = (centres[divided, None] + corners * half_side).flatten(0, 1)
    return JacobianBound(proven - terms.rounding, found, tuple(place.tolist()))


def _first_boxes(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Centres (N, n) of nearly cubic boxes that fill the domain, and their half sides (n,)."""
    side = (high - low).amax() / _FIRST_BOXES
    counts = [max(1, math.ceil(float(length / side) - 1e-9)) for length in high - low]
    half = (high - low) / (2 * torch.tensor(counts, dtype=torch.float64))
    axes = [low[b] + half[b] * (2 * torch.arange(count, dtype=torch.float64) + 1) for b, count in enumerate(counts)]
    # A hair wider than needed, so that neighbours leave no gap between them.
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, -2), half * (1 + 1e-12) + 1e-15


def _bound(terms: _Terms, centres: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
    """Lower bound in each box, and the determinant at its centre, both (N,)."""
    reach = _reach(terms.precision, half)
    parts = [_bound_some(terms, some, half, reach) for some in centres.split(_BOXES_AT_ONCE)]
    return torch.cat([bound for bound, _ in parts]), torch.cat([value for _, value in parts])


def _reach(precision: Tensor, half: Tensor) -> Tensor:
    """Largest distance (K,) from the centre of a box in standard deviations of each Gaussian: that of one of its corners."""
    corners = torch.tensor(list(itertools.product((1.0,), *[(-1.0, 1.0)] * (len(half) - 1))), dtype=torch.float64) * half
    return torch.einsum("qb,ibc,qc->iq", corners, precision, corners).amax(1).sqrt()


def _bound_some(terms: _Terms, centres: Tensor, half: Tensor, reach: Tensor) -> tuple[Tensor, Tensor]:
    (count, n), total = terms.centres.shape, len(centres)
    pairs = upper(n)
    offset = (centres - terms.centres[:, None]).mT
    whitened = terms.factors @ offset
    squared = whitened.square().sum(1)
    weights = torch.exp(-0.5 * squared)
    slopes = whitened * weights[:, None]
    curvatures = torch.stack([slopes[:, k] * whitened[:, m] - (weights if k == m else 0) for k, m in pairs], 1)
    matrix = (terms.constant - terms.first @ slopes.flatten(0, 1)).view(n, n, total)
    change = (terms.second @ curvatures.flatten(0, 1)).view(n, len(pairs), total)
    rows = [list(row.unbind(0)) for row in matrix.unbind(0)]
    cofactor = torch.stack([torch.stack(list(row)) for row in cofactors(rows)])
    value = determinant(rows)
    # |E| by Gaussian, in its own standard deviations: half the largest third derivative in the box times the distance squared.
    rest = 0.5 * reach.square()[:, None] * _third_derivative(squared.sqrt() - reach[:, None])
    linear = (rest * (terms.first.mT @ cofactor.flatten(0, 1)).view(count, n, total).norm(dim=1)).sum(0)
    entries = ((terms.sizes[:, None] * terms.widths[None]).flatten(0, 1) @ rest).view(n, n, total)
    for b in range(n):
        along = torch.zeros_like(value)
        for c in range(n):
            part = change[:, pairs.index((min(b, c), max(b, c)))]
            entries[:, b] += part.abs() * half[c]
            along = along + (cofactor[:, c] * part).sum(0)
        # d det / dx_b, as the second derivative by x_b and x_c is the first along x_b of column c.
        linear = linear + along.abs() * half[b]
    return value - linear - _higher_order(rows, [list(row.unbind(0)) for row in entries.unbind(0)]), value


def _higher_order(matrix: Rows, entries: Rows) -> Tensor:
    """Largest change of det(M + X) that is not linear in X, for entries of X up to these: all products of two or three of them."""
    if len(matrix) == 2:
        (a, b), (c, d) = entries
        return a * d + b * c
    signless = [[_permanent(_without(entries, i, j)) for j in range(3)] for i in range(3)]
    result = torch.zeros_like(entries[0][0])
    for j in range(3):
        result = result + entries[0][j] * signless[0][j]
        for i in range(3):
            result = result + matrix[i][j].abs() * signless[i][j]
    return result


def _permanent(rows: Rows) -> Tensor:
    (a, b), (c, d) = rows
    return a * d + b * c


def _without(rows: Rows, i: int, j: int) -> Rows:
    """The matrix without row i and column j."""
    return [[entry for m, entry in enumerate(row) if m != j] for k, row in enumerate(rows) if k != i]


def _third_derivative(distance: Tensor) -> Tensor:
    """Largest third derivative along any directions of exp(-|u|^2 / 2) at |u| >= distance, from a table that errs upward only.

    In direction e it is (3 s - s^3) exp(-|u|^2 / 2), s = u . e with |s| <= |u|; mixed directions give no more, as the form is
    symmetric (Banach 1938).
    """
    place = (distance.clamp_min(0) * _STEPS_A_UNIT).long().clamp_max(len(_TABLE) - 1)
    return _TABLE[place]


_STEPS_A_UNIT, _SAMPLES_A_STEP = 32, 64


def _envelope() -> Tensor:
    """At k / steps a unit: the largest value there or farther, rounded up by more than a maximum between samples may add."""
    t = torch.arange(12 * _STEPS_A_UNIT * _SAMPLES_A_STEP + 1, dtype=torch.float64) / (_STEPS_A_UNIT * _SAMPLES_A_STEP)
    cubic = (3 * t - t.pow(3)).abs()
    largest = torch.where(t < 1, cubic, cubic.clamp_min(2)) * torch.exp(-0.5 * t.square())
    return (largest.flip(0).cummax(0).values.flip(0) * 1.001)[::_SAMPLES_A_STEP]


_TABLE = _envelope()
