"""Fields of volumes on few points and a few planes at a time are those on every voxel."""

from __future__ import annotations

import numpy as np
import pytest
import registration_factory as make
import torch

from r2n2.geometry import Grid, Space
from r2n2.registration.resampling import warp_pixels
from r2n2.registration.volumes import measure_rows, on_grid
from r2n2.similarity import correlation
from r2n2.transform import (
    BSplineField,
    CoarseLattice,
    DisplacementField,
    GaussianSequence,
    RowField,
    Transform,
    folding_percent,
    jacobian_determinant,
    lattice_rows,
    normalised_lattice,
    row_blocks,
    warp,
)

pytestmark = pytest.mark.usefixtures("one_thread")
GRID = Grid((23, 60, 51), (4.0, 1.7, 2.1), (3.0, -8.0, 5.0))


def _gaussians(grid: Grid = GRID, count: int = 8, size: float = 0.05) -> GaussianSequence:
    generator = torch.Generator().manual_seed(2)

    def uniform(width: int) -> torch.Tensor:
        return torch.rand(count, width, generator=generator)

    return GaussianSequence(2 * uniform(3) - 1, 0.25 + 0.4 * uniform(3), 3 * uniform(3), size * (2 * uniform(3) - 1), grid)


def _transforms() -> list[Transform]:
    control = 0.03 * torch.randn(3, 6, 9, 8, generator=torch.Generator().manual_seed(3))
    field = _gaussians().displacement_field()
    return [_gaussians(), BSplineField(control, GRID), field.to_space(Space.WORLD)]


@pytest.fixture
def few_voxels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 5 rows."""
    monkeypatch.setattr("r2n2.transform.rows._VOXELS_AT_ONCE", 5 * 60 * 51)


def test_splines_through_few_points_hold_a_sum_of_gaussians() -> None:
    grid = Grid((90, 120, 100), (2.0, 2.0, 2.0))
    linear = torch.tensor([[0.1, 0.0, 0.02, 0.3], [0.0, -0.05, 0.0, 0.0], [0.03, 0.0, 0.0, -0.1]])
    sequence = GaussianSequence(
        *(getattr(_gaussians(grid), n) for n in ("centres", "sigmas", "orientation", "amplitudes")), grid, linear
    )
    points, _ = sequence.on_points()
    assert max(points.counts) < 50
    found = sequence.displacement_field().vectors
    exact = sequence.displacement_at(normalised_lattice(grid, found).flatten(1).mT).mT.view_as(found)
    assert float((found - exact).abs().max()) < 3e-4 * float(sequence.amplitudes.abs().sum(0).max())


@pytest.mark.parametrize("beyond", [None, 1])
def test_splines_hold_a_gaussian_on_an_edge_as_they_go_on_beyond_it(beyond: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = Grid((90, 120, 100), (2.0, 2.0, 2.0))
    edge = torch.tensor(grid.half_extent_mm) / grid.unit_mm * torch.tensor([1.0, 0.2, -1.0])
    one = GaussianSequence(edge[None], torch.full((1, 3), 0.2), torch.zeros(1, 3), torch.tensor([[1.0, 0.0, 0.0]]), grid)
    if beyond is not None:
        monkeypatch.setattr("r2n2.transform.enlarging._BEYOND", beyond)
    found = one.displacement_field().vectors
    exact = one.displacement_at(normalised_lattice(grid, found).flatten(1).mT).mT.view_as(found)
    assert (float((found - exact).abs().max()) < 3e-4) == (beyond is None)


def test_a_narrow_gaussian_asks_for_a_point_a_voxel_and_is_exact() -> None:
    sequence = _gaussians()
    narrow = GaussianSequence(sequence.centres, 0.1 * sequence.sigmas, sequence.orientation, sequence.amplitudes, GRID)
    assert narrow.on_points()[0].counts == GRID.shape
    found = narrow.displacement_field().vectors
    exact = narrow.displacement_at(normalised_lattice(GRID, found).flatten(1).mT).mT.view_as(found)
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-6)


def test_summing_on_points_is_the_transpose_of_enlarging() -> None:
    points = CoarseLattice.build(GRID, (30, 20, 17), torch.zeros(1, dtype=torch.float64))
    assert points.counts == (23, 28, 25)
    assert points.shape == GRID.shape
    few, many = torch.randn(2, 3, *points.counts).double(), torch.randn(2, 3, *GRID.shape).double()
    torch.testing.assert_close((points.enlarged(few) * many).sum(), (few * points.gathered(many)).sum())


@pytest.mark.parametrize("number", range(3))
def test_rows_are_those_of_the_whole_field(number: int, few_voxels: None) -> None:
    transform = _transforms()[number]
    whole = transform.displacement_field().to_space(Space.NORMALISED).vectors
    field, blocks = RowField.of(transform), list(row_blocks(GRID))
    assert [(b.start, b.stop) for b in blocks] == [(0, 5), (5, 10), (10, 15), (15, 20), (20, 23)]
    torch.testing.assert_close(torch.cat([field.rows(rows) for rows in blocks], 1), whole, rtol=0, atol=1e-6)
    places = torch.cat([lattice_rows(GRID, rows, whole) for rows in blocks], 1)
    assert torch.equal(places, normalised_lattice(GRID, whole))


@pytest.mark.parametrize("number", range(2))
def test_many_places_in_a_volume_are_taken_in_parts(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    transform, places = _transforms()[number], 2 * torch.rand(500, 3) - 1
    whole = transform.displacement_at(places)
    for module in ("bspline", "gaussians"):
        monkeypatch.setattr(f"r2n2.transform.{module}._AT_ONCE", 77)
    torch.testing.assert_close(transform.displacement_at(places), whole, rtol=0, atol=1e-6)


def test_blocks_overlap_so_that_every_cell_lies_in_one(few_voxels: None) -> None:
    assert [(b.start, b.stop) for b in row_blocks(GRID, overlap=1)] == [(0, 6), (5, 11), (10, 16), (15, 21), (20, 23)]
    assert [(b.start, b.stop) for b in row_blocks(Grid((31, 47)))] == [(0, 31)]


def test_a_volume_moved_by_whole_voxels_shows_the_same_voxels(few_voxels: None) -> None:
    image = np.random.default_rng(0).integers(-30000, 30000, (2, *GRID.shape)).astype(np.int16)
    shift = torch.tensor([2.0, -3.0, 5.0]).view(3, 1, 1, 1).expand(3, *GRID.shape)
    moved = warp_pixels(image, DisplacementField(shift, GRID, Space.INDEX))
    np.testing.assert_array_equal(moved[:, :-2, 3:, :-5], image[:, 2:, :-3, 5:])
    labels = warp_pixels(image, DisplacementField(shift + 0.3, GRID, Space.INDEX), nearest=True)
    np.testing.assert_array_equal(labels[:, :-2, 3:, :-5], image[:, 2:, :-3, 5:])


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("number", range(3))
def test_what_a_transform_does_is_measured_as_on_the_whole_volume(number: int, masked: bool, few_voxels: None) -> None:
    transform = _transforms()[number]
    if isinstance(transform, BSplineField):
        transform = BSplineField(20 * transform.control, GRID)  # folds
    fixed, moving = make.texture(GRID.shape, 1), make.texture(GRID.shape, 2)
    moving = moving + fixed
    counted = torch.rand(1, *GRID.shape, generator=torch.Generator().manual_seed(5)) > 0.01
    weight = torch.zeros(1, *GRID.shape)
    weight[:, 4:15, 10:40, 8:44] = torch.rand(1, 11, 30, 36)
    a_weight = weight if masked else None
    found = measure_rows(
        (fixed, counted if a_weight is None else counted & (weight > 0), a_weight), (moving, counted, None), transform
    )
    vectors = transform.displacement_field().to_space(Space.NORMALISED).vectors[None]
    warped, valid = warp(torch.where(counted, moving, moving[counted].mean())[None], vectors, GRID, mask=counted[None])
    own = weight[None] if masked else torch.ones_like(fixed[None])
    there = counted[None] & (own > 0)
    assert found.before == pytest.approx(float(correlation(fixed[None], moving[None], own * there * counted[None])), abs=1e-5)
    assert found.after == pytest.approx(float(correlation(fixed[None], warped, own * (valid & there))), abs=1e-5)
    assert found.overlap == pytest.approx(float((valid & there).sum() / (there & counted[None]).sum()), abs=1e-6)
    determinants = jacobian_determinant(vectors, GRID)
    longest = transform.displacement_field().magnitude_mm()
    if masked:
        # Cells with a corner that counts.
        determinants, longest = determinants[:, :, 3:15, 9:40, 7:44], longest[4:15, 10:40, 8:44]
    else:
        low, high = fixed[counted].quantile(torch.tensor([0.01, 0.99]))
        longest = longest[fixed[0] > low + 0.08 * (high - low)]
    assert found.folding == pytest.approx(float(folding_percent(determinants)), abs=1e-3)
    assert found.min_jacobian == pytest.approx(float(determinants.min()), abs=1e-3)
    assert found.longest_mm == pytest.approx(float(longest.max()), rel=1e-4)
    assert (found.folding > 0) == isinstance(transform, BSplineField)


@pytest.mark.parametrize("number", range(3))
def test_on_another_lattice_a_transform_maps_points_alike(number: int) -> None:
    transform = _transforms()[number]
    small = on_grid(transform, GRID.resized((12, 15, 20)))
    points = 0.7 * (torch.rand(50, 3) - 0.5)
    tolerance = 2e-3 if isinstance(transform, DisplacementField) else 1e-6
    torch.testing.assert_close(small.displacement_at(points), transform.displacement_at(points), rtol=0, atol=tolerance)
