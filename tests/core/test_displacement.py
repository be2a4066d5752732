"""Dense fields and the algebra of transforms: points against images, inverse, composition order, known Jacobians, folding."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from r2n2.geometry import Grid, GridMismatchError, Space
from r2n2.transform import (
    BSplineField,
    DisplacementField,
    GaussianSequence,
    Transform,
    compose,
    folding_percent,
    inverse,
    jacobian_bound,
    jacobian_determinant,
    map_points,
    normalised_lattice,
    sampled,
    warp_image,
)

GRID = Grid((31, 47), (1.7, 0.9), (3.0, -8.0), ((0.0, -1.0), (1.0, 0.0)))
VOLUME = Grid((6, 9, 7), (3.0, 1.5, 0.8))


def _linear(grid: Grid, matrix: Tensor) -> Tensor:
    """Displacement (ndim, *shape) of x -> matrix @ x in NORMALISED space."""
    positions = normalised_lattice(grid, matrix)
    return torch.einsum("ij,j...->i...", matrix - torch.eye(grid.ndim, dtype=matrix.dtype), positions)


def _smooth(grid: Grid = GRID, size: float = 0.08) -> GaussianSequence:
    centres = torch.tensor([[0.1, -0.2], [-0.2, 0.3]], dtype=torch.float64)
    return GaussianSequence(
        centres,
        torch.full((2, 2), 0.3).double(),
        torch.zeros(2, 1).double(),
        size * torch.tensor([[1.0, -0.6], [0.4, 0.9]]).double(),
        grid,
    )


def test_vectors_change_their_unit_and_come_back() -> None:
    pixels = torch.zeros(2, 31, 47, dtype=torch.float64)
    pixels[0], pixels[1] = 2, 5
    field = DisplacementField(pixels, GRID, Space.INDEX)
    # 3.4 mm along axis 0 (world x of this direction) and 4.5 mm along axis 1 (minus world y).
    torch.testing.assert_close(field.to_space(Space.WORLD).vectors[:, 0, 0], torch.tensor([-4.5, 3.4], dtype=torch.float64))
    torch.testing.assert_close(field.magnitude_mm(), torch.full((31, 47), math.hypot(3.4, 4.5), dtype=torch.float64))
    back = field.to_space(Space.WORLD).to_space(Space.NORMALISED).to_space(Space.INDEX)
    torch.testing.assert_close(back.vectors, pixels)


def test_points_and_image_agree_on_an_impulse() -> None:
    # The fixed point (12, 20) is seen at (14, 25) in the moving frame, so the warped image shows it at (12, 20).
    pixels = torch.zeros(2, 31, 47)
    pixels[0], pixels[1] = 2, 5
    transform = DisplacementField(pixels, GRID, Space.INDEX)
    moving = torch.zeros(1, 31, 47)
    moving[0, 14, 25] = 1
    torch.testing.assert_close(map_points(transform, torch.tensor([[12.0, 20.0]]), Space.INDEX), torch.tensor([[14.0, 25.0]]))
    warped = warp_image(moving, transform)
    assert float(warped[0, 12, 20]) == pytest.approx(1, abs=1e-4)
    assert float(warped.sum()) == pytest.approx(1, abs=1e-3)


def test_points_are_mapped_alike_in_every_space() -> None:
    transform = _smooth()
    index = torch.tensor([[12.0, 20.0], [3.5, 40.25]], dtype=torch.float64)
    mapped = map_points(transform, index, Space.INDEX)
    assert float((mapped - index).abs().max()) > 0.5
    for space in (Space.WORLD, Space.NORMALISED):
        there = map_points(transform, GRID.convert_points(index, Space.INDEX, space), space)
        torch.testing.assert_close(GRID.convert_points(there, space, Space.INDEX), mapped)


def test_the_field_and_the_exact_transform_map_points_alike() -> None:
    exact = _smooth()
    index = torch.tensor([[12.0, 20.0], [15.0, 0.0], [30.0, 46.0]], dtype=torch.float64)
    torch.testing.assert_close(
        map_points(exact.displacement_field(), index, Space.INDEX), map_points(exact, index, Space.INDEX), rtol=0, atol=1e-9
    )


@pytest.mark.parametrize(
    "transform",
    [_smooth(), _smooth().displacement_field(), BSplineField(torch.zeros(2, 7, 7), GRID), DisplacementField.identity(VOLUME)],
    ids=["gaussians", "field", "bspline", "identity3d"],
)
def test_no_points_map_to_no_points(transform: Transform) -> None:
    ndim = transform.grid.ndim
    assert map_points(transform, torch.zeros(0, ndim), Space.WORLD).shape == (0, ndim)


def test_resampled_on_another_lattice_a_linear_field_stays_itself() -> None:
    matrix = torch.tensor([[1.1, 0.05], [-0.2, 0.9]], dtype=torch.float64)
    field = DisplacementField(_linear(GRID, matrix), GRID, Space.NORMALISED)
    finer = GRID.resized((62, 40))
    torch.testing.assert_close(sampled(field, finer, torch.float64).vectors, _linear(finer, matrix), rtol=0, atol=1e-9)
    with pytest.raises(GridMismatchError, match="do not share"):
        sampled(field, Grid((31, 47)))


def test_the_inverse_undoes_and_says_how_well() -> None:
    transform = _smooth()
    undone = inverse(transform)
    assert undone.residual_mm < 1e-3
    index = torch.tensor([[12.0, 20.0], [15.0, 23.0], [20.0, 30.0]], dtype=torch.float64)
    there = map_points(transform, index, Space.INDEX)
    back = map_points(undone.field, there, Space.INDEX)
    # The inverse is known on pixels and linear between them.
    assert float((back - index).abs().max()) < 0.02
    assert float((there - index).norm(dim=1).min()) > 0.3


@pytest.mark.parametrize("dense", [False, True])
def test_the_inverse_is_found_where_the_displacement_stretches(dense: bool) -> None:
    # Two opposite Gaussians stretch what lies between them by 2.4: a fixed point iteration runs away there.
    centres = torch.tensor([[0.0, -0.2], [0.0, 0.2]], dtype=torch.float64)
    amplitudes = torch.tensor([[0.03, -0.24], [0.03, 0.24]], dtype=torch.float64)
    sigmas = torch.full((2, 2), 0.2, dtype=torch.float64)
    sequence = GaussianSequence(centres, sigmas, torch.zeros(2, 1).double(), amplitudes, GRID)
    transform = sequence.displacement_field() if dense else sequence
    assert jacobian_bound(sequence, everywhere=True).proven > 0.2
    undone = inverse(transform)
    assert undone.residual_mm < 0.01 * min(GRID.spacing)
    assert inverse(transform, iterations=10).residual_mm > 0.2
    marks = torch.tensor([[14.3, 20.1], [17.0, 29.7]], dtype=torch.float64)
    back = map_points(undone.field, map_points(transform, marks, Space.INDEX), Space.INDEX)
    # Known on pixels and linear between them, where it bends a lot.
    assert float((back - marks).abs().max()) < 0.2


def test_the_residual_is_large_where_the_transform_folds() -> None:
    assert inverse(_smooth(size=0.9), iterations=20).residual_mm > 1
    # Stopped too early, it says so as well, and counts the last step.
    assert inverse(_smooth(), iterations=2).residual_mm > inverse(_smooth(), iterations=4).residual_mm > 1e-3


def test_composition_applies_the_first_map_first() -> None:
    stretch = torch.diag(torch.tensor([0.8, 0.5], dtype=torch.float64))
    angle = 0.5
    turn = 0.6 * torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]], dtype=torch.float64)
    first, then = (DisplacementField(_linear(GRID, m), GRID, Space.NORMALISED) for m in (stretch, turn))
    both = compose(first, then)
    torch.testing.assert_close(both.vectors, _linear(GRID, turn @ stretch), rtol=0, atol=1e-9)
    assert float((both.vectors - compose(then, first).vectors).abs().max()) > 0.05
    index = torch.tensor([[4.0, 9.0], [25.0, 31.0]], dtype=torch.float64)
    twice = map_points(then, map_points(first, index, Space.INDEX), Space.INDEX)
    torch.testing.assert_close(map_points(both, index, Space.INDEX), twice)


def test_composition_of_other_grids_is_refused() -> None:
    with pytest.raises(GridMismatchError, match="compose"):
        compose(_smooth(), DisplacementField.identity(Grid((31, 47))))


@pytest.mark.parametrize(
    ("grid", "ways"), [(GRID, 4), (VOLUME, 10), (Grid((2, 2)), 4), (Grid((2, 3, 2), (1.0, 2.0, 0.5)), 10)], ids=str
)
def test_jacobian_of_a_known_linear_map_every_way(grid: Grid, ways: int) -> None:
    matrix = torch.eye(grid.ndim, dtype=torch.float64) + 0.3 * torch.rand(
        grid.ndim, grid.ndim, generator=torch.Generator().manual_seed(2), dtype=torch.float64
    )
    determinants = jacobian_determinant(_linear(grid, matrix)[None], grid)
    assert determinants.shape == (1, ways, *(n - 1 for n in grid.shape))
    torch.testing.assert_close(determinants, torch.full_like(determinants, float(torch.linalg.det(matrix))))
    # A mirror has determinant -1 in every one of them, the inner tetrahedra too.
    mirror = torch.eye(grid.ndim, dtype=torch.float64)
    mirror[0, 0] = -1
    mirrored = jacobian_determinant(_linear(grid, mirror)[None], grid)
    torch.testing.assert_close(mirrored, torch.full_like(mirrored, -1.0))


@pytest.mark.parametrize("grid", [Grid((9, 12), (2.0, 1.0)), Grid((5, 6, 7))])
def test_a_folding_checkerboard_is_flagged(grid: Grid) -> None:
    # Every second pixel moves by 1.5 pixels along the last axis: central differences see nothing at all.
    index = torch.stack(torch.meshgrid(*(torch.arange(n) for n in grid.shape), indexing="ij")).sum(0)
    pixels = torch.zeros(grid.ndim, *grid.shape, dtype=torch.float64)
    pixels[-1] = 1.5 * (index % 2)
    central = pixels[-1, ..., 2:] - pixels[-1, ..., :-2]
    assert not central.any()
    vectors = DisplacementField(pixels, grid, Space.INDEX).to_space(Space.NORMALISED).vectors[None]
    determinants = jacobian_determinant(vectors, grid)
    assert float(folding_percent(determinants)) == 100
    assert float(determinants.min()) == pytest.approx(-0.5)


def test_only_the_inner_tetrahedra_see_some_folds() -> None:
    # One corner of a voxel, lifted along the diagonal, turns only tetrahedra that contain it.
    grid = Grid((2, 2, 2))
    pixels = torch.zeros(3, 2, 2, 2, dtype=torch.float64)
    pixels[:, 0, 0, 0] = 0.75
    vectors = DisplacementField(pixels, grid, Space.INDEX).to_space(Space.NORMALISED).vectors[None]
    found = jacobian_determinant(vectors, grid).flatten()
    corner, inner = found[:8], found[8:]
    # Corner (0,0,0): 1 - 3 * 0.75; its three neighbours and no other share that vertex: 1 - 0.75.
    assert float(corner.min()) == pytest.approx(-1.25)
    assert sorted(corner.tolist()) == pytest.approx([-1.25, 0.25, 0.25, 0.25, 1, 1, 1, 1])
    # The inner one with (0,0,0) spans height 2 / sqrt(3) over its far face; the corner came sqrt(3) * 0.75 nearer.
    assert sorted(inner.tolist()) == pytest.approx([1 - 0.75 * 3 / 2, 1])


def test_folding_counts_cells_in_percent() -> None:
    pixels = torch.zeros(2, 11, 21)
    pixels[1, 5, 10] = 1.5
    vectors = DisplacementField(pixels, Grid((11, 21)), Space.INDEX).to_space(Space.NORMALISED).vectors
    both = torch.stack((vectors, torch.zeros_like(vectors)))
    percent = folding_percent(jacobian_determinant(both, Grid((11, 21))))
    # The pixel passes its right neighbour: the two cells to its right turn over.
    assert percent.tolist() == pytest.approx([100 * 2 / 200, 0])


def test_an_axis_of_one_pixel_has_no_jacobian() -> None:
    with pytest.raises(ValueError, match="at least 2 pixels"):
        jacobian_determinant(torch.zeros(1, 2, 1, 5), Grid((1, 5)))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_field_that_is_not_finite_or_does_not_fit_is_refused(bad: float) -> None:
    vectors = torch.zeros(2, 31, 47)
    vectors[1, 3, 4] = bad
    with pytest.raises(ValueError, match="not finite"):
        DisplacementField(vectors, GRID, Space.NORMALISED)
    with pytest.raises(ValueError, match=r"vectors must have shape \(2, 31, 47\)"):
        DisplacementField(torch.zeros(2, 47, 31), GRID, Space.NORMALISED)
