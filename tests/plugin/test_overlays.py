"""Ellipses, arrows and grids by hand, on a frame that is neither square nor isotropic."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from napari_r2n2.layers import overlays
from r2n2.geometry import Grid, Space
from r2n2.transform import DisplacementField, GaussianSequence

# 2 mm and 1.5 mm a pixel; the longer side, 30 pixels of 2 mm, is the side of the normalised square.
GRID = Grid((31, 21), (2.0, 1.5), (10.0, -7.0))
SCALE = (2.0, 1.5)
UNIT_MM = 30.0


def _gaussian(angle_deg: float = 0.0) -> GaussianSequence:
    """Two steps; the first at pixel (5, 8), sigmas 6 mm (axis 1) and 3 mm, v 4 mm down and 2 mm left."""
    assert GRID.unit_mm == pytest.approx(UNIT_MM)
    centres = GRID.convert_points(torch.tensor([[5.0, 8.0], [20.0, 12.0]]), Space.INDEX, Space.NORMALISED)
    sigmas = torch.tensor([[6.0, 3.0], [9.0, 9.0]]) / UNIT_MM
    amplitudes = torch.tensor([[4.0, -2.0], [0.0, 3.0]]) / UNIT_MM
    return GaussianSequence(centres, sigmas, torch.deg2rad(torch.tensor([[angle_deg], [0.0]])), amplitudes, GRID)


def test_an_ellipse_reaches_one_sigma_along_its_axes_in_mm() -> None:
    outline = overlays.ellipses(_gaussian(), SCALE)[0]
    points = outline[:, 0]
    np.testing.assert_allclose(points.mean(0), (10.0, 12.0), atol=1e-4)
    np.testing.assert_allclose(points.max(0) - points.min(0), (2 * 3.0, 2 * 6.0), atol=1e-4)
    np.testing.assert_allclose(outline[:-1, 0] + outline[:-1, 1], outline[1:, 0], atol=1e-6)
    np.testing.assert_allclose(outline[-1].sum(0), outline[0, 0], atol=1e-4)


def test_a_turned_ellipse_turns_from_x_towards_y() -> None:
    points = overlays.ellipses(_gaussian(30.0), SCALE)[0][:, 0] - (10.0, 12.0)
    far = points[np.linalg.norm(points, axis=1).argmax()]
    assert np.linalg.norm(far) == pytest.approx(6.0, rel=1e-4)
    assert math.degrees(math.atan2(far[0], far[1])) % 180 == pytest.approx(30.0, abs=0.1)


def test_pieces_end_at_the_edges_of_the_image() -> None:
    pieces = np.array(
        [
            [[2.0, 3.0], [1.0, 0.0]],  # inside
            [[2.0, 3.0], [0.0, -30.0]],  # leaves to the left
            [[-5.0, 3.0], [100.0, 0.0]],  # crosses all of it
            [[-5.0, 3.0], [0.0, 4.0]],  # outside, along an edge
            [[-1.0, -9.0], [4.0, 4.0]],  # outside, aslant
        ]
    )
    inside, kept = overlays.cropped(pieces, (6, 8), (2.0, 1.0))
    np.testing.assert_array_equal(kept, [True, True, True, False, False])
    np.testing.assert_allclose(inside, [pieces[0], [[2.0, 3.0], [0.0, -3.5]], [[-1.0, 3.0], [12.0, 0.0]]], atol=1e-9)


def test_the_arrow_is_v() -> None:
    shaft, *head = overlays.arrow(_gaussian(), 1, SCALE)
    np.testing.assert_allclose(shaft, [(10.0, 12.0), (4.0, -2.0)], atol=1e-4)
    for start, vector in head:
        np.testing.assert_allclose(start, (14.0, 10.0), atol=1e-4)
        assert np.dot(vector, (4.0, -2.0)) < 0, "the head points back"


def test_bold_lines_lie_side_by_side() -> None:
    pieces = np.array([[[1.0, 2.0], [0.0, 5.0]]])
    starts = overlays.bold(pieces, 0.5)[:, 0]
    np.testing.assert_allclose(sorted(starts[:, 0]), (0.5, 1.0, 1.5))
    np.testing.assert_allclose(starts[:, 1], 2.0)
    assert np.isfinite(overlays.bold(np.zeros((2, 2, 2)), 0.5)).all()


@pytest.mark.parametrize(
    ("y", "x", "step"), [(10.0, 12.0, 1), (10.0, 17.9, 1), (10.0, 18.1, None), (12.9, 12.0, 1), (13.1, 12.0, None), (40.0, 18.0, 2)]
)
def test_the_ellipse_under_the_mouse(y: float, x: float, step: int | None) -> None:
    assert overlays.hit(_gaussian(), SCALE, (y, x), np.array([True, True])) == step


def test_a_hidden_ellipse_is_not_hit() -> None:
    assert overlays.hit(_gaussian(), SCALE, (10.0, 12.0), np.array([False, True])) is None
    assert overlays.hit(GaussianSequence.identity(GRID), SCALE, (10.0, 12.0), np.zeros(0, bool)) is None


def _shift(y_px: float, x_px: float) -> DisplacementField:
    return DisplacementField(torch.tensor([y_px, x_px]).view(2, 1, 1).expand(2, 31, 21), GRID, Space.INDEX)


def test_arrows_of_a_shift_are_all_alike_and_true_to_scale() -> None:
    arrows = overlays.displacement_arrows(_shift(1.0, -2.0), SCALE, 10)
    np.testing.assert_allclose(arrows[:, 1], np.broadcast_to((2.0, -3.0), arrows[:, 1].shape), atol=1e-5)
    assert set(arrows[:, 0, 0]) == {0.0, 20.0, 40.0, 60.0}
    assert set(arrows[:, 0, 1]) == {0.0, 15.0, 30.0}


def test_an_undeformed_grid_is_straight_and_reaches_the_edges() -> None:
    pieces = overlays.grid_lines(DisplacementField.identity(GRID), SCALE, 10)
    assert ((pieces[:, 1] == 0).sum(1) == 1).all(), "every piece runs along y or x"
    ends = np.concatenate((pieces[:, 0], pieces.sum(1)))
    np.testing.assert_allclose((ends.min(0), ends.max(0)), ((0, 0), (60, 30)))


def test_a_deformed_grid_is_moved_as_the_displacement_says() -> None:
    straight, moved = (overlays.grid_lines(field, SCALE, 10) for field in (DisplacementField.identity(GRID), _shift(1.0, -2.0)))
    np.testing.assert_allclose(moved[:, 0] - straight[:, 0], np.broadcast_to((2.0, -3.0), (len(moved), 2)), atol=1e-5)
    np.testing.assert_allclose(moved[:, 1], straight[:, 1], atol=1e-5)
