"""Cubic B-splines: constants and straight lines come out exact, refinement follows, points and pixels agree."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from r2n2.geometry import Grid, Space
from r2n2.transform import BSplineField, bspline_basis, bspline_displacement, normalised_lattice, refine_control_points

GRID = Grid((31, 47), (1.7, 0.9), (3.0, -8.0), ((0.0, -1.0), (1.0, 0.0)))
VOLUME = Grid((6, 9, 7), (3.0, 1.5, 0.8))


def _control(grid: Grid, counts: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.rand(grid.ndim, *counts, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 0.5


def _straight(grid: Grid, counts: tuple[int, ...], matrix: Tensor, offset: Tensor) -> Tensor:
    """Control values on the map x -> matrix @ x + offset: control point k of m lies at (k - 1) / (m - 3) of the axis."""
    places = [
        (2 * (torch.arange(m).double() - 1) / (m - 3) - 1) * e / grid.unit_mm
        for m, e in zip(counts, grid.half_extent_mm, strict=True)
    ]
    lattice = torch.stack(torch.meshgrid(*places, indexing="ij"))
    return torch.einsum("ij,j...->i...", matrix, lattice) + offset.view(-1, *[1] * grid.ndim)


@pytest.mark.parametrize("count", [4, 7, 34])
def test_the_basis_sums_to_one_and_reproduces_a_straight_line(count: int) -> None:
    positions = torch.linspace(0, 1, 23, dtype=torch.float64)
    basis = bspline_basis(positions, count)
    assert basis.shape == (23, count)
    assert (basis >= 0).all()
    torch.testing.assert_close(basis.sum(1), torch.ones(23, dtype=torch.float64))
    places = (torch.arange(count).double() - 1) / (count - 3)
    torch.testing.assert_close(basis @ places, positions, rtol=0, atol=1e-12)


def test_the_basis_has_the_cubic_values_at_a_control_point_and_between_two() -> None:
    basis = bspline_basis(torch.tensor([0.0, 0.25, 0.5], dtype=torch.float64), 5)
    expected = [[1 / 6, 4 / 6, 1 / 6, 0, 0], [1 / 48, 23 / 48, 23 / 48, 1 / 48, 0], [0, 1 / 6, 4 / 6, 1 / 6, 0]]
    torch.testing.assert_close(basis, torch.tensor(expected, dtype=torch.float64))


def test_beyond_the_edge_the_edge_is_used() -> None:
    basis = bspline_basis(torch.tensor([-0.3, 0.0, 1.0, 1.7], dtype=torch.float64), 6)
    torch.testing.assert_close(basis[0], basis[1])
    torch.testing.assert_close(basis[3], basis[2])


def test_a_cubic_needs_four_control_points() -> None:
    with pytest.raises(ValueError, match="at least 4 control points"):
        bspline_basis(torch.zeros(1), 3)
    with pytest.raises(ValueError, match="counts of at least 4"):
        BSplineField(torch.zeros(2, 7, 3), GRID)
    with pytest.raises(ValueError, match="control must have shape"):
        BSplineField(torch.zeros(3, 7, 7), GRID)
    with pytest.raises(ValueError, match="not finite"):
        BSplineField(torch.full((2, 7, 7), float("nan")), GRID)


@pytest.mark.parametrize(("grid", "counts"), [(GRID, (7, 11)), (VOLUME, (4, 6, 5))])
def test_constants_and_linear_maps_are_reproduced_exactly(grid: Grid, counts: tuple[int, ...]) -> None:
    ndim = grid.ndim
    matrix = torch.rand(ndim, ndim, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    offset = torch.arange(1.0, ndim + 1).double()
    field = BSplineField(_straight(grid, counts, matrix, offset), grid)
    expected = torch.einsum("ij,j...->i...", matrix, normalised_lattice(grid, offset)) + offset.view(-1, *[1] * ndim)
    torch.testing.assert_close(field.displacement_field().vectors, expected, rtol=0, atol=1e-12)
    constant = BSplineField(offset.view(-1, *[1] * ndim).expand(ndim, *counts), grid).displacement_field().vectors
    torch.testing.assert_close(constant, offset.view(-1, *[1] * ndim).expand(ndim, *grid.shape))


@pytest.mark.parametrize(("grid", "counts"), [(GRID, (7, 11)), (VOLUME, (4, 6, 5))])
def test_values_at_points_are_those_of_the_pixels(grid: Grid, counts: tuple[int, ...]) -> None:
    field = BSplineField(_control(grid, counts), grid)
    index = torch.tensor([[0.0] * grid.ndim, [2.0, 3.0, 5.0][: grid.ndim], [n - 1.0 for n in grid.shape]], dtype=torch.float64)
    at = field.displacement_at(grid.convert_points(index, Space.INDEX, Space.NORMALISED))
    dense = field.displacement_field().vectors
    for row, place in zip(at, index.long().tolist(), strict=True):
        torch.testing.assert_close(row, dense[(slice(None), *place)])


@pytest.mark.parametrize("counts", [(12, 19), (11, 30)])
def test_a_finer_spline_follows_a_coarser_one(counts: tuple[int, ...]) -> None:
    coarse = _control(GRID, (7, 11))
    fine = refine_control_points(coarse[None], counts)
    assert fine.shape == (1, 2, *counts)
    before, after = (BSplineField(c, GRID).displacement_field().vectors for c in (coarse, fine[0]))
    assert float((before - after).norm() / before.norm()) < 0.05


def test_doubling_the_cells_loses_nothing() -> None:
    coarse = _control(GRID, (7, 11))
    fine = refine_control_points(coarse[None], (11, 19))[0]
    torch.testing.assert_close(
        BSplineField(fine, GRID).displacement_field().vectors, BSplineField(coarse, GRID).displacement_field().vectors
    )


def test_control_spacing_in_mm() -> None:
    # 30 * 1.7 = 51 mm in 4 cells and 46 * 0.9 = 41.4 mm in 8.
    assert BSplineField(torch.zeros(2, 7, 11), GRID).control_spacing_mm == pytest.approx((51 / 4, 41.4 / 8))


def test_gradcheck() -> None:
    bases = [bspline_basis(torch.linspace(0, 1, n, dtype=torch.float64), m) for n, m in ((3, 4), (5, 6))]
    control = _control(GRID, (4, 6))[None].requires_grad_(True)
    assert torch.autograd.gradcheck(lambda c: bspline_displacement(c, bases), (control,))
    positions = torch.rand(4, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64).sub(0.5).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda p: BSplineField(control[0].detach(), GRID).displacement_at(p), (positions,))
