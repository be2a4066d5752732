"""The lattice of volumes: their own extent, never more points than voxels, and nothing but what counts in any of its values."""

from __future__ import annotations

import pytest
import torch

from r2n2.geometry import Grid
from r2n2.preprocessing import to_square
from r2n2.transform import normalised_lattice
from r2n2.working import counting_share, to_working, working_grid

pytestmark = pytest.mark.usefixtures("one_thread")
GRID = Grid((21, 60, 47), (4.0, 1.7, 2.1), (3.0, -8.0, 5.0))


@pytest.mark.parametrize(
    ("shape", "spacing", "size", "expected"),
    [
        # 97 mm, 198 mm, 49 mm: 23 steps along the longest.
        ((98, 100, 50), (1.0, 2.0, 1.0), 24, (12, 24, 7)),
        ((100, 100, 50), (1.0, 2.0, 1.0), 300, (100, 100, 50)),
        # A slab keeps its slices where they are thick, and four where they are thin.
        ((5, 128, 128), (10.0, 1.5, 1.5), 96, (5, 96, 96)),
        ((12, 128, 128), (1.0, 1.5, 1.5), 24, (4, 24, 24)),
        ((2, 128, 128), (1.0, 1.5, 1.5), 24, (2, 24, 24)),
    ],
)
def test_points_follow_the_length_of_an_axis(
    shape: tuple[int, ...], spacing: tuple[float, ...], size: int, expected: tuple[int, ...]
) -> None:
    grid = Grid(shape, spacing)
    found = working_grid(grid, size)
    assert found.shape == expected
    assert found.same_space(grid)
    assert found.half_extent_mm == pytest.approx(grid.half_extent_mm)


def test_in_2d_it_is_the_square() -> None:
    grid = Grid((31, 47), (1.7, 0.9))
    image = torch.rand(1, 1, 31, 47)
    valid = torch.rand(1, 1, 31, 47) > 0.1
    one, other = to_working(image, valid, grid, 24), to_square(image, valid, grid, 24)
    assert one.grid == other.grid
    assert torch.equal(one.images, other.images)
    assert torch.equal(one.valid, other.valid)


def test_what_is_linear_in_mm_stays_so() -> None:
    places = normalised_lattice(GRID, torch.zeros(1))
    ramp = (3 * places[0] - 2 * places[1] + 5 * places[2])[None, None]
    small = to_working(ramp, torch.ones_like(ramp, dtype=torch.bool), GRID, 30)
    assert bool(small.valid.all())
    places = normalised_lattice(small.grid, ramp)
    expected = 3 * places[0] - 2 * places[1] + 5 * places[2]
    inner = (slice(2, -2),) * 3
    torch.testing.assert_close(small.images[0, 0][inner], expected[inner], rtol=0, atol=1e-4)


@pytest.mark.parametrize("masked", [False, True])
def test_what_does_not_count_has_no_part(masked: bool) -> None:
    image = torch.rand(1, 1, *GRID.shape)
    out = torch.zeros_like(image, dtype=torch.bool)
    out[..., 5:9, 20:40, 10:20] = True
    spoilt = torch.where(out, 1e6, image)
    weight = torch.where(out, 0.0, 0.5) if masked else None
    valid = torch.ones_like(out) if masked else ~out
    one, other = (to_working(values, valid, GRID, 30, weight=weight) for values in (image, spoilt))
    assert torch.equal(one.images, other.images)
    assert float(one.images.max()) <= 1.0
    # The middle of the hole is none that counts, and far from it all do.
    assert not bool(one.valid[0, 0, 6, 15, 9])
    assert bool(one.valid[0, 0, -1].all())
    if masked:
        assert one.weight is not None
        torch.testing.assert_close(one.weight[0, 0, -1], torch.full_like(one.weight[0, 0, -1], 0.5))
        assert float(one.weight[0, 0, 6, 15, 9]) == 0


@pytest.mark.parametrize("grid", [Grid((31, 47), (1.7, 0.9)), GRID], ids=["frame", "volume"])
def test_the_share_that_counts_is_that_of_the_frame(grid: Grid) -> None:
    """Half of the columns count a half each, the rest nothing: half of the frame, as if they counted whole; padding has no part."""
    image = torch.rand(1, 1, *grid.shape, generator=torch.Generator().manual_seed(0))
    valid, weight = torch.ones_like(image, dtype=torch.bool), torch.zeros_like(image)
    weight[..., : grid.shape[-1] // 2] = 0.5
    whole = to_working(image, valid, grid, 40)
    half = to_working(image, valid, grid, 40, weight=weight)
    tenth = to_working(image, valid, grid, 40, weight=weight * (torch.arange(grid.shape[-1]) < grid.shape[-1] // 10))
    assert counting_share(whole, whole, grid).flatten().tolist() == [1]
    assert float(counting_share(half, whole, grid)) == pytest.approx(0.5, abs=0.06)
    assert float(counting_share(half, tenth, grid)) == pytest.approx(0.1, abs=0.05)
    every = to_working(image, valid, grid, 40, weight=torch.full_like(image, 0.25))
    assert float(counting_share(every, whole, grid)) == pytest.approx(1, abs=0.05)
