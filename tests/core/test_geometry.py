"""Grids: round trips between the spaces on odd, anisotropic, rotated lattices, and points against vectors."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from r2n2.geometry import Grid, Space

ROTATED = Grid((31, 47), (2.5, 0.8), (10.0, -4.0), ((0.6, -0.8), (0.8, 0.6)))


def _rotation(ndim: int, seed: int) -> NDArray[np.float64]:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(ndim, ndim)))[0]


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    ndim = draw(st.sampled_from((2, 3)))
    shape = tuple(draw(st.integers(1, 300)) for _ in range(ndim))
    spacing = tuple(draw(st.floats(1e-3, 1e3)) for _ in range(ndim))
    origin = tuple(draw(st.floats(-500, 500)) for _ in range(ndim))
    direction = _rotation(ndim, draw(st.integers(0, 10**6)))
    return Grid(shape, spacing, origin, tuple(map(tuple, direction.tolist())))


@given(grid=grids(), seed=st.integers(0, 10**6), path=st.permutations(list(Space)))
@settings(max_examples=60, deadline=None)
def test_points_and_vectors_survive_a_round_trip_through_all_spaces(grid: Grid, seed: int, path: list[Space]) -> None:
    index = torch.rand(7, grid.ndim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    index = index * torch.tensor(grid.shape, dtype=torch.float64)
    for convert in (grid.convert_points, grid.convert_vectors):
        start = convert(index, Space.INDEX, path[0])
        values = start
        for source, target in zip(path, [*path[1:], path[0]], strict=True):
            values = convert(values, source, target)
        # The worst case subtracts an origin of 500 mm from pixels of 0.001 mm.
        scale = max(1.0, float(start.abs().max()))
        assert (values - start).abs().max() < 1e-8 * scale * max(1.0, 500 / min(grid.spacing))


@given(grid=grids(), seed=st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_a_vector_is_the_difference_of_two_points(grid: Grid, seed: int) -> None:
    first, second = torch.rand(2, 5, grid.ndim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 40
    for target in (Space.WORLD, Space.NORMALISED):
        ends = grid.convert_points(torch.stack((first, second)), Space.INDEX, target)
        vector = grid.convert_vectors(second - first, Space.INDEX, target)
        torch.testing.assert_close(vector, ends[1] - ends[0], rtol=1e-9, atol=1e-9)


def test_a_vector_takes_no_offset_and_a_point_does() -> None:
    zero = torch.zeros(1, 2)
    assert torch.equal(ROTATED.convert_vectors(zero, Space.INDEX, Space.WORLD), zero)
    assert ROTATED.convert_points(zero, Space.INDEX, Space.WORLD).tolist() == [[10.0, -4.0]]


def test_known_world_positions() -> None:
    # Two pixels along y are 5 mm along the first column of the direction, one along x 0.8 mm along the second.
    got = ROTATED.convert_points(torch.tensor([[2.0, 1.0]], dtype=torch.float64), Space.INDEX, Space.WORLD)
    expected = [[10 + 0.6 * 5 - 0.8 * 0.8, -4 + 0.8 * 5 + 0.6 * 0.8]]
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64))


def test_normalised_space_is_isotropic_with_the_longest_axis_at_one() -> None:
    # 30 * 2.5 = 75 mm along y, 46 * 0.8 = 36.8 mm along x: the unit is 37.5 mm along both.
    assert ROTATED.unit_mm == 37.5
    corner = torch.tensor([[30.0, 46.0], [15.0, 23.0]], dtype=torch.float64)
    expected = torch.tensor([[1.0, 18.4 / 37.5], [0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(ROTATED.convert_points(corner, Space.INDEX, Space.NORMALISED), expected)
    lengths = ROTATED.convert_vectors(torch.eye(2, dtype=torch.float64) * 0.1, Space.NORMALISED, Space.WORLD).norm(dim=1)
    torch.testing.assert_close(lengths, torch.full((2,), 3.75, dtype=torch.float64))


@pytest.mark.parametrize(("shape", "centre"), [((4, 7), (1.5, 3.0)), ((1, 2, 9), (0.0, 0.5, 4.0))])
def test_the_centre_lies_between_two_pixels_for_an_even_size(shape: tuple[int, ...], centre: tuple[float, ...]) -> None:
    grid = Grid(shape)
    assert grid.centre_index == centre
    at = grid.convert_points(torch.tensor([centre]), Space.INDEX, Space.NORMALISED)
    assert torch.equal(at, torch.zeros(1, len(shape)))


@pytest.mark.parametrize("shape", [(16, 24), (61, 93), (30, 47)])
def test_resizing_keeps_the_outermost_pixel_centres_in_mm(shape: tuple[int, int]) -> None:
    small = ROTATED.resized(shape)
    assert small.shape == shape
    assert small.same_space(ROTATED)
    for grid, last in ((small, shape), (ROTATED, ROTATED.shape)):
        corner = torch.tensor([[n - 1.0 for n in last]], dtype=torch.float64)
        expected = [[10 + 0.6 * 75 - 0.8 * 36.8, -4 + 0.8 * 75 + 0.6 * 36.8]]
        torch.testing.assert_close(grid.convert_points(corner, Space.INDEX, Space.WORLD), torch.tensor(expected).double())


def test_the_enclosing_cube_shares_centre_unit_and_direction() -> None:
    cube = ROTATED.enclosing_cube(64)
    assert cube.shape == (64, 64)
    assert cube.spacing[0] == cube.spacing[1] == pytest.approx(75 / 63)
    assert cube.same_space(ROTATED)


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"spacing": (2.5 * (1 + 1e-8), 0.8)}, True),
        ({"spacing": (2.5, 0.9)}, False),
        ({"spacing": (2.6, 0.8)}, False),
        ({"origin": (10.0, -4.001)}, False),
        ({"direction": ((1.0, 0.0), (0.0, 1.0))}, False),
        ({"shape": (31, 48)}, False),
    ],
)
def test_same_space_sees_every_difference(change: dict[str, Any], same: bool) -> None:
    assert ROTATED.same_space(replace(ROTATED, **change)) is same


def test_grids_of_other_ndim_share_no_space() -> None:
    assert not Grid((4, 5)).same_space(Grid((1, 4, 5)))


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_a_spacing_that_is_no_length_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="spacing must be positive and finite"):
        Grid((20, 30), (1.0, bad))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((20,),), "2 or 3 axes"),
        (((2, 3, 4, 5),), "2 or 3 axes"),
        (((20, 0),), "at least 1 pixel"),
        (((20, 2.5),), "at least 1 pixel"),
        (((20, 30), (1.0,)), "spacing must have 2 entries"),
        (((20, 30), (), (0.0, math.inf)), "origin must be finite"),
        (((20, 30), (), (), ((1.0, 0.0),)), "direction must have 2 entries"),
        (((20, 30), (), (), ((1.0,), (0.0,))), "2 x 2 matrix"),
        (((20, 30), (), (), ((1.0, 0.1), (0.0, 1.0))), "orthonormal"),
        (((20, 30), (), (), ((2.0, 0.0), (0.0, 1.0))), "orthonormal"),
        (((20, 30), (), (), ((math.nan, 0.0), (0.0, 1.0))), "orthonormal"),
    ],
)
def test_what_is_no_lattice_is_refused(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Grid(*arguments)


def test_points_of_another_width_or_of_whole_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(\.\.\., 2\)"):
        ROTATED.convert_points(torch.zeros(4, 3), Space.INDEX, Space.WORLD)
    with pytest.raises(ValueError, match="floating point"):
        ROTATED.convert_vectors(torch.zeros(4, 2, dtype=torch.int64), Space.INDEX, Space.WORLD)
