"""The bound of the Jacobian determinant against closed forms, random samples of points, and where lattices are blind."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from r2n2.geometry import Grid
from r2n2.transform import (
    BSplineField,
    DisplacementField,
    GaussianSequence,
    Transform,
    gaussian_jacobian_bound,
    jacobian_bound,
    jacobian_determinant,
)
from r2n2.transform.bspline import bspline_basis, bspline_slope
from r2n2.transform.jacobian_bound import _bound, _Terms
from r2n2.transform.spline_bound import bspline_jacobian_bound

WIDE = Grid((31, 47), (1.7, 0.9), (3.0, -8.0), ((0.6, -0.8), (0.8, 0.6)))
VOLUME = Grid((7, 9, 8), (3.0, 1.5, 0.8))


def _gaussians(grid: Grid, count: int, seed: int, size: float, sigma: tuple[float, float] = (0.08, 0.3)) -> GaussianSequence:
    def uniform(width: int, low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, width, generator=generator, dtype=torch.float64)

    generator = torch.Generator().manual_seed(seed)
    ndim = grid.ndim
    amplitudes = size * torch.randn(count, ndim, generator=generator, dtype=torch.float64)
    return GaussianSequence(
        uniform(ndim, -1, 1), uniform(ndim, *sigma), uniform(1 if ndim == 2 else 3, -1.5, 1.5), amplitudes, grid
    )


def _half(grid: Grid) -> Tensor:
    return torch.tensor(grid.half_extent_mm, dtype=torch.float64) / grid.unit_mm


def _places(grid: Grid, count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.rand(count, grid.ndim, generator=generator, dtype=torch.float64) - 1) * _half(grid)


def _determinants(transform: Transform, places: Tensor) -> Tensor:
    """By differentiation of the displacement, (P,)."""
    places = places.clone().requires_grad_(True)
    moved = places + transform.displacement_at(places)
    rows = [torch.autograd.grad(moved[:, a].sum(), places, retain_graph=True)[0] for a in range(places.shape[1])]
    return torch.linalg.det(torch.stack(rows, 1)).detach()


def _one(
    grid: Grid, centre: list[float], sigmas: list[float], orientation: list[float], amplitude: list[float]
) -> GaussianSequence:
    return GaussianSequence(*(torch.tensor([v], dtype=torch.float64) for v in (centre, sigmas, orientation, amplitude)), grid)


@pytest.mark.parametrize(
    "one",
    [
        _one(WIDE, [0.1, -0.2], [0.3, 0.1], [0.7], [0.08, 0.06]),
        # Far narrower than a pixel, at a place of no lattice.
        _one(WIDE, [0.0312345, 0.41276], [0.002, 0.0007], [2.1], [-0.0008, 0.0006]),
        _one(VOLUME, [0.1, -0.2, 0.3], [0.3, 0.1, 0.2], [0.3, -0.5, 0.8], [0.05, 0.07, -0.04]),
        _one(VOLUME, [0.02173, -0.2, 0.3], [0.011, 0.02, 0.013], [0.3, -0.5, 0.8], [0.005, 0.007, -0.004]),
    ],
)
def test_one_gaussian_in_closed_form(one: GaussianSequence) -> None:
    exact = 1 - _steepness(one) * math.exp(-0.5)
    bound = jacobian_bound(one, tolerance=0.002)
    assert bound.proven <= exact <= bound.found + 1e-9
    assert bound.found - bound.proven <= 0.002 + 1e-6
    torch.testing.assert_close(
        _determinants(one, torch.tensor([bound.place], dtype=torch.float64)), torch.tensor([bound.found]).double()
    )


def _steepness(one: GaussianSequence) -> float:
    """|S^-1/2 v| by the covariance that the displacement's own curvature at its centre shows."""

    def height(place: Tensor) -> Tensor:
        along = one.amplitudes[0] / one.amplitudes[0].square().sum()
        return (one.displacement_at(place[None])[0] * along).sum()

    precision = -torch.autograd.functional.hessian(height, one.centres[0])
    assert isinstance(precision, Tensor)
    return math.sqrt(float(one.amplitudes[0] @ precision @ one.amplitudes[0]))


def test_a_lattice_misses_what_the_bound_sees() -> None:
    hidden = _one(WIDE, [0.0312345, 0.41276], [0.002, 0.002], [0.0], [0.005, 0.0])
    lattice = WIDE.resized((201, 301))
    field = GaussianSequence(hidden.centres, hidden.sigmas, hidden.orientation, hidden.amplitudes, lattice).displacement_field()
    assert float(jacobian_determinant(field.vectors[None], lattice).min()) > 0.5
    bound = jacobian_bound(hidden)
    assert bound.proven < bound.found < -0.5
    assert math.dist(bound.place, (0.0312345, 0.41276)) < 0.004


@pytest.mark.parametrize("grid", [WIDE, VOLUME])
def test_every_box_is_bounded_to_second_order(grid: Grid) -> None:
    sequence = _gaussians(grid, 5, 2, 0.06)
    terms = _Terms.of(sequence, None)
    shape = torch.linspace(1.0, 0.6, grid.ndim, dtype=torch.float64)
    centres = _places(grid, 30)
    inside = torch.cartesian_prod(*[torch.linspace(-1, 1, 7, dtype=torch.float64)] * grid.ndim)
    gaps = []
    for side in (0.16, 0.08, 0.04, 0.02):
        bounds, values = _bound(terms, centres, side * shape)
        torch.testing.assert_close(values, _determinants(sequence, centres))
        smallest = _determinants(sequence, (centres[:, None] + inside * side * shape).flatten(0, 1)).view(30, -1).amin(1)
        assert bool((bounds <= smallest).all())
        gaps.append(float((smallest - bounds).mean()))
    assert all(finer < coarser / 3.3 for coarser, finer in itertools.pairwise(gaps))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([WIDE, VOLUME]), st.integers(1, 12), st.floats(0.003, 0.06), st.booleans())
def test_no_point_is_below_the_bound(seed: int, grid: Grid, count: int, size: float, everywhere: bool) -> None:
    sequence = _gaussians(grid, count, seed, size)
    bound = jacobian_bound(sequence, tolerance=0.02, everywhere=everywhere)
    places = _places(grid, 3000, seed) * (2.5 if everywhere else 1)
    near = torch.tensor(bound.place, dtype=torch.float64) + 0.02 * _places(grid, 1000, seed)
    near = near if everywhere else near.clamp(-_half(grid), _half(grid))
    assert float(_determinants(sequence, torch.cat((places, near))).min()) >= bound.proven
    assert float(_determinants(sequence, torch.tensor([bound.place], dtype=torch.float64))[0]) == pytest.approx(
        bound.found, abs=1e-9
    )
    assert bound.found - bound.proven <= 0.0201 * max(1, abs(bound.found))


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.001, 0.03), st.floats(0.2, 1.5))
def test_narrow_gaussians_on_wide_ones(seed: int, sigma: float, steepness: float) -> None:
    wide = _gaussians(WIDE, 6, seed, 0.03)
    narrow = _gaussians(WIDE, 3, seed + 1, sigma * steepness, (sigma, 2 * sigma))
    both = GaussianSequence(
        *(torch.cat((getattr(wide, name), getattr(narrow, name))) for name in ("centres", "sigmas", "orientation", "amplitudes")),
        WIDE,
    )
    bound = jacobian_bound(both, tolerance=0.01)
    half = _half(WIDE)
    near = [c + 3 * sigma * torch.randn(2000, 2, generator=torch.Generator().manual_seed(seed)).double() for c in narrow.centres]
    places = torch.cat([_places(WIDE, 2000, seed), *near]).clamp(-half, half)
    assert float(_determinants(both, places).min()) >= bound.proven
    assert bound.found - bound.proven <= 0.0101 * max(1, abs(bound.found))


@pytest.mark.parametrize("grid", [WIDE, VOLUME])
def test_a_minimum_of_a_twentieth_is_proven_positive(grid: Grid) -> None:
    sequence = _gaussians(grid, 25 if grid.ndim == 2 else 6, 3, 0.02)
    low, high = 0.0, 6.0
    for _ in range(8):
        middle = 0.5 * (low + high)
        scaled = GaussianSequence(sequence.centres, sequence.sigmas, sequence.orientation, middle * sequence.amplitudes, grid)
        low, high = (middle, high) if jacobian_bound(scaled).found > 0.05 else (low, middle)
    scaled = GaussianSequence(sequence.centres, sequence.sigmas, sequence.orientation, low * sequence.amplitudes, grid)
    bound = jacobian_bound(scaled)
    assert 0.05 < bound.found < 0.08
    assert bound.proven > 0.04


def test_a_fold_beyond_the_frame_is_seen_from_everywhere_only() -> None:
    outside = _one(WIDE, [2.0, 0.0], [0.1, 0.1], [0.0], [0.3, 0.0])
    assert jacobian_bound(outside).proven == pytest.approx(1, abs=0.006)
    bound = jacobian_bound(outside, everywhere=True)
    assert bound.found == pytest.approx(1 - 3 * math.exp(-0.5), abs=0.01)
    assert bound.place[0] > 1.8


@pytest.mark.parametrize("grid", [WIDE, VOLUME])
def test_a_linear_part_is_bounded_with_the_gaussians(grid: Grid) -> None:
    ndim = grid.ndim
    linear = 0.2 * torch.randn(ndim, ndim, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    exact = float(torch.linalg.det(torch.eye(ndim).double() + linear))
    for everywhere in (False, True):
        alone = gaussian_jacobian_bound(GaussianSequence.identity(grid), linear=linear, everywhere=everywhere)
        assert alone.proven <= exact
        assert (alone.proven, alone.found) == pytest.approx((exact, exact), abs=1e-9)
    sequence = _gaussians(grid, 7, 5, 0.03)

    class Both:
        grid = sequence.grid

        def displacement_at(self, positions: Tensor) -> Tensor:
            return sequence.displacement_at(positions) + positions @ linear.mT

    places = _places(grid, 20000)
    smallest = float(_determinants(Both(), places).min())  # type: ignore[arg-type]
    bound = gaussian_jacobian_bound(sequence, linear=linear)
    assert bound.proven <= smallest < bound.proven + 0.15


def test_with_few_boxes_the_bound_is_loose_and_holds() -> None:
    sequence = _gaussians(WIDE, 10, 1, 0.04)
    tight, loose = jacobian_bound(sequence), gaussian_jacobian_bound(sequence, most_boxes=400)
    assert loose.proven < tight.proven - 0.02
    assert loose.proven <= tight.found


def test_enough_is_enough() -> None:
    sequence = _gaussians(WIDE, 10, 1, 0.01)
    full, part = jacobian_bound(sequence), jacobian_bound(sequence, enough=0.1)
    assert 0.1 < part.proven < full.proven
    assert jacobian_bound(GaussianSequence.identity(WIDE)).proven == pytest.approx(1, abs=1e-9)


def test_the_slope_of_the_spline_basis_is_its_derivative() -> None:
    places = torch.rand(40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    step = 1e-6
    by_difference = (bspline_basis(places + step, 9) - bspline_basis(places - step, 9)) / (2 * step)
    torch.testing.assert_close(bspline_slope(places, 9), by_difference, rtol=0, atol=1e-7)


def _spline(grid: Grid, size: float, seed: int = 0) -> BSplineField:
    counts = (9, 13) if grid.ndim == 2 else (5, 7, 6)
    values = torch.randn(grid.ndim, *counts, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return BSplineField(size * values, grid)


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([WIDE, VOLUME]), st.floats(0.002, 0.06), st.booleans())
def test_no_point_of_a_spline_is_below_its_bound(seed: int, grid: Grid, size: float, dense: bool) -> None:
    spline: Transform = _spline(grid, size, seed)
    transform = spline.displacement_field() if dense else spline
    bound = jacobian_bound(transform, tolerance=0.01)
    assert bound.found - bound.proven <= 0.0101 * max(1, abs(bound.found))
    inside = _places(grid, 4000, seed)
    near = (torch.tensor(bound.place, dtype=torch.float64) + 0.05 * _places(grid, 1000, seed)).clamp(-_half(grid), _half(grid)) * (
        1 - 1e-9
    )
    smallest = float(_determinants(transform, torch.cat((inside, near))).min())
    assert smallest >= bound.proven
    assert smallest < bound.found + 0.2


def test_a_spline_that_is_a_linear_map_is_exact() -> None:
    linear = torch.tensor([[0.2, -0.1], [0.3, -0.25]], dtype=torch.float64)
    half = _half(WIDE)
    # A cubic spline reproduces linear functions whose control values lie on them, control point k at cell coordinate k - 1.
    axes = [h * (2 * (torch.arange(m, dtype=torch.float64) - 1) / (m - 3) - 1) for h, m in zip(half, (8, 11), strict=True)]
    control = torch.einsum("ab,byx->ayx", linear, torch.stack(torch.meshgrid(*axes, indexing="ij")))
    bound = bspline_jacobian_bound(BSplineField(control, WIDE))
    exact = float(torch.linalg.det(torch.eye(2).double() + linear))
    assert (bound.proven, bound.found) == pytest.approx((exact, exact), abs=1e-8)
    assert bound.proven <= exact


def test_a_spline_of_few_cells_looked_at_is_bounded_loosely() -> None:
    spline = _spline(WIDE, 0.05)
    tight, loose = bspline_jacobian_bound(spline), bspline_jacobian_bound(spline, most_coefficients=0)
    assert loose.proven < tight.proven - 0.02


@pytest.mark.parametrize("grid", [WIDE, VOLUME])
def test_a_spline_looked_at_layer_by_layer_is_smallest_where_it_says(grid: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    spline = _spline(grid, 0.04, 2)
    whole = jacobian_bound(spline)
    monkeypatch.setattr("r2n2.transform.spline_bound._NODES_AT_ONCE", 1)
    bound = jacobian_bound(spline)
    assert (bound.found, *bound.place) == pytest.approx((whole.found, *whole.place))
    place = torch.tensor([bound.place], dtype=torch.float64) * (1 - 1e-12)
    assert float(_determinants(spline, place)[0]) == pytest.approx(bound.found, abs=1e-8)


def test_a_dense_field_in_2d_is_smallest_at_a_corner_of_a_cell() -> None:
    field = _spline(WIDE, 0.05).displacement_field()
    bound = jacobian_bound(field)
    exact = float(jacobian_determinant(field.vectors[None], WIDE).min())
    assert (bound.proven, bound.found) == pytest.approx((exact, exact), abs=1e-9)


def test_another_kind_of_transform_has_no_proof() -> None:
    with pytest.raises(TypeError, match="got int"):
        jacobian_bound(3)  # type: ignore[arg-type]
    assert jacobian_bound(DisplacementField.identity(VOLUME)).proven == pytest.approx(1, abs=1e-9)
